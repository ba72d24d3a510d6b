"""What we say of a packet that is too large: ICMP fragmentation needed, ICMPv6 packet too big.

IPv4 (RFC 792; next-hop MTU: RFC 1191 section 4)                    IPv6 (RFC 4443 section 3.2)
|    Type 3     |    Code 4     |           Checksum            |   |    Type 2     |    Code 0     |           Checksum            |
|            unused             |         Next-hop MTU          |   |                              MTU                              |
|      as much of the packet as 576 octets in all hold          |   |      as much of the packet as 1280 octets in all hold         |

A transport checksum still to be computed stays so in the quote: it covers octets that the quote leaves out, so nobody can verify
it, and who gets the answer looks at addresses, ports and sequence number only.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset

from .bytes cimport load16, load32, store16, store32
from .checksum cimport checksum_add, fold, pseudo6, put_sum, word32, word64
from .cut cimport CUT_ROOM, Cutter, cut_begin, cut_next
from .ip cimport (IP4_DESTINATION, IP4_DF, IP4_FRAGMENT, IP4_HEADER, IP4_LENGTH, IP4_OFFSET, IP4_PROTOCOL, IP4_SOURCE, IP4_SUM,
                  IP4_TOS, IP4_TTL, IP6_DESTINATION, IP6_HEADER, IP6_HOPS, IP6_LENGTH, IP6_NEXT, IP6_SOURCE, IPPROTO_ICMP,
                  IPPROTO_ICMPV6)
from .packet cimport FLAG_FRAGMENT, FLAG_V6, Packet

cdef enum:
    ICMP_CODE = 1
    ICMP_SUM = 2
    ICMP_MTU4 = 6
    ICMP_MTU6 = 4
    ICMP_HEADER = 8

    ICMP_UNREACHABLE = 3
    ICMP_FRAGMENTATION_NEEDED = 4
    ICMPV6_TOO_BIG = 2
    ICMPV6_INFORMATION = 128     # the first type that is no error
    ICMPV6_REDIRECT = 137

    ANSWER4 = 576                # RFC 1812 section 4.3.2.3
    ANSWER6 = 1280               # RFC 4443 section 2.4 (c)
    ANSWER_TTL = 64
    INTERNETWORK_CONTROL = 0xC0  # RFC 1812 section 4.3.2.5


cdef inline int icmp_too_big(Packet* p, uint16_t mtu, const uint8_t* gateway16, uint8_t* out, size_t room) noexcept nogil:
    """Write to out the answer to p, whose headers were read; return its length, or 0: none may be sent, or room is too small.

    Its source is gateway16, an IPv6 address or ::ffff:a.b.c.d, which must be of p's family; 16 zeros are none. Of a super-packet
    its first segment is quoted.
    """
    if p.flags & FLAG_V6:
        return packet_too_big(p, mtu, gateway16, out, room)
    return fragmentation_needed(p, mtu, gateway16, out, room)


cdef inline bint is_mapped(const uint8_t* address16) noexcept nogil:
    return word64(address16) == 0 and load32(address16 + 8) == 0x0000FFFF


cdef inline bint may_answer4(Packet* p) noexcept nogil:
    """RFC 1122 section 3.2.2: not to an ICMP error, not to a later fragment, not where one end is not a single host."""
    cdef uint8_t source = p.data[IP4_SOURCE], kind
    if load16(p.data + IP4_FRAGMENT) & IP4_OFFSET:
        return False
    if source == 0 or source == 127 or source >= 224 or p.data[IP4_DESTINATION] >= 224:     # this network, loopback, multicast, class E
        return False
    if p.transport == IPPROTO_ICMP:
        if p.length <= p.ip_length:
            return False
        # Echo, router discovery, timestamp, information and mask, and their replies; all else is an error, or may be one.
        kind = p.data[p.ip_length]
        return kind == 0 or kind == 8 or kind == 9 or kind == 10 or 13 <= kind <= 18
    return True


cdef inline bint may_answer6(Packet* p) noexcept nogil:
    """RFC 4443 section 2.4 (e); a multicast destination is no hindrance here, (e.3)."""
    cdef const uint8_t* source = p.data + IP6_SOURCE
    if source[0] == 0xFF or word64(source) == 0 and word32(source + 8) == 0 and load32(source + 12) <= 1:
        return False
    if p.transport == IPPROTO_ICMPV6:
        # Of a later fragment nobody can say whether it is of an error.
        if p.flags & FLAG_FRAGMENT and load16(p.data + p.ip_length - 6) >> 3:
            return False
        return p.length > p.ip_length and p.data[p.ip_length] >= ICMPV6_INFORMATION and p.data[p.ip_length] != ICMPV6_REDIRECT
    return True


cdef inline size_t quote(Packet* p, uint8_t* out, size_t room) noexcept nogil:
    """Copy the start of p, or of its first segment, to the room octets at out; return how many, 0: it cannot be cut."""
    cdef Cutter cutter
    cdef uint8_t headers[CUT_ROOM]
    cdef const uint8_t* payload
    cdef size_t n, length
    if not p.segment_size:
        n = p.length if p.length < room else room
        memcpy(out, p.data, n)
        return n
    if cut_begin(&cutter, p) < 0:
        return 0
    n = cut_next(&cutter, headers, &payload, &length)
    if n > room:
        return 0
    memcpy(out, headers, n)
    if length > room - n:
        length = room - n
    memcpy(out + n, payload, length)
    return n + length


cdef inline int fragmentation_needed(Packet* p, uint16_t mtu, const uint8_t* gateway16, uint8_t* out, size_t room) noexcept nogil:
    cdef uint8_t* icmp = out + IP4_HEADER
    cdef size_t n = IP4_HEADER + ICMP_HEADER
    if room > ANSWER4:
        room = ANSWER4
    if room < n + p.ip_length + 8 or not is_mapped(gateway16) or not may_answer4(p):
        return 0
    n = quote(p, out + n, room - n)
    if not n:
        return 0
    n += IP4_HEADER + ICMP_HEADER
    memset(out, 0, IP4_HEADER + ICMP_HEADER)
    out[0] = 0x45
    out[IP4_TOS] = INTERNETWORK_CONTROL
    store16(out + IP4_LENGTH, <uint16_t>n)
    store16(out + IP4_FRAGMENT, IP4_DF)     # never fragmented, so it needs no identification (RFC 6864 section 4.1)
    out[IP4_TTL] = ANSWER_TTL
    out[IP4_PROTOCOL] = IPPROTO_ICMP
    memcpy(out + IP4_SOURCE, gateway16 + 12, 4)
    memcpy(out + IP4_DESTINATION, p.data + IP4_SOURCE, 4)
    put_sum(out + IP4_SUM, <uint16_t>~fold(checksum_add(0, out, IP4_HEADER)))
    icmp[0] = ICMP_UNREACHABLE
    icmp[ICMP_CODE] = ICMP_FRAGMENTATION_NEEDED
    store16(icmp + ICMP_MTU4, mtu)
    put_sum(icmp + ICMP_SUM, <uint16_t>~fold(checksum_add(0, icmp, n - IP4_HEADER)))
    return <int>n


cdef inline int packet_too_big(Packet* p, uint16_t mtu, const uint8_t* gateway16, uint8_t* out, size_t room) noexcept nogil:
    cdef uint8_t* icmp = out + IP6_HEADER
    cdef size_t n = IP6_HEADER + ICMP_HEADER
    if room > ANSWER6:
        room = ANSWER6
    if room < n + p.ip_length + 8 or word64(gateway16) == 0 or not may_answer6(p):
        return 0
    n = quote(p, out + n, room - n)
    if not n:
        return 0
    n += IP6_HEADER + ICMP_HEADER
    memset(out, 0, IP6_HEADER + ICMP_HEADER)
    out[0] = 0x60
    store16(out + IP6_LENGTH, <uint16_t>(n - IP6_HEADER))
    out[IP6_NEXT] = IPPROTO_ICMPV6
    out[IP6_HOPS] = ANSWER_TTL
    memcpy(out + IP6_SOURCE, gateway16, 16)
    memcpy(out + IP6_DESTINATION, p.data + IP6_SOURCE, 16)
    icmp[0] = ICMPV6_TOO_BIG
    store32(icmp + ICMP_MTU6, mtu)
    put_sum(icmp + ICMP_SUM, <uint16_t>~fold(checksum_add(pseudo6(out, IPPROTO_ICMPV6, n - IP6_HEADER), icmp, n - IP6_HEADER)))
    return <int>n
