"""The packet generator: inner UDP over IPv4 of one size or a mix, for many sessions and flows, paced or flat out.

    up      framed (framing.pxd), up to 64 to an outer send by UDP_SEGMENT, into the forwarder's UDP port; or behind a `link` header,
            a frame each, by a packet socket on the wire
    down    bare, by a packet socket into the forwarder's TUN; one super-packet of a flow where they shall coalesce

A *stream* is one flow of one session: number session * flows + flow, with sequence numbers of its own (payload.pxd).
Coalescible packets come in runs of one stream; of the others, each is of another stream than the one before it, and
they still share an outer send, so that what the forwarder pays is the lack of runs and not the lack of batches. Sizes come
in their order, over and over; only neighbours of one size share a send. Where the framing has numbers that must go on from one run
to the next, or keys, `ends` has them.

The counts of encrypted packets come round after 4,096 (RFC 3078 section 3.1): who loses more of a session than that cannot go on. So no
more than AHEAD packets are sent that the sink, which the generator is told then, has not seen, unless it sees none for a while.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ..fastpath.bytes cimport store16
from ..fastpath.mppe cimport Ciphers, free_ciphers, mppe_encrypt, mppe_run, new_ciphers
from ..fastpath.sys cimport (
    CMSG_DATA, CMSG_LEN, CMSG_SPACE, EAGAIN, EINTR, ENOBUFS, MSG_DONTWAIT, SOL_UDP, UDP_SEGMENT,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP_L4, cmsghdr, errno, iovec, mmsghdr, pause, sendmmsg, virtio_net_hdr,
)
from .ends cimport Ends
from .frames cimport ETHERNET, IPV4, LINK, put_ip
from .framing cimport FRAMING_BARE, ROOM, SEAL, Framing, frame_gre, frame_l2tp, frame_null, frame_pppoe, push_frame
from .offload cimport SEGMENTS, SUPER, fold, pseudo, put_sum, sum_header, sum_ip
from .payload cimport INNER, MARK, STAMP, Stamp, clock, nap
from .sink cimport Sink

import socket as sockets

from .tunnel import sockaddr

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    MESSAGES = 64           # of one sendmmsg
    MANY = 256              # packets of one, unless they are paced
    NAP = 30000             # ns: a wait that is longer gives the core away
    SIZES = 64
    AHEAD = 1024
    LOST = 200000000        # ns after which those that are under way have not come
    MESSAGE = 66048         # room for the longest
    WHOLE = 61999           # octets of a super-packet that every TUN here takes: a longer one is dropped before it


cdef inline uint32_t load_word(const uint8_t* p) noexcept nogil:
    """Two octets as a checksum adds them."""
    cdef uint16_t v
    memcpy(&v, p, 2)
    return v


cdef struct Stream:
    uint8_t head[INNER]     # IPv4, UDP; lengths and checksums are zero
    uint32_t ip_sum, sum    # of the IPv4 header, but for its length; for UDP, but for lengths and stamp
    uint64_t sequence
    uint32_t framing        # index of its session


cdef class Generator:
    """`run` sends until `stop`, or for so many seconds or packets; `sent` counts them."""
    cdef int fd, kind, burst, n_streams, n_sizes, at
    cdef int sizes[SIZES]
    cdef bint coalescible
    cdef double rate
    cdef Stream* streams
    cdef Framing* framings
    cdef uint8_t* memory
    cdef uint8_t peer[32]
    cdef int next, stopped
    cdef mmsghdr sends[MESSAGES]
    cdef iovec iov[MESSAGES]
    cdef uint8_t notes[MESSAGES][32]
    cdef uint8_t link[LINK]
    cdef int link_size
    cdef uint64_t link_sum
    cdef uint16_t id
    cdef Ends ends
    cdef Sink sink
    cdef uint64_t lost
    cdef Ciphers* ciphers
    cdef readonly uint64_t sent, refused

    def __cinit__(self, int fd, str framing, sessions, str other, *, peer=None, int flows=1, size=64, bint coalescible=True,
                  int burst=SEGMENTS, double rate=0, bint length=False, int port=9, bytes link=b"", Ends ends=None,
                  Sink sink=None):
        """`framing` is null, l2tp, gre, pppoe, or bare for a packet socket (port.py) on the TUN; `sessions` are (tunnel, session, address)
        as the forwarder knows them, `other` the inner address that they talk to: packets go from the sessions to it,
        or with bare from it to them. `size`: octets of an inner packet, or several that come in turn. `rate` is packets a second,
        0 flat out. `link`: Ethernet's header, and IPv4's without lengths, in front of each; `fd` is a packet socket then. `ends` are
        the sessions of gre, or of l2tp that is encrypted, in their order. Sessions of pppoe differ in the last two octets of the station that they are from."""
        cdef int i, j
        cdef Stream* s
        cdef uint8_t* ip
        kinds = {"null": 0, "l2tp": 1, "bare": 2, "gre": 3, "pppoe": 4}
        sizes = [size] if isinstance(size, int) else list(size)
        if (framing not in kinds or not sessions or flows < 1 or burst < 1 or not 1 <= len(sizes) <= SIZES
                or not INNER + STAMP <= min(sizes) <= max(sizes) <= 9000):
            raise ValueError("a generator needs a framing, sessions, flows, and up to 64 sizes from 52 to 9000")
        if (framing == "gre" and ends is None) or (framing in ("gre", "l2tp") and ends is not None and ends.count != len(sessions)):
            raise ValueError("a generator of gre, or of encrypted l2tp, needs an end for each session")
        if len(link) not in (0, ETHERNET, LINK) or (framing == "pppoe" and len(link) != ETHERNET):
            raise ValueError("a link header is Ethernet's, and IPv4's or none")
        self.fd, self.kind, self.coalescible, self.rate = fd, kinds[framing], coalescible, rate
        self.n_streams, self.n_sizes, self.burst = len(sessions) * flows, len(sizes), min(burst, SEGMENTS)
        self.link_size, self.ends, self.sink = len(link), ends, sink
        for i in range(len(link)):
            self.link[i] = link[i]
        self.link_sum = sum_header(0, self.link + ETHERNET, IPV4) if self.link_size == LINK else 0
        if ends is not None and ends.sealed:
            self.ciphers = new_ciphers()
        for i in range(len(sizes)):
            self.sizes[i] = sizes[i]
        self.streams = <Stream*>calloc(self.n_streams, sizeof(Stream))
        self.framings = <Framing*>calloc(len(sessions), sizeof(Framing))
        self.memory = <uint8_t*>calloc(MESSAGES, MESSAGE)
        if not self.streams or not self.framings or not self.memory:
            raise MemoryError("the generator's streams")
        far = sockets.inet_aton(other)
        for i, (tunnel, session, address) in enumerate(sessions):
            if self.kind == 0:
                frame_null(&self.framings[i], session)
            elif self.kind == 1:
                frame_l2tp(&self.framings[i], length, tunnel, session, ends is not None and ends.sealed)
            elif self.kind == 3:
                frame_gre(&self.framings[i], session, ends.at[i].sequence, ends.sealed)
            elif self.kind == 4:
                frame_pppoe(&self.framings[i], session, NULL)
            near = sockets.inet_aton(address)
            pair = far + near if self.kind == FRAMING_BARE else near + far
            for j in range(flows):
                s = &self.streams[i * flows + j]
                s.framing = i
                ip = s.head
                head = b"\x45\0\0\0\0\0\x40\0\x40\x11\0\0" + pair
                head += (10000 + j % 50000).to_bytes(2, "big") + (port + j // 50000).to_bytes(2, "big")
                for k in range(len(head)):
                    ip[k] = head[k]
                s.ip_sum = fold(sum_header(0, ip, 20))
                s.sum = fold(sum_header(pseudo(ip, 0), ip + 20, 8))
        for i in range(MESSAGES):
            self.iov[i].iov_base = self.memory + <size_t>i * MESSAGE
            self.sends[i].msg_hdr.msg_iov = &self.iov[i]
            self.sends[i].msg_hdr.msg_iovlen = 1
        if peer is not None:
            self.aim(peer)

    def __dealloc__(self):
        free(self.streams)
        free(self.framings)
        free(self.memory)
        if self.ciphers:
            free_ciphers(self.ciphers)

    def aim(self, peer):
        """Send to this (address, port), or octets of an address."""
        at = sockaddr(peer)
        for i in range(len(at)):
            self.peer[i] = at[i]
        for i in range(MESSAGES):
            self.sends[i].msg_hdr.msg_name = self.peer
            self.sends[i].msg_hdr.msg_namelen = len(at)

    def run(self, double seconds=0, uint64_t packets=0):
        """Without the GIL. What was sent by this call; nothing is left out when the way is full: it is tried again."""
        cdef uint64_t before = self.sent
        cdef int64_t start, left, end = 0
        with nogil:
            start = clock()
            if seconds:
                end = start + <int64_t>(seconds * 1e9)
            while not self.stopped:
                if (packets and self.sent - before >= packets) or (end and clock() >= end):
                    break
                self.round(packets - (self.sent - before) if packets else 0)
                if self.ciphers and self.sink is not None:
                    self.await_sink()
                while self.rate and not self.stopped:
                    left = start + <int64_t>((self.sent - before) / self.rate * 1e9) - clock()
                    if left <= 0:
                        break
                    if left > NAP:
                        nap(left - NAP)
                    else:
                        pause()
        if self.kind == 3:
            for i in range(self.ends.count):
                self.ends.at[i].sequence = self.framings[i].sequence
        return self.sent - before

    def stop(self):
        self.stopped = 1

    cdef void await_sink(self) noexcept nogil:
        cdef uint64_t seen, before = self.sink.counts.received
        cdef int64_t since = clock()
        while not self.stopped:
            seen = self.sink.counts.received
            if self.sent <= seen + self.lost + AHEAD:
                return
            if seen != before:
                before, since = seen, clock()
            elif clock() - since > LOST:
                self.lost = self.sent - seen
                return
            nap(NAP)

    cdef Stream* choose(self) noexcept nogil:
        cdef Stream* s = &self.streams[self.next]
        self.next += 1
        if self.next == self.n_streams:
            self.next = 0
        return s

    cdef void stamp(self, Stream* s, uint8_t* at, int64_t now) noexcept nogil:
        cdef Stamp stamp
        stamp.sequence = s.sequence
        s.sequence += 1
        stamp.time = now
        stamp.stream = <uint32_t>(s - self.streams)
        stamp.mark = MARK
        memcpy(at, &stamp, STAMP)

    cdef void packet(self, Stream* s, uint8_t* ip, int size, int64_t now) noexcept nogil:
        """One inner packet of size octets; what lies behind the stamp is zero already."""
        memcpy(ip, s.head, INNER)
        store16(ip + 2, <uint16_t>size)
        put_sum(ip + 10, <uint64_t>s.ip_sum + load_word(ip + 2))
        store16(ip + 24, <uint16_t>(size - 20))
        self.stamp(s, ip + INNER, now)
        put_sum(ip + 26, sum_header(<uint64_t>s.sum + 2 * load_word(ip + 24), ip + INNER, STAMP))
        if ip[26] == 0 and ip[27] == 0:
            ip[26] = 0xff
            ip[27] = 0xff

    cdef int alike(self, int most, bint one) noexcept nogil:
        """How many of the next packets may share a send: of one size, at most `most` unless that is 0. They are taken."""
        cdef int size = self.sizes[self.at], n = 0
        cdef int limit = (WHOLE - INNER) // (size - INNER) if self.kind == FRAMING_BARE else SUPER // (size + 16)
        if limit > self.burst:
            limit = self.burst
        if most and most < limit:
            limit = most
        if one:
            limit = 1
        while n < limit and self.sizes[self.at] == size:
            n += 1
            self.at += 1
            if self.at == self.n_sizes:
                self.at = 0
        return n

    cdef int framed(self, int m, int most, int64_t now) noexcept nogil:
        """Message m: one outer send of as many packets as a burst has. Their number."""
        cdef int size = self.sizes[self.at], n = self.alike(most, self.link_size > 0), i, step = 0
        cdef uint8_t room[ROOM]
        cdef uint8_t* p = self.memory + <size_t>m * MESSAGE
        cdef Stream* s = self.choose()
        cdef Framing* f
        cdef cmsghdr* c
        cdef uint16_t step16
        for i in range(n):
            if i and not self.coalescible:
                s = self.choose()
            f = &self.framings[s.framing]
            if self.link_size:
                memcpy(p, self.link, self.link_size)
                if self.link_size == LINK:
                    put_ip(p + ETHERNET, self.link_sum, IPV4 + f.size + size, self.id)
                    self.id += 1
                else:
                    store16(p + ETHERNET - 4, <uint16_t>s.framing)
                p += self.link_size
            push_frame(f, room, size)
            memcpy(p, room + ROOM - f.size, f.size)
            self.packet(s, p + f.size, size, now)
            if self.n_sizes > 1 or f.sealed:
                memset(p + f.size + INNER + STAMP, 0, size - INNER - STAMP)     # a packet of another size was here, or a sealed one
            if f.sealed:
                store16(p + f.size - SEAL, <uint16_t>mppe_encrypt(self.ciphers, &self.ends.at[s.framing].sending, NULL,
                                                                  p + f.size - 2, 2 + size, 2 + size))
            p += f.size + size
            step = self.link_size + f.size + size       # with a link header there is one packet
        self.iov[m].iov_len = n * step
        self.sends[m].msg_hdr.msg_control = NULL
        self.sends[m].msg_hdr.msg_controllen = 0
        if n > 1:
            step16 = <uint16_t>step
            c = <cmsghdr*>self.notes[m]
            c.cmsg_level = SOL_UDP
            c.cmsg_type = UDP_SEGMENT
            c.cmsg_len = CMSG_LEN(2)
            memcpy(CMSG_DATA(c), &step16, 2)
            self.sends[m].msg_hdr.msg_control = c
            self.sends[m].msg_hdr.msg_controllen = CMSG_SPACE(2)
        return n

    cdef int bare(self, int m, int most, int64_t now) noexcept nogil:
        """Message m for the TUN: one packet, or one super-packet. The number of packets in it."""
        cdef int size = self.sizes[self.at], n = self.alike(most, not self.coalescible), i, payload = size - INNER
        cdef uint8_t* p = self.memory + <size_t>m * MESSAGE
        cdef uint8_t* ip = p + sizeof(virtio_net_hdr)
        cdef virtio_net_hdr* v = <virtio_net_hdr*>p
        cdef Stream* s = self.choose()
        cdef uint16_t partial
        memset(v, 0, sizeof(virtio_net_hdr))
        self.packet(s, ip, size, now)
        if self.n_sizes > 1:
            memset(ip + INNER + STAMP, 0, n * payload - STAMP)
        if n > 1:
            for i in range(1, n):
                self.stamp(s, ip + INNER + i * payload, now)
            v.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
            v.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4
            v.gso_size = <uint16_t>payload
            v.hdr_len = INNER
            v.csum_start = 20
            v.csum_offset = 6
            store16(ip + 2, <uint16_t>(INNER + n * payload))
            sum_ip(ip)
            store16(ip + 24, <uint16_t>(8 + n * payload))
            partial = fold(pseudo(ip, 8 + n * payload))
            memcpy(ip + 26, &partial, 2)
        self.iov[m].iov_len = sizeof(virtio_net_hdr) + INNER + n * payload
        return n

    cdef void round(self, uint64_t most) noexcept nogil:
        """One sendmmsg, and what it needs to get rid of all of it."""
        cdef int m = 0, n, i = 0
        cdef int count[MESSAGES]
        cdef uint64_t total = 0, enough = self.burst if self.rate else MANY
        cdef int64_t now = clock()
        if most and most < enough:
            enough = most
        while m < MESSAGES and total < enough:
            n = <int>(most - total) if most and most - total < SEGMENTS else 0
            count[m] = self.bare(m, n, now) if self.kind == FRAMING_BARE else self.framed(m, n, now)
            total += count[m]
            m += 1
        if self.ciphers:
            mppe_run(self.ciphers)
        while i < m and not self.stopped:
            n = sendmmsg(self.fd, self.sends + i, m - i, MSG_DONTWAIT)
            if n > 0:
                while n:
                    self.sent += count[i]
                    i += 1
                    n -= 1
            elif errno == EAGAIN or errno == ENOBUFS or errno == EINTR:
                self.refused += 1
                sched_yield()
            else:
                self.refused += 1
                self.stopped = errno
