"""Frames of our own; nexthop.pxd says when."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .bytes cimport store16, store32
from .checksum cimport checksum_add, fold, put_sum
from .packetring cimport LONGEST, take_back, tx_mark, tx_send, tx_slot
from .port cimport counted
from .stage cimport in_kernel, out_of_kernel
from .sys cimport full_fence, iovec, load_acquire32
from .table cimport NEXTHOPS, NextHop
from .worker cimport Out, Segment, Worker

cdef enum:
    ETHERNET = 14
    IPV4 = 20
    ETH_P_IP = 0x0800
    IPPROTO_GRE = 47
    TTL = 64
    PATIENCE = 10                     # ticks: a link that takes nothing for longer, which one without a carrier does, holds up the others


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


cdef void flush_frames(Worker* w) noexcept nogil:
    """Send what is in the ring and was not taken at once; what has not moved for a second is lost."""
    if push_out(w) > 0 and w.tick - w.tx_moved > PATIENCE:
        take_back(&w.tx)


cdef int push_out(Worker* w) noexcept nogil:
    cdef int before = <int>w.tx.marked, left = tx_send(&w.tx, w.tx_interface, ETH_P_IP)
    if left < before:
        w.tx_moved = w.tick
    return left


cdef int transmit_framed(Worker* w, Out* out, int first) noexcept nogil:
    """Send datagrams of GRE from number `first` on as frames, as long as they can be; return the number of the first that cannot.
    Budget: 20 ns and its copy a datagram, besides the kernel's part."""
    cdef int i = first, sent = first
    cdef uint8_t port = out.segments[first].path.port
    cdef Segment* s
    cdef uint8_t* at
    w.hop_index = 0                   # once a round it is looked at again
    if w.tx.marked == 0:
        w.tx_moved = w.tick
    while i < out.count and out.segments[i].path.port == port:
        s = &out.segments[i]
        if s.session == NULL or not learn(w, load_acquire32(&s.session.nexthop)):
            break
        if s.size + IPV4 > w.hop.mtu or s.size > LONGEST - ETHERNET - IPV4:
            break
        at = tx_slot(&w.tx)
        if at == NULL or (w.tx.marked and w.tx_interface != w.hop.interface):
            kick(w, &out.segments[sent], i - sent)
            sent = i
            at = tx_slot(&w.tx)
            if at == NULL or w.tx.marked:
                break
        w.tx_interface = w.hop.interface
        write_frame(w, at, out, s)
        i += 1
    if i > sent:
        kick(w, &out.segments[sent], i - sent)
    return i


cdef void kick(Worker* w, const Segment* s, int n) noexcept nogil:
    """Send what is in the ring: the n datagrams from s on are the last of it."""
    cdef uint64_t since = in_kernel(w)
    cdef int left = push_out(w)
    out_of_kernel(w, since)
    w.record.sends += 1
    w.record.frames += n
    counted(w, s, n, left >= 0)


cdef inline void write_frame(Worker* w, uint8_t* at, Out* out, const Segment* s) noexcept nogil:
    cdef uint8_t* ip = at + ETHERNET
    cdef uint8_t* body = ip + IPV4
    cdef const iovec* piece = &out.iov[s.iov]
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
    memcpy(body, piece[0].iov_base, piece[0].iov_len)
    if s.pieces > 1:
        memcpy(body + piece[0].iov_len, piece[1].iov_base, piece[1].iov_len)
    tx_mark(&w.tx, ETHERNET + IPV4 + s.size)
