"""Segments of a super-packet and back: what the null tunnel must do to a header, and nothing else.

Inner packets are IPv4 (RFC 791) with TCP (RFC 9293) or UDP (RFC 768); a super-packet is one of them
with a segment size in its virtio_net_hdr. The baseline shares no line with the fast path that is
measured against it: what slows one down must not hide in both.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ..fastpath.bytes cimport load16, load32, store16, store32
from ..fastpath.sys cimport (
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_UDP_L4, iovec, virtio_net_hdr,
)

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    /* Sum of 16-bit words in memory order. gcc makes vectors of the loop; the build is for the oldest
       x86-64, so a wider copy is chosen when the module is loaded. */
    #if defined(__x86_64__) && defined(__gnu_linux__) && !defined(HEADRACE_SANITIZE)
    __attribute__((target_clones("arch=x86-64-v3", "default")))
    #endif
    static uint64_t sum_words(uint64_t sum, const uint8_t* p, int n) {
        uint64_t low = 0, high = 0;
        int whole = n & ~63;
        for (int i = 0; i < whole; i += 8) {
            uint64_t w;
            memcpy(&w, p + i, 8);
            low += w & 0xffffffff;
            high += w >> 32;
        }
        p += whole; n -= whole; sum += low + high;
        for (; n >= 4; p += 4, n -= 4) { uint32_t w; memcpy(&w, p, 4); sum += w; }
        if (n >= 2) { uint16_t w; memcpy(&w, p, 2); sum += w; p += 2; n -= 2; }
        if (n) { uint16_t w = 0; memcpy(&w, p, 1); sum += w; }
        return sum;
    }
    /* The same for a header: short, in words of four octets, and not worth a call. */
    static inline uint64_t sum_header(uint64_t sum, const uint8_t* p, int n) {
        for (int i = 0; i < n; i += 4) { uint32_t w; memcpy(&w, p + i, 4); sum += w; }
        return sum;
    }
    static inline uint16_t host_order(uint16_t v) { return __builtin_bswap16(v); }
    """
    uint64_t sum_words(uint64_t, const uint8_t*, int)
    uint64_t sum_header(uint64_t, const uint8_t*, int)
    uint16_t swap16 "host_order"(uint16_t)

cdef enum:
    TCP = 6
    UDP = 17
    FIN = 0x01
    PSH = 0x08
    ACK = 0x10
    CWR = 0x80
    SEGMENTS = 64           # the most that UDP_SEGMENT takes, and what a coalesced packet is built of
    SUPER = 65000           # the longest datagram or packet that is built

cdef struct Segment:
    uint8_t* p
    int n


cdef inline uint16_t fold(uint64_t s) noexcept nogil:
    """To 16 bits, in memory order; s is a sum of fewer than 2^32 words."""
    s = <uint64_t><uint32_t>s + (s >> 32)
    s = <uint64_t><uint32_t>s + (s >> 32)
    s = (s & 0xffff) + (s >> 16)
    s = (s & 0xffff) + (s >> 16)
    return <uint16_t>((s & 0xffff) + (s >> 16))


cdef inline void put_sum(uint8_t* p, uint64_t s) noexcept nogil:
    """The complement of a sum, where a checksum goes."""
    cdef uint16_t v = <uint16_t>~fold(s)
    memcpy(p, &v, 2)


cdef inline uint64_t pseudo(const uint8_t* ip, int n) noexcept nogil:
    """The pseudo header's sum for n octets of TCP or UDP."""
    cdef uint32_t source, destination
    memcpy(&source, ip + 12, 4)
    memcpy(&destination, ip + 16, 4)
    return <uint64_t>source + destination + swap16(ip[9]) + swap16(<uint16_t>n)


cdef inline void sum_ip(uint8_t* ip) noexcept nogil:
    ip[10] = 0
    ip[11] = 0
    put_sum(ip + 10, sum_header(0, ip, (ip[0] & 15) * 4))


cdef inline bint verified(const uint8_t* p, int n, int ihl) noexcept nogil:
    return fold(sum_words(pseudo(p, n - ihl), p + ihl, n - ihl)) == 0xffff


cdef inline void complete(uint8_t* p, int n, const virtio_net_hdr* v) noexcept nogil:
    """A lone packet's checksum, that the kernel left to us (NEEDS_CSUM)."""
    cdef uint16_t s
    if v.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM and v.csum_start + v.csum_offset + 2 <= n:
        s = <uint16_t>~fold(sum_words(0, p + v.csum_start, n - v.csum_start))
        if s == 0:
            s = 0xffff              # UDP's 0 means "none" (RFC 768); to TCP both are the same number
        memcpy(p + v.csum_start + v.csum_offset, &s, 2)


cdef inline int cut_header(const uint8_t* p, int n, const virtio_net_hdr* v) noexcept nogil:
    """Length of the headers that each segment repeats, or 0 when this is no super-packet that we asked for."""
    cdef int ihl = (p[0] & 15) * 4
    cdef int kind = v.gso_type & ~VIRTIO_NET_HDR_GSO_ECN
    cdef int size
    if n < 40 or p[0] >> 4 != 4 or ihl < 20 or v.gso_size == 0:
        return 0
    if kind == VIRTIO_NET_HDR_GSO_UDP_L4:
        size = ihl + 8
    elif kind == VIRTIO_NET_HDR_GSO_TCPV4 and ihl + 20 <= n:
        size = ihl + (p[ihl + 12] >> 4) * 4
    else:
        return 0
    return size if size < n else 0


cdef inline void cut_segment(uint8_t* q, const uint8_t* p, int header, int at, int n, int index, bint last) noexcept nogil:
    """Write at q the headers of the segment whose n octets of payload stand at p + at."""
    cdef int ihl = (p[0] & 15) * 4
    cdef uint8_t* t = q + ihl
    cdef int place
    memcpy(q, p, header)
    store16(q + 2, <uint16_t>(header + n))
    store16(q + 4, <uint16_t>(load16(p + 4) + index))
    sum_ip(q)
    if p[9] == UDP:
        store16(t + 4, <uint16_t>(8 + n))
        place = 6
    else:
        store32(t + 4, load32(t + 4) + at - header)
        if not last:
            t[13] &= ~(FIN | PSH) & 0xff
        if index:
            t[13] &= ~CWR & 0xff
        place = 16
    t[place] = 0
    t[place + 1] = 0
    put_sum(t + place, sum_words(sum_header(pseudo(q, header - ihl + n), t, header - ihl), p + at, n))


cdef inline int coalesce(Segment* s, int left, virtio_net_hdr* v, iovec* to, bint* valid) noexcept nogil:
    """How many of the `left` packets at s make one, by the rules of the kernel's GRO: the same headers, the
    next sequence number, PSH on the last only, checksums right. to[0] is the first, whole; v says what it became."""
    cdef uint8_t *p = s.p
    cdef uint8_t *t = p + 20
    cdef uint8_t *q
    cdef uint8_t *u
    cdef int n = s.n, header, mss, k = 1, total = n, m, payload
    cdef uint32_t sequence
    cdef bint pushed
    valid[0] = False
    if n < 28 or p[0] != 0x45 or load16(p + 6) & 0x3fff or load16(p + 2) != n:
        return 1
    if p[9] == TCP and n > 40:
        header = 20 + (t[12] >> 4) * 4
        mss = n - header
        if header < 40 or mss <= 0 or t[13] & ~(ACK | PSH) or not verified(p, n, 20):
            return 1
        valid[0] = True
        sequence = load32(t + 4) + mss
        pushed = t[13] & PSH
        while not pushed and k < left and k < SEGMENTS:
            q = s[k].p
            u = q + 20
            m = s[k].n
            payload = m - header
            if payload <= 0 or payload > mss or total + payload > SUPER or load16(q + 2) != m:
                break
            if memcmp(q, p, 2) or memcmp(q + 6, p + 6, 4) or memcmp(q + 12, p + 12, 12):
                break
            if load32(u + 4) != sequence or memcmp(u + 8, t + 8, 5) or u[13] & ~(ACK | PSH):
                break
            if memcmp(u + 14, t + 14, 2) or memcmp(u + 18, t + 18, header - 38) or not verified(q, m, 20):
                break
            to[k].iov_base = q + header
            to[k].iov_len = payload
            total += payload
            sequence += payload
            k += 1
            if u[13] & PSH:
                pushed = True
                t[13] |= PSH
            if payload < mss:
                break
        if k == 1:
            return 1
        v.gso_type = VIRTIO_NET_HDR_GSO_TCPV4
        v.csum_offset = 16
    elif p[9] == UDP and n > 28:
        header = 28
        mss = n - header
        if load16(t + 6) == 0 or load16(t + 4) != n - 20 or not verified(p, n, 20):
            return 1
        valid[0] = True
        while k < left and k < SEGMENTS:
            q = s[k].p
            m = s[k].n
            payload = m - header
            if payload <= 0 or payload > mss or total + payload > SUPER or load16(q + 2) != m:
                break
            if memcmp(q, p, 2) or memcmp(q + 6, p + 6, 4) or memcmp(q + 12, p + 12, 12):
                break
            if load16(q + 26) == 0 or load16(q + 24) != m - 20 or not verified(q, m, 20):
                break
            to[k].iov_base = q + header
            to[k].iov_len = payload
            total += payload
            k += 1
            if payload < mss:
                break
        if k == 1:
            return 1
        v.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4
        v.csum_offset = 6
        store16(t + 4, <uint16_t>(total - 20))
    else:
        return 1
    v.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
    v.gso_size = <uint16_t>mss
    v.hdr_len = <uint16_t>header
    v.csum_start = 20
    store16(p + 2, <uint16_t>total)
    sum_ip(p)
    cdef uint16_t partial = fold(pseudo(p, total - 20))
    memcpy(t + v.csum_offset, &partial, 2)
    return k
