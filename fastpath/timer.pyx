"""Keepalive in the worker: a wheel of 100 ms ticks whose lists are threaded through the slots.

A session is in one list at most. When its tick comes and something was heard in the meantime it goes back in
for the rest of the time, so that traffic never touches the wheel. After keepalive-timeout of silence five echo
requests leave a second apart, and a second after the fifth control hears that the peer is gone.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .bytes cimport load16, load32, store16, store32
from .encap cimport push_frame
from .join cimport wait_anew
from .order cimport FLOWING, WAITING
from .packet cimport ECHO, Packet
from .port cimport count, full, push, scratch, transmit
from .ppp cimport LCP_DISCARD, LCP_ECHO_REPLY, LCP_ECHO_REQUEST, PPP_LCP
from .punt cimport PUNT_DEAD, punt_session
from .sys cimport ctz64, load_acquire8, load_acquire64
from .table cimport FREE, OPEN, RETIRED, Config, Session, config_of, prefetch_timer
from .worker cimport SCRATCH, TEMPLATE, WHEEL, Out, Worker

cdef enum:
    ECHOES = 5
    SECOND = 10               # ticks
    LCP_AT = TEMPLATE + 4     # octets of scratch space in front of LCP
    ECHO_ROOM = SCRATCH - LCP_AT


cdef void rearm_all(Worker* w) noexcept nogil:
    """At the start: what an earlier forwarder's wheel held is gone, so every slot of ours is in no list; the open sessions go into
    ours, spread over three seconds. The only loop over all used slots, once."""
    cdef uint32_t slot, word
    cdef uint64_t bits
    cdef uint8_t state
    cdef Session* s
    for word in range(w.table.header.banks << 10):
        bits = load_acquire64(&w.table.used[word])
        while bits:
            slot = word << 6 | <uint32_t>ctz64(bits)
            bits &= bits - 1
            s = &w.table.sessions[slot]
            state = load_acquire8(&s.state)
            if state == FREE or state == RETIRED and s.armed == 0 and s.acking == 0 or s.owner != w.index:
                continue        # the first two may be published at this moment
            s.armed = s.acking = 0
            s.waiting = s.waits = 0
            if s.rx_flow == WAITING:
                s.rx_flow = FLOWING
            if s.bundle == slot:
                wait_anew(&w.table.bundles[slot])
            if state == OPEN and config_of(s).keepalive:
                arm(w, slot, s, w.tick + 1 + slot * <uint32_t>2654435761U % (3 * SECOND))


cdef void turn(Worker* w) noexcept nogil:
    """Let the ticks pass that have gone by. Budget: 200 ns a session in one keepalive time, for an echo request and
    two looks, most of it waiting for its record."""
    cdef uint32_t slot, next
    cdef Session* s
    while <int32_t>(w.tick - w.wheel_tick) > 0:
        w.wheel_tick += 1
        slot = w.wheel[w.wheel_tick % WHEEL]
        w.wheel[w.wheel_tick % WHEEL] = 0
        while slot:
            s = &w.table.sessions[slot]
            next = s.next
            prefetch_timer(&w.table.sessions[next])
            fire(w, slot, s)
            slot = next
    w.slot = 0


cdef void fire(Worker* w, uint32_t slot, Session* s) noexcept nogil:
    """One session's tick has come: wait on, ask, or give it up."""
    cdef Config* c
    cdef uint32_t silence
    w.slot = slot
    s.armed = 0
    if load_acquire8(&s.state) != OPEN:
        return
    c = config_of(s)
    if c.keepalive == 0:
        return
    if <int32_t>(s.due - w.wheel_tick) > 0:
        arm(w, slot, s, s.due)
        return
    silence = w.wheel_tick - s.last_rx
    if <int32_t>silence < <int32_t>c.keepalive:
        s.echoes = 0
        arm(w, slot, s, s.last_rx + c.keepalive)
    elif s.echoes < ECHOES:
        s.echoes += 1
        request_echo(w, s, c)
        arm(w, slot, s, w.tick + SECOND)          # from now, which is later than the wheel after a halt: the peer gets its second
    else:
        punt_session(w, PUNT_DEAD, slot, s)
        arm(w, slot, s, w.tick + SECOND)          # and again until control has retired it: the channel may be full


cdef void push_lcp(Out* out, uint8_t* lcp, size_t n, Session* s, Config* c) noexcept nogil:
    """Queue the n octets at `lcp`, in the scratch space behind LCP_AT, with PPP's header and the encapsulation in front."""
    cdef uint8_t* head = push_frame(lcp, PPP_LCP, s, c, n)
    push(out, &s.path, s, 0, 0, head, <size_t>(lcp - head) + n, NULL, 0)


cdef void request_echo(Worker* w, Session* s, Config* c) noexcept nogil:
    cdef Out* out = w.out
    cdef uint8_t* p
    if full(out):
        transmit(w)
    p = scratch(out) + LCP_AT
    s.echo_id += 1
    p[0], p[1] = LCP_ECHO_REQUEST, s.echo_id
    store16(p + 2, 8)
    store32(p + 4, c.our_magic)
    push_lcp(out, p, 8, s, c)


cdef bint answer_echo(Worker* w, Packet* p) noexcept nogil:
    """Deal with an LCP echo or discard of an open session; False: it is control's.

    Our magic number coming back is a loop, and control's to judge; so is a request too long for a header block,
    whose data control sends back whole."""
    cdef const uint8_t* q = p.data
    cdef Config* c = p.config
    cdef Out* out = w.out
    cdef uint16_t length
    cdef uint8_t* r
    if p.length < 8 or (q[0] != LCP_ECHO_REQUEST and q[0] != LCP_ECHO_REPLY and q[0] != LCP_DISCARD):
        return False
    length = load16(q + 2)
    if length < 8 or length > p.length or (c.our_magic and load32(q + 4) == c.our_magic):
        return False
    if q[0] == LCP_ECHO_REQUEST:
        if length > ECHO_ROOM:
            return False
        if full(out):
            transmit(w)
        r = scratch(out) + LCP_AT
        memcpy(r, q, length)
        r[0] = LCP_ECHO_REPLY
        store32(r + 4, c.our_magic)
        push_lcp(out, r, length, p.session, c)
    elif q[0] == LCP_ECHO_REPLY and not p.session.attached:
        p.session.attached = 1
    count(w, ECHO, 1)
    return True
