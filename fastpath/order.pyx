"""The order stage; order.pxd says by what rules."""
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy

from .ack cimport owe
from .cells cimport by_age, forget, settle_cell, take_cell
from .packet cimport DROP_NO_SESSION, DROP_SEQUENCE, Packet
from .port cimport count
from .sys cimport load_acquire8
from .table cimport CONFIG_SEQUENCED, FREE, RETIRED, Session, config_of
from .worker cimport BATCH, CELL, WINDOW, Wait, Worker


cdef void order(Worker* w) noexcept nogil:
    """Let through what is in order, in place; from the first packet that is not, the rest of the batch goes by `order_rest`.
    Budget: 2 ns a packet."""
    cdef int i
    cdef Packet* p
    cdef Session* s
    for i in range(w.count):
        p = &w.batch[i]
        if not p.sequence_bits or not p.config.flags & CONFIG_SEQUENCED:
            continue
        s = p.session
        if s.rx_flow != FLOWING or ahead_of(s, p) != 0:
            w.late_count = w.count - i
            w.late_at = 0
            memcpy(w.late, p, w.late_count * sizeof(Packet))
            w.count = i
            order_rest(w)
            return
        s.rx_next += 1
        if p.sequence_bits == 32:
            owe(w, p.slot, s)


cdef void order_rest(Worker* w) noexcept nogil:
    """Put on with what was set aside, as far as the batch has room for it and for what it sets free. The caller carries the batch
    through, and comes back while there is more."""
    cdef Packet* p
    while w.late_at < w.late_count:
        p = &w.late[w.late_at]
        if w.count + p.session.waits >= BATCH:
            return
        p.config = config_of(p.session)           # what waited gets the one in force now: nothing behind it an older one
        if p.sequence_bits and p.config.flags & CONFIG_SEQUENCED:
            place(w, p)
        else:
            w.batch[w.count] = p[0]
            w.count += 1
        w.late_at += 1


cdef void place(Worker* w, Packet* p) noexcept nogil:
    """One packet of a sequenced session. Budget: 100 ns for one that waits, most of it its copy."""
    cdef Session* s = p.session
    cdef int32_t ahead
    if s.rx_flow == NOT_STARTED:
        s.rx_next = s.rx_acked = p.sequence
        s.rx_flow = FLOWING
    ahead = ahead_of(s, p)
    if ahead >= <int32_t>w.window:
        move_on(w, s, s.rx_next + ahead - w.window + 1)
        ahead = ahead_of(s, p)
    if ahead > 0:
        if wait(w, s, p, s.rx_next + ahead):
            return
        move_on(w, s, s.rx_next + ahead)
        ahead = ahead_of(s, p)
    if ahead < 0:
        count(w, DROP_SEQUENCE, 1)
        return
    put_on(w, s, p)
    release_next(w, s)


cdef inline void put_on(Worker* w, Session* s, const Packet* p) noexcept nogil:
    """The next one goes on."""
    w.batch[w.count] = p[0]
    w.count += 1
    s.rx_next += 1
    if p.sequence_bits == 32:
        owe(w, p.slot, s)


cdef bint wait(Worker* w, Session* s, const Packet* p, uint32_t sequence) noexcept nogil:
    """Keep a packet until what is missing before it came. False: it cannot wait."""
    cdef uint32_t before = 0, at = s.waiting, new
    cdef Wait* c
    if w.window_ns == 0 or p.length > CELL:
        return False
    while at and <int32_t>(w.waits[at].sequence - sequence) < 0:
        before = at
        at = w.waits[at].next
    if at and w.waits[at].sequence == sequence:
        count(w, DROP_SEQUENCE, 1)
        return True
    new = take_cell(w)
    if new == 0:
        return False
    c = &w.waits[new]
    c.packet = p[0]
    settle_cell(w, new)
    c.sequence, c.generation = sequence, s.generation
    c.next = at
    if before:
        w.waits[before].next = new
    else:
        s.waiting = new
    by_age(w, &w.ordered, new)
    s.waits += 1
    s.rx_flow = WAITING
    return True


cdef Packet* take_first(Worker* w, Session* s) noexcept nogil:
    """The first of those that wait in a session."""
    cdef uint32_t at = s.waiting
    cdef Packet* p = &w.waits[at].packet
    s.waiting = w.waits[at].next
    s.waits -= 1
    if s.waits == 0:
        s.rx_flow = FLOWING
    forget(w, &w.ordered, at)
    p.config = config_of(s)
    return p


cdef void release_next(Worker* w, Session* s) noexcept nogil:
    """What waited for the one before it."""
    while s.waiting and w.waits[s.waiting].sequence == s.rx_next:
        put_on(w, s, take_first(w, s))


cdef void move_on(Worker* w, Session* s, uint32_t first) noexcept nogil:
    """Nothing before `first` is waited for any more."""
    while s.waiting and <int32_t>(w.waits[s.waiting].sequence - first) < 0:
        s.rx_next = w.waits[s.waiting].sequence
        put_on(w, s, take_first(w, s))
    if <int32_t>(first - s.rx_next) > 0:
        s.rx_next = first
    release_next(w, s)


cdef void order_due(Worker* w) noexcept nogil:
    """What has waited long enough goes on, as far as the batch has room."""
    cdef uint32_t at
    cdef Wait* c
    cdef Session* s
    while w.ordered.oldest and w.now_ns - w.waits[w.ordered.oldest].since >= w.window_ns and w.count + WINDOW <= BATCH:
        at = w.ordered.oldest
        c = &w.waits[at]
        s = c.packet.session
        if s.generation != c.generation:
            forget(w, &w.ordered, at)
            count(w, DROP_NO_SESSION, 1)
        elif load_acquire8(&s.state) in (FREE, RETIRED):
            while s.waiting:
                take_first(w, s)
                count(w, DROP_NO_SESSION, 1)
        else:
            move_on(w, s, c.sequence + 1)
