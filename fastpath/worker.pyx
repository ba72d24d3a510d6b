"""A worker's loop, and the forwarder: the workers of one process and the memory they stand on."""
import os
import socket

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from .ack cimport pay_all
from .bridge cimport bridge_down, unplug, unplug_dead
from .crash cimport at_work, be_careful
from .discovery cimport Discovery, answer_waiting, prepare_discovery
from .down cimport down, down_handed
from .flows cimport FLOWS_PACKETS
from .mppe cimport free_ciphers, new_ciphers, refill
from .packet cimport DROP_NO_SESSION, DROP_NOT_OPEN, PASS, VERDICTS, Packet
from .packetring cimport close_rx, open_rx, rx_error
from .port cimport count, prepare, transmit
from .punt cimport control_lives, prepare_punts, punt_in, punt_out
from .ring cimport RING, WAY_DOWN, WAY_JOIN, WAY_UP, WAYS, Handed, Ring, ring_drop, ring_peek
from .split cimport down_links
from .stage cimport STAGE_LOOP, STAGE_PUNT, STAGE_RING, STAGE_SLEEP, STAGE_WHEEL, enter, in_kernel, look, out_of_kernel
from .sys cimport (CLOCK_MONOTONIC, EFD_CLOEXEC, EFD_NONBLOCK, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLERR, EPOLLHUP, EPOLLIN, MADV_HUGEPAGE, MAP_ANONYMOUS,
                   MAP_PRIVATE, PROT_READ, PROT_WRITE, clock_gettime, close, epoll_create1, epoll_ctl, epoll_event, epoll_wait, eventfd,
                   full_fence, load_acquire8, load_acquire32, madvise, mmap, munmap, pause, read, store_release8, store_release32,
                   store_release64, sub_release32, timespec, unpoison, write)
from .table cimport FREE, OPEN, RETIRED, STAGES, TICK_NS, Session, Tables, WorkerRecord
from .timer cimport rearm_all, turn
from .up cimport up, up_due, up_handed, up_joined, up_overdue

cdef enum:
    CLOCK_THREAD_CPUTIME_ID = 3
    PASSES = 16               # passes over the busy ports before the others are looked at
    READY_TUN = 62            # epoll's data: a listener's index, or one of these
    READY_PUNT = 61
    READY_WAKE = 60
    READY_TAP = 59            # a bit alone: taps_ready has something
    TAP = 64                  # and a TAP's number
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


cdef class Forwarder:
    """The workers of this process. Descriptors stay the caller's and must outlive it.

    tables     a Tables
    workers    a list with, for each worker, {"tun": fd, "punt": fd, "listeners": [(fd, family, any, local, local port[, PortKind
               [, express]])]}; the index of a listener is its port in every Path. `local` has 16 octets. PORT_GRE: a raw socket of
               protocol 47; one that receives nothing may be given to all workers but one. `express` is another socket of the same
               address, which tells nothing of a datagram but who sent it.
               "frames", which may be missing: a packet socket for PPTP's data past the kernel's output, see nexthop.pxd.
    spin_ns    how long a worker looks for more before it sleeps
    gso        UDP_SEGMENT may be used
    merge      super-packets that may be written to the inner port: 0 none, 1 TCP, 2 TCP and UDP
    window     how many packets ahead of one that is missing a sequenced session's may be, and wait for it; 1: none waits
    window_ns  how long they wait; 0: they do not
    join_ns    how long a fragment of multilink waits for others at most, when it is not known that they are lost
    """
    cdef Tables tables
    cdef Worker* workers[WORKERS]
    cdef readonly int count

    def __init__(self, Tables tables, list workers, *, uint64_t spin_ns=50000, bint gso=True, int merge=2, uint32_t window=32,
                 uint64_t window_ns=20000000, uint64_t join_ns=100000000):
        if not 0 < len(workers) <= WORKERS or len(workers) > tables.workers:
            raise ValueError(f"{len(workers)} workers; the tables file has room for {tables.workers}, this program for {WORKERS}")
        if not 0 < window <= WINDOW:
            raise ValueError(f"a window of {window} packets; 1 to {WINDOW} are possible")
        self.tables = tables
        for i, ports in enumerate(workers):
            self.workers[i] = new_worker(tables, i, len(workers))
            self.count += 1
            open_ports(self.workers[i], ports, gso)
            self.workers[i].spin_ns, self.workers[i].merge = spin_ns, merge
            self.workers[i].window, self.workers[i].window_ns, self.workers[i].join_ns = window, window_ns, join_ns
        for i in range(self.count):
            for k in range(self.count):
                self.workers[i].others[k] = self.workers[k]
                if i != k:
                    self.workers[i].rings[k] = pages(sizeof(Ring))

    def run(self, int index):
        """Worker `index`'s loop, in the calling thread, without the GIL, until `stop`."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        cdef Worker* w = self.workers[index]
        with nogil:
            at_work(w)
            store_release8(&w.record.asleep, 0)
            full_fence()
            tell_time(w)
            w.wheel_tick = w.tick
            rearm_all(w)
            run(w)
            at_work(NULL)

    def plug(self, int worker, uint32_t number, uint32_t slot, uint32_t generation, int fd):
        """Give a session its Ethernet port: a TAP without offloads, whose descriptor is the worker's from now on. False: under this
        number is another one still, whose session ends within two ticks. To be called by one thread alone."""
        cdef Worker* w
        cdef Tap* t
        cdef epoll_event e
        if not 0 <= worker < self.count or not 0 < number < TAPS:
            raise ValueError(f"TAP {number} of worker {worker}")
        w = self.workers[worker]
        t = &w.taps[number]
        if load_acquire8(&t.state) != TAP_FREE:
            return False
        os.set_blocking(fd, False)
        t.fd, t.slot, t.generation = fd, slot, generation
        store_release8(&t.state, TAP_PLUGGED)
        if w.taps_used <= number:
            store_release32(&w.taps_used, number + 1)
        e.events, e.data.u64 = EPOLLIN, TAP + number
        if epoll_ctl(w.epoll, EPOLL_CTL_ADD, fd, &e) < 0:
            raise OSError(f"watching descriptor {fd}")
        return True

    def lost_inner_port(self):
        """Whether the interface that a worker reads was deleted."""
        return any(self.workers[i].lost >> READY_TUN & 1 for i in range(self.count))

    def stop(self):
        """End all loops, soon."""
        cdef uint64_t one = 1
        cdef int i
        for i in range(self.count):
            store_release32(&self.workers[i].stop, 1)
            write(self.workers[i].wake, &one, 8)

    def __dealloc__(self):
        cdef int i, k
        for i in range(self.count):
            for k in range(self.count):
                if self.workers[i].rings[k] != NULL:
                    munmap(self.workers[i].rings[k], sizeof(Ring))
            for k in range(TAPS):
                if self.workers[i].taps[k].state == TAP_PLUGGED:
                    unplug(self.workers[i], k)
            give_back(self.workers[i].buffers, <size_t>BUFFERS * BUFFER)
            give_back(self.workers[i].arenas, <size_t>ARENAS * ARENA)
            munmap(self.workers[i].cells, <size_t>CELLS * CELL)
            for k in range(LISTENERS):
                close_rx(&self.workers[i].listener[k].ring)
            munmap(self.workers[i].waits, WAITS * sizeof(Wait))
            munmap(self.workers[i].wait_cells, <size_t>WAITS * CELL)
            munmap(self.workers[i].joined, JOIN_ROOM)
            munmap(self.workers[i].orders, PUNTS * FRAME)
            munmap(self.workers[i].alternate, ALTERNATE)
            munmap(self.workers[i].cipher_room, CIPHER_ROOM)
            free_ciphers(self.workers[i].ciphers)
            munmap(self.workers[i].out, sizeof(Out))
            if self.workers[i].discovery != NULL:
                munmap(self.workers[i].discovery, sizeof(Discovery))
            close(self.workers[i].epoll)
            close(self.workers[i].wake)
            munmap(self.workers[i], sizeof(Worker))


cdef void* pages(size_t n) except NULL:
    """Zeroed memory, in large pages where there are any."""
    cdef void* at = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if at == <void*>-1:
        raise MemoryError(f"{n} octets for a worker")
    madvise(at, n, MADV_HUGEPAGE)
    return at


cdef void give_back(void* at, size_t n) noexcept:
    unpoison(at, n)
    munmap(at, n)


cdef Worker* new_worker(Tables tables, int index, int workers) except NULL:
    cdef Worker* w = <Worker*>pages(sizeof(Worker))
    w.out = <Out*>pages(sizeof(Out))
    w.orders = <uint8_t*>pages(PUNTS * FRAME)
    w.alternate = <uint8_t*>pages(ALTERNATE)
    w.cipher_room = <uint8_t*>pages(CIPHER_ROOM)
    w.ciphers = new_ciphers()
    w.cells = <uint8_t*>pages(<size_t>CELLS * CELL)
    w.waits = <Wait*>pages(WAITS * sizeof(Wait))
    w.wait_cells = <uint8_t*>pages(<size_t>WAITS * CELL)
    w.joined = <uint8_t*>pages(JOIN_ROOM)
    w.table, w.record = &tables.table, &tables.table.workers[index]
    w.index, w.workers = index, workers
    w.buffers = <uint8_t*>pages(<size_t>BUFFERS * BUFFER)
    w.arenas = <uint8_t*>pages(<size_t>ARENAS * ARENA)
    w.epoll, w.wake = epoll_create1(EPOLL_CLOEXEC), eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    prepare(w)
    prepare_punts(w)
    return w


cdef open_ports(Worker* w, dict ports, bint gso):
    """Take the descriptors into the worker and its epoll."""
    cdef Listener* l
    express = [(i, listener[6]) for i, listener in enumerate(ports["listeners"]) if len(listener) > 6]
    if len(ports["listeners"]) > LISTENERS:
        raise ValueError(f"{len(ports['listeners'])} listeners, at most {LISTENERS}")
    w.tun, w.punt = ports["tun"], ports["punt"]
    with socket.socket(fileno=os.dup(w.punt)) as channel:
        w.punt_room = channel.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    for i, (fd, family, any_address, local, port, *kind) in enumerate(ports["listeners"]):
        l = &w.listener[i]
        l.fd, l.family6, l.any = fd, family == socket.AF_INET6, any_address
        l.kind = kind[0] if kind else PORT_UDP          # behind it may stand its express
        l.gso = gso and l.kind == PORT_UDP
        l.wanted = RECEIVES
        l.path.port, l.path.local_port = i, port
        for k in range(16):
            l.path.local[k] = local[k]
        if l.kind == PORT_ETHERNET and w.discovery == NULL:
            w.discovery = pages(sizeof(Discovery))
            prepare_discovery(<Discovery*>w.discovery)
        if l.kind == PORT_ETHERNET:
            with socket.socket(fileno=os.dup(fd)) as wire:
                if wire.family == socket.AF_PACKET:     # tests have others
                    open_rx(&l.ring, fd)
        watch(w, fd, i)
    w.listeners = <int>len(ports["listeners"])
    for i, fd in express:                           # behind all others, which are read before them
        w.listener[w.listeners] = w.listener[i]
        w.listener[w.listeners].fd = fd
        watch(w, fd, w.listeners)
        w.listeners += 1
    w.frames = ports.get("frames", -1)
    watch(w, w.tun, READY_TUN)
    watch(w, w.punt, READY_PUNT)
    watch(w, w.wake, READY_WAKE)


cdef watch(Worker* w, int fd, uint64_t token):
    cdef epoll_event e
    e.events, e.data.u64 = EPOLLIN, token
    if epoll_ctl(w.epoll, EPOLL_CTL_ADD, fd, &e) < 0:
        raise OSError(f"watching descriptor {fd}")
