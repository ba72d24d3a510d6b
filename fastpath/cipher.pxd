"""What a session's MPPE encryption needs: its start keys, and where each direction of the cipher stands.

    Cipher = keys[2] (control) | receive (owning worker) | send (owning worker)

The two copies of the keys serve as those of Config do: a configuration in force names the generation of its keys, whose parity is
the copy, and control fills the other one. A worker that finds its state begun with another generation than that begins anew.
"""
from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    KEY = 16                  # octets of the longest key; of a shorter one the rest is unused

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
    uint16_t count[2]         # coherency counts, 12 bits: the last one that was used
    uint16_t generation       # of the keys that it was begun with; 0: not begun
    uint16_t reserved         # sending: counts up to this one may have left; the key behind them is not used twice
    uint8_t active            # stored with release
    uint8_t bits
    uint8_t stateless
    uint8_t flags             # CipherFlag
    uint8_t ahead             # stateless: keys that were derived ahead of the packets
    uint8_t x                 # stateful: RC4's indices
    uint8_t y
    uint8_t pad
    uint8_t table[256]        # stateful: RC4's table; stateless: keys ahead

cdef struct Cipher:           # 768 octets
    CipherKeys keys[2]
    CipherState receive
    CipherState send
