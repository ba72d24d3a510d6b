"""Both ends of the channel between workers and control.

A worker gathers frames by reference and sends them at the end of a pass, before their buffers are used again. When
the channel is more than half full, which happens only while control is away or behind, it takes nothing but what keeps
tunnels and links alive: messages of known tunnels, and deaths.
"""
import socket

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .bytes cimport load16, store16, store32
from .cipher cimport STATE_FLUSH, CipherState
from .encap cimport push_frame
from .encrypt cimport cipher_of, push_encrypted, room
from .l2tp cimport L2TP_L
from .packet cimport DROP_CLEAR, DROP_LENGTH, DROP_NO_SESSION, DROP_NO_TUNNEL, DROP_PUNT, DROP_RATE, DROP_SHORT, HELLO, KIND_BUNDLE, PUNT
from .port cimport count, full, push, same_peer, scratch, transmit
from .ppp cimport PPP_COMP, PPP_IP
from .split cimport reserve, split
from .stage cimport STAGE_LOOP, STAGE_PUNT, Stage, carried, enter, in_kernel, out_of_kernel
from .sys cimport (EINTR, MSG_DONTWAIT, SIOCOUTQ, errno, ioctl, iovec, load_acquire8, load_acquire64, mmsghdr, recvmmsg, sendmmsg)
from .table cimport CONFIG_ENCRYPT, CONFIG_REQUIRE, FREE, RETIRED, TEMPLATE, Config, Path, Session, Tunnel, config_of
from .timer cimport arm
from .pppoe cimport ETHERTYPE_DISCOVERY, push_ethernet
from .worker cimport FRAME, PORT_ETHERNET, PORT_UDP, PUNTS, SCRATCH, Listener, Out, Worker

assert sizeof(PuntHeader) == 64
LONGEST = FRAME - sizeof(PuntHeader)            # octets of the largest payload

cdef enum:
    ZLB = 12                  # octets of a zero-length body message


cdef void prepare_punts(Worker* w) noexcept nogil:
    """Lay out the messages of both directions; once."""
    cdef int i
    memset(w.punt_messages, 0, sizeof(w.punt_messages))
    memset(w.order_messages, 0, sizeof(w.order_messages))
    for i in range(PUNTS):
        w.punt_iov[2 * i].iov_base = &w.punt_headers[i]
        w.punt_iov[2 * i].iov_len = sizeof(PuntHeader)
        w.punt_messages[i].msg_hdr.msg_iov = &w.punt_iov[2 * i]
        w.punt_messages[i].msg_hdr.msg_iovlen = 2
        w.order_iov[i].iov_base = w.orders + <size_t>i * FRAME
        w.order_iov[i].iov_len = FRAME
        w.order_messages[i].msg_hdr.msg_iov = &w.order_iov[i]
        w.order_messages[i].msg_hdr.msg_iovlen = 1


cdef PuntHeader* queue(Worker* w, uint8_t kind, const uint8_t* p, size_t n) noexcept nogil:
    """The next frame's header, cleared."""
    cdef PuntHeader* h
    if w.punts == PUNTS:
        punt_out(w)
    h = &w.punt_headers[w.punts]
    memset(h, 0, sizeof(PuntHeader))
    h.kind = kind
    h.worker = <uint8_t>w.index
    h.length = <uint32_t>n
    w.punt_iov[2 * w.punts + 1].iov_base = <void*>p
    w.punt_iov[2 * w.punts + 1].iov_len = n
    w.punts += 1
    return h


cdef void punt_l2tp(Worker* w, const uint8_t* p, size_t n, const Path* path) noexcept nogil:
    """An L2TP control message; a HELLO is acknowledged here while control is away. What nobody authenticated reaches control at a
    bounded rate, and for tunnels that there are."""
    if not control_lives(w) and acknowledge_hello(w, p, n, path):
        return
    cdef uint16_t tunnel
    cdef PuntHeader* h
    if n < 6:
        count(w, DROP_SHORT, 1)
        return
    if n > FRAME - sizeof(PuntHeader):
        count(w, DROP_LENGTH, 1)
        return
    tunnel = load16(p + (4 if load16(p) & L2TP_L else 2))
    if tunnel == 0:
        if w.greet_tokens == 0 or unsaid(w, path):
            count(w, DROP_RATE, 1)
            return
        w.greet_tokens -= 1
    elif load_acquire8(&w.table.tunnels[tunnel].state) == 0:
        count(w, DROP_NO_TUNNEL, 1)
        return
    h = queue(w, PUNT_L2TP, p, n)
    h.path = path[0]
    if unsaid(w, path) and same_peer(&w.table.tunnels[tunnel].path, path):
        h.path.local = w.table.tunnels[tunnel].path.local


cdef inline bint unsaid(Worker* w, const Path* path) noexcept nogil:
    """Whether nothing says where a datagram was sent to: it came by the express, merged behind user data of the same size. Of a
    tunnel that is known, from its peer, that is known too; a request for a new one comes again."""
    cdef Listener* l = &w.listener[path.port]
    return l.any and l.kind == PORT_UDP and memcmp(path.local, l.path.local, 16) == 0


cdef void punt_pppoe(Worker* w, const uint8_t* p, size_t n, const Path* path) noexcept nogil:
    """A discovery packet that discovery.pyx found to be control's."""
    if n > FRAME - sizeof(PuntHeader):
        count(w, DROP_LENGTH, 1)
        return
    queue(w, PUNT_PPPOE, p, n).path = path[0]


cdef void punt_ppp(Worker* w, const uint8_t* p, size_t n, uint32_t slot, Session* s, uint16_t protocol) noexcept nogil:
    cdef PuntHeader* h
    if n > FRAME - sizeof(PuntHeader):
        count(w, DROP_LENGTH, 1)
        return
    h = queue(w, PUNT_PPP, p, n)
    h.slot, h.generation, h.protocol = slot, s.generation, protocol


cdef void punt_session(Worker* w, PuntKind kind, uint32_t slot, Session* s) noexcept nogil:
    """Something happened to a session."""
    cdef PuntHeader* h = queue(w, kind, NULL, 0)
    h.slot, h.generation = slot, s.generation


cdef bint acknowledge_hello(Worker* w, const uint8_t* p, size_t n, const Path* path) noexcept nogil:
    """If p is a HELLO (RFC 2661 section 6.5) of a tunnel that we know: acknowledge it when its Ns is the next one, or an
    earlier one again. What is expected next stands in the tunnel's record until control is back."""
    cdef Tunnel* t
    cdef uint8_t* z
    cdef uint16_t ns, expected
    if n < 20 or load16(p) & 0xC80F != 0xC802 or load16(p + 12) & 0x3FF != 8 or load16(p + 14) or load16(p + 16) or load16(p + 18) != 6:
        return False
    t = &w.table.tunnels[load16(p + 4)]
    if load_acquire8(&t.state) == 0 or not same_peer(&t.path, path):
        return False
    ns = load16(p + 8)
    expected = t.nr
    if t.worker_generation == t.generation and <uint16_t>(t.worker_nr - expected) < 0x8000:
        expected = t.worker_nr
    if ns == expected:
        expected += 1
        t.worker_nr = expected
        t.worker_generation = t.generation
    elif <uint16_t>(expected - 1 - ns) >= 0x8000:
        return False
    if full(w.out):
        transmit(w)
    z = scratch(w.out)
    store32(z, <uint32_t>0xC8020000U | ZLB)
    store16(z + 4, t.peer_tunnel)
    store16(z + 6, 0)
    store16(z + 8, t.ns)
    store16(z + 10, expected)
    push(w.out, &t.path, NULL, 0, 0, z, ZLB, NULL, 0)
    count(w, HELLO, 1)
    return True


cdef bint keeps_alive(Worker* w, int i) noexcept nogil:
    """Whether frame i must get through when there is little room."""
    cdef const uint8_t* p = <const uint8_t*>w.punt_iov[2 * i + 1].iov_base
    cdef PuntHeader* h = &w.punt_headers[i]
    cdef Tunnel* t
    if h.kind == PUNT_DEAD:
        return True
    if h.kind != PUNT_L2TP or h.length < 6:
        return False
    t = &w.table.tunnels[load16(p + (4 if load16(p) & L2TP_L else 2))]
    return load_acquire8(&t.state) != 0 and same_peer(&t.path, &h.path)


cdef void shed(Worker* w) noexcept nogil:
    """Drop what does not keep a tunnel or link alive, in place."""
    cdef int i, kept = 0
    for i in range(w.punts):
        if keeps_alive(w, i):
            if kept != i:
                w.punt_headers[kept] = w.punt_headers[i]
                w.punt_iov[2 * kept + 1] = w.punt_iov[2 * i + 1]
            kept += 1
    count(w, DROP_PUNT, w.punts - kept)
    w.punts = kept


cdef void punt_out(Worker* w) noexcept nogil:
    """Send the gathered frames; what the channel does not take is dropped and counted."""
    cdef int waiting = 0, sent, done = 0
    cdef uint64_t since
    cdef Stage before
    if w.punts == 0:
        return
    before = enter(w, STAGE_PUNT, w.punts)
    since = in_kernel(w)
    if ioctl(w.punt, SIOCOUTQ, &waiting) == 0 and <uint32_t>waiting > w.punt_room // 2:
        shed(w)
    while done < w.punts:
        sent = sendmmsg(w.punt, w.punt_messages + done, w.punts - done, MSG_DONTWAIT)
        if sent < 0:
            if errno == EINTR:
                continue
            break
        done += sent
    out_of_kernel(w, since)
    count(w, PUNT, done)
    count(w, DROP_PUNT, w.punts - done)
    w.punts = 0
    enter(w, before, 0)


cdef int punt_in(Worker* w) noexcept nogil:
    """Take up to PUNTS frames of control's: queue what is to be sent, obey what is an order. They lie in `orders` until
    `transmit`, which the caller runs before the next call. Return how many."""
    cdef int i, n
    cdef uint64_t since
    cdef PuntHeader* h
    cdef uint8_t* head
    cdef uint8_t* body
    enter(w, STAGE_PUNT, 0)
    since = in_kernel(w)
    n = recvmmsg(w.punt, w.order_messages, PUNTS, MSG_DONTWAIT, NULL)
    out_of_kernel(w, since)
    if n <= 0:
        enter(w, STAGE_LOOP, 0)
        return 0
    carried(w, STAGE_PUNT, n)
    for i in range(n):
        h = <PuntHeader*>(w.orders + <size_t>i * FRAME)
        body = <uint8_t*>h + sizeof(PuntHeader)
        if w.order_messages[i].msg_len < sizeof(PuntHeader) or w.order_messages[i].msg_len != sizeof(PuntHeader) + h.length:
            continue
        if full(w.out):
            transmit(w)
        if h.kind == PUNT_L2TP:
            if h.path.port < w.listeners and w.listener[h.path.port].kind == PORT_UDP:
                push(w.out, &h.path, NULL, 0, 0, body, h.length, NULL, 0)
        elif h.kind == PUNT_PPPOE:
            if h.path.port < w.listeners and w.listener[h.path.port].kind == PORT_ETHERNET:
                head = scratch(w.out)
                push(w.out, &h.path, NULL, 0, 0, head, push_ethernet(head, h.path.peer, h.path.local, ETHERTYPE_DISCOVERY), body, h.length)
        elif h.slot < w.table.header.banks << 16:
            obey(w, h, body)
    w.slot = 0
    enter(w, STAGE_LOOP, 0)
    return n


cdef void obey(Worker* w, PuntHeader* h, uint8_t* body) noexcept nogil:
    """A PPP frame to send, a keepalive to start, or a cipher that is to begin anew. What is user data (RFC 3078 section 3: protocols
    from 0021 to 00FA) is encrypted as user data is."""
    cdef Session* s = &w.table.sessions[h.slot]
    cdef uint8_t state = load_acquire8(&s.state)
    cdef Config* c
    cdef CipherState* cipher
    cdef uint8_t* head
    cdef uint8_t* information
    w.slot = h.slot
    if state == FREE or state == RETIRED or s.generation != h.generation or s.owner != w.index:
        count(w, DROP_NO_SESSION, 1)
        return
    c = config_of(s)
    if h.kind == PUNT_ARM:
        s.echoes = 0
        s.last_rx = w.tick
        if s.last_user == 0:
            s.last_user = w.tick
        if c.keepalive:
            arm(w, h.slot, s, w.tick + c.keepalive)
    elif h.kind == PUNT_REKEY:
        cipher = cipher_of(w, s, c, True) if c.flags & CONFIG_ENCRYPT else NULL     # without it control may be wiping the keys
        if cipher != NULL:
            cipher.flags |= STATE_FLUSH
    elif h.kind == PUNT_PPP and PPP_IP <= h.protocol < PPP_COMP and c.flags & (CONFIG_ENCRYPT | CONFIG_REQUIRE):
        if c.flags & CONFIG_ENCRYPT:
            reserve(w, h.length)
            push_encrypted(w, s, c, 0, 0, h.protocol, room(w, h.length), 0, body, h.length)
        else:
            count(w, DROP_CLEAR, 1)
    elif h.kind == PUNT_PPP and s.kind == KIND_BUNDLE:
        reserve(w, h.length)
        split(w, s, c, 0, 0, h.protocol, scratch(w.out) + TEMPLATE + 4, 0, body, h.length)
    elif h.kind == PUNT_PPP:
        information = scratch(w.out) + TEMPLATE + 4
        head = push_frame(information, h.protocol, s, c, h.length)
        push(w.out, &s.path, s, 0, 0, head, <size_t>(information - head), body, h.length)


cdef class Channel:
    """Control's end: frames in batches. Give it the descriptor of its socket, which stays the caller's."""

    cdef int fd
    cdef mmsghdr messages[PUNTS]
    cdef iovec iov[PUNTS]
    cdef bytearray frames
    cdef uint8_t* base

    def __init__(self, int fd):
        cdef int i
        self.fd = fd
        self.frames = bytearray(PUNTS * FRAME)
        self.base = self.frames
        memset(self.messages, 0, sizeof(self.messages))
        for i in range(PUNTS):
            self.iov[i].iov_base = self.base + <size_t>i * FRAME
            self.iov[i].iov_len = FRAME
            self.messages[i].msg_hdr.msg_iov = &self.iov[i]
            self.messages[i].msg_hdr.msg_iovlen = 1

    def receive(self):
        """Up to PUNTS frames, oldest first: (kind, worker, slot, generation, protocol, path, payload), where path is
        (port, local, local port, peer, peer port) for control messages and None otherwise. Empty when there are none; EOFError
        when the other end is gone for good."""
        cdef int i, n = recvmmsg(self.fd, self.messages, PUNTS, MSG_DONTWAIT, NULL)
        cdef PuntHeader* h
        cdef list frames = []
        for i in range(n):
            if self.messages[i].msg_len == 0:
                if not frames:
                    raise EOFError("the channel to the worker is closed")
                break
            h = <PuntHeader*>(self.base + <size_t>i * FRAME)
            if self.messages[i].msg_len < sizeof(PuntHeader) or self.messages[i].msg_len != sizeof(PuntHeader) + h.length:
                continue
            path = None
            if h.kind in (PUNT_L2TP, PUNT_PPPOE):
                path = (h.path.port, h.path.local[:16], h.path.local_port, h.path.peer[:16], h.path.peer_port)
            frames.append((h.kind, h.worker, h.slot, h.generation, h.protocol, path, (<uint8_t*>h + sizeof(PuntHeader))[:h.length]))
        return frames

    def send(self, list frames):
        """Send (kind, slot, generation, protocol, path or None, payload); return how many the channel took. The rest is the
        caller's to send again when the socket is writable."""
        cdef int i, n, done = 0, sent
        cdef PuntHeader* h
        cdef bytes payload, local, peer
        cdef Path* p
        while done < len(frames):
            n = min(<int>len(frames) - done, <int>PUNTS)
            for i in range(n):
                kind, slot, generation, protocol, path, payload = frames[done + i]
                if len(payload) > <int>(FRAME - sizeof(PuntHeader)):
                    raise ValueError(f"a frame of {len(payload)} octets")
                h = <PuntHeader*>(self.base + <size_t>i * FRAME)
                memset(h, 0, sizeof(PuntHeader))
                h.kind, h.slot, h.generation, h.protocol, h.length = kind, slot, generation, protocol, <uint32_t>len(payload)
                if path is not None:
                    p = &h.path
                    port, local, local_port, peer, peer_port = path[:5]
                    p.port, p.local_port, p.peer_port = port, local_port, peer_port
                    memcpy(p.local, <const char*><bytes>local, 16)
                    memcpy(p.peer, <const char*><bytes>peer, 16)
                memcpy(<uint8_t*>h + sizeof(PuntHeader), <const char*>payload, len(payload))
                self.iov[i].iov_len = sizeof(PuntHeader) + h.length
            sent = sendmmsg(self.fd, self.messages, n, MSG_DONTWAIT)
            for i in range(n):
                self.iov[i].iov_len = FRAME
            if sent <= 0:
                break
            done += sent
            if sent < n:
                break
        return done
