"""up: receive -> decap -> order -> link -> join -> decrypt -> admit -> deliver, one batch at a time.

receive   datagrams into buffers, each of them a packet of the batch
decap     in decap.pyx: the tunnel's header -> session
order     in order.pyx: sequenced sessions, never later than its successor
link      PPP header -> user data of an open family goes on, echoes are dealt with, all else to control
join      in join.pyx: fragments of a bundle become packets
decrypt   in decrypt.pyx: what is encrypted (RFC 3078)
bridge    in bridge.pyx: Ethernet frames go to the TAP of their session, and no further
admit     well-formed inner IP, own source address, ECN, MSS, counters; IPv6 of link scope to control
deliver   segments of a flow in one write to the inner port, also where flows take turns (flows.pxd)
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from .ack cimport pay_due
from .bridge cimport BRIDGE_OPEN, bridge_up
from .bytes cimport load32, load_key
from .cells cimport free_spent
from .coalesce cimport coalesce
from .decap cimport decap, squeeze
from .decrypt cimport decrypt
from .ecn cimport ecn_decap
from .flows cimport onward, straight
from .ip cimport IP4_SOURCE, IP6_SOURCE, read_headers
from .join cimport ENDED, GOES_ON, Gone, join, join_due, join_rest, to_bundle
from .mss cimport clamp_mss
from .order cimport order, order_due, order_rest
from .packet cimport (DROP_CIPHER, DROP_CLEAR, DROP_ECN, DROP_INNER, DROP_IP, DROP_NOT_OPEN, DROP_SCOPE, DROP_SHORT, DROP_SOLICIT,
                      DROP_SPOOF, FLAG_V6, KIND_BUNDLE, PASS, UP, Packet, forward)
from .port cimport count, drop, receive
from .ppp cimport PPP_BRIDGED, PPP_COMP, PPP_IP, PPP_IPV6, PPP_LCP, PPP_MP, pull_ppp
from .punt cimport punt_out, punt_ppp
from .scope cimport is_solicitation, of_link
from .stage cimport (STAGE_ADMIT, STAGE_DECAP, STAGE_DECRYPT, STAGE_DELIVER, STAGE_JOIN, STAGE_LINK, STAGE_LOOP, STAGE_ORDER, STAGE_RECEIVE, STAGE_RING,
                     carried, enter, in_kernel, out_of_kernel)
from .sys cimport iovec, load_acquire8, virtio_net_hdr, writev
from .table cimport (CONFIG_ADMIT_ANY, CONFIG_CLAMP_MSS, CONFIG_DECRYPT, CONFIG_IP, CONFIG_IPV6, CONFIG_REQUIRE, OPEN, Config, Session,
                     by_address)
from .timer cimport answer_echo
from .worker cimport BATCH, BURST, JOIN_ROOM, Listener, Receive, Worker

cdef enum:
    IPPROTO_TCP = 6
    PIECES = 72               # iovecs of one write to the inner port
    SECOND = 10               # ticks
    SOLICITS = 20             # frames of link scope that control hears of, a second and session


cdef int up(Worker* w, Listener* l) noexcept nogil:
    """Read once from a socket and carry everything through. Return how many buffers were filled."""
    cdef int i, n
    cdef uint32_t at
    cdef Receive* r
    cdef uint8_t* base
    cdef Packet* p
    enter(w, STAGE_RECEIVE, 0)
    n = receive(w, l)
    w.count = 0
    for i in range(n):
        if w.count + BURST > BATCH:
            stages(w, l)
            enter(w, STAGE_RECEIVE, 0)
        r = &w.receive[w.taken[i]]
        base = r.data
        at = 0
        if r.length == 0:
            count(w, DROP_SHORT, 1)
        while at < r.length:
            if w.count >= w.room:
                stages(w, l)
                enter(w, STAGE_RECEIVE, 0)
            p = &w.batch[w.count]
            p.data = base + at
            p.length = r.segment if r.length - at > r.segment else r.length - at
            p.segment_size = 0
            p.flags = 0
            p.verdict = PASS
            p.outer_tos = r.tos
            p.buffer = <uint8_t>w.taken[i]
            w.count += 1
            at += r.segment
    if w.count:
        stages(w, l)
    enter(w, STAGE_LOOP, 0)
    give_back(w)
    return n


cdef void stages(Worker* w, Listener* l) noexcept nogil:
    """What follows receive, for the batch at hand."""
    w.record.packets_up += w.count
    if w.room == 1:
        w.batch[0].slot = 0         # not yet known: a crash in decap shall not name whose packet lay here before
    carried(w, STAGE_RECEIVE, w.count)
    enter(w, STAGE_DECAP, w.count)
    decap(w, l)
    after_decap(w)
    w.count = 0


cdef void after_decap(Worker* w) noexcept nogil:
    enter(w, STAGE_ORDER, w.count)
    order(w)
    after_order(w)
    while w.late_at < w.late_count:
        w.count = 0
        enter(w, STAGE_ORDER, 0)
        order_rest(w)
        after_order(w)


cdef void after_order(Worker* w) noexcept nogil:
    enter(w, STAGE_LINK, w.count)
    link(w)
    enter(w, STAGE_JOIN, w.fragments)
    join_through(w)


cdef void join_through(Worker* w) noexcept nogil:
    join(w)
    after_join(w)
    while w.pieces_at < w.pieces_count:
        w.count = 0
        if w.joined_used > JOIN_ROOM // 2:
            punt_out(w)             # what it holds for control
            w.joined_used = 0
        enter(w, STAGE_JOIN, 0)
        join_rest(w)
        after_join(w)


cdef void after_join(Worker* w) noexcept nogil:
    enter(w, STAGE_DECRYPT, w.encrypted)
    decrypt(w)
    if w.bridged:
        bridge_up(w)
    enter(w, STAGE_ADMIT, w.count)
    admit(w)
    enter(w, STAGE_DELIVER, w.count)
    deliver(w)
    if w.dues:
        pay_due(w)


cdef void up_due(Worker* w) noexcept nogil:
    """Packets that waited in vain for one before them."""
    while True:
        w.count = 0
        enter(w, STAGE_ORDER, 0)
        order_due(w)
        if w.count == 0:
            break
        carried(w, STAGE_ORDER, w.count)
        after_order(w)
    enter(w, STAGE_LOOP, 0)
    give_back(w)


cdef void up_overdue(Worker* w) noexcept nogil:
    """Fragments that waited in vain for others: what they held up."""
    while True:
        w.count = 0
        enter(w, STAGE_JOIN, 0)
        join_due(w)
        if w.count == 0:
            break
        carried(w, STAGE_JOIN, w.count)
        after_join(w)
        give_back(w)
    enter(w, STAGE_LOOP, 0)
    give_back(w)


cdef void give_back(Worker* w) noexcept nogil:
    """The end of what a receive brought: frames for control, which lie in its buffers, leave; cells and room for packets are free."""
    punt_out(w)
    if w.spent:
        free_spent(w)
    w.joined_used = 0


cdef void up_handed(Worker* w) noexcept nogil:
    """Packets that other workers received for sessions of ours, already in the batch."""
    after_decap(w)
    enter(w, STAGE_RING, 0)
    give_back(w)
    w.count = 0


cdef void up_joined(Worker* w) noexcept nogil:
    """What links of other workers received for bundles of ours, already in the batch: fragments, and user data in one piece."""
    cdef int i
    cdef bint dirty = False
    enter(w, STAGE_JOIN, w.count)
    for i in range(w.count):
        if w.batch[i].protocol == PPP_MP:
            w.fragments += 1
        elif not passes(w, &w.batch[i]):
            dirty = True
    if dirty:
        squeeze(w)
    join_through(w)
    enter(w, STAGE_RING, 0)
    give_back(w)
    w.count = 0


cdef void link(Worker* w) noexcept nogil:
    """Take PPP's header off: user data of an open link goes on. Budget: 2 ns a packet."""
    cdef int i, at
    cdef Packet* p
    cdef Session* s = NULL
    cdef Config* c = NULL         # of a run of packets, whose session is looked at once
    cdef bint dirty = False, open = False, plain = False
    cdef Gone gone
    for i in range(w.count):
        p = &w.batch[i]
        if p.config != c:
            c, s = p.config, p.session
            s.last_rx = w.tick
            open = load_acquire8(&s.state) == OPEN
            plain = open and c.flags & (CONFIG_IP | CONFIG_REQUIRE) == CONFIG_IP
        if p.length >= 4 and load32(p.data) == 0xFF030021U:
            p.protocol = PPP_IP
            forward(p, 4)
            if plain:
                continue
        else:
            at = pull_ppp(p.data, p.length, &p.protocol)
            if at < 0:
                drop(w, p, DROP_SHORT)
                dirty = True
                continue
            forward(p, at)
        if p.protocol == PPP_IP and plain:
            continue
        if is_user_data(w, p, open):
            continue
        if s.bundle:
            gone = to_bundle(w, p)
            if gone == ENDED:
                dirty = True
                continue
            if gone == GOES_ON:
                if p.protocol != PPP_MP and not passes(w, p):
                    dirty = True
                continue
        dirty = True
        aside(w, p, open)
    if dirty:
        squeeze(w)


cdef inline bint is_user_data(Worker* w, const Packet* p, bint open) noexcept nogil:
    """Whether a packet is of an open family, a frame of an open bridge, or encrypted."""
    if p.protocol == PPP_IP and open and p.config.flags & (CONFIG_IP | CONFIG_REQUIRE) == CONFIG_IP:
        return True
    if p.protocol == PPP_IPV6 and open and p.config.flags & (CONFIG_IPV6 | CONFIG_REQUIRE) == CONFIG_IPV6:
        return True
    if p.protocol == PPP_BRIDGED and open and p.config.bridge & BRIDGE_OPEN and not p.config.flags & CONFIG_REQUIRE:
        w.bridged += 1
        return True
    if p.protocol == PPP_COMP and open and p.config.flags & CONFIG_DECRYPT:
        w.encrypted += 1
        return True
    return False


cdef void aside(Worker* w, Packet* p, bint open) noexcept nogil:
    """A packet that is no user data of an open session: an echo, or control's, or nobody's."""
    if p.protocol in (PPP_IP, PPP_IPV6, PPP_BRIDGED):
        drop(w, p, DROP_CLEAR if open and p.config.flags & CONFIG_REQUIRE else DROP_NOT_OPEN)
    elif p.protocol == PPP_COMP:
        drop(w, p, DROP_CIPHER if open else DROP_NOT_OPEN)
    elif p.protocol == PPP_LCP and open and p.session.kind != KIND_BUNDLE and answer_echo(w, p):
        p.verdict = UP
    else:
        punt_ppp(w, p.data, p.length, p.slot, p.session, p.protocol)
        p.verdict = UP


cdef bint passes(Worker* w, Packet* p) noexcept nogil:
    """Whether a bundle's packet, PPP's header taken off, goes on as user data; else it has come to its end."""
    cdef bint open = load_acquire8(&p.session.state) == OPEN
    if is_user_data(w, p, open):
        return True
    aside(w, p, open)
    return False


cdef inline bint owns(Worker* w, Packet* p) noexcept nogil:
    """Whether the inner source address is the session's own, or lies in a prefix that leads to it."""
    cdef Config* c = p.config
    cdef uint64_t key[2]
    if p.flags & FLAG_V6:
        load_key(p.data + IP6_SOURCE, True, key)
        if key[0] == 0:
            return False
        return key[0] == c.prefix or c.flags & CONFIG_ADMIT_ANY or by_address(w.table, key) == p.slot
    load_key(p.data + IP4_SOURCE, False, key)
    return key[1] == c.address or c.flags & CONFIG_ADMIT_ANY or by_address(w.table, key) == p.slot


cdef void solicit(Worker* w, Packet* p) noexcept nogil:
    """IPv6 of link scope: to control, if it is something that control answers, and at a bounded rate."""
    cdef Session* s = p.session
    if not is_solicitation(p):
        drop(w, p, DROP_SCOPE)
        return
    if w.tick - s.solicits_since >= SECOND:
        s.solicits_since = w.tick
        s.solicits = 0
    if s.solicits == SOLICITS or w.solicit_tokens == 0:
        drop(w, p, DROP_SOLICIT)
        return
    s.solicits += 1
    w.solicit_tokens -= 1
    punt_ppp(w, p.data, p.length, p.slot, s, PPP_IPV6)
    p.verdict = UP


cdef void admit(Worker* w) noexcept nogil:
    """Well-formed IP from an address of the session's own. Budget: 5 ns a packet."""
    cdef int i
    cdef Packet* p
    cdef Session* s
    cdef bint dirty = False
    for i in range(w.count):
        p = &w.batch[i]
        s = p.session
        if not read_headers(p) or (p.flags & FLAG_V6 != 0) != (p.protocol == PPP_IPV6):
            drop(w, p, DROP_IP)
            dirty = True
            continue
        if p.flags & FLAG_V6 and of_link(p.data):
            solicit(w, p)
            dirty = True
            continue
        if not owns(w, p):
            drop(w, p, DROP_SPOOF)
            dirty = True
            continue
        if p.outer_tos & 3 and not ecn_decap(p, p.outer_tos):
            drop(w, p, DROP_ECN)
            dirty = True
            continue
        if p.transport == IPPROTO_TCP and p.config.flags & CONFIG_CLAMP_MSS:
            clamp_mss(p, p.config.mss)
        s.rx_packets += 1
        s.rx_bytes += p.length
        s.last_user = w.tick
    if dirty:
        squeeze(w)


cdef void deliver(Worker* w) noexcept nogil:
    """Write to the inner port, one write a burst of a flow. Budget: 25 ns a packet at 1400 octets, most of it the checksum that must
    be right before segments are merged; besides the kernel's part."""
    cdef int i = 0, n, pieces
    cdef iovec iov[PIECES]
    cdef virtio_net_hdr v
    cdef ssize_t written
    cdef uint64_t since
    cdef const uint16_t* order = straight(&w.flows)
    iov[0].iov_base = &v
    iov[0].iov_len = sizeof(v)
    while i < w.count:
        if w.merge:
            n = coalesce(w.batch, order + i, w.count - i, &v, &iov[1], PIECES - 1, w.merge > 1)
            pieces = 1 + n
        else:
            memset(&v, 0, sizeof(v))
            iov[1].iov_base = w.batch[i].data
            iov[1].iov_len = w.batch[i].length
            n, pieces = 1, 2
        w.record.writes += 1
        since = in_kernel(w)
        written = writev(w.tun, iov, pieces)
        out_of_kernel(w, since)
        if written < 0:
            count(w, DROP_INNER, n)
        else:
            count(w, UP, n)
            if n > 1:
                w.record.super_out += 1
        i += n
        if w.merge:
            order = onward(&w.flows, w.batch, order, n, i, w.count)
