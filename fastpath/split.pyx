"""The split stage; split.pxd says by what rules."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .bundle cimport BUNDLE_SHORT_TX, LINKS, Bundle, Member, Members
from .bytes cimport store16
from .decap cimport free_cell
from .encap cimport push_frame, push_template
from .mppe cimport mppe_run
from .multilink cimport MP_BEGIN, MP_END, MP_LONG, MP_SHORT, push_fragment
from .packet cimport DROP_LINK, DROP_RING, Packet
from .port cimport count, full, push, scratch, transmit
from .ppp cimport PPP_MP
from .ring cimport WAY_LINK, lend
from .sys cimport load_acquire8
from .table cimport CONFIG_ENCRYPT, FREE, RETIRED, TEMPLATE, Config, Session, config_of
from .worker cimport CELL, HEADROOM, Worker

cdef enum:
    PROTOCOL = 2              # octets of PPP's protocol field, which is part of what is cut
    PATIENCE = 20             # ticks that a link's peer has to show itself; who says nothing may be there all the same


# A packet that is being sent by links.
cdef struct Whole:
    const Config* config      # the bundle's
    uint16_t tos
    uint32_t packets          # 1 when it is to be counted
    uint8_t* block            # `length` octets, with TEMPLATE octets of room in front, then `body_length` at `body`
    size_t length
    const uint8_t* body
    size_t body_length
    bint ready                # its octets are what leaves


cdef inline Session* link_of(Worker* w, const Member* m) noexcept nogil:
    """The session of a link, NULL: it is gone."""
    cdef Session* t = &w.table.sessions[m.slot]
    return NULL if m.slot == 0 or t.generation != m.generation or load_acquire8(&t.state) in (FREE, RETIRED) else t


cdef inline Session* choose(Worker* w, Bundle* b, const Members* m, size_t length) noexcept nogil:
    """Of the links that are sent by the one that has carried least by its rate, NULL: there is none. Budget: 4 ns with two."""
    cdef Session* t
    cdef Session* best = NULL
    cdef int i, place = 0
    if b.tx_version != m.version:       # from now on they are compared
        b.tx_version, b.tx_since, b.tx_open = m.version, w.tick, 0
        memset(b.lag, 0, sizeof(b.lag))
    for i in range(m.places):
        t = link_of(w, &m.member[i])
        if t == NULL or not (b.tx_open >> i & 1 or open_link(w, b, t, i)):
            continue
        if best == NULL or <int64_t>(b.lag[i] - b.lag[place]) < 0:
            best, place = t, i
    if best == NULL:                    # better by one that may be deaf yet than by none
        for i in range(m.places):
            t = link_of(w, &m.member[i])
            if t != NULL:
                return t
    b.lag[place] += length * m.member[place].cost
    return best


cdef bint open_link(Worker* w, Bundle* b, Session* t, int place) noexcept nogil:
    """Whether a link may be sent by from now on. It begins where the one is that has carried least, and has nothing to make up for."""
    cdef uint64_t least = 0
    cdef bint first = True
    cdef int i
    if not t.attached:
        if w.tick - b.tx_since < PATIENCE:
            return False
        t.attached = 1
    for i in range(LINKS):
        if b.tx_open >> i & 1 and (first or <int64_t>(b.lag[i] - least) < 0):
            least, first = b.lag[i], False
    b.lag[place] = least
    b.tx_open |= <uint8_t>(1 << place)
    return True


cdef void split(Worker* w, Session* s, const Config* c, uint16_t tos, uint32_t packets, uint16_t protocol, uint8_t* block, size_t length,
                const uint8_t* body, size_t body_length) noexcept nogil:
    """Send a packet of a bundle: the octets behind its protocol field are the `length` at `block`, with room for all headers in front of
    them, and the others at `body`. The caller has reserved room in Out. Budget: 50 ns a fragment of 1,000 bundles, 70 when each packet is one."""
    cdef Bundle* b = &w.table.bundles[s - w.table.sessions]
    cdef const Members* m = &b.members[load_acquire8(&b.active) & 1]
    cdef Whole p
    p.config, p.tos, p.packets, p.ready = c, tos, packets, not c.flags & CONFIG_ENCRYPT
    p.block, p.length, p.body, p.body_length = block, length, body, body_length
    if m.links == 1 and length + body_length <= m.room:
        send_plain(w, b, m, s, &p, protocol)
        return
    store16(block - PROTOCOL, protocol)
    p.block -= PROTOCOL
    p.length += PROTOCOL
    send_fragments(w, b, m, s, &p)


cdef inline void carried_by(Session* t, const Session* s, size_t length) noexcept nogil:
    """A link's own count of what it carries, unless it is the bundle, whose packets are counted."""
    if t != s:
        t.tx_packets += 1
        t.tx_bytes += length


cdef void send_plain(Worker* w, Bundle* b, const Members* m, Session* s, Whole* p, uint16_t protocol) noexcept nogil:
    """By the only link, as if there was no bundle. Budget: 10 ns."""
    cdef Session* t = choose(w, b, m, p.length + p.body_length)
    cdef uint8_t* head
    if t == NULL:
        count(w, DROP_LINK, p.packets)
    elif t.owner != w.index:
        if not send_over(w, p, t, protocol, 0, 0, 0, p.length + p.body_length, p.packets):
            count(w, DROP_RING, p.packets)
    else:
        if protocol < 0x100:
            head = push_template(p.block, t, config_of(t), False, p.length + p.body_length)
            (p.block - 1)[0] = <uint8_t>protocol
        else:
            head = push_frame(p.block, protocol, t, config_of(t), p.length + p.body_length)
        push(w.out, &t.path, t, p.tos, p.packets, head, <size_t>(p.block - head) + p.length, p.body, p.body_length)
        carried_by(t, s, p.length + p.body_length)


cdef void send_fragments(Worker* w, Bundle* b, const Members* m, Session* s, Whole* p) noexcept nogil:
    """The packet with its protocol field in front. Its block goes into the first fragment whole, when something comes behind it."""
    cdef bint short = m.flags & BUNDLE_SHORT_TX
    cdef size_t header = MP_SHORT if short else MP_LONG
    cdef size_t whole = p.length + p.body_length, room, size, n, part, at = 0
    cdef uint8_t flags = MP_BEGIN
    cdef uint32_t packets = 0
    cdef uint8_t* head
    cdef uint8_t* first
    cdef const uint8_t* piece
    cdef Session* t
    if m.links == 0:
        count(w, DROP_LINK, p.packets)
        return
    room = m.room - header
    n = (whole + room - 1) // room
    size = (whole + n - 1) // n
    if p.body_length and size < p.length:
        size = p.length
    while at < whole:
        n = min(size, whole - at)
        if at + n == whole:
            flags |= MP_END
            packets = p.packets
        t = choose(w, b, m, n + header)
        if t == NULL:
            count(w, DROP_LINK, p.packets)
            return
        if t.owner != w.index:
            if not send_over(w, p, t, PPP_MP, header, <uint32_t>flags << 24 | b.tx_next & 0xFFFFFF, at, n, packets):
                count(w, DROP_RING, p.packets)
                return
        else:
            if at == 0:
                first = p.block - header
                part = min(n, p.length)
                head = push_frame(first, PPP_MP, t, config_of(t), header + n)
                push(w.out, &t.path, t, p.tos, packets, head, <size_t>(first - head) + header + part, p.body, n - part)
            else:
                first = scratch(w.out) + TEMPLATE + 4
                piece = p.body + (at - p.length) if at >= p.length else p.block + at
                head = push_frame(first, PPP_MP, t, config_of(t), header + n)
                push(w.out, &t.path, t, p.tos, packets, head, <size_t>(first - head) + header, piece, n)
            push_fragment(first, short, flags, b.tx_next)
            carried_by(t, s, header + n)
        b.tx_next += 1
        flags = 0
        at += n


cdef bint send_over(Worker* w, Whole* p, Session* t, uint16_t protocol, size_t header, uint32_t number, size_t at, size_t n,
                    uint32_t packets) noexcept nogil:
    """Hand n octets of a packet, from `at` on, to the worker whose link they go by, with a fragment's header in front, or none. False:
    there is no room. Budget: 60 ns, most of it the copy; and what is to be encrypted is no longer side by side with others."""
    cdef Packet out
    cdef uint32_t* refs
    cdef uint8_t* to
    cdef size_t part
    if not p.ready:
        mppe_run(w.ciphers)
        p.ready = True
    memset(&out, 0, sizeof(Packet))
    refs = free_cell(w, &out.data)
    if refs == NULL or HEADROOM + header + n > CELL:
        return False
    out.data += HEADROOM
    out.length = <uint32_t>(header + n)
    if header:
        push_fragment(out.data, header == MP_SHORT, <uint8_t>(number >> 24), number)
    to = out.data + header
    part = 0
    if at < p.length:
        part = min(n, p.length - at)
        memcpy(to, p.block + at, part)
    if n > part:
        memcpy(to + part, p.body + (at + part - p.length), n - part)
    out.slot, out.session = <uint32_t>(t - w.table.sessions), t
    out.protocol, out.outer_tos, out.flags = protocol, <uint8_t>p.tos, <uint8_t>packets
    return lend(w, &out, refs, t, WAY_LINK)


cdef void down_links(Worker* w) noexcept nogil:
    """What bundles of other workers send by links of ours, already in the batch."""
    cdef int i
    cdef Packet* p
    cdef uint8_t* head
    for i in range(w.count):
        p = &w.batch[i]
        if full(w.out):
            transmit(w)
        head = push_frame(p.data, p.protocol, p.session, p.config, p.length)
        push(w.out, &p.session.path, p.session, p.outer_tos, p.flags, head, <size_t>(p.data - head) + p.length, NULL, 0)
        p.session.tx_packets += 1
        p.session.tx_bytes += p.length
    w.count = 0
