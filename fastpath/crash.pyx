"""The handler of fatal signals, and the doors to what it leaves; crash.pxd says what that is.

All in the handler is allowed there: plain stores, open, write, close. What it is told by a worker that went astray may be wrong, so
the record in the tables file comes first; a second fault while the packets are written ends the process at once.
"""
import os
import signal

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .packet cimport Packet
from .stage cimport (STAGE_ADMIT, STAGE_BRIDGE, STAGE_DECAP, STAGE_DECRYPT, STAGE_DELIVER, STAGE_ENCAP, STAGE_ENCRYPT, STAGE_JOIN, STAGE_LINK, STAGE_ORDER, STAGE_PUNT, STAGE_RING, STAGE_ROUTE,
                     STAGE_TRANSMIT, STAGE_WHEEL, stage_clock)
from .sys cimport close, load_acquire64, store_release64, write
from .table cimport CRASHES, SUSPECTS, Crash, Header, Session, Table, Tables
from .worker cimport ALTERNATE, BATCH, BUFFER, BUFFERS, HEADROOM, Receive, Worker

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <signal.h>
    #include <unistd.h>
    static __thread void* headrace_own;     /* the worker that this thread runs */
    static void headrace_handle(int signum, void (*handler)(int)) {
        struct sigaction a = {0};
        a.sa_handler = handler;
        a.sa_flags = SA_ONSTACK;
        sigaction(signum, &a, NULL);
    }
    static void headrace_again(int signum) {      /* as if there were no handler: behind it the signal is there once more */
        signal(signum, SIG_DFL);
        raise(signum);
    }
    static void headrace_stack(void* at, size_t size) {
        stack_t s = {0};
        s.ss_sp = at;
        s.ss_size = size;
        s.ss_flags = at ? 0 : SS_DISABLE;
        sigaltstack(&s, NULL);
    }
    static int headrace_create(const char* path) { return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600); }
    #define headrace_exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
    """
    void* own_worker "headrace_own"
    void handle "headrace_handle"(int, void (*)(int) noexcept nogil)
    void again "headrace_again"(int)
    void alternate_stack "headrace_stack"(void*, size_t)
    int create_file "headrace_create"(const char*)
    void* exchange "headrace_exchange"(void**, void*)
    int wait_for_the_end "pause"()

cdef enum:
    PATH = 256
    LINE = 4096
    MOST = 262144             # octets of packets that are written at most

cdef char path[PATH]          # of the file, up to its number
cdef size_t path_length
cdef void* crashed            # the worker that came first

FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)


cdef void at_work(Worker* w) noexcept nogil:
    """The calling thread is this worker from here on, or none."""
    global own_worker
    own_worker = w
    if w != NULL:
        alternate_stack(w.alternate, ALTERNATE)
    else:
        alternate_stack(NULL, 0)


cdef void be_careful(Worker* w) noexcept nogil:
    """One packet a batch while the last crash is fresh, as many as there is room for otherwise. At the start, and once a tick."""
    cdef Header* h = w.table.header
    cdef uint64_t crashes = load_acquire64(&h.crashes)
    w.room = 1 if crashes and w.now_ns - h.crash[(crashes - 1) % CRASHES].time_ns < <uint64_t>CAREFUL_NS else BATCH


cdef void suspect(Table* t, Crash* c, uint32_t slot) noexcept nogil:
    """A session whose packet was at hand, once."""
    cdef int i
    if slot == 0 or slot >= t.header.banks << 16 or c.count == SUSPECTS:
        return
    for i in range(c.count):
        if c.slots[i] == slot:
            return
    c.slots[c.count] = slot
    c.generations[c.count] = t.sessions[slot].generation
    c.count += 1


cdef bint in_batch(Worker* w) noexcept nogil:
    if w.stage == STAGE_BRIDGE:         # or toward the wire, where a TAP is read, whose session is w.slot
        return w.slot == 0
    return w.stage in (STAGE_DECAP, STAGE_LINK, STAGE_DECRYPT, STAGE_ORDER, STAGE_ADMIT, STAGE_DELIVER, STAGE_ROUTE, STAGE_ENCAP, STAGE_RING)


cdef void record(Worker* w, int signum) noexcept nogil:
    """In the tables file: when, where, and whose packets were at hand."""
    cdef Header* h = w.table.header
    cdef Crash* c = &h.crash[h.crashes % CRASHES]
    cdef Session* s
    cdef int i
    c.time_ns = stage_clock()
    c.signal, c.worker, c.stage, c.count = <uint8_t>signum, <uint8_t>w.index, w.stage, 0
    if in_batch(w):
        for i in range(min(w.count, <int>BATCH)):
            suspect(w.table, c, w.batch[i].slot)
    elif w.stage == STAGE_ENCRYPT or w.stage == STAGE_TRANSMIT:
        for i in range(w.out.count):
            s = w.out.segments[i].session
            if s != NULL:
                suspect(w.table, c, <uint32_t>(s - w.table.sessions))
    elif w.stage == STAGE_JOIN:
        for i in range(min(w.count, <int>BATCH)):
            suspect(w.table, c, w.batch[i].slot)
        for i in range(w.pieces_at, min(w.pieces_count, <int>BATCH)):       # set aside, the first of them at hand
            suspect(w.table, c, w.pieces[i].slot)
        suspect(w.table, c, w.slot)
    elif w.stage in (STAGE_WHEEL, STAGE_PUNT, STAGE_BRIDGE):
        suspect(w.table, c, w.slot)
    store_release64(&h.crashes, h.crashes + 1)


cdef struct Text:
    int fd
    uint32_t used
    uint8_t line[LINE]


cdef void put(Text* t, uint8_t c) noexcept nogil:
    if t.used == LINE:
        write(t.fd, t.line, t.used)
        t.used = 0
    t.line[t.used] = c
    t.used += 1


cdef void put_text(Text* t, const char* s) noexcept nogil:
    while s[0]:
        put(t, <uint8_t>s[0])
        s += 1


cdef void put_number(Text* t, uint64_t n) noexcept nogil:
    if n > 9:
        put_number(t, n // 10)
    put(t, <uint8_t>(48 + n % 10))


cdef void put_octets(Text* t, const uint8_t* p, size_t n) noexcept nogil:
    cdef const char* digits = "0123456789abcdef"
    cdef size_t i
    for i in range(n):
        put(t, <uint8_t>digits[p[i] >> 4])
        put(t, <uint8_t>digits[p[i] & 15])
    put(t, 10)


cdef size_t whole(Worker* w, const Packet* p, const uint8_t** at) noexcept nogil:
    """The datagram that a packet came in, if it lies in a receive buffer of ours or a ring; else what there is from its current header
    on."""
    cdef Receive* r = &w.receive[p.buffer % BUFFERS]
    cdef const uint8_t* base = r.data
    cdef size_t offset = <size_t>(p.data - base)
    at[0] = p.data
    if p.data < base or offset > r.length or r.length > BUFFER - HEADROOM or r.segment == 0:
        return min(p.length, <uint32_t>BUFFER)
    if offset == r.length:            # nothing is left behind its headers
        offset -= 1
    offset -= offset % r.segment
    at[0] = base + offset
    return min(<size_t>r.segment, r.length - offset)


cdef void dump(Worker* w, int signum, uint64_t number) noexcept nogil:
    """Write the batch: lines of hexadecimal, what is behind # is for people."""
    cdef Text t
    cdef Packet* p
    cdef const uint8_t* at = NULL
    cdef size_t n, left = MOST
    cdef int i
    path[path_length] = <char>(48 + number % CRASHES)
    t.used = 0
    t.fd = create_file(path)
    if t.fd < 0:
        return
    put_text(&t, b"# crash ")
    put_number(&t, number)
    put_text(&t, b": signal ")
    put_number(&t, signum)
    put_text(&t, b" in worker ")
    put_number(&t, w.index)
    put_text(&t, b", stage ")
    put_number(&t, w.stage)
    put(&t, 10)
    for i in range(min(w.count, <int>BATCH) if in_batch(w) else 0):
        p = &w.batch[i]
        n = whole(w, p, &at)
        if n > left:
            put_text(&t, b"# and more\n")
            break
        left -= n
        put_text(&t, b"# slot ")
        put_number(&t, p.slot)
        put(&t, 10)
        write(t.fd, t.line, t.used)       # what is known is kept should the next packet's address be the defect
        t.used = 0
        put_octets(&t, at, n)
    write(t.fd, t.line, t.used)
    close(t.fd)


cdef void on_crash(int signum) noexcept nogil:
    """A fatal signal. Another worker that crashes meanwhile waits for the end; a fault in here is the end."""
    cdef Worker* w = <Worker*>own_worker
    cdef void* first
    if w != NULL:
        first = exchange(&crashed, w)
        if first == NULL:
            record(w, signum)
            dump(w, signum, w.table.header.crashes - 1)
        elif first != w:
            while True:
                wait_for_the_end()
    again(signum)


def watch(run_dir):
    """Leave word when a worker of this process crashes. For the forwarder's own process: handlers are the process's."""
    global path_length
    cdef bytes start = os.fsencode(os.path.join(run_dir, "crash-"))
    if len(start) > PATH - 2:
        raise ValueError(f"the run directory's name is too long: {run_dir}")
    path_length = len(start)
    path[:path_length] = start
    for number in FATAL:
        handle(number, on_crash)


def count(Tables tables):
    """How often a worker has crashed."""
    return load_acquire64(&tables.table.header.crashes)


def entries(Tables tables):
    """The last crashes, oldest first: (number, when in monotonic seconds, signal, worker, stage, [(slot, generation) ...])."""
    cdef Header* h = tables.table.header
    cdef Crash* c
    n = load_acquire64(&h.crashes)
    found = []
    for number in range(max(0, n - CRASHES), n):
        c = &h.crash[number % CRASHES]
        found.append((number, c.time_ns / 1e9, c.signal, c.worker, c.stage,
                      [(c.slots[i], c.generations[i]) for i in range(min(c.count, <int>SUSPECTS))]))
    return found


def file_name(uint64_t number):
    """Where in the run directory the packets of a crash are, until CRASHES later ones."""
    return f"crash-{number % CRASHES}"
