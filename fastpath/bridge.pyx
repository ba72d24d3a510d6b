"""Bridged sessions: Ethernet frames between PPP and a TAP of the session's own, which the kernel's bridge has as a port.

up      after decrypt: frames leave the batch for their TAPs, one write each
down    a TAP that has something is read, its frames are encapsulated and queued for the wire

Nothing of IP is looked at: no admission, no MSS, no fragments, no ICMP. A bridge does not answer for what is too large; the frame is dropped
and counted. Frames are whole: no TAP has offloads, so the kernel cuts super-packets and sums up before we read.

A TAP's number is control's, and stands in the session's Config; its descriptor comes by `Forwarder.plug`. Its worker closes it when
the session is gone, or when somebody deleted the interface.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from .decap cimport squeeze
from .down cimport choose_arena
from .encap cimport push_template
from .encrypt cimport cipher_of, push_encrypted, room
from .packet cimport (DROP_BRIDGED, DROP_CLEAR, DROP_FCS, DROP_FRAME, DROP_INNER, DROP_NO_PORT, DROP_NOT_OPEN, DROP_SHORT, DROP_STP,
                      DROP_TAGGED, PASS, UP, Packet, Verdict)
from .port cimport count, drop, full, push, transmit
from .ppp cimport PPP_BRIDGED
from .split cimport reserve, split
from .stage cimport STAGE_BRIDGE, STAGE_LOOP, Stage, carried, enter, in_kernel, out_of_kernel
from .sys cimport EPOLL_CTL_DEL, close, epoll_ctl, iovec, load_acquire8, load_acquire32, poison, read, store_release8, unpoison, writev
from .table cimport CONFIG_BUNDLE, CONFIG_ENCRYPT, CONFIG_REQUIRE, FREE, OPEN, RETIRED, Config, Session, config_of
from .worker cimport ARENA, HEADROOM, TAP_FREE, TAP_PLUGGED, TAPS, Tap, Worker

cdef enum:
    FRAMES = 64               # of one TAP in one pass
    LARGEST = 65536           # octets of a read
    POLYNOMIAL = 0xEDB88320   # of CRC-32, the lowest bit first

cdef uint8_t ZEROS[ETHERNET_LEAST]
cdef uint32_t CRC[8][256]     # of an octet with so many zeros behind it

PORTS = TAPS            # numbers of a worker's TAPs; 0 is none

fill_crc()


cdef void fill_crc() noexcept nogil:
    cdef uint32_t i, k, c
    for i in range(256):
        c = i
        for k in range(8):
            c = c >> 1 ^ (<uint32_t>POLYNOMIAL if c & 1 else 0)
        CRC[0][i] = c
    for k in range(1, 8):
        for i in range(256):
            CRC[k][i] = CRC[0][CRC[k - 1][i] & 255] ^ CRC[k - 1][i] >> 8


cdef uint32_t frame_check(const uint8_t* frame, size_t n, size_t zeros) noexcept nogil:
    """The FCS of n octets with so many zeros behind them (IEEE 802.3 section 3.2.9), as it is read least significant octet first.
    Budget: 0.4 ns an octet."""
    cdef uint32_t c = 0xFFFFFFFFU, high
    cdef size_t i = 0
    while i + 8 <= n:
        c ^= little(frame + i)
        high = little(frame + i + 4)
        c = (CRC[7][c & 255] ^ CRC[6][c >> 8 & 255] ^ CRC[5][c >> 16 & 255] ^ CRC[4][c >> 24]
             ^ CRC[3][high & 255] ^ CRC[2][high >> 8 & 255] ^ CRC[1][high >> 16 & 255] ^ CRC[0][high >> 24])
        i += 8
    while i < n:
        c = CRC[0][(c ^ frame[i]) & 255] ^ c >> 8
        i += 1
    for i in range(zeros):
        c = CRC[0][c & 255] ^ c >> 8
    return c ^ 0xFFFFFFFFU


cdef inline uint32_t little(const uint8_t* p) noexcept nogil:
    return p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef inline Tap* tap_of(Worker* w, const Config* c, uint32_t slot, uint32_t generation) noexcept nogil:
    """The TAP of a session of ours, or NULL while there is none."""
    cdef Tap* t = &w.taps[c.tap] if c.tap < TAPS else NULL
    if t == NULL or load_acquire8(&t.state) != TAP_PLUGGED or t.slot != slot or t.generation != generation:
        return NULL
    return t


cdef int deliver_frame(Worker* w, Packet* p) noexcept nogil:
    """One frame from a peer to its TAP; the verdict."""
    cdef Bridged b
    cdef Session* s = p.session
    cdef Tap* t
    cdef iovec iov[2]
    cdef uint64_t since
    cdef ssize_t written
    cdef int at = pull_bridged(p.data, p.length, &b)
    cdef uint8_t* frame
    if at < 0:
        return -at
    frame = p.data + at
    if b.fcs and frame_check(frame, b.length, b.fill) != little(frame + b.length):
        return DROP_FCS
    if is_stp(frame) and not p.config.bridge & BRIDGE_STP:
        return DROP_STP
    t = tap_of(w, p.config, p.slot, s.generation)
    if t == NULL:
        return DROP_NO_PORT
    iov[0].iov_base, iov[0].iov_len = frame, b.length
    iov[1].iov_base, iov[1].iov_len = ZEROS, b.fill
    w.record.writes += 1
    since = in_kernel(w)
    written = writev(t.fd, iov, 2 if b.fill else 1)
    out_of_kernel(w, since)
    if written < 0:
        return DROP_INNER
    s.rx_packets += 1
    s.rx_bytes += b.length
    s.last_user = w.tick
    return UP


cdef void bridge_up(Worker* w) noexcept nogil:
    """Frames that link and decrypt left in the batch. Budget: 30 ns a frame, half of it the timers that tell, and what frame_check says of
    one with an FCS; besides the kernel's part, a write a frame."""
    cdef int i
    cdef Packet* p
    enter(w, STAGE_BRIDGE, w.bridged)
    w.bridged = 0
    for i in range(w.count):
        p = &w.batch[i]
        if p.protocol == PPP_BRIDGED:
            drop(w, p, <Verdict>deliver_frame(w, p))
    squeeze(w)


cdef bint bridge_down(Worker* w, uint32_t number) noexcept nogil:
    """Read what a TAP has, up to a pass's worth, and queue it for the wire, before the caller's `transmit`. True: it may have more.
    Budget: 40 ns a frame, half of it the timers that tell; besides the kernel's part, a read a frame."""
    cdef Tap* t = &w.taps[number]
    cdef Session* s
    cdef Config* c
    cdef uint8_t* at
    cdef uint64_t since
    cdef ssize_t n = 1
    cdef size_t used = 0
    cdef int frames = 0, verdict
    if load_acquire8(&t.state) != TAP_PLUGGED or not choose_arena(w):
        return False
    s = &w.table.sessions[t.slot]
    c = config_of(s)
    enter(w, STAGE_BRIDGE, 0)
    w.slot = t.slot
    while frames < FRAMES and w.arena_used + used + HEADROOM + LARGEST <= ARENA:
        at = w.arenas + <size_t>w.arena * ARENA + w.arena_used + used + HEADROOM
        unpoison(at - HEADROOM, HEADROOM + LARGEST)
        since = in_kernel(w)
        n = read(t.fd, at, LARGEST)
        out_of_kernel(w, since)
        if n <= 0:
            break
        poison(at + max(<size_t>n, <size_t>ETHERNET_LEAST), LARGEST - max(<size_t>n, <size_t>ETHERNET_LEAST))
        frames += 1
        verdict = DROP_NOT_OPEN
        if load_acquire8(&s.state) == OPEN and s.generation == t.generation and c.bridge & BRIDGE_OPEN and c.tap == number:
            verdict = send_frame(w, s, c, at, <size_t>n)
        if verdict:
            count(w, <Verdict>verdict, 1)
        else:
            used += (HEADROOM + max(<size_t>n, <size_t>ETHERNET_LEAST) + 63) & ~<size_t>63
    if w.workers > 1:
        w.arena_used += <uint32_t>used
    w.record.packets_down += frames
    w.record.reads += frames
    w.slot = 0
    carried(w, STAGE_BRIDGE, frames)
    enter(w, STAGE_LOOP, 0)
    return n > 0


cdef int send_frame(Worker* w, Session* s, Config* c, uint8_t* frame, size_t n) noexcept nogil:
    """Queue one frame, where there is room in front of it and behind it; 0, or why not."""
    cdef uint8_t* head
    if n < ETHERNET_HEADER:
        return DROP_SHORT
    if is_stp(frame) and not c.bridge & BRIDGE_STP:
        return DROP_STP
    if is_tagged(frame) and not c.bridge & BRIDGE_TAGGED:
        return DROP_TAGGED
    if n < ETHERNET_LEAST:              # what bridges pass on among themselves may be shorter than on a wire
        memset(frame + n, 0, ETHERNET_LEAST - n)
        n = ETHERNET_LEAST
    if BRIDGED_HEADER + n > c.mtu:
        return DROP_FRAME
    if c.flags & (CONFIG_ENCRYPT | CONFIG_REQUIRE) and (not c.flags & CONFIG_ENCRYPT or cipher_of(w, s, c, True) == NULL):
        return DROP_CLEAR
    frame -= BRIDGED_HEADER
    frame[0], frame[1] = 0, MAC_ETHERNET
    n += BRIDGED_HEADER
    if c.flags & CONFIG_BUNDLE:
        reserve(w, n)
    if c.flags & CONFIG_ENCRYPT:
        push_encrypted(w, s, c, c.tos, 1, PPP_BRIDGED, room(w, n), 0, frame, n)
    elif c.flags & CONFIG_BUNDLE:
        split(w, s, c, c.tos, 1, PPP_BRIDGED, frame, n, NULL, 0)
    else:
        if full(w.out):
            transmit(w)
        head = push_template(frame, s, c, False, n)
        (frame - 1)[0] = PPP_BRIDGED
        push(w.out, &s.path, s, c.tos, 1, head, <size_t>(frame - head) + n, NULL, 0)
    s.tx_packets += 1
    s.tx_bytes += n - BRIDGED_HEADER
    s.last_tx_user = w.tick
    return 0


cdef void unplug(Worker* w, uint32_t number) noexcept nogil:
    """Let go of a TAP; its number may be plugged anew."""
    cdef Tap* t = &w.taps[number]
    epoll_ctl(w.epoll, EPOLL_CTL_DEL, t.fd, NULL)
    close(t.fd)
    store_release8(&t.state, TAP_FREE)


cdef void unplug_dead(Worker* w) noexcept nogil:
    """Once a tick: the TAPs whose sessions are gone. Budget: 5 ns a TAP."""
    cdef uint32_t i, n = load_acquire32(&w.taps_used)
    cdef Tap* t
    cdef Session* s
    for i in range(1, n):
        t = &w.taps[i]
        if load_acquire8(&t.state) == TAP_PLUGGED:
            s = &w.table.sessions[t.slot]
            if load_acquire8(&s.state) in (FREE, RETIRED) or s.generation != t.generation:
                unplug(w, i)
