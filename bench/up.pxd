"""The null tunnel's way up: recvmmsg, of UDP with UDP_GRO -> frame off -> coalesce what was verified -> TUN writev."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from ..fastpath.mppe cimport mppe_decrypt, mppe_run
from ..fastpath.packetring cimport tpacket2_hdr
from ..fastpath.sys cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, MSG_DONTWAIT, SOL_UDP, UDP_GRO, VIRTIO_NET_HDR_F_DATA_VALID, cmsghdr, iovec, msghdr, recvmmsg,
    virtio_net_hdr, writev,
)
from .frames cimport arrived, give_back
from .framing cimport PUNT, QUIET, SEAL, pull_frame
from .offload cimport coalesce
from .state cimport BUFFER, BUFFERS, IN, PACKET, PACKETS, RECEIVED, State

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int, const void*, size_t, int)


cdef inline void deliver(State* s) noexcept nogil:
    cdef int i = 0, k
    cdef bint valid
    cdef virtio_net_hdr v
    cdef iovec to[80]
    if s.framing.sealed:
        mppe_run(s.ciphers)
    s.count.up += s.n_got
    while i < s.n_got:
        memset(&v, 0, sizeof(v))
        to[0].iov_base = &v
        to[0].iov_len = sizeof(v)
        to[1].iov_base = s.got[i].p
        to[1].iov_len = s.got[i].n
        k = coalesce(&s.got[i], s.n_got - i, &v, to + 1, &valid)
        if k == 1 and valid:
            v.flags = VIRTIO_NET_HDR_F_DATA_VALID
        s.count.tun_writes += 1
        if writev(s.tun, to, 1 + k) < 0:
            s.count.dropped += k
        i += k
    s.n_got = 0


cdef inline void take(State* s, uint8_t* p, int n) noexcept nogil:
    """One datagram of a receive. What is sealed can be read in `deliver` only, and is an IP packet then: our peer says so inside."""
    cdef int size = n, at = pull_frame(&s.framing, p, &size)
    if at > 0:
        if s.framing.sealed:
            if mppe_decrypt(s.ciphers, &s.receiving, p + at, size):
                s.count.bad += 1
                return
            at += SEAL
            size -= SEAL
        s.count.up_bytes += n
        s.got[s.n_got].p = p + at
        s.got[s.n_got].n = size
        s.n_got += 1
    elif at == PUNT:
        s.count.punted += 1
        if s.control < 0 or send(s.control, p, n, MSG_DONTWAIT) < 0:
            s.count.dropped += 1
    elif at != QUIET:
        s.count.bad += 1


cdef inline bint up_frames(State* s) noexcept nogil:
    """What is in the ring, at most PACKETS frames."""
    cdef uint32_t n = 0
    cdef tpacket2_hdr* h = arrived(&s.inlet, 0)
    while h != NULL and n < PACKETS:
        take(s, <uint8_t*>h + h.tp_mac, h.tp_snaplen)
        n += 1
        h = arrived(&s.inlet, n)
    s.wire_hot = h != NULL
    if s.n_got:
        deliver(s)
    give_back(&s.inlet, n)
    return n > 0


cdef inline bint up(State* s) noexcept nogil:
    cdef int i, r, n, size, at
    cdef uint8_t* p
    cdef msghdr* h
    cdef cmsghdr* c
    cdef int datagrams = 0
    if s.inlet.slots != NULL:
        return up_frames(s)
    r = recvmmsg(s.wire, s.receives, s.wanted, MSG_DONTWAIT, NULL)
    s.count.wire_reads += 1
    s.wire_hot = r == s.wanted
    if not s.merged:
        for i in range(r):
            take(s, s.buffers + <size_t>i * PACKET, s.receives[i].msg_len)
        if s.n_got:
            deliver(s)
        return r > 0
    for i in range(r):
        n = s.receives[i].msg_len
        size = n
        p = s.buffers + <size_t>i * BUFFER
        h = &s.receives[i].msg_hdr
        c = CMSG_FIRSTHDR(h)
        while c != NULL:
            if c.cmsg_level == SOL_UDP and c.cmsg_type == UDP_GRO:
                memcpy(&size, CMSG_DATA(c), sizeof(int))
            c = CMSG_NXTHDR(h, c)
        h.msg_controllen = sizeof(s.notes[i])
        at = 0
        while at < n:
            if s.n_got == IN:
                deliver(s)
            take(s, p + at, size if n - at > size else n - at)
            at += size
            datagrams += 1
    if s.n_got:
        deliver(s)
    if r > 0:
        s.wanted = r * RECEIVED // datagrams if datagrams > r * (RECEIVED // BUFFERS) else BUFFERS
    return r > 0
