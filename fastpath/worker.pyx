"""A worker's loop."""
from libc.stdint cimport uint32_t, uint64_t

from .ack cimport pay_all
from .bridge cimport bridge_down, unplug, unplug_dead
from .crash cimport at_work, be_careful
from .discovery cimport Discovery, answer_waiting
from .down cimport down, down_handed
from .flows cimport FLOWS_PACKETS
from .mppe cimport refill
from .packet cimport DROP_NO_SESSION, DROP_NOT_OPEN, PASS, VERDICTS
from .packetring cimport rx_error
from .port cimport count, transmit
from .punt cimport control_lives, punt_in, punt_out
from .ring cimport WAY_DOWN, WAY_JOIN, WAY_UP, WAYS, Handed, Ring, ring_drop, ring_peek
from .split cimport down_links
from .stage cimport STAGE_LOOP, STAGE_RING, STAGE_SLEEP, STAGE_WHEEL, enter, in_kernel, look, out_of_kernel
from .sys cimport (CLOCK_MONOTONIC, EPOLL_CTL_DEL, EPOLLERR, EPOLLHUP, clock_gettime, epoll_ctl, epoll_event, epoll_wait,
                   full_fence, load_acquire8, load_acquire32, read, store_release8, store_release64, sub_release32, timespec, write)
from .table cimport FREE, OPEN, RETIRED, TICK_NS, Session
from .timer cimport rearm_all, turn
from .up cimport up, up_due, up_handed, up_joined, up_overdue

cdef enum:
    CLOCK_THREAD_CPUTIME_ID = 3
    PASSES = 16               # passes over the busy ports before the others are looked at
    EVENTS = 32
    ICMP_A_TICK = 100         # ICMP answers a tick
    SOLICITS_A_TICK = 1000    # IPv6 frames of link scope that control hears of: 10,000 a second
    GREETS_A_TICK = 500       # new tunnels asked for that control hears of: 5,000 a second,
    GREETS = 4000             # and after a quiet time so many at once: when the power is back, all who dial repeat at one instant too


assert <int>BATCH <= <int>FLOWS_PACKETS


cdef inline uint64_t clock_ns(int which) noexcept nogil:
    cdef timespec t
    clock_gettime(which, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef void tell_time(Worker* w) noexcept nogil:
    """One reading of the clock a pass."""
    cdef uint32_t tick
    w.now_ns = clock_ns(CLOCK_MONOTONIC)
    look(w)
    tick = <uint32_t>(w.now_ns // <uint64_t>TICK_NS)
    if tick != w.tick:
        w.tick = tick
        w.icmp_tokens = ICMP_A_TICK
        refill(w.ciphers)
        w.solicit_tokens = SOLICITS_A_TICK
        be_careful(w)
        w.greet_tokens = min(w.greet_tokens + GREETS_A_TICK, <uint32_t>GREETS)
        store_release64(&w.record.heartbeat, w.now_ns)
        w.bypass = w.frames >= 0 and load_acquire8(&w.table.header.bypass) and control_lives(w)
        w.record.busy_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)


cdef void settle(Worker* w) noexcept nogil:
    """The end of a pass: send, count, wake whom we handed packets, pass the batch boundary."""
    cdef int i
    cdef uint64_t one = 1
    if w.out.count:
        transmit(w)
    punt_out(w)
    for i in range(<int>VERDICTS):
        if w.verdicts[i]:
            w.record.verdicts[i] += w.verdicts[i]
            w.verdicts[i] = 0
    if w.woken:
        full_fence()
        for i in range(w.workers):
            if w.woken & 1 << i and load_acquire8(&w.others[i].record.asleep):
                write(w.others[i].wake, &one, 8)
        w.woken = 0
    w.record.batches += 1
    store_release64(&w.record.epoch, w.record.epoch + 1)


cdef int take_handed(Worker* w, Ring* r) noexcept nogil:
    """Up to half a batch of what one other worker handed us, each on its way; then their buffers go back."""
    cdef int n = 0, way
    cdef Handed* h
    cdef Session* s
    cdef uint32_t ahead
    while n < min(256, w.room) and ring_peek(r, n) != NULL:
        n += 1
    if n == 0:
        return 0
    enter(w, STAGE_RING, n)
    for way in range(<int>WAYS):
        w.count = 0
        for ahead in range(<uint32_t>n):
            h = ring_peek(r, ahead)
            if h.way != way:
                continue
            s = h.packet.session
            # The state first: the generation read after it is at least as new, and whoever is in the slot stays for this pass.
            if load_acquire8(&s.state) in (FREE, RETIRED) or s.generation != h.generation:
                count(w, DROP_NO_SESSION, 1)
                continue
            if way == WAY_DOWN and load_acquire8(&s.state) != OPEN:         # it was when the packet was read; upward, link looks at this
                count(w, DROP_NOT_OPEN, 1)
                continue
            w.batch[w.count] = h.packet
            w.batch[w.count].verdict = PASS
            w.batch[w.count].config = &s.config[load_acquire8(&s.active) & 1]
            w.count += 1
        if w.count == 0:
            continue
        if way == WAY_UP:
            up_handed(w)
        elif way == WAY_DOWN:
            down_handed(w)
        elif way == WAY_JOIN:
            up_joined(w)
        else:
            down_links(w)
    transmit(w)                       # what goes down still lies in the lender's buffers
    for ahead in range(<uint32_t>n):
        sub_release32(ring_peek(r, ahead).refs, 1)
    ring_drop(r, n)
    w.record.ring_in += n
    enter(w, STAGE_LOOP, 0)
    return n


cdef int take_rings(Worker* w) noexcept nogil:
    cdef int i, n = 0
    for i in range(w.workers):
        if w.rings[i] != NULL:
            n += take_handed(w, <Ring*>w.rings[i])
    return n


cdef bint rings_empty(Worker* w) noexcept nogil:
    cdef int i
    for i in range(w.workers):
        if w.rings[i] != NULL and ring_peek(<Ring*>w.rings[i], 0) != NULL:
            return False
    return True


cdef int wait(Worker* w, epoll_event* events, int timeout_ms) noexcept nogil:
    """Sleep until a port is ready or a tick has passed. While asleep we hold no pointer, and whoever hands us a packet wakes us:
    the fence and the second look close the gap in which he did not see us sleep."""
    cdef int n
    store_release8(&w.record.asleep, 1)
    full_fence()
    if not rings_empty(w) or load_acquire32(&w.stop):
        timeout_ms = 0
    enter(w, STAGE_SLEEP, 0)
    n = epoll_wait(w.epoll, events, EVENTS, timeout_ms)
    enter(w, STAGE_LOOP, 0)
    store_release8(&w.record.asleep, 0)
    full_fence()
    w.record.wakes += 1
    return n


cdef int until_due(Worker* w) noexcept nogil:
    """Milliseconds until the oldest of the packets that wait may wait no longer, at most 100."""
    cdef uint64_t least = 100000000, waited
    if w.ordered.oldest:
        waited = w.now_ns - w.waits[w.ordered.oldest].since
        least = min(least, w.window_ns - waited if waited < w.window_ns else 0)
    if w.joining.oldest:
        waited = w.now_ns - w.waits[w.joining.oldest].since
        least = min(least, w.join_ns - waited if waited < w.join_ns else 0)
    return <int>((least + 999999) // 1000000)


cdef void forsake(Worker* w, uint64_t token) noexcept nogil:
    """The inner port or the punt channel is gone for good (its interface was deleted, its other end closed), and epoll would report
    it for ever: look at it no more."""
    epoll_ctl(w.epoll, EPOLL_CTL_DEL, w.tun if token == READY_TUN else w.punt, NULL)
    w.lost |= <uint64_t>1 << token


cdef inline void tap_ready(Worker* w, uint32_t number, uint32_t events) noexcept nogil:
    """epoll reported a TAP; one whose interface was deleted is let go of."""
    if load_acquire8(&w.taps[number].state) != TAP_PLUGGED:
        return
    if events & (EPOLLERR | EPOLLHUP):
        unplug(w, number)
    elif w.taps_waiting < TAPS_READY:
        w.taps_ready[w.taps_waiting] = number
        w.taps_waiting += 1


cdef int read_taps(Worker* w) noexcept nogil:
    """A pass over those that have something; the ones that may have more are kept. Return how many frames there were."""
    cdef int i, kept = 0
    cdef uint64_t before = w.record.reads
    for i in range(w.taps_waiting):
        if bridge_down(w, w.taps_ready[i]):
            w.taps_ready[kept] = w.taps_ready[i]
            kept += 1
        if w.out.count:
            transmit(w)
    w.taps_waiting = kept
    return <int>(w.record.reads - before)


cdef uint64_t ready(Worker* w, epoll_event* events, int n) noexcept nogil:
    """The ports that epoll reported, as bits."""
    cdef int i
    cdef uint64_t bits = 0, token
    w.taps_waiting = 0          # those that still have something are reported again
    for i in range(n):
        token = events[i].data.u64
        if token >= TAP:
            tap_ready(w, <uint32_t>(token - TAP), events[i].events)
            bits |= <uint64_t>1 << READY_TAP
        elif events[i].events & (EPOLLERR | EPOLLHUP) and token >= READY_PUNT:
            forsake(w, token)
        else:
            bits |= <uint64_t>1 << token
            if events[i].events & EPOLLERR and token < LISTENERS and w.listener[token].ring.slots != NULL:
                rx_error(&w.listener[token].ring)
    if bits >> READY_WAKE & 1:
        read(w.wake, &token, 8)
    return bits


cdef int next_answer(Worker* w) noexcept nogil:
    """How many ms a sleep may last until a PADO is due."""
    cdef Discovery* d = <Discovery*>w.discovery
    cdef uint64_t due
    if d == NULL or d.waiting == 0:
        return 100
    due = d.places[d.order[0]].due_ns
    return 0 if due <= w.now_ns else <int>min((due - w.now_ns) // 1000000 + 1, <uint64_t>100)


cdef void run(Worker* w) noexcept nogil:
    """Until stopped. A port that had something is read again without asking epoll, for some passes; a wake-up costs more than
    dozens of packets, so before it sleeps a worker looks again and again for `spin_ns` after the last user data."""
    cdef epoll_event events[EVENTS]
    cdef uint64_t hot = 0, last_user = 0, since
    cdef int i, n, timeout, passes = 0
    while not load_acquire32(&w.stop):
        if hot == 0 or passes == 0:
            passes = PASSES
            tell_time(w)
            if hot or (w.spin_ns and w.now_ns - last_user < w.spin_ns):
                since = in_kernel(w)
                n = epoll_wait(w.epoll, events, EVENTS, 0)
                out_of_kernel(w, since)
            else:
                timeout = min(100 - <int>(w.now_ns % <uint64_t>TICK_NS // 1000000), next_answer(w))
                if w.ordered.oldest or w.joining.oldest:
                    timeout = min(timeout, until_due(w))
                n = wait(w, events, timeout)
                tell_time(w)
            hot |= ready(w, events, n)
        else:
            tell_time(w)
        passes -= 1
        if hot >> READY_TUN & 1:
            if down(w):
                last_user = w.now_ns
            if w.drained:
                hot &= ~(<uint64_t>1 << READY_TUN)
            if w.out.count:
                transmit(w)
        if hot >> READY_TAP & 1:
            if read_taps(w):
                last_user = w.now_ns
            if w.taps_waiting == 0:
                hot &= ~(<uint64_t>1 << READY_TAP)
        for i in range(w.listeners):
            if hot >> i & 1:
                n = up(w, &w.listener[i])
                if n == 0:
                    hot &= ~(<uint64_t>1 << i)
                else:
                    last_user = w.now_ns
        if w.workers > 1 and take_rings(w):
            last_user = w.now_ns
        if w.ordered.oldest and w.now_ns - w.waits[w.ordered.oldest].since >= w.window_ns:
            up_due(w)
        if w.joining.oldest and w.now_ns - w.waits[w.joining.oldest].since >= w.join_ns:
            up_overdue(w)
        if hot >> READY_PUNT & 1 and punt_in(w) == 0:
            hot &= ~(<uint64_t>1 << READY_PUNT)
        hot &= ~(<uint64_t>1 << READY_WAKE)
        if w.tick != w.wheel_tick:
            enter(w, STAGE_WHEEL, 1)
            turn(w)
            pay_all(w)
            unplug_dead(w)
            enter(w, STAGE_LOOP, 0)
        if w.discovery != NULL and (<Discovery*>w.discovery).waiting:
            answer_waiting(w)
        settle(w)
    store_release8(&w.record.asleep, 1)


cdef void work(Worker* w) noexcept nogil:
    """The whole life of a worker, from what the tables file says until it is stopped."""
    at_work(w)
    store_release8(&w.record.asleep, 0)
    full_fence()
    tell_time(w)
    w.wheel_tick = w.tick
    rearm_all(w)
    run(w)
    at_work(NULL)
