"""Big-endian loads and stores; shifts, so that nothing is said about alignment."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef inline uint16_t load16(const uint8_t* p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])


cdef inline uint32_t load32(const uint8_t* p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef inline void store16(uint8_t* p, uint16_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 8)
    p[1] = <uint8_t>v


cdef inline void store32(uint8_t* p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 24)
    p[1] = <uint8_t>(v >> 16)
    p[2] = <uint8_t>(v >> 8)
    p[3] = <uint8_t>v


cdef inline void load_key(const uint8_t* p, bint v6, uint64_t* key) noexcept nogil:
    """An address of 16 octets, or one of 4 as ::ffff:a.b.c.d, as the table's keys have it."""
    cdef uint32_t a
    if v6:
        memcpy(key, p, 16)
    else:
        memcpy(&a, p, 4)
        key[0] = 0
        key[1] = <uint64_t>a << 32 | 0xFFFF0000U
