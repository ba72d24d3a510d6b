"""The encapsulation: a template that control computed, and the octets that differ from packet to packet.

    | tunnel header; length at length_at, sequence number at ns_at | PPP header at ppp_at |   at most TEMPLATE octets

L2TP's template is its data header. That of PPTP is a GRE header with both numbers; the acknowledgment is left out of
what has nothing to acknowledge, and the header begins four octets later.

It is made for IPv4; the last octet of PPP's protocol, 21, is 57 for IPv6, whether the octet before it is left out or not.

Copies have fixed sizes and so are a few moves; a copy of so many octets as the template has would be a call, or a string
instruction that takes longer to start than everything else that happens to a packet. What they write too much lies in front of
the header.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memmove

from .bytes cimport store16, store32
from .gre cimport GRE_BASE, GRE_S
from .packet cimport KIND_PPTP
from .ppp cimport PPP_IPV6
from .table cimport CONFIG_BARE, TEMPLATE, Config, Session

cdef enum:
    HALF = TEMPLATE // 2


cdef inline uint8_t* number(uint8_t* head, Session* s, const Config* c) noexcept nogil:
    """The next sequence number, where data is sequenced: L2TP's Ns (RFC 2661 section 5.4), or GRE's with what there is to acknowledge
    (RFC 2637 section 4.1). Return the head."""
    if s.kind != KIND_PPTP:
        store16(head + c.ns_at, <uint16_t>s.tx_next)
        s.tx_next += 1
        return head
    store32(head + 8, s.tx_next)
    s.tx_next += 1
    if s.rx_acked != s.rx_next:
        s.rx_acked = s.rx_next
        store32(head + 12, s.rx_next - 1)
        return head
    memmove(head + 4, head, 12)
    store16(head + 4, GRE_BASE | GRE_S)
    return head + 4


cdef inline uint8_t* push_tunnel(uint8_t* at, Session* s, const Config* c, size_t n, size_t length) noexcept nogil:
    """Write the first n octets of the encapsulation, those in front of PPP's header or all of them, in front of `at`, where there are
    TEMPLATE octets of room; `length` octets come behind. Return the head. Budget: 2 ns."""
    cdef uint8_t* head = at - n
    # Of a shorter one the fields of Config that stand before it come along.
    memcpy(at - HALF, c.template + n - HALF, HALF)
    if n > HALF:
        memcpy(head, c.template, HALF)
    if c.length_at:
        store16(head + c.length_at, <uint16_t>(n - c.ppp_at + length))
    return number(head, s, c) if c.ns_at else head


cdef inline uint8_t* push_template(uint8_t* inner, Session* s, const Config* c, bint v6, size_t length) noexcept nogil:
    """Write the encapsulation in front of an inner packet of that length; return its head."""
    cdef uint8_t* head = push_tunnel(inner, s, c, c.template_length, length)
    if v6:
        (inner - 1)[0] = PPP_IPV6
    return head


cdef inline uint8_t* push_frame(uint8_t* information, uint16_t protocol, Session* s, const Config* c, size_t length) noexcept nogil:
    """Write PPP's header, uncompressed, and the tunnel's in front of an Information field of that length; return the head. There must be
    TEMPLATE + 4 octets of room."""
    cdef int ppp = 2 if c.flags & CONFIG_BARE else 4
    store16(information - 4, 0xFF03)
    store16(information - 2, protocol)
    return push_tunnel(information - ppp, s, c, c.ppp_at, ppp + length)
