"""Encrypted datagrams: where they are put together, and when their octets are ciphered."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .bytes cimport store16
from .cipher cimport CipherState
from .encap cimport push_template
from .mppe cimport MPPE_HEADER, mppe_encrypt, mppe_full, mppe_run
from .packet cimport DROP_CLEAR
from .port cimport count, full, push, transmit
from .ppp cimport PPP_COMP
from .split cimport split
from .stage cimport STAGE_ENCRYPT, enter
from .table cimport CONFIG_BUNDLE, Config, Session
from .worker cimport CIPHER_ROOM, Worker


cdef uint8_t* room(Worker* w, size_t length) noexcept nogil:
    """Where to put an inner packet of up to so many octets, which is at most a frame's: what waits is sent first when there is
    no room behind it, or when so much waits that the next packet would have it ciphered, which is this stage's matter."""
    if full(w.out) or w.cipher_used + ENCRYPTED + length > CIPHER_ROOM or mppe_full(w.ciphers):
        transmit(w)
    return w.cipher_room + w.cipher_used + ENCRYPTED


cdef bint push_encrypted(Worker* w, Session* s, Config* c, uint16_t tos, uint32_t packets, uint16_t protocol, uint8_t* inner,
                         size_t length, const uint8_t* body, size_t body_length) noexcept nogil:
    """Queue a packet: `length` octets at `inner`, which came from `room`, and the others at `body`, where they stay until they are
    ciphered. Without keys it goes nowhere. Budget: 10 ns; in transmit what mppe_run says."""
    cdef CipherState* state = cipher_of(w, s, c, True)
    cdef size_t whole = 2 + length + body_length
    cdef uint8_t* head
    if state == NULL:
        count(w, DROP_CLEAR, 1)
        return False
    store16(inner - 2, protocol)
    store16(inner - 4, <uint16_t>mppe_encrypt(w.ciphers, state, body, inner - 2, <uint32_t>(2 + length), <uint32_t>whole))
    if c.flags & CONFIG_BUNDLE:
        split(w, s, c, tos, packets, PPP_COMP, inner - 4, MPPE_HEADER + whole, NULL, 0)
    else:
        head = push_template(inner - 4, s, c, False, MPPE_HEADER + whole)
        (inner - 5)[0] = PPP_COMP
        push(w.out, &s.path, s, tos, packets, head, <size_t>(inner - head) + length + body_length, NULL, 0)
    w.cipher_used += (ENCRYPTED + <uint32_t>(length + body_length) + 63) & ~<uint32_t>63
    return True


cdef void run_ciphers(Worker* w) noexcept nogil:
    """Before anything leaves: cipher what waits. Its place is free again after `transmit`. Budget: 1100 ns a packet at 1400 octets
    of six sessions, 1200 of one."""
    enter(w, STAGE_ENCRYPT, w.out.count)
    mppe_run(w.ciphers)
    w.cipher_used = 0
