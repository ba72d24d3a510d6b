"""The join stage; join.pxd says by what rules."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from .bundle cimport BUNDLE_SHORT_RX, JOIN_WINDOW, LINKS, Bundle, Heard, Member, Members
from .cells cimport by_age, forget, settle_cell, take_cell
from .decap cimport copy_to_cell, squeeze
from .multilink cimport MP_BEGIN, MP_END, MP_WHOLE, number_ahead, pull_fragment
from .packet cimport (DROP_BEGIN, DROP_END, DROP_LATE, DROP_LOST, DROP_MRRU, DROP_NO_SESSION, DROP_NOT_OPEN, DROP_OVERDUE, DROP_RING,
                      DROP_SHORT, DROP_WAITS, HANDED, JOINED, Packet, Verdict, forward)
from .port cimport count, drop
from .ppp cimport PPP_BRIDGED, PPP_COMP, PPP_IP, PPP_IPV6, PPP_MP, pull_ppp
from .ring cimport WAY_JOIN, lend
from .sys cimport load_acquire8, load_acquire32
from .table cimport FREE, RETIRED, Session, config_of
from .up cimport passes
from .worker cimport BATCH, CELL, JOIN_ROOM, WAITS, Wait, Worker

cdef enum:
    PPP_HEADER = 4            # octets in front of an Information field, at most
    FAIR = 8                  # fragments that a bundle may keep also when three quarters of all cells are in use
    CE = 3                    # congestion experienced, in a TOS octet


cdef inline Members* members_of(Bundle* b) noexcept nogil:
    return &b.members[load_acquire8(&b.active) & 1]


cdef Gone to_bundle(Worker* w, Packet* p) noexcept nogil:
    """What a link received, PPP's header taken off: user data and fragments are its bundle's. Budget: 10 ns; 60 ns where another
    worker owns the bundle, most of it the copy."""
    cdef Session* s = p.session
    cdef uint32_t slot = load_acquire32(&s.bundle)
    cdef Session* t = &w.table.sessions[slot]
    cdef Member* m
    cdef uint32_t* refs
    cdef uint8_t place = s.place % LINKS
    if slot == 0 or p.protocol not in (PPP_MP, PPP_IP, PPP_IPV6, PPP_BRIDGED, PPP_COMP):
        return NOT_THE_BUNDLES
    m = &members_of(&w.table.bundles[slot]).member[place]
    if load_acquire8(&t.state) in (FREE, RETIRED) or m.slot != p.slot or m.generation != s.generation:
        drop(w, p, DROP_NOT_OPEN)
        return ENDED
    if t != s:
        s.rx_packets += 1
        s.rx_bytes += p.length
    if not s.attached:
        s.attached = 1
    p.place = place
    p.tunnel = p.slot                   # the link, for who looks at its place
    p.slot, p.session, p.config = slot, t, config_of(t)
    if t.owner != w.index:
        refs = copy_to_cell(w, p) if p.length <= CELL else NULL
        drop(w, p, HANDED if refs != NULL and lend(w, p, refs, t, WAY_JOIN) else DROP_RING)
        return ENDED
    if p.protocol == PPP_MP:
        w.fragments += 1
    return GOES_ON


cdef inline void hear(Bundle* b, const Members* m, const Packet* p, uint32_t number) noexcept nogil:
    """A link has sent this number; what it sends after is larger."""
    cdef Heard* h = &b.heard[p.place]
    h.slot, h.generation = p.tunnel, m.member[p.place].generation
    h.last, h.heard = number, True


cdef bint unpack(Worker* w, Packet* p) noexcept nogil:
    """Take PPP's header off a whole packet. True: it is user data, and goes on."""
    cdef int at
    if p.length == 0:                   # a null fragment (RFC 1990 section 4.2)
        drop(w, p, JOINED)
        return False
    at = pull_ppp(p.data, p.length, &p.protocol)
    if at < 0:
        drop(w, p, DROP_SHORT)
        return False
    forward(p, at)
    return passes(w, p)


cdef inline bint straight(Bundle* b, Packet* p) noexcept nogil:
    """Whether a fragment is whole and the next one, and nothing waits; then its header is off."""
    cdef const Members* m = members_of(b)
    cdef uint8_t flags
    cdef uint32_t number
    cdef bint short = m.flags & BUNDLE_SHORT_RX
    cdef int at = pull_fragment(p.data, p.length, short, &flags, &number)
    if (at == 0 or flags != MP_WHOLE or b.waits or not b.started or number_ahead(number, b.next, short)
            or p.length > <uint32_t>(m.mrru + PPP_HEADER) or m.member[p.place].slot != p.tunnel):
        return False
    hear(b, m, p, b.next)
    b.next += 1
    b.scan = b.next
    b.lates = 0
    forward(p, at)
    return True


cdef void join(Worker* w) noexcept nogil:
    """Fragments of the batch: in place as long as they are whole and in order; from the first that is not, the rest of the batch goes by
    `join_rest`. Budget: 12 ns a fragment that is whole; 60 ns any other, and its copy."""
    cdef int i
    cdef Packet* p
    cdef bint dirty = False
    if w.fragments == 0:
        return
    w.fragments = 0
    w.pieces_at = w.pieces_count = 0
    for i in range(w.count):
        p = &w.batch[i]
        if p.protocol != PPP_MP:
            continue
        if not straight(&w.table.bundles[p.slot], p):
            w.pieces_count = w.count - i
            memcpy(w.pieces, p, w.pieces_count * sizeof(Packet))
            w.count = i
            break
        if not unpack(w, p):
            dirty = True
    if dirty:
        squeeze(w)
    join_rest(w)


cdef void join_rest(Worker* w) noexcept nogil:
    """Put on with what was set aside, as far as the batch and the room for packets have place for it and what it completes. The caller
    carries the batch through, and comes back while there is more."""
    cdef Packet* p
    cdef Bundle* b
    cdef int i
    while w.pieces_at < w.pieces_count:
        p = &w.pieces[w.pieces_at]
        if p.protocol == PPP_MP:
            b = &w.table.bundles[p.slot]
            if not has_room(w, b):
                return
            accept(w, b, p)
        else:
            if w.count == BATCH:
                return
            w.batch[w.count] = p[0]
            w.count += 1
            if p.protocol == PPP_COMP:
                w.encrypted += 1
            elif p.protocol == PPP_BRIDGED:
                w.bridged += 1
        w.pieces_at += 1
    for i in range(w.lies):             # the receive buffer is another datagram's soon
        if w.waits[w.lying[i]].lies:
            settle_cell(w, w.lying[i])
    w.lies = 0


cdef inline bint has_room(const Worker* w, const Bundle* b) noexcept nogil:
    """For all that one fragment may complete."""
    return w.count + b.waits < BATCH and w.joined_used + (<size_t>b.waits + 1) * CELL <= JOIN_ROOM


cdef void accept(Worker* w, Bundle* b, Packet* p) noexcept nogil:
    """One fragment. Budget: 60 ns."""
    cdef const Members* m = members_of(b)
    cdef bint short = m.flags & BUNDLE_SHORT_RX
    cdef uint8_t flags
    cdef uint32_t number, at
    cdef int32_t ahead
    cdef int header = pull_fragment(p.data, p.length, short, &flags, &number)
    if header == 0:
        drop(w, p, DROP_SHORT)
        return
    if m.member[p.place].slot != p.tunnel:          # it has left since
        drop(w, p, DROP_NOT_OPEN)
        return
    forward(p, header)
    if not b.started:
        b.started = True
        b.next = b.scan = 0 if number < JOIN_WINDOW else number
    ahead = number_ahead(number, b.next, short)
    if ahead < 0:
        b.lates += 1
        if b.lates <= JOIN_WINDOW:
            drop(w, p, DROP_LATE)
            return
        drop_run(w, b, b.next, b.next + JOIN_WINDOW, DROP_LOST)
        b.next = b.scan = number
        memset(b.heard, 0, sizeof(b.heard))
        b.gathered = 0
        ahead = 0
    b.lates = 0
    number = b.next + ahead
    hear(b, m, p, number)
    if ahead >= JOIN_WINDOW:
        release(w, b, p.session, m, number - JOIN_WINDOW, DROP_LOST)
        if number - b.next >= JOIN_WINDOW:          # a packet that goes on for longer
            drop_run(w, b, b.next, number - JOIN_WINDOW + 1, DROP_LOST)
    if number == b.next and b.waits == 0 and flags == MP_WHOLE and p.length <= <uint32_t>(m.mrru + PPP_HEADER):
        b.next += 1
        b.scan = b.next
        w.batch[w.count] = p[0]
        go_on(w, p.session)
        return
    at = number % JOIN_WINDOW
    if b.window[at]:
        drop(w, p, DROP_LATE)
        return
    b.window[at] = wait(w, b, p, flags, number)
    if b.window[at]:
        b.waits += 1
    release(w, b, p.session, m, minimum(b, m), DROP_LOST)


cdef inline uint16_t wait(Worker* w, const Bundle* b, Packet* p, uint8_t flags, uint32_t number) noexcept nogil:
    """Take a cell for a fragment, which for now lies where it was received. 0: there is none for it."""
    cdef uint32_t at = 0
    cdef Wait* c
    if p.length <= CELL and (w.waits_out < WAITS // 4 * 3 or b.waits < FAIR):
        at = take_cell(w)
    if at == 0:
        drop(w, p, DROP_WAITS)
        return 0
    c = &w.waits[at]
    c.packet = p[0]
    c.packet.flags = flags
    c.sequence, c.generation, c.next = number, p.session.generation, 0
    by_age(w, &w.joining, at)
    c.lies = True
    w.lying[w.lies] = <uint16_t>at
    w.lies += 1
    return <uint16_t>at


cdef inline uint32_t minimum(const Bundle* b, const Members* m) noexcept nogil:
    """Up to this number nothing more comes: the smallest of the last ones of the links. A link that has sent nothing yet holds
    all back; one that did not while others were waited for in vain, none."""
    cdef uint32_t least = b.next + JOIN_WINDOW
    cdef const Heard* h
    cdef int i
    for i in range(m.places):
        if m.member[i].slot == 0:
            continue
        h = &b.heard[i]
        if h.slot != m.member[i].slot or h.generation != m.member[i].generation:
            return b.next - 1
        if h.heard and <int32_t>(h.last - least) < 0:
            least = h.last
    return least


cdef void release(Worker* w, Bundle* b, Session* s, const Members* m, uint32_t lost, Verdict reason) noexcept nogil:
    """Let go what is complete, and what cannot be any more because numbers up to `lost` that are missing do not come. Each turn
    passes a number of the window, or drops what is before it."""
    cdef uint32_t at
    cdef Wait* c
    while b.waits:
        at = b.window[b.scan % JOIN_WINDOW]
        if b.scan - b.next == JOIN_WINDOW:              # and no end
            drop_run(w, b, b.next, b.scan, DROP_MRRU)
            continue
        if at == 0:
            if <int32_t>(b.scan - lost) > 0:
                return
            drop_run(w, b, b.next, b.scan + 1, reason)
            continue
        c = &w.waits[at]
        if c.packet.flags & MP_BEGIN and b.scan != b.next:
            drop_run(w, b, b.next, b.scan, DROP_END)
        elif not c.packet.flags & MP_BEGIN and b.scan == b.next:
            drop_run(w, b, b.next, b.scan + 1, DROP_BEGIN)
        else:
            b.gathered += c.packet.length
            b.scan += 1
            if b.gathered > <uint32_t>(m.mrru + PPP_HEADER):
                drop_run(w, b, b.next, b.scan, DROP_MRRU)
            elif c.packet.flags & MP_END:
                put_together(w, b, s)
    if <int32_t>(lost - b.next) >= 0:
        b.next = b.scan = lost + 1


cdef void drop_run(Worker* w, Bundle* b, uint32_t first, uint32_t end, Verdict reason) noexcept nogil:
    """Give up the numbers from `first`, the next one, to before `end`, of which some may be missing."""
    cdef uint32_t at
    while first != end:
        at = b.window[first % JOIN_WINDOW]
        if at:
            discard(w, b, at)
            count(w, reason, 1)
        first += 1
    b.next = b.scan = end
    b.gathered = 0


cdef inline void discard(Worker* w, Bundle* b, uint32_t at) noexcept nogil:
    """Take a fragment out of the window."""
    b.window[w.waits[at].sequence % JOIN_WINDOW] = 0
    b.waits -= 1
    w.waits[at].lies = False
    forget(w, &w.joining, at)


cdef inline void go_on(Worker* w, Session* s) noexcept nogil:
    """The packet behind the batch is whole."""
    cdef Packet* p = &w.batch[w.count]
    p.config = config_of(s)
    if unpack(w, p):
        w.count += 1


cdef void put_together(Worker* w, Bundle* b, Session* s) noexcept nogil:
    """The numbers from next to scan are a packet. It lies where its only fragment does, or in the worker's room for packets."""
    cdef Packet* p = &w.batch[w.count]
    cdef uint32_t number = b.next, at = b.window[number % JOIN_WINDOW]
    cdef uint8_t* to = w.joined + w.joined_used
    cdef Packet* part
    p[0] = w.waits[at].packet
    p.flags = 0
    if b.scan - b.next == 1:
        discard(w, b, at)
    else:
        p.data, p.length = to, b.gathered
        count(w, JOINED, b.scan - b.next - 1)
        while number != b.scan:
            at = b.window[number % JOIN_WINDOW]
            part = &w.waits[at].packet
            memcpy(to, part.data, part.length)
            to += part.length
            if part.outer_tos & CE == CE:
                p.outer_tos |= CE
            discard(w, b, at)
            number += 1
        w.joined_used += (b.gathered + 63) & ~<uint32_t>63
    b.next = b.scan
    b.gathered = 0
    go_on(w, s)


cdef void join_due(Worker* w) noexcept nogil:
    """What has waited long enough waits no longer: what is missing before it is lost, and behind it what its packet still lacks."""
    cdef uint32_t at
    cdef Wait* c
    cdef Session* s
    cdef Bundle* b
    while w.joining.oldest and w.now_ns - w.waits[w.joining.oldest].since >= w.join_ns:
        at = w.joining.oldest
        c = &w.waits[at]
        s = c.packet.session
        b = &w.table.bundles[c.packet.slot]
        w.slot = c.packet.slot
        if s.generation != c.generation:
            forget(w, &w.joining, at)
            count(w, DROP_NO_SESSION, 1)
        elif load_acquire8(&s.state) in (FREE, RETIRED):
            discard(w, b, at)
            count(w, DROP_NO_SESSION, 1)
        elif not has_room(w, b):
            break
        else:
            pass_over(b, members_of(b), c.sequence)
            release(w, b, s, members_of(b), c.sequence, DROP_OVERDUE)
            if b.window[c.sequence % JOIN_WINDOW] == at:
                release(w, b, s, members_of(b), b.scan, DROP_OVERDUE)
    w.slot = 0


cdef void pass_over(Bundle* b, const Members* m, uint32_t number) noexcept nogil:
    """A link that has sent nothing since before this number says nothing of what is lost, until it is heard again."""
    cdef Heard* h
    cdef int i
    for i in range(LINKS):
        h = &b.heard[i]
        if m.member[i].slot and (h.slot != m.member[i].slot or h.generation != m.member[i].generation
                                 or <int32_t>(h.last - number) < 0):
            h.slot, h.generation, h.heard = m.member[i].slot, m.member[i].generation, False
