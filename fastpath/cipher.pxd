"""What a session's MPPE encryption needs: its start keys, and where each direction of the cipher stands.

    Cipher = keys[2] (control) | receive (owning worker) | send (owning worker)

The two copies of the keys serve as those of Config do: a configuration in force names the generation of its keys, whose parity is
the copy, and control fills the other one. A worker that finds its state begun with another generation than that begins anew.

The state outlives the worker. Session key and count are two copies too, so that a worker that dies leaves both of before or both of
after; packets leave only after that. RC4's table has one copy: while it is written, STATE_TORN stands, and who finds that begins
again from the session key, with a flushed packet or a Reset-Request.
"""
from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    KEY = 16                  # octets of the longest key; one of 8 stands there twice

cdef enum CipherFlag:
    STATE_FLUSH = 1           # sending: the peer asked for a flushed packet
    STATE_WAITING = 2         # receiving: nothing can be read before a flushed packet
    STATE_TORN = 4            # the table is being written

cdef struct CipherKeys:       # 64 octets: written by control before a configuration in force names them
    uint8_t send_start[KEY]   # RFC 3079's start keys
    uint8_t receive_start[KEY]
    uint16_t generation       # 0: none
    uint8_t send_bits         # 40, 56 or 128: CCP agrees on each direction by itself
    uint8_t receive_bits
    uint8_t send_stateless
    uint8_t receive_stateless
    uint8_t pad[26]

cdef struct CipherState:      # 320 octets, one direction: written by the owning worker
    uint8_t start[KEY]
    uint8_t key[2][KEY]       # session keys: `active` tells which is in force, with its count
    uint16_t count[2]         # coherency counts, 12 bits, of the last packet
    uint16_t generation       # of the keys that it was begun with; 0: not begun
    uint16_t chain            # index of its chain in the batch at hand
    uint8_t active            # stored with release
    uint8_t bits
    uint8_t stateless
    uint8_t flags             # CipherFlag
    uint8_t i                 # stateful: RC4's, of the next step
    uint8_t j
    uint8_t garbled           # packets in a row that made no sense
    uint8_t asked             # tick of the last Reset-Request
    uint8_t table[256]        # stateful: RC4's

cdef struct Cipher:           # 768 octets
    CipherKeys keys[2]
    CipherState receive
    CipherState send


cdef inline uint16_t newest(const Cipher* c) noexcept:
    """The later of the two generations of keys."""
    cdef uint16_t a = c.keys[0].generation, b = c.keys[1].generation
    return a if b == 0 or a and <uint16_t>(a - b) < 0x8000 else b
