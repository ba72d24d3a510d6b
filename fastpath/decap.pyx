"""decap: the tunnel's header off, and the session found; what is not user data goes where it belongs.

The header of each packet of the batch gives a slot, then the record of the slot says whether the packet may be that session's: its
kind, path and tunnel must match. Control messages go to control, discovery is dealt with, another worker's packets go to its ring.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from .checksum cimport word64
from .discovery cimport discover, learn_macs, tell
from .gre cimport GRE_S, Gre, pull_gre
from .l2tp cimport L2TP_S, L2TP_T, L2tp, pull_l2tp
from .packet cimport (ACK, DROP_NO_SESSION, DROP_PEER, DROP_RING, DROP_VERSION, HANDED, KIND_L2TP, KIND_PPPOE, KIND_PPTP, PASS, UP, Packet,
                      Verdict, forward)
from .port cimport drop, same_peer
from .pppoe cimport ETHERTYPE_DISCOVERY, MAC, NETWORK, STATION, Pppoe, pull_pppoe
from .punt cimport punt_l2tp
from .ring cimport WAY_UP, lend
from .sys cimport load_acquire8, load_acquire32, prefetch
from .table cimport FREE, RETIRED, Session, config_of, network_hash, prefetch_up, slot_of
from .worker cimport BUFFERS, CELL, CELLS, PORT_ETHERNET, PORT_GRE, RECEIVES, Listener, Receive, Worker


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
    """True: some packets ended here. A header that is the same as the one before it in its buffer is not read again."""
    cdef int i, at = 0
    cdef Packet* p
    cdef Packet* q = NULL         # the one before, when its header lies in its first eight octets
    cdef L2tp h
    cdef uint32_t slot = 0, size = 0
    cdef uint64_t head = 0
    cdef bint dirty = False
    for i in range(w.count):
        p = &w.batch[i]
        if q != NULL and p.length == size and p.buffer == q.buffer and word64(p.data) == head:
            p.slot, p.tunnel, p.sequence_bits = q.slot, q.tunnel, 0
            p.data += at
            p.length = q.length
            q = p
            continue
        q = NULL
        size = p.length
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
        if at <= 8 and size >= 8:
            q = p
            head = word64(p.data)
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
    learn_macs(w)
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
    cdef Packet* q = NULL         # the one before, when it goes on
    cdef Session* s
    cdef Receive* r
    cdef bint dirty = False
    for i in range(w.count):
        p = &w.batch[i]
        if q != NULL and p.slot == q.slot and p.buffer == q.buffer and p.tunnel == q.tunnel:
            p.session = q.session
            p.config = q.config
            q = p
            continue
        q = NULL
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
            else:
                q = p
    if dirty:
        squeeze(w)


cdef void hand_up(Worker* w, Packet* p, Session* s, Receive* r) noexcept nogil:
    """Give a packet to the worker that owns its session; its buffer is lent until that worker is done."""
    cdef uint32_t* refs = &w.buffer_loans[p.buffer].refs
    if r.segment >= r.length and p.length <= CELL:
        refs = copy_to_cell(w, p)
    elif p.buffer >= BUFFERS - RECEIVES:        # the last free ones are for receiving
        refs = NULL
    drop(w, p, HANDED if refs != NULL and lend(w, p, refs, s, WAY_UP) else DROP_RING)


cdef uint32_t* free_cell(Worker* w, uint8_t** cell) noexcept nogil:
    """The next cell and its count, or NULL when it is still lent."""
    w.cell = (w.cell + 1) % CELLS
    if load_acquire32(&w.cell_refs[w.cell]) != 0:
        return NULL
    cell[0] = w.cells + <size_t>w.cell * CELL
    return &w.cell_refs[w.cell]


cdef uint32_t* copy_to_cell(Worker* w, Packet* p) noexcept nogil:
    """Move a lone datagram into the next cell; return the cell's count, or NULL when it is still lent."""
    cdef uint8_t* cell
    cdef uint32_t* refs = free_cell(w, &cell)
    if refs != NULL:
        memcpy(cell, p.data, p.length)
        p.data = cell
    return refs


cdef void squeeze(Worker* w) noexcept nogil:
    """Keep only what is still on its way, in order."""
    cdef int i, kept = 0
    for i in range(w.count):
        if w.batch[i].verdict == PASS:
            if kept != i:
                w.batch[kept] = w.batch[i]
            kept += 1
    w.count = kept
