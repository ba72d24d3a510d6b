"""Session keys (RFC 3079 sections 2.4 and 3.4; RFC 3078 section 7): the first one, and each one's successor.

    first = SHA(start, start)      next = RC4(k, k) with k = SHA(start, key)      SHA: start | 40 of 00 | key | 40 of F2

A key has 16 octets, or 8 that stand there twice; of 8, one or three are fixed, so that 56 or 40 bits are left.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from .cipher cimport KEY
from .cpu cimport LEVEL_PORTABLE, LEVEL_SHANI, level
from .rc4 cimport Key, rc4_first6, rc4_one, rc4_schedule, rc4_schedule6, rc4_xor
from .sha1 cimport Digest, Message, sha1_ni1, sha1_ni2, sha1_plain

cdef enum:
    SIX = 6                   # schedules side by side
    FEW = 3                   # from so many on, side by side is faster than one by one: of schedules, and of lanes

cdef struct Successor:        # a key that is to become the next one
    const uint8_t* start
    uint8_t* key
    uint8_t bits


cdef inline void compose(uint8_t* m, const uint8_t* start, const uint8_t* key, uint8_t bits) noexcept nogil:
    """What GetNewKeyFromSHA hashes, padded to two blocks: start | 40 of 00 | key | 40 of F2."""
    cdef int n = KEY if bits == 128 else KEY // 2
    memset(m, 0, 128)
    memcpy(m, start, n)
    memcpy(m + n + 40, key, n)
    memset(m + 2 * n + 40, 0xF2, 40)
    m[2 * n + 80] = 0x80
    m[126] = <uint8_t>((2 * n + 80) >> 5)         # its length in bits
    m[127] = <uint8_t>((2 * n + 80) << 3)


cdef inline void fit(uint8_t* key, uint8_t bits) noexcept nogil:
    """A key of 8 octets twice, and what makes it weak."""
    if bits == 128:
        return
    key[0] = 0xD1
    if bits == 40:
        key[1], key[2] = 0x26, 0x9E
    memcpy(key + 8, key, 8)


cdef inline void double_short(uint8_t* key, uint8_t bits) noexcept nogil:
    if bits != 128:
        memcpy(key + 8, key, 8)


cdef inline void first_key(const uint8_t* start, uint8_t bits, uint8_t* key) noexcept nogil:
    cdef Message m
    compose(m, start, start, bits)
    sha1_plain(m, key)
    fit(key, bits)


cdef inline void next_key(uint8_t* table, const uint8_t* start, uint8_t* key, uint8_t bits) noexcept nogil:
    """The key after this one. Budget: 400 ns, 500 without SHA-NI."""
    cdef Message m
    cdef Digest stream
    cdef uint8_t i = 1, j = 0
    compose(m, start, key, bits)
    if level() == LEVEL_SHANI:
        sha1_ni1(&m, <Digest*>key)
    else:
        sha1_plain(m, key)
    double_short(key, bits)
    rc4_schedule(table, key)
    rc4_one(table, &i, &j, stream, KEY)
    rc4_xor(key, key, stream, KEY)
    fit(key, bits)


cdef inline void next_keys(uint8_t* tables, Successor* s, int n) noexcept nogil:
    """Up to six keys, with room for as many tables. Budget: 200 ns a key when there are six."""
    cdef Message m[SIX]
    cdef Key keys[SIX]
    cdef int k
    if n < FEW or level() == LEVEL_PORTABLE:
        for k in range(n):
            next_key(tables, s[k].start, s[k].key, s[k].bits)
        return
    for k in range(n):
        compose(m[k], s[k].start, s[k].key, s[k].bits)
    k = 0
    if level() == LEVEL_SHANI:
        while k + 1 < n:
            sha1_ni2(&m[k], &keys[k])
            k += 2
        if k < n:
            sha1_ni1(&m[k], &keys[k])
    else:
        while k < n:
            sha1_plain(m[k], keys[k])
            k += 1
    for k in range(n):
        double_short(keys[k], s[k].bits)
    for k in range(n, SIX):
        memset(keys[k], 0, KEY)
    rc4_schedule6(tables, keys)
    rc4_first6(tables, keys)
    for k in range(n):
        fit(keys[k], s[k].bits)
        memcpy(s[k].key, keys[k], KEY)
