"""The null tunnel: TUN <-> wire with the fastest I/O known, a header, and nothing else.

    down    TUN read (vnet_hdr) -> cut -> frame -> sendmmsg, of UDP with UDP_SEGMENT, of GRE by a raw or a packet socket      (down.pxd)
    up      recvmmsg, of UDP with UDP_GRO; PPPoE: a ring -> frame off -> coalesce what was verified -> TUN writev            (up.pxd)

It is what headrace is measured against (design.md 8), so nothing is in it that a tunnel could do without:
no sessions, no lookup, no policy. With L2TP's header in place of its own it is also the cheap far
end of one L2TP session, and of one of PPTP or PPPoE by `gre` and `pppoe`: what is not IP of that session goes out of `control`, a datagram
socket, whole, and what comes in there is sent as it is, with the next number of the session where it has one. As the far end
of an encrypted session it does MPPE; a null tunnel does not.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memset

from ..fastpath.bytes cimport store32
from ..fastpath.mppe cimport free_ciphers, new_ciphers, refill
from ..fastpath.sys cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, MSG_DONTWAIT, PROT_READ, PROT_WRITE,
    close, epoll_create1, epoll_ctl, epoll_event, epoll_wait, iovec, madvise, mmap, mmsghdr, munmap, pause, sendmmsg,
)
from .down cimport down
from .ends cimport End, Ends
from .frames cimport ETHERNET, FRAME, FRAMES, IPV4, LINK
from .framing cimport FRAMING_GRE, frame_gre, frame_l2tp, frame_null, frame_pppoe
from .offload cimport sum_header
from .payload cimport clock
from .state cimport ARENA, BUFFER, BUFFERS, OUT, PACKET, PACKETS, SLOT, State
from .up cimport up

import os
import socket as sockets

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int, void*, size_t, int)

cdef enum:
    ROUNDS = 16             # through both directions before the other descriptors are looked at
    SEQUENCE_AT = 8         # of an enhanced GRE header

cdef size_t MEMORY = ARENA + OUT * SLOT + BUFFERS * BUFFER + OUT * PACKET


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
        if s.framing.kind == FRAMING_GRE and n >= SEQUENCE_AT + 4:
            store32(frame + SEQUENCE_AT, s.framing.sequence)
            s.framing.sequence += 1
        m.msg_hdr.msg_name = s.peer if s.peer_size else NULL
        m.msg_hdr.msg_namelen = s.peer_size
        m.msg_hdr.msg_iov = &v
        m.msg_hdr.msg_iovlen = 1
        if sendmmsg(s.wire, &m, 1, 0) < 0:
            s.count.dropped += 1


cdef void loop(State* s, int epoll, int wake) noexcept nogil:
    """Until `wake` can be read. A descriptor that is empty is not read again before epoll says so; one that is looked at by spinning
    is."""
    cdef epoll_event ready[4]
    cdef int i, n, rounds
    cdef int64_t last = 0
    while True:
        n = epoll_wait(epoll, ready, 4, -1)
        s.count.wakes += 1
        s.tun_hot = s.wire_hot = False
        for i in range(n):
            if ready[i].data.u64 == <uint64_t>wake:
                return
            if ready[i].data.u64 == <uint64_t>s.control:
                forward_control(s)
            s.tun_hot |= ready[i].data.u64 == <uint64_t>s.tun
            s.wire_hot |= ready[i].data.u64 == <uint64_t>s.wire
        if s.ciphers != NULL:
            refill(s.ciphers)
        rounds = 0
        if s.spin:
            last = clock()
        while (s.tun_hot or s.wire_hot) and rounds < ROUNDS:
            rounds += 1
            if s.tun_hot and down(s) and s.spin:
                last = clock()
            if s.wire_hot and up(s) and s.spin:
                last = clock()
            if s.spin and not s.tun_hot and not s.wire_hot and clock() - last <= s.spin:
                s.tun_hot = s.wire_hot = True
                rounds -= 1
                pause()


cdef class Tunnel:
    """Both directions between a TUN and a UDP socket, or with `gre` a raw one, whose descriptors the caller opened (port.py) and
    closes."""
    cdef State s
    cdef Ends ends
    cdef int number, epoll, wake_read, wake_write

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
        self.s.sealed = self.s.buffers + BUFFERS * BUFFER
        self.s.merged = True
        self.s.wanted = BUFFERS
        for i in range(BUFFERS):
            self.into(i, BUFFER)
            self.s.receives[i].msg_hdr.msg_control = self.s.notes[i]
            self.s.receives[i].msg_hdr.msg_controllen = sizeof(self.s.notes[i])
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
        if self.s.inlet.slots:
            munmap(self.s.inlet.slots, <size_t>FRAMES * FRAME)
        if self.s.ciphers:
            free_ciphers(self.s.ciphers)
        if self.s.memory:
            munmap(self.s.memory, MEMORY)
        if self.epoll >= 0:
            close(self.epoll)
            close(self.wake_read)
            close(self.wake_write)

    cdef void into(self, int i, size_t size) noexcept:
        """Buffer i of a receive, and its message."""
        self.s.into[i].iov_base = self.s.buffers + i * size
        self.s.into[i].iov_len = size
        memset(&self.s.receives[i], 0, sizeof(mmsghdr))
        self.s.receives[i].msg_hdr.msg_iov = &self.s.into[i]
        self.s.receives[i].msg_hdr.msg_iovlen = 1

    def l2tp(self, int tunnel, int session, int peer_tunnel, int peer_session, bint length=False, Ends ends=None, int number=0):
        """Speak one L2TP session: our ids, which the peer sends, and the peer's, which we send. An encrypted one is of `ends`, which has
        its keys again when `run` returns."""
        frame_l2tp(&self.s.framing, length, <uint16_t>peer_tunnel, <uint16_t>peer_session, ends is not None and ends.sealed)
        if self.s.framing.sealed:
            self.keep(ends, number)
        self.s.framing.tunnel = <uint16_t>tunnel
        self.s.framing.session = <uint16_t>session

    def gre(self, int call, int peer_call, Ends ends, int number=0):
        """Speak one PPTP session: our call id, which the peer sends, and the peer's; and where its numbers stand. `ends` has them
        again when `run` returns."""
        cdef End* end = ends.end(number)
        frame_gre(&self.s.framing, <uint16_t>peer_call, end.sequence, ends.sealed)
        self.keep(ends, number)
        self.s.framing.session = <uint16_t>call
        self.s.merged = False
        self.s.wanted = PACKETS
        for i in range(PACKETS):
            self.into(i, PACKET)

    cdef keep(self, Ends ends, int number):
        ends.end(number)
        self.ends, self.number = ends, number
        if ends.sealed and not self.s.ciphers:
            self.s.ciphers = new_ciphers()

    def pppoe(self, int session, int peer_session, bytes link):
        """Speak one PPPoE session behind Ethernet's header; `wire` is a packet socket with a ring (port.open_session)."""
        if len(link) != ETHERNET:
            raise ValueError("a link header is Ethernet's")
        frame_pppoe(&self.s.framing, <uint16_t>peer_session, <const uint8_t*>link)
        self.s.framing.session = <uint16_t>session
        self.s.merged = False
        self.s.inlet.slots = ring(self.s.wire)

    def frames(self, int fd, bytes link):
        """Leave as frames by a packet socket (port.open_frames), behind this link header: Ethernet's, and IPv4's without lengths."""
        cdef int i
        if len(link) != LINK:
            raise ValueError(f"a link header has {LINK} octets")
        self.s.outlet.framed, self.s.outlet.fd = True, fd
        for i in range(LINK):
            self.s.outlet.head[i] = link[i]
        self.s.outlet.sum = sum_header(0, self.s.outlet.head + ETHERNET, IPV4)

    def run(self):
        """Forward, without the GIL, until `wake`; the octets that woke it."""
        cdef End* end = NULL
        if self.ends is not None:
            end = self.ends.end(self.number)
            self.s.framing.sequence = end.sequence
            self.s.sending, self.s.receiving = end.sending, end.receiving
        with nogil:
            loop(&self.s, self.epoll, self.wake_read)
        if end != NULL:
            end.sequence = self.s.framing.sequence
            end.sending, end.receiving = self.s.sending, self.s.receiving
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


cdef uint8_t* ring(int fd) except NULL:
    cdef void* at = mmap(NULL, <size_t>FRAMES * FRAME, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if at == <void*>-1:
        raise MemoryError("a packet ring")
    return <uint8_t*>at


def sockaddr(peer):
    """(address, port) as the kernel reads it; octets are an address already."""
    if isinstance(peer, bytes):
        return peer
    address, port = peer[:2]
    number = int(port).to_bytes(2, "big")
    if ":" in address:
        return int(sockets.AF_INET6).to_bytes(2, "little") + number + bytes(4) + sockets.inet_pton(sockets.AF_INET6, address) + bytes(4)
    return int(sockets.AF_INET).to_bytes(2, "little") + number + sockets.inet_aton(address) + bytes(8)
