"""MPPE (RFC 3078), with the session keys of RFC 3079: packets are gathered, and ciphered side by side.

    | 00 FD | A B C D  coherency count (12 bits) | encrypted: PPP protocol, packet |

A is the flushed bit: the receiver begins anew with this packet's key. D says that it is encrypted. B and C belong to MPPC (RFC 2118),
which is not spoken.

    mppe_encrypt, mppe_decrypt   one packet: its header and its place in the key chain; the octets wait
    mppe_run                     keys of all chains, then octets of all packets, then the states are stored

Stateless packets have a key each, the next one of their session's chain, so the packets of a batch are independent once their keys
are known, and chains of several sessions are. Stateful ones continue one key stream and are done at once.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .cipher cimport CipherKeys, CipherState

cdef enum:
    MPPE_A = 0x8000           # flushed
    MPPE_C = 0x2000           # compressed
    MPPE_D = 0x1000           # encrypted
    MPPE_COUNT = 0x0FFF
    MPPE_HEADER = 2
    MPPE_AHEAD = 3072         # a count further ahead than this is one from behind: older, or the same again

cdef struct Ciphers           # a worker's packets at hand, opaque

cdef Ciphers* new_ciphers() except NULL
cdef void free_ciphers(Ciphers* c) noexcept
cdef void allow(Ciphers* c, uint32_t keys) noexcept nogil
cdef void refill(Ciphers* c) noexcept nogil
cdef void mppe_begin(Ciphers* c, CipherState* s, const CipherKeys* keys, bint sending) noexcept nogil
cdef int mppe_encrypt(Ciphers* c, CipherState* s, const uint8_t* data, uint8_t* out, uint32_t head, uint32_t length) noexcept nogil
cdef int mppe_decrypt(Ciphers* c, CipherState* s, uint8_t* frame, uint32_t length) noexcept nogil
cdef bint mppe_full(const Ciphers* c) noexcept nogil
cdef void mppe_run(Ciphers* c) noexcept nogil
