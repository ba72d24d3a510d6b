"""Consecutive packets of one flow into one write to a TUN (the stage `deliver`).

    p[0]   IP | transport | payload        the first goes whole, its lengths and checksums patched;
    p[1]   .................| payload      of the others the payload alone;
    p[2]   .................| payload      virtio_net_hdr says how the kernel may cut it again.

The rules are those of the kernel's generic receive offload, and where it lets the merged packet lose something (a TCP window
update) stricter, so that cutting gives the same packets again. Only the IPv4 identifications of a flow with DF that never
changes them may come out counted up; they have no meaning there (RFC 6864 section 4.1).

The kernel trusts a checksum that is written as still to be computed. So every packet's own (IPv4 header and transport) is
verified before it is merged, and one that says nothing (UDP over IPv4 with 0) or is wrong is passed on alone and as it came.
Headers are compared first: what cannot be merged anyway costs no sum.

Budget: 5 ns for a packet that nothing follows, 10 ns for one of 64 octets that is merged, 35 ns for 1400.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from .bytes cimport load16, load32, store16
from .checksum cimport checksum_add, fold, htons, pseudo4, pseudo6, put_sum, right, word16, word32, word64
from .ip cimport (IP4_DESTINATION, IP4_DF, IP4_FRAGMENT, IP4_HEADER, IP4_ID, IP4_LENGTH, IP4_SOURCE, IP4_SUM, IP4_TTL,
                  IP6_DESTINATION, IP6_HEADER, IP6_LENGTH, IP6_NEXT, IP6_SOURCE, IPPROTO_TCP, IPPROTO_UDP, TCP_ACK, TCP_ECE, TCP_FIN,
                  TCP_FLAGS, TCP_HEADER, TCP_IS_ACK, TCP_OFFSET, TCP_PSH, TCP_SEQUENCE, TCP_SUM, UDP_HEADER, UDP_LENGTH, UDP_SUM)
from .packet cimport FLAG_CSUM, FLAG_DF, FLAG_FRAGMENT, FLAG_V6, Packet
from .sys cimport (VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4, iovec,
                   virtio_net_hdr)

cdef enum:
    COALESCE_PACKETS = 64     # the kernel cuts a UDP burst into no more
    COALESCE_LENGTH = 65000   # octets of a merged packet

cdef extern from * nogil:
    """
    /* Which octets of eight are alike in all packets of a burst, as word64 reads them: a constant to the compiler. */
    static inline uint64_t headrace_mask(uint8_t a, uint8_t b, uint8_t c, uint8_t d, uint8_t e, uint8_t f, uint8_t g, uint8_t h) {
        const uint8_t octets[8] = {a, b, c, d, e, f, g, h};
        return headrace_word64(octets);
    }
    #define HEADRACE_IP4_0 headrace_mask(255, 255, 0, 0, 0, 0, 255, 255)            /* version, header length, TOS; DF */
    #define HEADRACE_IP4_8 headrace_mask(255, 255, 0, 0, 255, 255, 255, 255)        /* TTL, protocol; source */
    #define HEADRACE_TCP_12 headrace_mask(255, 255 - 0x09, 255, 255, 0, 0, 255, 255)    /* offset, flags but PSH and FIN, window; urgent */
    """
    const uint64_t IP4_0 "HEADRACE_IP4_0"
    const uint64_t IP4_8 "HEADRACE_IP4_8"
    const uint64_t TCP_12 "HEADRACE_TCP_12"

# The first packet of a burst, and what it grows to.
cdef struct Burst:
    Packet* first
    uint32_t header           # octets of IP and transport header
    uint32_t size             # of a segment's payload
    uint32_t length           # octets of all
    uint32_t sequence         # TCP, of the next one
    uint8_t ends              # flags of the last one's TCP header that are the merged one's
    uint64_t ip_sum           # of the IPv4 header, without length, identification and checksum: the same for all
    uint64_t pseudo_sum       # of the pseudo-header, without length: the same for all


cdef inline int coalesce(Packet* batch, const uint16_t* order, int n, virtio_net_hdr* v, iovec* iov, int room, bint udp) noexcept nogil:
    """Merge the packet batch[order[0]] and as many of the n - 1 that order has behind it as belong there; return how many were taken.

    Each is a packet from the wire whose headers were read. Of the room entries at iov as many are filled as packets were taken,
    at most COALESCE_PACKETS. A lone packet has v all zero, and its octets untouched. UDP is merged where the kernel takes it (from
    version 6.2).
    """
    cdef Burst b
    cdef Packet* p = &batch[order[0]]
    cdef Packet* q
    cdef int taken
    memset(v, 0, sizeof(virtio_net_hdr))
    iov[0].iov_base = p.data
    iov[0].iov_len = p.length
    if n > COALESCE_PACKETS:
        n = COALESCE_PACKETS
    if n > room:
        n = room
    if n < 2 or not udp and p.transport == IPPROTO_UDP or not leads(&b, p):
        return 1
    q = &batch[order[1]]
    if q.length <= b.header or word32(p.data + p.ip_length) != word32(q.data + p.ip_length):       # ports: what tells most flows apart
        return 1
    # constants, so that each kind has a loop of its own
    if p.transport == IPPROTO_TCP:
        taken = follow(&b, batch, order, n, iov, True, True) if p.flags & FLAG_V6 else follow(&b, batch, order, n, iov, False, True)
    else:
        taken = follow(&b, batch, order, n, iov, True, False) if p.flags & FLAG_V6 else follow(&b, batch, order, n, iov, False, False)
    if taken > 1:
        seal(&b, v)
    return taken


cdef inline bint leads(Burst* b, Packet* p) noexcept nogil:
    """Whether other packets may be merged behind p."""
    cdef uint8_t* transport = p.data + p.ip_length
    cdef uint32_t n = p.length - p.ip_length, size
    if p.flags & (FLAG_FRAGMENT | FLAG_CSUM) or p.segment_size:
        return False
    if p.flags & FLAG_V6:
        if p.ip_length != IP6_HEADER:
            return False
    elif p.ip_length != IP4_HEADER or load16(p.data + IP4_FRAGMENT) & ~IP4_DF:
        return False
    if p.transport == IPPROTO_TCP:
        if n <= TCP_HEADER:
            return False
        size = (transport[TCP_OFFSET] >> 4) << 2
        if size < TCP_HEADER or size >= n or transport[TCP_FLAGS] & ~TCP_ECE != TCP_IS_ACK:
            return False
        b.sequence = load32(transport + TCP_SEQUENCE) + n - size
    elif p.transport == IPPROTO_UDP:
        size = UDP_HEADER
        b.sequence = 0
        if n <= size or load16(transport + UDP_LENGTH) != n or word16(transport + UDP_SUM) == 0:
            return False
    else:
        return False
    b.first = p
    b.header = p.ip_length + size
    b.size = n - size
    b.length = p.length
    b.ends = 0
    return True


cdef inline int follow(Burst* b, Packet* batch, const uint16_t* order, int n, iovec* iov, bint v6, bint tcp) noexcept nogil:
    """Take the packets behind the first whose headers are those of the next segment, whose sums are right, and for which there is
    room; how many there are then, the first among them."""
    cdef const uint8_t* x = b.first.data
    cdef const uint8_t* y = batch[order[1]].data
    cdef uint32_t ip = IP6_HEADER if v6 else IP4_HEADER
    cdef uint32_t kind = word32(&b.first.ip_length), at, size
    cdef uint16_t id = load16(x + IP4_ID), id_step = 1
    cdef uint64_t differ
    cdef Packet* q
    cdef int taken = 1
    if not v6 and b.first.flags & FLAG_DF and word16(x + IP4_ID) == word16(y + IP4_ID):
        id_step = 0
    while taken < n:
        q = &batch[order[taken]]
        y = q.data
        size = q.length - b.header
        if size - 1 >= b.size or word32(&q.ip_length) != kind:              # size - 1: 0 is too small, and what is less than 0 too large
            break
        if v6:
            differ = word32(x) ^ word32(y)                                  # version, traffic class, flow label
            differ |= word16(x + IP6_NEXT) ^ word16(y + IP6_NEXT)           # next header, hop limit
            differ |= word64(x + IP6_SOURCE) ^ word64(y + IP6_SOURCE)
            differ |= word64(x + IP6_SOURCE + 8) ^ word64(y + IP6_SOURCE + 8)
            differ |= word64(x + IP6_DESTINATION) ^ word64(y + IP6_DESTINATION)
            differ |= word64(x + IP6_DESTINATION + 8) ^ word64(y + IP6_DESTINATION + 8)
            differ |= word32(x + ip) ^ word32(y + ip)                       # ports
        else:
            id += id_step
            differ = (word64(x) ^ word64(y)) & IP4_0
            differ |= (word64(x + IP4_TTL) ^ word64(y + IP4_TTL)) & IP4_8
            differ |= word64(x + IP4_DESTINATION) ^ word64(y + IP4_DESTINATION)     # and, behind it, ports
            differ |= load16(y + IP4_ID) ^ id
        if tcp:
            differ |= load32(y + ip + TCP_SEQUENCE) ^ b.sequence
            differ |= word32(x + ip + TCP_ACK) ^ word32(y + ip + TCP_ACK)
            differ |= (word64(x + ip + TCP_OFFSET) ^ word64(y + ip + TCP_OFFSET)) & TCP_12
            for at in range(ip + TCP_HEADER, b.header, 4):
                differ |= word32(x + at) ^ word32(y + at)
        else:
            differ |= load16(y + ip + UDP_LENGTH) ^ (q.length - ip)
            differ |= word16(y + ip + UDP_SUM) == 0
        if differ or b.length + size > COALESCE_LENGTH:
            break
        if taken == 1:
            sum_common(b)
            if not verified(b, x, b.first.length, ip, v6):
                break
        if not verified(b, y, q.length, ip, v6):
            break
        iov[taken].iov_base = q.data + b.header
        iov[taken].iov_len = size
        b.length += size
        taken += 1
        if tcp:
            b.sequence += size
            b.ends = y[ip + TCP_FLAGS] & (TCP_PSH | TCP_FIN)
            if b.ends:
                break
        if size < b.size:
            break
    return taken


cdef inline void sum_common(Burst* b) noexcept nogil:
    """Sum once what the headers of a burst have in common."""
    cdef const uint8_t* ip = b.first.data
    if b.first.flags & FLAG_V6:
        b.pseudo_sum = pseudo6(ip, b.first.transport, 0)
    else:
        b.pseudo_sum = pseudo4(ip, 0)
        b.ip_sum = <uint64_t>word16(ip) + word32(ip + IP4_FRAGMENT) + word32(ip + IP4_SOURCE) + word32(ip + IP4_DESTINATION)


cdef inline bint verified(const Burst* b, const uint8_t* p, uint32_t length, uint32_t ip, bint v6) noexcept nogil:
    """Whether the checksums of the packet at p, one of the burst, are right: IPv4 header and transport."""
    if not v6 and not right(b.ip_sum + word16(p + IP4_LENGTH) + word16(p + IP4_ID) + word16(p + IP4_SUM)):
        return False
    return right(checksum_add(b.pseudo_sum + htons(<uint16_t>(length - ip)), p + ip, length - ip))


cdef inline void seal(Burst* b, virtio_net_hdr* v) noexcept nogil:
    """Make the first packet's headers those of all length octets, and say to the kernel what it is."""
    cdef Packet* p = b.first
    cdef uint8_t* ip = p.data
    cdef uint8_t* transport = ip + p.ip_length
    cdef uint32_t n = b.length - p.ip_length
    v.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
    v.hdr_len = <uint16_t>b.header
    v.gso_size = <uint16_t>b.size
    v.csum_start = p.ip_length
    if p.flags & FLAG_V6:
        store16(ip + IP6_LENGTH, <uint16_t>n)
    else:
        store16(ip + IP4_LENGTH, <uint16_t>b.length)
        put_sum(ip + IP4_SUM, <uint16_t>~fold(b.ip_sum + word16(ip + IP4_LENGTH) + word16(ip + IP4_ID)))
    if p.transport == IPPROTO_TCP:
        v.gso_type = VIRTIO_NET_HDR_GSO_TCPV6 if p.flags & FLAG_V6 else VIRTIO_NET_HDR_GSO_TCPV4
        v.csum_offset = TCP_SUM
        transport[TCP_FLAGS] |= b.ends
    else:
        v.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4
        v.csum_offset = UDP_SUM
        store16(transport + UDP_LENGTH, <uint16_t>n)
    put_sum(transport + v.csum_offset, fold(b.pseudo_sum + htons(<uint16_t>n)))
