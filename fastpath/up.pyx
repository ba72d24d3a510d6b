"""up: receive -> decap -> order -> link -> decrypt -> admit -> deliver, one batch at a time.

receive   datagrams into buffers, each of them a packet of the batch
decap     L2TP or GRE header -> session, checked against its path and tunnel; control messages to control; another worker's to its ring
order     sequenced sessions: never later than its successor
link      PPP header -> user data of an open family goes on, echoes are dealt with, all else to control
decrypt   what is encrypted (RFC 3078)
admit     well-formed inner IP, own source address, ECN, MSS, counters; IPv6 of link scope to control
deliver   segments of a flow in one write to the inner port, also where flows take turns (flows.pxd)
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .ack cimport pay_due
from .bytes cimport load32, load_key
from .coalesce cimport coalesce
from .decrypt cimport decrypt
from .flows cimport onward, straight
from .gre cimport GRE_S, Gre, pull_gre
from .ip cimport IP4_SOURCE, IP6_SOURCE, read_headers
from .l2tp cimport L2TP_S, L2TP_T, L2tp, pull_l2tp
from .mss cimport clamp_mss
from .packet cimport (ACK, DROP_CIPHER, DROP_CLEAR, DROP_ECN, DROP_INNER, DROP_IP, DROP_NO_SESSION, DROP_NOT_OPEN, DROP_PEER, DROP_RING,
                      DROP_SCOPE, DROP_SHORT, DROP_SOLICIT, DROP_SPOOF, DROP_VERSION, FLAG_V6, HANDED, KIND_L2TP, KIND_PPPOE,
                      KIND_PPTP, PASS, UP, Packet, Verdict, forward)
from .discovery cimport discover, tell
from .ecn cimport ecn_decap
from .order cimport free_spent, order, order_due, order_rest
from .port cimport count, receive, same_peer
from .pppoe cimport ETHERTYPE_DISCOVERY, MAC, NETWORK, STATION, Pppoe, pull_pppoe
from .ppp cimport PPP_COMP, PPP_IP, PPP_IPV6, PPP_LCP, pull_ppp
from .punt cimport punt_l2tp, punt_out, punt_ppp
from .ring cimport lend
from .scope cimport is_solicitation, of_link
from .stage cimport (STAGE_ADMIT, STAGE_DECAP, STAGE_DECRYPT, STAGE_DELIVER, STAGE_LINK, STAGE_LOOP, STAGE_ORDER, STAGE_RECEIVE,
                     STAGE_RING, carried, enter, in_kernel, out_of_kernel)
from .sys cimport iovec, load_acquire8, load_acquire32, prefetch, virtio_net_hdr, writev
from .table cimport (CONFIG_ADMIT_ANY, CONFIG_CLAMP_MSS, CONFIG_DECRYPT, CONFIG_IP, CONFIG_IPV6, CONFIG_REQUIRE, FREE, OPEN, RETIRED,
                     Config, Session, by_address, config_of, network_hash, prefetch_up, slot_of)
from .timer cimport answer_echo
from .worker cimport BATCH, BUFFER, BUFFERS, BURST, CELL, CELLS, HEADROOM, PORT_ETHERNET, PORT_GRE, RECEIVES, Listener, Receive, Worker

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
        base = w.buffers + <size_t>w.taken[i] * BUFFER + HEADROOM + r.offset
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
    punt_out(w)                     # the frames lie in the buffers that the next receive fills, or in cells
    if w.spent:
        free_spent(w)
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
    enter(w, STAGE_DECRYPT, w.encrypted)
    decrypt(w)
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
    punt_out(w)
    free_spent(w)


cdef inline void drop(Worker* w, Packet* p, Verdict v) noexcept nogil:
    p.verdict = v
    count(w, v, 1)


cdef void squeeze(Worker* w) noexcept nogil:
    """Keep only what is still on its way, in order."""
    cdef int i, kept = 0
    for i in range(w.count):
        if w.batch[i].verdict == PASS:
            if kept != i:
                w.batch[kept] = w.batch[i]
            kept += 1
    w.count = kept


cdef void decap(Worker* w, Listener* l) noexcept nogil:
    """Take the tunnel's header off and find the session. Two passes, so that the records of many sessions
    are on their way from memory while headers are read. Budget: 8 ns a packet, 15 ns with 60,000 sessions in random order, 35 ns
    when their records are in no cache at all."""
    cdef bint dirty
    cdef uint8_t kind = l.kind
    if kind == PORT_GRE:
        dirty = pull_all_gre(w)
    elif kind == PORT_ETHERNET:
        dirty = pull_all_pppoe(w, l)
    else:
        dirty = pull_all_l2tp(w)
    if dirty:
        squeeze(w)
    find_sessions(w, KIND_PPTP if kind == PORT_GRE else KIND_PPPOE if kind == PORT_ETHERNET else KIND_L2TP)


cdef bint pull_all_l2tp(Worker* w) noexcept nogil:
    """True: some packets ended here."""
    cdef int i, at
    cdef Packet* p
    cdef L2tp h
    cdef uint32_t slot = 0
    cdef bint dirty = False
    for i in range(w.count):
        p = &w.batch[i]
        at = pull_l2tp(p.data, p.length, &h)
        if at < 0:
            drop(w, p, <Verdict>-at)
            dirty = True
            continue
        if h.flags & L2TP_T:
            punt_l2tp(w, p.data, p.length, &w.receive[p.buffer].path)
            p.verdict = UP
            dirty = True
            continue
        p.slot = slot_of(w.table, h.tunnel, h.session)
        p.tunnel = h.tunnel
        p.length = h.length
        p.sequence_bits = 16 if h.flags & L2TP_S else 0
        p.sequence = h.ns
        forward(p, at)
        if p.slot != slot:
            slot = p.slot
            prefetch_up(&w.table.sessions[slot])
    return dirty


cdef bint pull_all_gre(Worker* w) noexcept nogil:
    """True: some packets ended here. An acknowledgment alone has said all that it has to say."""
    cdef int i, at
    cdef Packet* p
    cdef Gre h
    cdef uint32_t slot = 0
    cdef bint dirty = False
    for i in range(w.count):
        p = &w.batch[i]
        at = pull_gre(p.data, p.length, &h)
        if at < 0 or not h.flags & GRE_S:
            drop(w, p, <Verdict>-at if at < 0 else ACK)
            dirty = True
            continue
        p.tunnel = w.receive[p.buffer].tunnel
        p.slot = slot_of(w.table, <uint16_t>p.tunnel, h.call)
        p.length = <uint32_t>at + h.length
        p.sequence_bits = 32
        p.sequence = h.sequence
        forward(p, at)
        if p.slot != slot:
            slot = p.slot
            prefetch_up(&w.table.sessions[slot])
    return dirty


cdef bint pull_all_pppoe(Worker* w, Listener* l) noexcept nogil:
    """True: some packets ended here. A frame has a buffer of its own, whose path learns who sent it."""
    cdef int i, at
    cdef Packet* p
    cdef Pppoe h
    cdef Receive* r
    cdef uint32_t slot = 0
    cdef bint dirty = False
    for i in range(w.count):
        p = &w.batch[i]
        r = &w.receive[p.buffer]
        at = pull_pppoe(p.data, p.length, r.tpid, r.tci, &h)
        if at <= 0:
            drop(w, p, <Verdict>-at if at else DROP_VERSION)
            dirty = True
            continue
        memcpy(r.path.peer, h.station, STATION)
        if h.ethertype == ETHERTYPE_DISCOVERY:
            discover(w, l, p.data, at, &h, &r.path)
            p.verdict = UP
            dirty = True
            continue
        if h.code or memcmp(p.data, l.path.local + NETWORK, MAC):
            drop(w, p, DROP_VERSION if h.code else DROP_PEER)
            dirty = True
            continue
        p.tunnel = network_hash(h.station, l.path.port)
        p.slot = slot_of(w.table, <uint16_t>p.tunnel, h.session)
        if p.slot != slot:
            slot = p.slot
            prefetch_up(&w.table.sessions[slot])
            if load_acquire8(&w.table.sessions[slot].state) in (FREE, RETIRED):
                tell(w, l, &h)          # find_sessions drops it
        p.length = h.length
        p.sequence_bits = 0
        forward(p, at)
    return dirty


cdef void find_sessions(Worker* w, uint8_t kind) noexcept nogil:
    cdef int i
    cdef Packet* p
    cdef Session* s
    cdef Receive* r
    cdef bint dirty = False
    for i in range(w.count):
        p = &w.batch[i]
        if i and p.slot == w.batch[i - 1].slot and p.buffer == w.batch[i - 1].buffer and p.tunnel == w.batch[i - 1].tunnel \
                and w.batch[i - 1].verdict == PASS:
            p.session = w.batch[i - 1].session
            p.config = w.batch[i - 1].config
            continue
        s = &w.table.sessions[p.slot]
        r = &w.receive[p.buffer]
        if load_acquire8(&s.state) in (FREE, RETIRED) or p.slot & 0xFFFF == 0:
            drop(w, p, DROP_NO_SESSION)
            dirty = True
        elif s.kind != kind or s.tunnel != p.tunnel or not same_peer(&s.path, &r.path):
            drop(w, p, DROP_PEER)
            dirty = True
        else:
            p.session = s
            p.config = config_of(s)
            prefetch(p.config)
            if s.owner != w.index:
                hand_up(w, p, s, r)
                dirty = True
    if dirty:
        squeeze(w)


cdef void hand_up(Worker* w, Packet* p, Session* s, Receive* r) noexcept nogil:
    """Give a packet to the worker that owns its session; its buffer is lent until that worker is done."""
    cdef uint32_t* refs = &w.buffer_loans[p.buffer].refs
    if r.segment >= r.length and p.length <= CELL:
        refs = copy_to_cell(w, p)
    elif p.buffer >= BUFFERS - RECEIVES:        # the last free ones are for receiving
        refs = NULL
    drop(w, p, HANDED if refs != NULL and lend(w, p, refs, s, 0) else DROP_RING)


cdef uint32_t* copy_to_cell(Worker* w, Packet* p) noexcept nogil:
    """Move a lone datagram into the next cell; return the cell's count, or NULL when it is still lent."""
    cdef uint8_t* cell
    w.cell = (w.cell + 1) % CELLS
    if load_acquire32(&w.cell_refs[w.cell]) != 0:
        return NULL
    cell = w.cells + <size_t>w.cell * CELL
    memcpy(cell, p.data, p.length)
    p.data = cell
    return &w.cell_refs[w.cell]


cdef void up_handed(Worker* w) noexcept nogil:
    """Packets that other workers received for sessions of ours, already in the batch."""
    after_decap(w)
    enter(w, STAGE_RING, 0)
    punt_out(w)
    if w.spent:
        free_spent(w)
    w.count = 0


cdef void link(Worker* w) noexcept nogil:
    """Take PPP's header off: user data of an open link goes on. Budget: 2 ns a packet."""
    cdef int i, at
    cdef Packet* p
    cdef Session* s
    cdef bint dirty = False, open
    for i in range(w.count):
        p = &w.batch[i]
        s = p.session
        if p.length >= 4 and load32(p.data) == 0xFF030021U:
            p.protocol = PPP_IP
            forward(p, 4)
        else:
            at = pull_ppp(p.data, p.length, &p.protocol)
            if at < 0:
                drop(w, p, DROP_SHORT)
                dirty = True
                continue
            forward(p, at)
        s.last_rx = w.tick
        open = load_acquire8(&s.state) == OPEN
        if p.protocol == PPP_IP and open and p.config.flags & (CONFIG_IP | CONFIG_REQUIRE) == CONFIG_IP:
            continue
        if p.protocol == PPP_IPV6 and open and p.config.flags & (CONFIG_IPV6 | CONFIG_REQUIRE) == CONFIG_IPV6:
            continue
        if p.protocol == PPP_COMP and open and p.config.flags & CONFIG_DECRYPT:
            w.encrypted += 1
            continue
        dirty = True
        if p.protocol == PPP_IP or p.protocol == PPP_IPV6:
            drop(w, p, DROP_CLEAR if open and p.config.flags & CONFIG_REQUIRE else DROP_NOT_OPEN)
        elif p.protocol == PPP_COMP:
            drop(w, p, DROP_CIPHER if open else DROP_NOT_OPEN)
        elif p.protocol == PPP_LCP and open and answer_echo(w, p):
            p.verdict = UP
        else:
            punt_ppp(w, p.data, p.length, p.slot, s, p.protocol)
            p.verdict = UP
    if dirty:
        squeeze(w)


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
