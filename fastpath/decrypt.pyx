"""decrypt: encrypted packets of a batch become user data, all of them side by side, in place.

A stateful session that lost a packet asks its peer to begin anew: CCP's Reset-Request (RFC 1962 section 5.7), repeated while encrypted
packets come that cannot be read. Packets that come in order and make no sense mean that the keys differ; a stateless session
cannot help itself then, and control hears of it.
"""
from libc.stdint cimport uint8_t

from .bridge cimport BRIDGE_OPEN
from .bytes cimport store16
from .cipher cimport STATE_WAITING, CipherState
from .decap cimport squeeze
from .encap cimport push_frame
from .encrypt cimport cipher_of
from .mppe cimport MPPE_HEADER, mppe_decrypt, mppe_run
from .packet cimport DROP_CIPHER, DROP_COHERENCY, DROP_NOT_OPEN, DROP_SHORT, KIND_BUNDLE, PASS, Packet, Verdict, forward
from .port cimport drop, full, push, scratch, transmit
from .ppp cimport PPP_BRIDGED, PPP_COMP, PPP_IPV6, pull_encrypted
from .punt cimport PUNT_UNREADABLE, punt_session
from .split cimport reserve, split
from .table cimport CONFIG_IP, TEMPLATE, Session
from .worker cimport Worker

cdef enum:
    PPP_CCP = 0x80FD
    RESET_REQUEST = 14
    AGAIN = 3                 # ticks between Reset-Requests
    GARBLED = 64              # packets in a row that make no sense, until control hears of it


cdef void ask(Worker* w, Packet* p, CipherState* state) noexcept nogil:
    """Send a Reset-Request."""
    cdef Session* s = p.session
    cdef uint8_t* head
    cdef uint8_t* request
    reserve(w, 4)
    state.asked = <uint8_t>w.tick
    request = scratch(w.out) + TEMPLATE + 4
    request[0], request[1] = RESET_REQUEST, state.asked
    store16(request + 2, 4)
    if s.kind == KIND_BUNDLE:
        split(w, s, p.config, 0, 0, PPP_CCP, request, 4, NULL, 0)
        return
    head = push_frame(request, PPP_CCP, s, p.config, 4)
    push(w.out, &s.path, s, 0, 0, head, <size_t>(request + 4 - head), NULL, 0)


cdef inline void lose(Worker* w, Packet* p, CipherState* state, bint before) noexcept nogil:
    """Nothing can be read before a flushed packet; `before`: and it was so before this one."""
    if not before or <uint8_t>(w.tick - state.asked) >= AGAIN:
        ask(w, p, state)


cdef bint read(Worker* w, Packet* p) noexcept nogil:
    """A packet that was decrypted: whether it is user data of an open family."""
    cdef CipherState* state = cipher_of(w, p.session, p.config, False)
    cdef int at
    forward(p, MPPE_HEADER)
    at = pull_encrypted(p.data, p.length, &p.protocol)
    if at == 0:
        drop(w, p, DROP_CIPHER)
        if not state.stateless:
            state.flags |= STATE_WAITING
            lose(w, p, state, state.garbled != 0)
        state.garbled += 1
        if state.garbled == GARBLED:
            state.garbled = 0
            punt_session(w, PUNT_UNREADABLE, p.slot, p.session)
        return False
    state.garbled = 0
    if p.protocol == PPP_BRIDGED:
        if not p.config.bridge & BRIDGE_OPEN:
            drop(w, p, DROP_NOT_OPEN)
            return False
        w.bridged += 1
    elif not p.config.flags & CONFIG_IP << (p.protocol == PPP_IPV6):          # CONFIG_IPV6 is the bit above
        drop(w, p, DROP_NOT_OPEN)
        return False
    forward(p, at)
    return True


cdef void decrypt(Worker* w) noexcept nogil:
    """User data that link left encrypted. Budget: 1100 ns a packet at 1400 octets of six sessions, 1200 of one."""
    cdef int i, verdict
    cdef Packet* p
    cdef CipherState* state
    cdef bint dirty = False, waiting
    if w.encrypted == 0:
        return
    w.encrypted = 0
    for i in range(w.count):
        p = &w.batch[i]
        if p.protocol != PPP_COMP:
            continue
        state = cipher_of(w, p.session, p.config, False)
        if state == NULL:
            drop(w, p, DROP_CIPHER)
            dirty = True
            continue
        if p.length < MPPE_HEADER + 1:
            drop(w, p, DROP_SHORT)
            dirty = True
            continue
        waiting = state.flags & STATE_WAITING
        verdict = mppe_decrypt(w.ciphers, state, p.data, p.length)
        if verdict:
            drop(w, p, <Verdict>verdict)
            dirty = True
            if verdict == DROP_COHERENCY:
                lose(w, p, state, waiting)
    mppe_run(w.ciphers)
    for i in range(w.count):
        p = &w.batch[i]
        if p.protocol == PPP_COMP and p.verdict == PASS and not read(w, p):
            dirty = True
    if dirty:
        squeeze(w)
