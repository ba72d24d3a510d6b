"""The null tunnel's way down: TUN read -> cut -> frame -> sendmmsg, of UDP with UDP_SEGMENT."""
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy

from ..fastpath.bytes cimport store16
from ..fastpath.mppe cimport mppe_encrypt, mppe_run
from ..fastpath.sys cimport (
    CMSG_DATA, CMSG_LEN, CMSG_SPACE, SOL_UDP, UDP_SEGMENT, VIRTIO_NET_HDR_GSO_NONE, cmsghdr, msghdr, read, sendmmsg, virtio_net_hdr,
)
from .frames cimport LINK, push_link
from .framing cimport ROOM, SEAL, push_frame
from .offload cimport SEGMENTS, SUPER, complete, cut_header, cut_segment
from .state cimport BUFFER, ENOUGH, OUT, PACKET, READ, SLOT, State


cdef inline uint8_t* emit(State* s, int header, uint8_t* payload, int n) noexcept nogil:
    """One segment more: its headers in a slot, of which `header` octets are the packet's own, and n octets where they are, or behind the
    headers when they are to be encrypted. Where the packet's own headers go."""
    cdef int i = s.pending
    cdef uint8_t* room = (s.sealed + i * PACKET if s.framing.sealed else s.slots + i * SLOT) + LINK
    cdef uint8_t* ip = room + ROOM
    cdef uint8_t* head = ip - s.framing.size
    push_frame(&s.framing, room, header + n)
    if s.outlet.framed:
        head = push_link(&s.outlet, head, s.framing.size + header + n)
    s.out[2 * i + 1].iov_base = payload
    s.out[2 * i + 1].iov_len = n
    if s.framing.sealed:
        store16(ip - SEAL, <uint16_t>mppe_encrypt(s.ciphers, &s.sending, payload, ip - 2, 2 + header, 2 + header + n))
        s.out[2 * i + 1].iov_base = ip + header
    s.out[2 * i].iov_base = head
    s.out[2 * i].iov_len = <size_t>(ip + header - head)
    s.length[i] = s.framing.size + header + n
    s.pending = i + 1
    return ip


cdef inline void cut(State* s, virtio_net_hdr* v, uint8_t* p, int n) noexcept nogil:
    """A read into segments."""
    cdef int header, at, m, index = 0
    if v.gso_type == VIRTIO_NET_HDR_GSO_NONE:
        complete(p, n, v)
        emit(s, 0, p, n)
        return
    header = cut_header(p, n, v)
    if header == 0:
        s.count.bad += 1
        return
    at = header
    while at < n:
        if s.pending == OUT:
            transmit(s)
        m = n - at if n - at < v.gso_size else v.gso_size
        cut_segment(emit(s, header, p + at, m), p, header, at, m, index, at + m == n)
        at += m
        index += 1


cdef inline void transmit(State* s) noexcept nogil:
    """Runs of equal length leave as one datagram each that the kernel, or the device, cuts."""
    cdef int i = 0, j, total, m = 0, n
    cdef msghdr* h
    cdef cmsghdr* c
    cdef uint16_t size
    if s.framing.sealed:
        mppe_run(s.ciphers)
    while i < s.pending:
        size = <uint16_t>s.length[i]
        total = size
        j = i + 1
        while (s.merged and j < s.pending and j - i < SEGMENTS and s.length[j - 1] == size and s.length[j] <= size
               and total + s.length[j] <= SUPER):
            total += s.length[j]
            j += 1
        s.count.down_bytes += total
        h = &s.sends[m].msg_hdr
        h.msg_name = s.peer if s.peer_size else NULL
        h.msg_namelen = s.peer_size
        h.msg_iov = &s.out[2 * i]
        h.msg_iovlen = 2 * (j - i)
        h.msg_control = NULL
        h.msg_controllen = 0
        if j - i > 1:
            c = <cmsghdr*>s.segment[m]
            c.cmsg_level = SOL_UDP
            c.cmsg_type = UDP_SEGMENT
            c.cmsg_len = CMSG_LEN(2)
            memcpy(CMSG_DATA(c), &size, 2)
            h.msg_control = c
            h.msg_controllen = CMSG_SPACE(2)
        m += 1
        i = j
    s.count.down += s.pending
    i = 0
    while i < m:
        n = sendmmsg(s.outlet.fd if s.outlet.framed else s.wire, s.sends + i, m - i, 0)
        s.count.wire_writes += 1
        if n < 0:                   # the first of them was refused: lost, as a packet is
            s.count.dropped += s.sends[i].msg_hdr.msg_iovlen // 2
            n = 1
        i += n
    s.pending = 0


cdef inline bint down(State* s) noexcept nogil:
    cdef int at = 0
    cdef ssize_t n
    while s.pending < ENOUGH and at < READ:
        n = read(s.tun, s.arena + at, BUFFER + 64)
        if n <= <ssize_t>sizeof(virtio_net_hdr):
            s.tun_hot = False
            break
        s.count.tun_reads += 1
        cut(s, <virtio_net_hdr*>(s.arena + at), s.arena + at + sizeof(virtio_net_hdr), <int>(n - sizeof(virtio_net_hdr)))
        at += (<int>n + 63) & ~63
    if s.pending:
        transmit(s)
    return at > 0
