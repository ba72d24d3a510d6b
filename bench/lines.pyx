"""The load generator's sockets: datagrams in batches, and the LCP echoes of links that are up answered without Python.

    receive -> an echo request of an open link: answered here
               any other data message (RFC 2661 section 3.1): (tunnel, session, PPP protocol, information)
               a control message: its octets
    send    <- whole datagrams

Data messages are those that we asked for: no length, sequence or offset, PPP with FF 03 or without. The sockets
are connected.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ..fastpath.bytes cimport load16, store16, store32
from ..fastpath.ppp cimport LCP_ECHO_REPLY, LCP_ECHO_REQUEST, PPP_LCP
from ..fastpath.sys cimport EAGAIN, EINTR, ENOBUFS, MSG_DONTWAIT, errno, iovec, mmsghdr, recvmmsg, sendmmsg

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events, revents
    int poll(pollfd*, unsigned long, int)
    int POLLOUT

cdef enum:
    BATCH = 64
    ROOM = 2048             # octets of a datagram
    DATA = 6                # flags, tunnel id, session id

cdef struct Open:           # what an echo reply needs; peer_tunnel 0: the link is not up
    uint16_t peer_tunnel
    uint16_t peer_session
    uint32_t magic


cdef class Lines:
    """`descriptors` of connected UDP sockets, which stay the caller's; tunnel and session ids from 1 to `tunnels` and `sessions`."""
    cdef int[:] fds
    cdef uint32_t tunnels, sessions
    cdef Open* links
    cdef uint8_t* memory
    cdef uint8_t* answers
    cdef mmsghdr receives[BATCH]
    cdef mmsghdr sends[BATCH]
    cdef iovec in_iov[BATCH]
    cdef iovec out_iov[BATCH]
    cdef readonly uint64_t echoes       # that were answered
    cdef readonly uint64_t strange      # datagrams that are no message of ours

    def __cinit__(self, int[::1] descriptors, uint32_t tunnels, uint32_t sessions):
        cdef int i
        if not 0 < tunnels < 65536 or not 0 < sessions < 65536:
            raise ValueError(f"{tunnels} tunnels of {sessions} sessions")
        self.fds, self.tunnels, self.sessions = descriptors, tunnels, sessions
        self.links = <Open*>calloc(<size_t>(tunnels + 1) * (sessions + 1), sizeof(Open))
        self.memory = <uint8_t*>calloc(BATCH, ROOM)
        self.answers = <uint8_t*>calloc(BATCH, ROOM)
        if not self.links or not self.memory or not self.answers:
            raise MemoryError("the lines' links")
        memset(self.receives, 0, sizeof(self.receives))
        memset(self.sends, 0, sizeof(self.sends))
        for i in range(BATCH):
            self.in_iov[i].iov_base = self.memory + <size_t>i * ROOM
            self.in_iov[i].iov_len = ROOM
            self.receives[i].msg_hdr.msg_iov = &self.in_iov[i]
            self.receives[i].msg_hdr.msg_iovlen = 1
            self.sends[i].msg_hdr.msg_iov = &self.out_iov[i]
            self.sends[i].msg_hdr.msg_iovlen = 1

    def __dealloc__(self):
        free(self.links)
        free(self.memory)
        free(self.answers)

    cdef Open* link(self, uint32_t tunnel, uint32_t session) except NULL:
        if not 0 < tunnel <= self.tunnels or not 0 < session <= self.sessions:
            raise IndexError(f"session {tunnel}/{session}")
        return &self.links[<size_t>tunnel * (self.sessions + 1) + session]

    def up(self, uint32_t tunnel, uint32_t session, uint16_t peer_tunnel, uint16_t peer_session, uint32_t magic):
        """A link is up: from now on its echoes are answered here, with our magic number."""
        cdef Open* o = self.link(tunnel, session)
        o.peer_tunnel, o.peer_session, o.magic = peer_tunnel, peer_session, magic

    def down(self, uint32_t tunnel, uint32_t session):
        self.link(tunnel, session).peer_tunnel = 0

    def receive(self, int line):
        """(control messages, data messages, whether there may be more) of one socket."""
        cdef int i, n, replies = 0
        cdef uint8_t* p
        cdef size_t size, at
        cdef uint16_t tunnel, session, protocol
        cdef Open* o
        cdef list control = [], data = []
        n = recvmmsg(self.fds[line], self.receives, BATCH, MSG_DONTWAIT, NULL)
        for i in range(n):
            p, size = self.memory + <size_t>i * ROOM, self.receives[i].msg_len
            if size >= 12 and p[0] & 0x80:
                control.append(p[:size])
                continue
            if size < DATA + 4 or load16(p) != 2:
                self.strange += 1
                continue
            tunnel, session, at = load16(p + 2), load16(p + 4), DATA
            if load16(p + at) == 0xFF03:
                at += 2
            if size < at + 2 or not 0 < tunnel <= self.tunnels or not 0 < session <= self.sessions:
                self.strange += 1
                continue
            protocol = load16(p + at)
            at += 2
            o = &self.links[<size_t>tunnel * (self.sessions + 1) + session]
            if o.peer_tunnel and protocol == PPP_LCP and size >= at + 8 and p[at] == LCP_ECHO_REQUEST:
                # the request itself, with the other side's ids, and our magic number
                store16(p + 2, o.peer_tunnel)
                store16(p + 4, o.peer_session)
                p[at] = LCP_ECHO_REPLY
                store32(p + at + 4, o.magic)
                self.out_iov[replies].iov_base, self.out_iov[replies].iov_len = p, size
                replies += 1
                continue
            data.append((tunnel, session, protocol, p[at:size]))
        if replies:
            self.echoes += <uint64_t>replies
            self.push(line, replies)
        return control, data, n == BATCH

    def send(self, int line, list datagrams):
        """All of them, in order."""
        cdef int n = 0
        cdef bytes one
        cdef uint8_t* p
        for one in datagrams:
            if len(one) > ROOM:
                raise ValueError(f"a datagram of {len(one)} octets")
            p = self.answers + <size_t>n * ROOM
            memcpy(p, <const char*>one, len(one))
            self.out_iov[n].iov_base, self.out_iov[n].iov_len = p, <size_t>len(one)
            n += 1
            if n == BATCH:
                self.push(line, n)
                n = 0
        if n:
            self.push(line, n)

    cdef push(self, int line, int n):
        """Send the first n; while the socket is full, wait."""
        cdef int done = 0, sent
        cdef pollfd ready
        while done < n:
            sent = sendmmsg(self.fds[line], self.sends + done, n - done, MSG_DONTWAIT)
            if sent > 0:
                done += sent
            elif errno in (EAGAIN, ENOBUFS):
                ready.fd, ready.events = self.fds[line], <short>POLLOUT
                poll(&ready, 1, 10)
            elif errno != EINTR:
                done += 1               # nobody listens there any more: what is repeated will tell
