"""SipHash-2-4 (Aumasson and Bernstein, 2012): a keyed hash of 64 bits for short messages."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    SIPHASH_KEY = 16

cdef struct Siphash:
    uint64_t v[4]
    uint64_t word             # octets that wait for the eighth
    uint64_t length


cdef inline uint64_t left(uint64_t x, int bits) noexcept nogil:
    return x << bits | x >> (64 - bits)


cdef inline void siphash_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = left(v[1], 13) ^ v[0]
    v[3] = left(v[3], 16) ^ v[2]
    v[0] = left(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = left(v[1], 17) ^ v[2]
    v[3] = left(v[3], 21) ^ v[0]
    v[2] = left(v[2], 32)


cdef inline void siphash_word(Siphash* s, uint64_t word) noexcept nogil:
    s.v[3] ^= word
    siphash_round(s.v)
    siphash_round(s.v)
    s.v[0] ^= word


cdef inline void siphash_begin(Siphash* s, const uint8_t* key) noexcept nogil:
    cdef uint64_t k[2]
    memcpy(k, key, SIPHASH_KEY)
    s.v[0] = k[0] ^ <uint64_t>0x736F6D6570736575
    s.v[1] = k[1] ^ <uint64_t>0x646F72616E646F6D
    s.v[2] = k[0] ^ <uint64_t>0x6C7967656E657261
    s.v[3] = k[1] ^ <uint64_t>0x7465646279746573
    s.word = s.length = 0


cdef inline void siphash_add(Siphash* s, const uint8_t* p, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        s.word |= <uint64_t>p[i] << (8 * (s.length & 7))
        s.length += 1
        if s.length & 7 == 0:
            siphash_word(s, s.word)
            s.word = 0


cdef inline uint64_t siphash_end(Siphash* s) noexcept nogil:
    siphash_word(s, s.word | s.length << 56)
    s.v[2] ^= 0xFF
    siphash_round(s.v)
    siphash_round(s.v)
    siphash_round(s.v)
    siphash_round(s.v)
    return s.v[0] ^ s.v[1] ^ s.v[2] ^ s.v[3]
