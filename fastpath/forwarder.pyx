"""The forwarder: the workers of one process, what they are given, and the memory they stand on."""
import os
import socket

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .bridge cimport unplug
from .discovery cimport Discovery, prepare_discovery
from .mppe cimport free_ciphers, new_ciphers
from .packetring cimport close_rx, open_rx
from .port cimport prepare
from .punt cimport prepare_punts
from .ring cimport Ring
from .sys cimport (EFD_CLOEXEC, EFD_NONBLOCK, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE,
                   PROT_READ, PROT_WRITE, close, epoll_create1, epoll_ctl, epoll_event, eventfd, load_acquire8, madvise, mmap, munmap,
                   store_release8, store_release32, unpoison, write)
from .table cimport Tables
from .worker cimport (ALTERNATE, ARENA, ARENAS, BUFFER, BUFFERS, CELL, CELLS, CIPHER_ROOM, FRAME, JOIN_ROOM, LISTENERS, PORT_ETHERNET,
                      PORT_GRE, PORT_UDP, PUNTS, READY_PUNT, READY_TUN, READY_WAKE, RECEIVES, TAP, TAPS, TAP_FREE, TAP_PLUGGED, WAITS,
                      WINDOW, WORKERS, Listener, Out, Tap, Wait, Worker, work)


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
            work(w)

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
