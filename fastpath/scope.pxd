"""IPv6 addresses that no router forwards (RFC 4291 section 2.5.6, RFC 4007 section 9), and what of them control hears.

    fe80::/10   link-local        ff00::/8   multicast        ::/64   unspecified, loopback, IPv4-mapped

A session has no kernel interface of its own, so control is the other end of its link: it answers router and neighbour
solicitations, echo requests to itself, and DHCPv6. All else of link scope ends in the worker.
"""
from libc.stdint cimport uint8_t

from .bytes cimport load16
from .ip cimport IP6_DESTINATION, IP6_SOURCE, IPPROTO_ICMPV6, IPPROTO_UDP
from .packet cimport FLAG_FRAGMENT, Packet

cdef enum:
    ICMPV6_ECHO = 128
    ICMPV6_ROUTER_SOLICITATION = 133
    ICMPV6_NEIGHBOUR_SOLICITATION = 135
    DHCPV6_SERVER = 547


cdef inline bint of_link(const uint8_t* ip) noexcept nogil:
    """Whether the IPv6 packet at ip stays on its link: to a group, or from or to a link-local address. Budget: 1 ns."""
    return ip[IP6_DESTINATION] == 0xFF or load16(ip + IP6_SOURCE) & 0xFFC0 == 0xFE80 or load16(ip + IP6_DESTINATION) & 0xFFC0 == 0xFE80


cdef inline bint is_solicitation(const Packet* p) noexcept nogil:
    """Whether control answers p, an IPv6 packet of link scope whose headers were read. Fragments of these are none (RFC 6980)."""
    cdef const uint8_t* transport = p.data + p.ip_length
    cdef uint8_t kind
    if p.flags & FLAG_FRAGMENT or p.length < <unsigned int>p.ip_length + 8:
        return False
    if p.transport == IPPROTO_UDP:
        return load16(transport + 2) == DHCPV6_SERVER
    kind = transport[0]
    return p.transport == IPPROTO_ICMPV6 and (kind == ICMPV6_ROUTER_SOLICITATION or kind == ICMPV6_NEIGHBOUR_SOLICITATION
                                             or kind == ICMPV6_ECHO)
