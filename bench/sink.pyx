"""Where the generator's packets end: loss, reordering, duplication and latency by what payload.pxd stamped.

The socket is an inner one (bare: a UDP socket that the kernel hands the payload), or the outer one of the
tunnel's far end (null, l2tp; gre: a raw one; pppoe: a packet socket). Of encrypted packets no more is read than a stamp needs. What is no stamped packet, of a stream that is not known, or stamped before this
run is `other`. What came is known exactly of the last WINDOW sequence numbers of a stream: older ones may be
late or duplicates; they are `stale`, and stay missing.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ..fastpath.mppe cimport free_ciphers, mppe_decrypt, mppe_run, new_ciphers, refill
from ..fastpath.sys cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, MSG_DONTWAIT, SOL_UDP, UDP_GRO, cmsghdr, read, recvmmsg,
)
from .ends cimport Ends
from .framing cimport FRAMING_BARE, SEAL, frame_null, pull_frame, session_of
from .payload cimport INNER, MARK, STAMP, Stamp, clock, nap

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events, revents
    int poll(pollfd*, unsigned long, int)
    int POLLIN

cdef enum:
    NAP = 30000             # ns between two looks at a socket that is empty
    PATIENCE = 20           # ms after which `stop` is noticed by a hole
    WINDOW = 1024


cdef inline bint came(const Seen* s, uint64_t sequence) noexcept nogil:
    return s.came[sequence // 64 % (WINDOW // 64)] >> sequence % 64 & 1


cdef inline void advance(Seen* s, uint64_t sequence) noexcept nogil:
    """To one that is not below the next: those between have not come."""
    cdef uint64_t i = s.next
    if sequence - s.next >= WINDOW:
        memset(s.came, 0, sizeof(s.came))
        i = sequence
    while i < sequence:
        s.came[i // 64 % (WINDOW // 64)] &= ~(<uint64_t>1 << i % 64)
        i += 1
    s.came[sequence // 64 % (WINDOW // 64)] |= <uint64_t>1 << sequence % 64
    s.next = sequence + 1


cdef inline int bucket(uint64_t ns) noexcept nogil:
    """ns below 8 by itself, then three bits behind the leading one."""
    cdef int power = 0
    while ns >> power >= 16:
        power += 1
    return <int>(power * 8 + (ns >> power))


cdef class Sink:
    """`run` counts until `stop`; `received` are those that came for the first time."""

    def __cinit__(self, int fd, str framing, int streams, int64_t since=0, Ends ends=None):
        """`since`: CLOCK_MONOTONIC in ns of the run's beginning. `ends`: the sessions, where they are encrypted."""
        cdef int i
        kinds = {"null": 0, "l2tp": 1, "bare": 2, "gre": 3, "pppoe": 4}
        if framing not in kinds or streams < 1:
            raise ValueError("a sink needs a framing and streams")
        self.fd, self.n_streams, self.since = fd, streams, since
        frame_null(&self.framing, 0)
        self.framing.kind = kinds[framing]
        if ends is not None and ends.sealed:
            self.ends, self.framing.sealed, self.ciphers = ends, True, new_ciphers()
        self.seen = <Seen*>calloc(streams, sizeof(Seen))
        self.memory = <uint8_t*>calloc(BUFFERS, BUFFER)
        if not self.seen or not self.memory:
            raise MemoryError("the sink's streams")
        for i in range(BUFFERS):
            self.iov[i].iov_base = self.memory + <size_t>i * BUFFER
            self.iov[i].iov_len = BUFFER
            self.receives[i].msg_hdr.msg_iov = &self.iov[i]
            self.receives[i].msg_hdr.msg_iovlen = 1
            self.receives[i].msg_hdr.msg_control = self.notes[i]

    def __dealloc__(self):
        free(self.seen)
        free(self.memory)
        if self.ciphers:
            free_ciphers(self.ciphers)

    def run(self):
        """Without the GIL. After `stop` what has arrived already is still counted. It never waits for the socket: whoever sends would
        wake it, on the forwarder's core and at the forwarder's expense, or not, as it happens to be asleep or behind."""
        with nogil:
            while self.take() or not self.stopped:
                nap(NAP)

    def stop(self):
        self.stopped = 1

    @property
    def counters(self):
        """received, bytes (of inner packets), missing (holes in the sequences: what was sent after the last that came is
        not among them), reordered, duplicates, stale, other."""
        return self.counts

    @property
    def received(self):
        return self.counts.received

    def percentile(self, double share):
        """Latency in ns below which so many of the packets came, to an eighth of its power of two."""
        cdef uint64_t rank = 0
        cdef uint64_t total = 0
        for n in self.latency:
            total += n
        for i in range(BUCKETS):
            rank += self.latency[i]
            if total and rank >= share * total:
                return i if i < 16 else (8 + i % 8) << (i // 8 - 1)
        return 0

    cdef int take(self) noexcept nogil:
        """What is there; False when nothing was."""
        cdef int i, n, r, size, at
        cdef uint8_t* p
        cdef int64_t now
        for i in range(BUFFERS):
            self.receives[i].msg_hdr.msg_controllen = sizeof(self.notes[i])
        r = recvmmsg(self.fd, self.receives, BUFFERS, MSG_DONTWAIT, NULL)
        if r <= 0:
            return 0
        now = clock()
        if self.ciphers:
            refill(self.ciphers)
            self.unseal(r)
        for i in range(r):
            n = self.receives[i].msg_len
            size = self.step(i)
            p = self.memory + <size_t>i * BUFFER
            at = 0
            while at < n and size > 0:
                self.count(p + at, size if n - at > size else n - at, now)
                at += size
        return 1

    cdef int step(self, int i) noexcept nogil:
        """Octets of each datagram of receive i but for the last: of all of it where nothing was merged."""
        cdef int size = self.receives[i].msg_len
        cdef cmsghdr* c = CMSG_FIRSTHDR(&self.receives[i].msg_hdr)
        while c != NULL:
            if c.cmsg_level == SOL_UDP and c.cmsg_type == UDP_GRO:
                memcpy(&size, CMSG_DATA(c), sizeof(int))
            c = CMSG_NXTHDR(&self.receives[i].msg_hdr, c)
        return size

    cdef void unseal(self, int r) noexcept nogil:
        """Decrypt as much of each packet as `count` reads, all of them side by side; what cannot be is made unreadable."""
        cdef int i, n, at, size, number, begin
        cdef uint8_t* p
        for i in range(r):
            size = self.step(i)
            begin = 0
            while begin < <int>self.receives[i].msg_len and size > 0:
                p = self.memory + <size_t>i * BUFFER + begin
                n = self.receives[i].msg_len - begin
                n = size if n > size else n
                begin += size
                at = pull_frame(&self.framing, p, &n)
                if at <= 0 or n < SEAL + INNER + STAMP:
                    continue
                number = self.ends.numbers[session_of(&self.framing, p)]
                if number < 0 or mppe_decrypt(self.ciphers, &self.ends.at[number].receiving, p + at, SEAL + INNER + STAMP):
                    p[at + SEAL] = 0
        mppe_run(self.ciphers)

    cdef void count(self, uint8_t* p, int n, int64_t now) noexcept nogil:
        cdef Stamp stamp
        cdef Seen* s
        cdef uint64_t gap
        cdef int at
        if self.framing.kind != FRAMING_BARE:
            at = pull_frame(&self.framing, p, &n)
            if self.framing.sealed and at > 0:
                at += SEAL
                n -= SEAL
            if at <= 0 or n < INNER or p[at] != 0x45:
                self.counts.other += 1
                return
            p += at + INNER
            n -= INNER
        if n < STAMP:
            self.counts.other += 1
            return
        memcpy(&stamp, p, STAMP)
        if stamp.mark != MARK or stamp.stream >= <uint32_t>self.n_streams or stamp.time < self.since:
            self.counts.other += 1
            return
        s = &self.seen[stamp.stream]
        if stamp.sequence >= s.next:
            self.counts.missing += stamp.sequence - s.next
            advance(s, stamp.sequence)
        elif s.next - stamp.sequence > WINDOW:
            self.counts.stale += 1
            return
        elif came(s, stamp.sequence):
            self.counts.duplicates += 1
            return
        else:
            s.came[stamp.sequence // 64 % (WINDOW // 64)] |= <uint64_t>1 << stamp.sequence % 64
            self.counts.reordered += 1
            self.counts.missing -= 1
        self.counts.received += 1
        self.counts.bytes += n + INNER
        self.latency[bucket(<uint64_t>(now - stamp.time) if now > stamp.time else 0)] += 1


cdef class Hole:
    """Takes what a TUN brings and throws it away until `stop`: the forwarder that would cost nothing."""
    cdef int fd, stopped

    def __cinit__(self, int fd):
        self.fd = fd

    def run(self):
        """Without the GIL."""
        cdef pollfd p
        cdef uint8_t packet[BUFFER + 64]
        with nogil:
            p.fd = self.fd
            p.events = POLLIN
            while not self.stopped:
                poll(&p, 1, PATIENCE)
                while not self.stopped and read(self.fd, packet, sizeof(packet)) > 0:
                    pass

    def stop(self):
        self.stopped = 1
