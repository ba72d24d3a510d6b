"""The headers of inner packets: IPv4, IPv6, TCP, UDP. `read_headers` is the one walk over the first two.

IPv4 (RFC 791 section 3.1)                                          IPv6 (RFC 8200 section 3)
 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
|Version|  IHL  |      TOS      |         Total length          |   |Version| Traffic class |              Flow label               |
|        Identification         |0|D|M|     Fragment offset     |   |        Payload length         |  Next header  |   Hop limit   |
|      TTL      |   Protocol    |        Header checksum        |   |                       Source, 16 octets                       |
|                            Source                             |   |                     Destination, 16 octets                    |
|                          Destination                          |
|                       Options, 0 to 40                        |

TCP (RFC 793 section 3.1; ECE and CWR: RFC 3168 section 6.1)        UDP (RFC 768)
|          Source port          |       Destination port        |   |          Source port          |       Destination port        |
|                            Sequence                           |   |            Length             |           Checksum            |
|                        Acknowledgment                         |
|Offset | rsvd  |C|E|U|A|P|R|S|F|            Window             |
|           Checksum            |        Urgent pointer         |
|                       Options, 0 to 40                        |

These offsets are written here and nowhere else.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .bytes cimport load16
from .packet cimport FLAG_CSUM, FLAG_DF, FLAG_FRAGMENT, FLAG_V6, Packet

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6
        IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_AH, IPPROTO_DSTOPTS

cdef enum:
    IP4_TOS = 1
    IP4_LENGTH = 2
    IP4_ID = 4
    IP4_FRAGMENT = 6
    IP4_TTL = 8
    IP4_PROTOCOL = 9
    IP4_SUM = 10
    IP4_SOURCE = 12
    IP4_DESTINATION = 16
    IP4_HEADER = 20           # without options

    IP6_LENGTH = 4
    IP6_NEXT = 6
    IP6_HOPS = 7
    IP6_SOURCE = 8
    IP6_DESTINATION = 24
    IP6_HEADER = 40           # without extension headers

    TCP_SEQUENCE = 4
    TCP_ACK = 8
    TCP_OFFSET = 12
    TCP_FLAGS = 13
    TCP_WINDOW = 14
    TCP_SUM = 16
    TCP_URGENT = 18
    TCP_HEADER = 20           # without options

    UDP_LENGTH = 4
    UDP_SUM = 6
    UDP_HEADER = 8

    # the word at IP4_FRAGMENT
    IP4_DF = 0x4000
    IP4_MF = 0x2000
    IP4_OFFSET = 0x1fff       # in units of eight octets

    # the octet at TCP_FLAGS
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_PSH = 0x08
    TCP_IS_ACK = 0x10
    TCP_ECE = 0x40
    TCP_CWR = 0x80

    EXTENSIONS = 8            # IPv6 extension headers that we walk over


cdef inline bint read_headers(Packet* p) noexcept nogil:
    """Trim p to its IP packet (a link may pad) and note what stands where; False: not well-formed.

    The transport header is not looked at, nor the IPv4 header checksum: a router passes both on as they are, and `coalesce`,
    which writes new ones, verifies the old. Budget: 2 ns without extension headers.
    """
    cdef const uint8_t* ip = p.data
    cdef uint32_t header, length
    cdef uint16_t fragment
    if p.length < IP4_HEADER:
        return False
    if ip[0] >> 4 != 4:
        return ip[0] >> 4 == 6 and read_headers6(p)
    header = (ip[0] & 15) << 2
    length = load16(ip + IP4_LENGTH)
    if header < IP4_HEADER or length < header or length > p.length:
        return False
    fragment = load16(ip + IP4_FRAGMENT)
    p.length = length
    p.ip_length = <uint8_t>header
    p.transport = ip[IP4_PROTOCOL]
    p.flags &= FLAG_CSUM
    if fragment & IP4_DF:
        p.flags |= FLAG_DF
    if fragment & (IP4_MF | IP4_OFFSET):
        p.flags |= FLAG_FRAGMENT
    return True


cdef inline bint read_headers6(Packet* p) noexcept nogil:
    """The same for IPv6 (RFC 8200 section 4).

    The walk ends before the transport header; behind a fragment header; before a routing header with segments left, because
    the transport checksum then covers an address that is not in the IP header; and before whatever does not fit our bounds.
    In the last two cases `transport` is the extension's number, which no stage touches.
    """
    cdef const uint8_t* ip = p.data
    cdef uint32_t at = IP6_HEADER, size, length
    cdef uint8_t following, flags = p.flags & FLAG_CSUM | FLAG_V6 | FLAG_DF
    cdef int i
    if p.length < IP6_HEADER:
        return False
    length = IP6_HEADER + load16(ip + IP6_LENGTH)
    if length > p.length:
        return False
    following = ip[IP6_NEXT]
    for i in range(EXTENSIONS):
        if following == IPPROTO_TCP or following == IPPROTO_UDP:
            break
        if following != IPPROTO_HOPOPTS and following != IPPROTO_DSTOPTS and following != IPPROTO_ROUTING \
                and following != IPPROTO_FRAGMENT and following != IPPROTO_AH:
            break
        if at + 8 > length:
            return False
        if following == IPPROTO_FRAGMENT:
            size = 8
        elif following == IPPROTO_AH:
            size = (<uint32_t>ip[at + 1] + 2) << 2
        else:
            size = (<uint32_t>ip[at + 1] + 1) << 3
        if at + size > length:
            return False
        if at + size > 255 or following == IPPROTO_ROUTING and ip[at + 3]:
            break
        if following == IPPROTO_FRAGMENT:
            flags |= FLAG_FRAGMENT
            following = ip[at]
            at += size
            break
        following = ip[at]
        at += size
    p.length = length
    p.ip_length = <uint8_t>at
    p.transport = following
    p.flags = flags
    return True
