"""The header of a fragment (RFC 1990 section 3).

    | B E 000000 | number, 24 bits |          or, short: | B E 00 | number, 12 bits |

B: a packet begins with it. E: one ends. Both: it is whole. The bits between are sent as 0 and not looked at.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t

from .bytes cimport load16, load32, store16, store32

cdef enum:
    MP_BEGIN = 0x80
    MP_END = 0x40
    MP_WHOLE = 0xC0
    MP_LONG = 4               # octets of the header
    MP_SHORT = 2


cdef inline int pull_fragment(const uint8_t* p, size_t n, bint short, uint8_t* flags, uint32_t* number) noexcept nogil:
    """Read the header at p; return its length, or 0: it is cut off."""
    if n < <size_t>(MP_SHORT if short else MP_LONG):
        return 0
    flags[0] = p[0] & MP_WHOLE
    if short:
        number[0] = load16(p) & 0xFFF
        return MP_SHORT
    number[0] = load32(p) & 0xFFFFFF
    return MP_LONG


cdef inline int push_fragment(uint8_t* p, bint short, uint8_t flags, uint32_t number) noexcept nogil:
    """Write the header at p; return its length."""
    if short:
        store16(p, <unsigned short>(<uint32_t>flags << 8 | number & 0xFFF))
        return MP_SHORT
    store32(p, <uint32_t>flags << 24 | number & 0xFFFFFF)
    return MP_LONG


cdef inline int32_t number_ahead(uint32_t number, uint32_t next, bint short) noexcept nogil:
    """How far a number of the wire is ahead of the next one; negative: behind."""
    cdef int unused = 20 if short else 8
    return <int32_t>((number - next) << unused) >> unused
