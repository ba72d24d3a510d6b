"""Super-packets into segments, and single packets with their checksum completed (the stage `cut`).

    cut_begin(cutter, packet)            how many segments, or -1
    cut_next(cutter, out, ...)           the next one: its own headers in out, its payload where it lies

The rules are those of segmentation in the kernel: IPv4 identifications and TCP sequence numbers go up, FIN and PSH stay on the
last segment, CWR on the first (RFC 3168 section 6.1.2), checksums are computed anew. Payloads are summed but not copied.

Budget: 7 ns a segment and the sum of its payload.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .bytes cimport load16, load32, store16, store32
from .checksum cimport checksum_add, fold, htons, pseudo4, pseudo6, put_sum, word32
from .ip cimport (IP4_ID, IP4_LENGTH, IP4_SUM, IP6_HEADER, IP6_LENGTH, IPPROTO_TCP, IPPROTO_UDP, TCP_CWR, TCP_FIN, TCP_FLAGS,
                  TCP_HEADER, TCP_OFFSET, TCP_PSH, TCP_SEQUENCE, TCP_SUM, UDP_HEADER, UDP_LENGTH, UDP_SUM)
from .packet cimport FLAG_CSUM, FLAG_FRAGMENT, FLAG_V6, Packet

cdef enum:
    CUT_ROOM = 128            # octets of headers that a segment may have: IPv4 and TCP with all options take 120

cdef struct Cutter:
    const uint8_t* packet
    uint32_t length           # of the super-packet
    uint32_t at               # where the next payload starts
    uint32_t sequence         # TCP
    uint64_t ip_sum           # of the IPv4 header, without what differs
    uint64_t transport_sum    # of pseudo-header and transport header, without what differs
    uint16_t size             # of a segment's payload
    uint16_t id               # IPv4
    uint16_t header           # octets of IP and transport header
    uint8_t ip_length
    uint8_t first_flags       # TCP flags of the first segment only
    uint8_t all_flags         # of every segment
    uint8_t last_flags        # of the last only
    bint v6, tcp, long_header
    uint8_t template[CUT_ROOM]   # both headers; 0 where segments differ


cdef inline int cut_begin(Cutter* c, Packet* p) noexcept nogil:
    """Prepare to cut p, whose headers were read; return the number of segments, or -1: its headers cannot be cut."""
    cdef uint8_t* transport = c.template + p.ip_length
    cdef uint32_t size
    c.tcp = p.transport == IPPROTO_TCP
    c.v6 = p.flags & FLAG_V6 != 0
    size = TCP_HEADER if c.tcp else UDP_HEADER
    if p.segment_size == 0 or p.flags & FLAG_FRAGMENT or p.length < p.ip_length + size \
            or not c.tcp and p.transport != IPPROTO_UDP:
        return -1
    if c.tcp:
        size = (p.data[p.ip_length + TCP_OFFSET] >> 4) << 2
        if size < TCP_HEADER:
            return -1
    if p.ip_length + size > p.length or p.ip_length + size > CUT_ROOM:
        return -1
    c.packet = p.data
    c.length = p.length
    c.size = p.segment_size
    c.ip_length = p.ip_length
    c.header = <uint16_t>(p.ip_length + size)
    c.at = c.header
    c.long_header = c.header > CUT_ROOM // 2
    memset(c.template, 0, CUT_ROOM)
    memcpy(c.template, p.data, c.header)
    if c.tcp:
        c.sequence = load32(transport + TCP_SEQUENCE)
        c.first_flags = transport[TCP_FLAGS] & TCP_CWR
        c.last_flags = transport[TCP_FLAGS] & (TCP_FIN | TCP_PSH)
        c.all_flags = transport[TCP_FLAGS] & ~(TCP_CWR | TCP_FIN | TCP_PSH)
        store32(transport + TCP_SEQUENCE, 0)
        transport[TCP_FLAGS] = 0
        put_sum(transport + TCP_SUM, 0)
    else:
        put_sum(transport + UDP_LENGTH, 0)
        put_sum(transport + UDP_SUM, 0)
    if c.v6:
        c.transport_sum = pseudo6(c.template, p.transport, 0)
    else:
        c.transport_sum = pseudo4(c.template, 0)
        c.id = load16(c.template + IP4_ID)
        put_sum(c.template + IP4_LENGTH, 0)
        put_sum(c.template + IP4_ID, 0)
        put_sum(c.template + IP4_SUM, 0)
        c.ip_sum = checksum_add(0, c.template, p.ip_length)
    c.transport_sum = checksum_add(c.transport_sum, transport, size)
    return 1 if c.length == c.header else <int>((c.length - c.header + c.size - 1) // c.size)


cdef inline size_t cut_next(Cutter* c, uint8_t* out, const uint8_t** payload, size_t* payload_length) noexcept nogil:
    """Write the next segment's headers into the CUT_ROOM octets at out; return their length."""
    cdef uint8_t* transport = out + c.ip_length
    cdef uint32_t n = c.length - c.at
    cdef uint32_t length
    cdef uint64_t sum = c.transport_sum
    cdef uint8_t flags
    cdef uint16_t folded
    if n > c.size:
        n = c.size
    # Fixed sizes are a few vector moves; what is behind the headers is scratch.
    memcpy(out, c.template, CUT_ROOM // 2)
    if c.long_header:
        memcpy(out + CUT_ROOM // 2, c.template + CUT_ROOM // 2, CUT_ROOM // 2)
    length = c.header + n
    if c.v6:
        store16(out + IP6_LENGTH, <uint16_t>(length - IP6_HEADER))
    else:
        store16(out + IP4_LENGTH, <uint16_t>length)
        store16(out + IP4_ID, c.id)
        put_sum(out + IP4_SUM, <uint16_t>~fold(c.ip_sum + htons(<uint16_t>length) + htons(c.id)))
        c.id += 1
    payload[0] = c.packet + c.at
    payload_length[0] = n
    c.at += n
    length -= c.ip_length
    sum = checksum_add(sum + htons(<uint16_t>length), payload[0], n)
    if c.tcp:
        flags = c.all_flags | c.first_flags
        if c.at == c.length:
            flags |= c.last_flags
        c.first_flags = 0
        store32(transport + TCP_SEQUENCE, c.sequence)
        transport[TCP_FLAGS] = flags
        sum += htons(flags)
        put_sum(transport + TCP_SUM, <uint16_t>~fold(sum + word32(transport + TCP_SEQUENCE)))
        c.sequence += n
    else:
        store16(transport + UDP_LENGTH, <uint16_t>length)
        folded = <uint16_t>~fold(sum + htons(<uint16_t>length))
        put_sum(transport + UDP_SUM, folded if folded else 0xFFFF)
    return c.header


cdef inline bint finish_checksum(Packet* p) noexcept nogil:
    """Complete the checksum of a single packet with FLAG_CSUM, in place; False: where it should be is not in the packet.

    0 becomes 0xFFFF: in ones' complement that is the same number, and UDP keeps 0 for "none" (RFC 768).
    """
    cdef uint32_t start = p.csum_start, at = start + p.csum_offset
    cdef uint16_t folded
    if not p.flags & FLAG_CSUM:
        return True
    if at + 2 > p.length:
        return False
    folded = <uint16_t>~fold(checksum_add(0, p.data + start, p.length - start))
    put_sum(p.data + at, folded if folded else 0xFFFF)
    p.flags &= ~FLAG_CSUM
    return True
