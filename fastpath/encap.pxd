"""The encapsulation: a template that control computed, and the octets that differ from packet to packet.

    | tunnel header, Ns at ns_at | PPP header at ppp_at |   template_length octets, at most TEMPLATE

It is made for IPv4; the last octet of PPP's protocol, 21, is 57 for IPv6, whether the octet before it is left out or not.

Copies have fixed sizes and so are a few moves; a copy of so many octets as the template has would be a call, or a string
instruction that takes longer to start than everything else that happens to a packet. What they write too much lies in front of
the header in headroom, or behind it where the packet's own headers come next.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from .bytes cimport store16
from .ppp cimport PPP_IPV6
from .table cimport TEMPLATE, Config, Session

cdef enum:
    HALF = TEMPLATE // 2


cdef inline void number(uint8_t* head, Session* s, const Config* c) noexcept nogil:
    """The next Ns, where data is sequenced (RFC 2661 section 5.4)."""
    if c.ns_at:
        store16(head + c.ns_at, s.tx_ns)
        s.tx_ns += 1


cdef inline uint8_t* push_template(uint8_t* inner, Session* s, const Config* c, bint v6) noexcept nogil:
    """Write the encapsulation in front of `inner`, where there are TEMPLATE octets of headroom; return its head. Budget: 2 ns."""
    cdef uint8_t* head = inner - c.template_length
    # Of a shorter one the fields of Config that stand before it come along.
    memcpy(inner - HALF, c.template + c.template_length - HALF, HALF)
    if c.template_length > HALF:
        memcpy(head, c.template, HALF)
    number(head, s, c)
    if v6:
        (inner - 1)[0] = PPP_IPV6
    return head


cdef inline uint8_t* put_template(uint8_t* head, Session* s, const Config* c, bint v6) noexcept nogil:
    """Write the encapsulation at `head`, where there is room for TEMPLATE octets; return what comes behind it. Budget: 2 ns."""
    memcpy(head, c.template, HALF)
    if c.template_length > HALF:
        memcpy(head + HALF, c.template + HALF, HALF)
    number(head, s, c)
    head += c.template_length
    if v6:
        (head - 1)[0] = PPP_IPV6
    return head
