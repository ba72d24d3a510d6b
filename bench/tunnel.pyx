"""The null tunnel: TUN <-> UDP with the fastest I/O known, a header, and nothing else.

    down    TUN read (vnet_hdr) -> cut -> frame -> sendmmsg with UDP_SEGMENT
    up      recvmmsg with UDP_GRO -> frame off -> coalesce what was verified -> TUN writev

It is what headrace is measured against (design.md 8), so nothing is in it that a tunnel could do without:
no sessions, no lookup, no policy. With L2TP's header in place of its own it is also the cheap far
end of one L2TP session: what is not IP of that session goes out of `control`, a datagram socket, whole,
and what comes in there is sent as it is.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ..fastpath.sys cimport (
    CLOCK_MONOTONIC, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, MADV_HUGEPAGE,
    MAP_ANONYMOUS, MAP_PRIVATE, MSG_DONTWAIT, PROT_READ, PROT_WRITE, SOL_UDP, UDP_GRO, UDP_SEGMENT, VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_GSO_NONE, clock_gettime, close, cmsghdr, epoll_create1, epoll_ctl, epoll_event, epoll_wait, iovec, madvise,
    mmap, mmsghdr, msghdr, munmap, pause, read, recvmmsg, sendmmsg, timespec, virtio_net_hdr, writev,
)
from .framing cimport BAD, PUNT, ROOM, Framing, frame_l2tp, frame_null, pull_frame, push_frame
from .offload cimport SEGMENTS, SUPER, Segment, coalesce, complete, cut_header, cut_segment

import os
import socket as sockets

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int, void*, size_t, int)
    ssize_t send(int, const void*, size_t, int)

cdef enum:
    OUT = 512               # segments that one send round holds
    ENOUGH = OUT - 128      # ... and where reading stops: one more super-packet of the usual kind still fits
    SLOT = 192              # framing, then IPv4 and TCP headers of at most 60 octets each
    READ = 128 * 1024       # read from the TUN before sending: two super-packets, so that the wire does not wait
    BUFFERS = 64            # of a receive, at most
    RECEIVED = 768          # datagrams of a receive: where they come merged, fewer buffers are enough
    BUFFER = 65536
    IN = 4096               # segments that one deliver round holds
    ARENA = READ + 2 * BUFFER
    ROUNDS = 16             # through both directions before the other descriptors are looked at

cdef struct Counters:
    uint64_t up, up_bytes, down, down_bytes, tun_reads, tun_writes, wire_reads, wire_writes, wakes, bad, dropped, punted

cdef struct State:
    int tun, wire, control
    int64_t spin
    Framing framing
    Counters count
    uint8_t peer[32]
    uint32_t peer_size
    uint8_t* memory
    uint8_t* arena          # what the TUN gave
    uint8_t* slots          # headers of what goes out
    uint8_t* buffers        # what the wire gave
    iovec out[1024]
    int length[512]
    int pending
    mmsghdr sends[512]
    uint8_t segment[512][32]
    iovec into[64]
    mmsghdr receives[64]
    uint8_t notes[64][64]
    int wanted              # buffers of the next receive
    Segment got[4096]
    int n_got

cdef size_t MEMORY = ARENA + OUT * SLOT + BUFFERS * BUFFER


# --- down

cdef inline uint8_t* emit(State* s, int header, uint8_t* payload, int n) noexcept nogil:
    """One segment more: framing and `header` octets in a slot, n octets where they are. The slot's header."""
    cdef int i = s.pending
    cdef uint8_t* room = s.slots + i * SLOT
    push_frame(&s.framing, room, header + n)
    s.out[2 * i].iov_base = room + ROOM - s.framing.size
    s.out[2 * i].iov_len = s.framing.size + header
    s.out[2 * i + 1].iov_base = payload
    s.out[2 * i + 1].iov_len = n
    s.length[i] = s.framing.size + header + n
    s.pending = i + 1
    return room + ROOM


cdef inline void cut(State* s, virtio_net_hdr* v, uint8_t* p, int n) noexcept nogil:
    """A read into segments."""
    cdef int header, at, m, index = 0
    if v.gso_type == VIRTIO_NET_HDR_GSO_NONE:
        complete(p, n, v)
        emit(s, 0, p, n)
        return
    header = cut_header(p, n, v)
    if header == 0:
        s.count.bad += 1
        return
    at = header
    while at < n:
        if s.pending == OUT:
            transmit(s)
        m = n - at if n - at < v.gso_size else v.gso_size
        cut_segment(emit(s, header, p + at, m), p, header, at, m, index, at + m == n)
        at += m
        index += 1


cdef void transmit(State* s) noexcept nogil:
    """Runs of equal length leave as one datagram each that the kernel, or the device, cuts."""
    cdef int i = 0, j, total, m = 0, n
    cdef msghdr* h
    cdef cmsghdr* c
    cdef uint16_t size
    while i < s.pending:
        size = <uint16_t>s.length[i]
        total = size
        j = i + 1
        while (j < s.pending and j - i < SEGMENTS and s.length[j - 1] == size and s.length[j] <= size
               and total + s.length[j] <= SUPER):
            total += s.length[j]
            j += 1
        s.count.down_bytes += total
        h = &s.sends[m].msg_hdr
        h.msg_name = s.peer if s.peer_size else NULL
        h.msg_namelen = s.peer_size
        h.msg_iov = &s.out[2 * i]
        h.msg_iovlen = 2 * (j - i)
        h.msg_control = NULL
        h.msg_controllen = 0
        if j - i > 1:
            c = <cmsghdr*>s.segment[m]
            c.cmsg_level = SOL_UDP
            c.cmsg_type = UDP_SEGMENT
            c.cmsg_len = CMSG_LEN(2)
            memcpy(CMSG_DATA(c), &size, 2)
            h.msg_control = c
            h.msg_controllen = CMSG_SPACE(2)
        m += 1
        i = j
    s.count.down += s.pending
    i = 0
    while i < m:
        n = sendmmsg(s.wire, s.sends + i, m - i, 0)
        s.count.wire_writes += 1
        if n < 0:                   # the first of them was refused: lost, as a packet is
            s.count.dropped += s.sends[i].msg_hdr.msg_iovlen // 2
            n = 1
        i += n
    s.pending = 0


cdef bint down(State* s) noexcept nogil:
    cdef int at = 0
    cdef ssize_t n
    while s.pending < ENOUGH and at < READ:
        n = read(s.tun, s.arena + at, BUFFER + 64)
        if n <= <ssize_t>sizeof(virtio_net_hdr):
            break
        s.count.tun_reads += 1
        cut(s, <virtio_net_hdr*>(s.arena + at), s.arena + at + sizeof(virtio_net_hdr), <int>(n - sizeof(virtio_net_hdr)))
        at += (<int>n + 63) & ~63
    if s.pending:
        transmit(s)
    return at > 0


# --- up

cdef void deliver(State* s) noexcept nogil:
    cdef int i = 0, k
    cdef bint valid
    cdef virtio_net_hdr v
    cdef iovec to[80]
    s.count.up += s.n_got
    while i < s.n_got:
        memset(&v, 0, sizeof(v))
        to[0].iov_base = &v
        to[0].iov_len = sizeof(v)
        to[1].iov_base = s.got[i].p
        to[1].iov_len = s.got[i].n
        k = coalesce(&s.got[i], s.n_got - i, &v, to + 1, &valid)
        if k == 1 and valid:
            v.flags = VIRTIO_NET_HDR_F_DATA_VALID
        s.count.tun_writes += 1
        if writev(s.tun, to, 1 + k) < 0:
            s.count.dropped += k
        i += k
    s.n_got = 0


cdef inline void take(State* s, uint8_t* p, int n) noexcept nogil:
    """One datagram of a receive."""
    cdef int size = n, at = pull_frame(&s.framing, p, &size)
    if at > 0:
        s.count.up_bytes += n
        s.got[s.n_got].p = p + at
        s.got[s.n_got].n = size
        s.n_got += 1
    elif at == PUNT:
        s.count.punted += 1
        if s.control < 0 or send(s.control, p, n, MSG_DONTWAIT) < 0:
            s.count.dropped += 1
    else:
        s.count.bad += 1


cdef bint up(State* s) noexcept nogil:
    cdef int i, r, n, size, at
    cdef uint8_t* p
    cdef msghdr* h
    cdef cmsghdr* c
    cdef int datagrams = 0
    r = recvmmsg(s.wire, s.receives, s.wanted, MSG_DONTWAIT, NULL)
    s.count.wire_reads += 1
    for i in range(r):
        n = s.receives[i].msg_len
        size = n
        p = s.buffers + <size_t>i * BUFFER
        h = &s.receives[i].msg_hdr
        c = CMSG_FIRSTHDR(h)
        while c != NULL:
            if c.cmsg_level == SOL_UDP and c.cmsg_type == UDP_GRO:
                memcpy(&size, CMSG_DATA(c), sizeof(int))
            c = CMSG_NXTHDR(h, c)
        h.msg_controllen = sizeof(s.notes[i])
        at = 0
        while at < n:
            if s.n_got == IN:
                deliver(s)
            take(s, p + at, size if n - at > size else n - at)
            at += size
            datagrams += 1
    if s.n_got:
        deliver(s)
    if r > 0:
        s.wanted = r * RECEIVED // datagrams if datagrams > r * (RECEIVED // BUFFERS) else BUFFERS
    return r > 0


# --- both

cdef int64_t clock() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1000000000 + t.tv_nsec


cdef void forward_control(State* s) noexcept nogil:
    cdef uint8_t frame[4096]
    cdef mmsghdr m
    cdef iovec v
    cdef ssize_t n
    while True:
        n = recv(s.control, frame, sizeof(frame), MSG_DONTWAIT)
        if n <= 0:
            return
        memset(&m, 0, sizeof(m))
        v.iov_base = frame
        v.iov_len = n
        m.msg_hdr.msg_name = s.peer if s.peer_size else NULL
        m.msg_hdr.msg_namelen = s.peer_size
        m.msg_hdr.msg_iov = &v
        m.msg_hdr.msg_iovlen = 1
        if sendmmsg(s.wire, &m, 1, 0) < 0:
            s.count.dropped += 1


cdef void loop(State* s, int epoll, int wake) noexcept nogil:
    """Until `wake` can be read."""
    cdef epoll_event ready[4]
    cdef int i, n, rounds
    cdef int64_t last = 0
    cdef bint moved
    while True:
        n = epoll_wait(epoll, ready, 4, -1)
        s.count.wakes += 1
        for i in range(n):
            if ready[i].data.u64 == <uint64_t>wake:
                return
            if ready[i].data.u64 == <uint64_t>s.control:
                forward_control(s)
        rounds = 0
        while n > 0 and rounds < ROUNDS:
            rounds += 1
            moved = down(s)
            moved |= up(s)
            if moved:
                if s.spin:
                    last = clock()
            elif not s.spin or clock() - last > s.spin:
                break
            else:
                rounds -= 1
                pause()


cdef class Tunnel:
    """Both directions between a TUN and a UDP socket, whose descriptors the caller opened (port.py) and closes."""
    cdef State s
    cdef int epoll, wake_read, wake_write

    def __cinit__(self, int tun, int wire, peer=None, int control=-1, int spin_us=0):
        """peer is (address, port), or None when `wire` is connected."""
        cdef int i
        cdef epoll_event e
        self.epoll = -1
        self.s.tun = tun
        self.s.wire = wire
        self.s.control = control
        self.s.spin = <int64_t>spin_us * 1000
        if peer is not None:
            at = sockaddr(peer)
            self.s.peer_size = len(at)
            for i in range(len(at)):
                self.s.peer[i] = at[i]
        self.s.memory = <uint8_t*>mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <size_t>self.s.memory == <size_t>-1:
            self.s.memory = NULL
            raise MemoryError("the tunnel's buffers")
        madvise(self.s.memory, MEMORY, MADV_HUGEPAGE)
        self.s.arena = self.s.memory
        self.s.slots = self.s.arena + ARENA
        self.s.buffers = self.s.slots + OUT * SLOT
        for i in range(BUFFERS):
            self.s.into[i].iov_base = self.s.buffers + <size_t>i * BUFFER
            self.s.into[i].iov_len = BUFFER
            self.s.receives[i].msg_hdr.msg_iov = &self.s.into[i]
            self.s.receives[i].msg_hdr.msg_iovlen = 1
            self.s.receives[i].msg_hdr.msg_control = self.s.notes[i]
            self.s.receives[i].msg_hdr.msg_controllen = sizeof(self.s.notes[i])
        self.s.wanted = BUFFERS
        frame_null(&self.s.framing, 2)
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        for i in (tun, wire, control, self.wake_read):
            if i >= 0:
                e.events = EPOLLIN
                e.data.u64 = i
                if epoll_ctl(self.epoll, EPOLL_CTL_ADD, i, &e) < 0:
                    raise OSError(f"descriptor {i} cannot be waited for")

    def __dealloc__(self):
        if self.s.memory:
            munmap(self.s.memory, MEMORY)
        if self.epoll >= 0:
            close(self.epoll)
            close(self.wake_read)
            close(self.wake_write)

    def l2tp(self, int tunnel, int session, int peer_tunnel, int peer_session, bint length=False):
        """Speak one L2TP session: our ids, which the peer sends, and the peer's, which we send."""
        frame_l2tp(&self.s.framing, length, <uint16_t>peer_tunnel, <uint16_t>peer_session)
        self.s.framing.tunnel = <uint16_t>tunnel
        self.s.framing.session = <uint16_t>session

    def run(self):
        """Forward, without the GIL, until `wake`; the octets that woke it."""
        with nogil:
            loop(&self.s, self.epoll, self.wake_read)
        return os.read(self.wake_read, 64)

    def wake(self):
        """Make `run` return; from any thread."""
        os.write(self.wake_write, b"\0")

    @property
    def wake_fd(self):
        """For signal.set_wakeup_fd: a signal makes `run` return."""
        return self.wake_write

    @property
    def counters(self):
        return self.s.count


def sockaddr(peer):
    """(address, port) as the kernel reads it; octets are an address already."""
    if isinstance(peer, bytes):
        return peer
    address, port = peer[:2]
    number = int(port).to_bytes(2, "big")
    if ":" in address:
        return int(sockets.AF_INET6).to_bytes(2, "little") + number + bytes(4) + sockets.inet_pton(sockets.AF_INET6, address) + bytes(4)
    return int(sockets.AF_INET).to_bytes(2, "little") + number + sockets.inet_aton(address) + bytes(8)
