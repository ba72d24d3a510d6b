"""PPPoE discovery in a worker: a PADI is answered here or not at all, and control hears of PADRs whose cookie is right, and of PADTs.

    discover   one frame of ethertype 8863     answer_waiting   PADOs whose delay is over     tell   data for a session that is none
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from .offer cimport PADI, PADR, PADT, Tags, offered, push_pado, read_tags, right_cookie
from .packet cimport (DROP_COOKIE, DROP_DISCOVERY, DROP_LENGTH, DROP_NO_SESSION, DROP_PADI, DROP_PEER, DROP_RATE, DROP_SERVICE, OFFERED, Packet, Verdict)
from .port cimport count, full, push, transmit
from .pppoe cimport ETHERNET, ETHERTYPE_DISCOVERY, MAC, NETWORK, PPPOE, STATION, Pppoe, push_ethernet, push_pppoe
from .punt cimport punt_pppoe
from .service cimport REFUSE, Service
from .siphash cimport Siphash, siphash_add, siphash_begin, siphash_end
from .sys cimport load_acquire8
from .table cimport FREE, RETIRED, Path, Session, network_hash, slot_of
from .worker cimport LISTENERS, PORT_ETHERNET, Listener, Worker

assert <int>PORTS == <int>LISTENERS

cdef enum:
    MILLISECOND = 1000000     # ns
    PADR_MOST = 1500          # octets of a PADR's tags; its PADS has them too, and more


cdef void prepare_discovery(Discovery* d) noexcept nogil:
    """Once, on zeroed memory."""
    cdef int i
    for i in range(WAITING):
        d.free[i] = <uint16_t>i


cdef inline const Services* in_force(Worker* w) noexcept nogil:
    return &w.table.services[load_acquire8(&w.table.header.offered) & 1]


cdef void learn_macs(Worker* w) noexcept nogil:
    """Interfaces come and go, and one that is back may have another MAC: control says which with every offer."""
    cdef Discovery* d = <Discovery*>w.discovery
    cdef uint8_t offered = load_acquire8(&w.table.header.offered)
    cdef const uint8_t* mac
    cdef int i
    if offered + 1 == d.learned:
        return
    d.learned = <uint16_t>(offered + 1)
    for i in range(w.listeners):
        mac = w.table.services[offered & 1].mac[i]
        if w.listener[i].kind == PORT_ETHERNET and mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]:
            memcpy(w.listener[i].path.local + NETWORK, mac, MAC)


cdef void refill(Worker* w, Discovery* d) noexcept nogil:
    """Once a tick at most; what was not used adds up to the burst."""
    cdef uint32_t ticks = w.tick - d.tick
    cdef const Services* offer
    cdef int i
    if ticks == 0:
        return
    d.tick = w.tick
    if ticks > 100:
        ticks = 100
    offer = in_force(w)
    for i in range(PORTS):
        d.port_tokens[i] = min(d.port_tokens[i] + ticks * offer.padi_port[i], PORT_BURST * offer.padi_port[i])
    d.all_tokens = min(d.all_tokens + ticks * offer.padi_all, PORT_BURST * offer.padi_all)
    d.tell_tokens = TELL_A_TICK


cdef bint within_rate(Worker* w, Asker* askers, const Services* offer, uint8_t port, const uint8_t* station) noexcept nogil:
    """Whether a station, and who shares its bucket, keeps to what one may send; then it is counted. Budget: 40 ns."""
    cdef Siphash h
    cdef Asker* a
    cdef uint32_t ticks, rate = offer.padi_station[port]
    siphash_begin(&h, offer.key)
    siphash_add(&h, station, STATION)
    a = &askers[siphash_end(&h) & (ASKERS - 1)]
    ticks = min(w.tick - a.tick, <uint32_t>ASKER_BURST) if a.tick else <uint32_t>ASKER_BURST
    a.tick = w.tick
    a.tokens = <uint16_t>min(a.tokens + ticks * rate, ASKER_BURST * rate)
    if a.tokens < PADI_TOKENS:
        return False
    a.tokens -= PADI_TOKENS
    return True


cdef bint may_ask(Worker* w, Discovery* d, const Services* offer, uint8_t port, const uint8_t* station) noexcept nogil:
    """Whether a PADI is within what its station, its interface and all together may send."""
    if d.port_tokens[port] < PADI_TOKENS or d.all_tokens < PADI_TOKENS or not within_rate(w, d.askers, offer, port, station):
        return False
    d.port_tokens[port] -= PADI_TOKENS
    d.all_tokens -= PADI_TOKENS
    return True


cdef inline uint8_t* room_for_answer(Worker* w, Discovery* d) noexcept nogil:
    """ANSWER octets that stay until the flush."""
    if full(w.out) or d.answers == ANSWERS:
        transmit(w)
        d.answers = 0
    d.answers += 1
    return d.answer[d.answers - 1]


cdef inline void send_frame(Worker* w, uint8_t port, uint8_t* frame, size_t n) noexcept nogil:
    push(w.out, &w.listener[port].path, NULL, 0, 0, frame, n, NULL, 0)


cdef void answer_padi(Worker* w, Listener* l, const uint8_t* station, const Tags* t) noexcept nogil:
    """Budget: 400 ns, besides the send."""
    cdef Discovery* d = <Discovery*>w.discovery
    cdef const Services* offer = in_force(w)
    cdef const Service* chosen = NULL
    cdef uint8_t port = l.path.port
    cdef uint16_t delay
    cdef uint8_t* frame
    cdef Waiting* later = NULL
    cdef size_t head, n
    cdef uint32_t i
    cdef int at
    for i in range(offer.count):
        if offered(offer, i, port, station, t):
            chosen = &offer.service[i]
            break
    if chosen == NULL:
        count(w, DROP_SERVICE, 1)
        return
    delay = chosen.delay
    if delay == REFUSE or not may_ask(w, d, offer, port, station) or (delay and d.waiting == WAITING):
        count(w, DROP_PADI, 1)
        return
    if delay:
        later = &d.places[d.free[d.waiting]]
        frame = later.frame
    else:
        frame = room_for_answer(w, d)
    head = push_ethernet(frame, station, l.path.local, ETHERTYPE_DISCOVERY)
    n = push_pado(frame + head, ANSWER - head - 4, offer, chosen, w.tick, station, t)
    if n == 0:
        count(w, DROP_DISCOVERY, 1)
        return
    count(w, OFFERED, 1)
    if delay == 0:
        send_frame(w, port, frame, head + n)
        return
    later.due_ns = w.now_ns + <uint64_t>delay * MILLISECOND
    later.length, later.port = <uint16_t>(head + n), port
    # Most have the same delay, so the place is at the end; `free` and `order` are permutations that share what `waiting` counts.
    i = d.free[d.waiting]
    at = d.waiting
    while at and d.places[d.order[at - 1]].due_ns > later.due_ns:
        d.order[at] = d.order[at - 1]
        at -= 1
    d.order[at] = <uint16_t>i
    d.waiting += 1


cdef void answer_waiting(Worker* w) noexcept nogil:
    """PADOs whose time has come."""
    cdef Discovery* d = <Discovery*>w.discovery
    cdef Waiting* now
    cdef uint8_t* frame
    cdef int i, gone = 0
    while gone < d.waiting and d.places[d.order[gone]].due_ns <= w.now_ns:
        now = &d.places[d.order[gone]]
        frame = room_for_answer(w, d)
        memcpy(frame, now.frame, now.length)
        send_frame(w, now.port, frame, now.length)
        gone += 1
    if gone == 0:
        return
    for i in range(gone):
        d.free[d.waiting - 1 - i] = d.order[i]
    d.waiting -= gone
    for i in range(d.waiting):
        d.order[i] = d.order[i + gone]


cdef void discover(Worker* w, Listener* l, const uint8_t* frame, int at, const Pppoe* h, const Path* path) noexcept nogil:
    """One discovery frame whose payload begins at `at`; `path` says who sent it."""
    cdef const Services* offer
    cdef Session* s
    cdef Tags t
    cdef bint ours = memcmp(frame, l.path.local + NETWORK, MAC) == 0
    cdef bint everybody = frame[0] == 0xFF and frame[1] == 0xFF and frame[2] == 0xFF and frame[3] == 0xFF and frame[4] == 0xFF and frame[5] == 0xFF
    refill(w, <Discovery*>w.discovery)
    if h.station[NETWORK] & 1 or not (ours or (everybody and h.code == PADI)):
        count(w, DROP_PEER, 1)
    elif h.code == PADI and h.session == 0 and read_tags(frame + at, h.length - at, &t) and t.service_name.at != NULL:
        answer_padi(w, l, h.station, &t)
    elif h.code == PADR and h.session == 0 and read_tags(frame + at, h.length - at, &t) and t.service_name.at != NULL:
        offer = in_force(w)
        if h.length - at > PADR_MOST:
            count(w, DROP_LENGTH, 1)
        elif not right_cookie(offer.key, w.tick, l.path.port, h.station, &t):
            count(w, DROP_COOKIE, 1)
        elif w.greet_tokens == 0 or not within_rate(w, (<Discovery*>w.discovery).takers, offer, l.path.port, h.station):
            count(w, DROP_RATE, 1)
        else:
            w.greet_tokens -= 1
            punt_pppoe(w, frame + at - PPPOE, h.length - at + PPPOE, path)
    elif h.code == PADT and h.session:
        s = &w.table.sessions[slot_of(w.table, network_hash(h.station, l.path.port), h.session)]
        if load_acquire8(&s.state) in (FREE, RETIRED) or s.path.port != l.path.port or memcmp(s.path.peer, h.station, STATION):
            count(w, DROP_NO_SESSION, 1)
        else:
            punt_pppoe(w, frame + at - PPPOE, h.length - at + PPPOE, path)
    else:
        count(w, DROP_DISCOVERY, 1)


cdef void tell(Worker* w, Listener* l, const Pppoe* h) noexcept nogil:
    """Somebody sends data in a session that is none: a PADT, at a bounded rate, and he dials again."""
    cdef Discovery* d = <Discovery*>w.discovery
    cdef uint8_t* frame
    cdef size_t head
    refill(w, d)
    if d.tell_tokens == 0 or h.station[NETWORK] & 1:
        return
    d.tell_tokens -= 1
    frame = room_for_answer(w, d)
    head = push_ethernet(frame, h.station, l.path.local, ETHERTYPE_DISCOVERY)
    push_pppoe(frame + head, PADT, h.session, 0)
    send_frame(w, l.path.port, frame, head + PPPOE)
