"""Frames of our own; nexthop.pxd says when."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from .bytes cimport store16, store32
from .checksum cimport checksum_add, fold, put_sum
from .packetring cimport sockaddr_ll
from .sys cimport AF_PACKET, full_fence, load_acquire32
from .table cimport NEXTHOPS, NextHop
from .worker cimport Out, Segment, Worker

cdef enum:
    ETHERNET = 14
    IPV4 = 20
    ETH_P_IP = 0x0800
    IPPROTO_GRE = 47
    TTL = 64


cdef bint learn(Worker* w, uint32_t index) noexcept nogil:
    """Have next hop `index` in w.hop, as it was at one moment. False: there is none, or it leads nowhere now."""
    cdef NextHop* h
    cdef uint32_t version
    if index == 0:
        return False
    if index != w.hop_index:
        w.hop_index = 0
        if index >= NEXTHOPS:
            return False
        h = &w.table.nexthops[index]
        version = load_acquire32(&h.version)
        memcpy(&w.hop, h, sizeof(NextHop))
        full_fence()
        if version & 1 or load_acquire32(&h.version) != version:
            return False              # it is being changed at this moment
        w.hop_index = index
    return w.hop.interface != 0


cdef bint find_hop(Worker* w, const Segment* s) noexcept nogil:
    """Have the next hop of a datagram of GRE in w.hop. False: it cannot be a frame of ours. Budget: 3 ns."""
    return s.session != NULL and learn(w, load_acquire32(&s.session.nexthop)) and s.size + IPV4 <= w.hop.mtu


cdef void frame_message(Worker* w, Out* out, int i, const Segment* s) noexcept nogil:
    """Make message i the frame of a datagram by way of w.hop. Budget: 12 ns."""
    cdef uint8_t* at = out.links[i]
    cdef uint8_t* ip = at + ETHERNET
    cdef sockaddr_ll* to = <sockaddr_ll*>out.names[i]
    cdef int k
    memset(to, 0, sizeof(sockaddr_ll))
    to.sll_family = AF_PACKET
    store16(<uint8_t*>&to.sll_protocol, ETH_P_IP)
    to.sll_ifindex = w.hop.interface
    out.messages[i].msg_hdr.msg_name, out.messages[i].msg_hdr.msg_namelen = to, sizeof(sockaddr_ll)
    out.messages[i].msg_hdr.msg_control, out.messages[i].msg_hdr.msg_controllen = NULL, 0
    out.messages[i].msg_hdr.msg_iov, out.messages[i].msg_hdr.msg_iovlen = out.framed[i], 1 + s.pieces
    out.framed[i][0].iov_base, out.framed[i][0].iov_len = at, ETHERNET + IPV4
    for k in range(s.pieces):
        out.framed[i][1 + k] = out.iov[s.iov + k]
    memcpy(at, w.hop.header, ETHERNET)
    ip[0], ip[1] = 0x45, <uint8_t>s.tos
    store16(ip + 2, <uint16_t>(IPV4 + s.size))
    store32(ip + 4, <uint32_t>w.ip_id << 16)
    w.ip_id += 1
    ip[8], ip[9] = TTL, IPPROTO_GRE
    store16(ip + 10, 0)
    memcpy(ip + 12, s.path.local + 12, 4)
    memcpy(ip + 16, s.path.peer + 12, 4)
    put_sum(ip + 10, <uint16_t>~fold(checksum_add(0, ip, IPV4)))
