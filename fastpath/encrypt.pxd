"""encrypt: what a session with CONFIG_ENCRYPT sends goes through a cipher (RFC 3078) on its way into the send buffer.

    room -> inner packet, or its headers alone -> push_encrypted -> ... -> transmit: all of them side by side, then the wire

    | tunnel | PPP, protocol 00FD | MPPE header | PPP protocol | inner packet |       in w.cipher_room
                                                |<----- encrypted ---------->|
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .cipher cimport Cipher, CipherState
from .mppe cimport mppe_begin
from .table cimport TEMPLATE, Config, Session
from .worker cimport CIPHER_ROOM, Worker

cdef enum:
    ENCRYPTED = TEMPLATE + 4      # octets in front of an inner packet


cdef inline CipherState* cipher_of(Worker* w, Session* s, const Config* c, bint sending) noexcept nogil:
    """The state of one direction, begun with the keys in force; NULL when there are none."""
    cdef Cipher* cipher = &w.table.ciphers[s - w.table.sessions]
    cdef CipherState* state = &cipher.send if sending else &cipher.receive
    if state.generation != c.cipher or c.cipher == 0:
        if c.cipher == 0 or cipher.keys[c.cipher & 1].generation != c.cipher:
            return NULL
        mppe_begin(w.ciphers, state, &cipher.keys[c.cipher & 1], sending)
    return state


cdef uint8_t* room(Worker* w, size_t length) noexcept nogil
cdef bint push_encrypted(Worker* w, Session* s, Config* c, uint16_t tos, uint32_t packets, uint16_t protocol, uint8_t* inner,
                         size_t length, const uint8_t* body, size_t body_length) noexcept nogil
cdef void run_ciphers(Worker* w) noexcept nogil
