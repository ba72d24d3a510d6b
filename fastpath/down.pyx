"""down: collect -> route -> cut and encap -> transmit.

collect   super-packets and packets from the inner port, side by side in an arena
route     inner destination -> session; too large: answered, or marked to be cut into IP fragments
cut       a super-packet becomes segments: headers in scratch space, payload where it lies
encap     the session's template in front, lengths and Ns patched; a bundle's packets in split.pyx
transmit  in port.pyx: grouped, sent
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .bytes cimport load16, load_key
from .cut cimport Cutter, cut_begin, cut_next, finish_checksum
from .encap cimport push_template
from .encrypt cimport cipher_of, push_encrypted, room
from .fragment cimport Fragmenter, fragment_begin, fragment_next
from .icmp cimport icmp_too_big
from .ip cimport IP4_DESTINATION, IP4_TOS, IP6_DESTINATION, TCP_HEADER, read_headers
from .mss cimport clamp_mss
from .packet cimport (DROP_CLEAR, DROP_IP, DROP_NO_ROUTE, DROP_NOT_OPEN, DROP_RING, DROP_SCOPE, DROP_SEGMENT, DROP_TOO_BIG, FLAG_CSUM,
                      FLAG_DF, FLAG_V6, FRAGMENTED, HANDED, PASS, TOO_BIG, Packet)
from .port cimport count, drop, full, push, scratch, transmit
from .ppp cimport PPP_IP, PPP_IPV6
from .ring cimport WAY_DOWN, lend
from .scope cimport of_link
from .split cimport reserve, split
from .stage cimport STAGE_COLLECT, STAGE_ENCAP, STAGE_LOOP, STAGE_RING, STAGE_ROUTE, carried, enter, in_kernel, out_of_kernel
from .sys cimport (VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, iovec, load_acquire8, load_acquire32, poison, prefetch, read,
                   unpoison, virtio_net_hdr, writev)
from .table cimport (CONFIG_BUNDLE, CONFIG_CLAMP_MSS, CONFIG_COPY_DSCP, CONFIG_ENCRYPT, CONFIG_IP, CONFIG_REQUIRE, OPEN, TEMPLATE, Config, Session,
                     by_address, config_of, prefetch_address, prefetch_down)
from .worker cimport ARENA, ARENAS, HEADROOM, Worker

cdef enum:
    COLLECT = 256             # packets of one pass
    SUPER = 65536             # the largest read
    ROOM = HEADROOM + SUPER
    ENOUGH = 131072           # octets after which a pass reads no more
    IPPROTO_TCP = 6
    ICMP_ROOM = 1400
    WHOLE = 2048              # room for a segment that must be cut into fragments


cdef int down(Worker* w) noexcept nogil:
    """Read what the inner port has, up to a pass's worth, and queue it for the wire. Return how many packets were read."""
    cdef int n
    enter(w, STAGE_COLLECT, 0)
    n = collect(w)
    if n:
        carried(w, STAGE_COLLECT, n)
        enter(w, STAGE_ROUTE, n)
        route(w)
        enter(w, STAGE_ENCAP, n)
        encap(w)
        w.count = 0
    enter(w, STAGE_LOOP, 0)
    return n


cdef bint choose_arena(Worker* w) noexcept nogil:
    """Where to read next: an arena that no other worker holds a packet of, or behind what is lent in this one, so that
    many small passes cost no more arenas than their octets need."""
    cdef int i
    if w.workers == 1:
        return True
    if w.arena < ARENAS - 1:                    # the last one is never lent: it is left as soon as another is free
        if load_acquire32(&w.arena_loans[w.arena].refs) == 0:
            w.arena_used = 0
            return True
        if w.arena_used + ROOM <= ARENA:
            return True
    for i in range(ARENAS):
        if load_acquire32(&w.arena_loans[i].refs) == 0:
            w.arena = i
            w.arena_used = 0
            return True
    return False


cdef int collect(Worker* w) noexcept nogil:
    """Read until the port is empty or a pass is full. Budget: 20 ns a read, besides the kernel's part."""
    cdef uint8_t* base
    cdef uint8_t* at
    cdef size_t used = 0
    cdef uint64_t since
    cdef ssize_t n
    cdef Packet* p
    cdef virtio_net_hdr* v
    cdef int most = min(<int>COLLECT, w.room)
    w.count = 0
    w.drained = 1
    if not choose_arena(w):
        return 0
    base = w.arenas + <size_t>w.arena * ARENA + w.arena_used
    while w.count < most and used < ENOUGH and w.arena_used + used + ROOM <= ARENA:
        at = base + used + HEADROOM
        v = <virtio_net_hdr*>(at - sizeof(virtio_net_hdr))
        unpoison(base + used, HEADROOM + SUPER)
        since = in_kernel(w)
        n = read(w.tun, v, SUPER + sizeof(virtio_net_hdr))
        out_of_kernel(w, since)
        if n <= <ssize_t>sizeof(virtio_net_hdr):
            break
        p = &w.batch[w.count]
        p.data = at
        p.length = <uint32_t>(n - sizeof(virtio_net_hdr))
        poison(at + p.length, SUPER - p.length)
        p.segment_size = 0
        p.flags = 0
        p.verdict = PASS
        p.csum_start = v.csum_start
        p.csum_offset = v.csum_offset
        if v.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
            p.flags = FLAG_CSUM
        if v.gso_type != VIRTIO_NET_HDR_GSO_NONE:
            p.segment_size = v.gso_size
            w.record.super_in += 1
        w.count += 1
        used += (HEADROOM + p.length + 63) & ~<size_t>63
    else:
        w.drained = 0
    if w.workers > 1:
        w.arena_used += <uint32_t>used
    w.record.packets_down += w.count
    w.record.reads += w.count
    return w.count


cdef void route(Worker* w) noexcept nogil:
    """Inner destination -> session. Three passes: the index, the record, the decision; so that memory is asked for ahead.
    Budget: 12 ns a packet, 25 ns with 60,000 sessions in random order, 50 ns when their records are in no cache at all."""
    cdef int i
    cdef Packet* p
    cdef Session* s
    cdef uint64_t keys[COLLECT][2]
    for i in range(w.count):
        p = &w.batch[i]
        p.slot = 0
        if not read_headers(p):
            drop(w, p, DROP_IP)
            continue
        if p.flags & FLAG_V6:
            load_key(p.data + IP6_DESTINATION, True, keys[i])
            if keys[i][0] == 0 or of_link(p.data):
                drop(w, p, DROP_SCOPE)
                continue
            p.outer_tos = <uint8_t>(load16(p.data) >> 4)
        else:
            load_key(p.data + IP4_DESTINATION, False, keys[i])
            p.outer_tos = p.data[IP4_TOS]
        if i == 0 or keys[i][1] != keys[i - 1][1] or keys[i][0] != keys[i - 1][0]:
            prefetch_address(w.table, keys[i])
    for i in range(w.count):
        p = &w.batch[i]
        if p.verdict != PASS:
            continue
        if i and w.batch[i - 1].slot and keys[i][1] == keys[i - 1][1] and keys[i][0] == keys[i - 1][0]:
            p.slot = w.batch[i - 1].slot
            continue
        p.slot = by_address(w.table, keys[i])
        if p.slot == 0:
            drop(w, p, DROP_NO_ROUTE)
            continue
        prefetch_down(&w.table.sessions[p.slot])
    for i in range(w.count):
        p = &w.batch[i]
        if p.verdict != PASS:
            continue
        s = &w.table.sessions[p.slot]
        p.session = s
        if load_acquire8(&s.state) != OPEN:
            drop(w, p, DROP_NOT_OPEN)
        elif s.owner != w.index:
            drop(w, p, HANDED if w.arena < ARENAS - 1 and lend(w, p, &w.arena_loans[w.arena].refs, s, WAY_DOWN) else DROP_RING)
        else:
            p.config = config_of(s)
            prefetch(p.config)


cdef inline uint32_t segment_length(const Packet* p) noexcept nogil:
    """Octets of the largest IP packet that this becomes: of its first segment, when it is a super-packet."""
    cdef uint32_t headers
    if p.segment_size == 0 or p.length < <uint32_t>(p.ip_length + TCP_HEADER):
        return p.length
    headers = p.ip_length + (8 if p.transport != IPPROTO_TCP else (p.data[p.ip_length + 12] >> 4) * 4)
    return headers + p.segment_size if headers + p.segment_size < p.length else p.length


cdef void encap(Worker* w) noexcept nogil:
    """Cut and encapsulate what routes to sessions of ours. Budget: 7 ns a packet; a segment 8 ns and its checksum."""
    cdef int i
    cdef Packet* p
    cdef Session* s
    for i in range(w.count):
        p = &w.batch[i]
        if p.verdict != PASS:
            continue
        s = p.session
        if not p.config.flags & CONFIG_IP << (p.flags & FLAG_V6 != 0):         # CONFIG_IPV6 is the bit above
            drop(w, p, DROP_NOT_OPEN)
            continue
        if p.config.flags & (CONFIG_ENCRYPT | CONFIG_REQUIRE) and (
                not p.config.flags & CONFIG_ENCRYPT or cipher_of(w, s, p.config, True) == NULL):
            drop(w, p, DROP_CLEAR)
            continue
        if p.transport == IPPROTO_TCP and p.config.flags & CONFIG_CLAMP_MSS:
            clamp_mss(p, p.config.mss)
        if segment_length(p) > p.config.mtu:
            too_big(w, p)
        elif p.segment_size:
            cut(w, p)
        else:
            if p.flags & FLAG_CSUM:
                finish_checksum(p)
            single(w, p)
        s.last_tx_user = w.tick


cdef inline uint16_t outer_tos(const Packet* p) noexcept nogil:
    """The inner DSCP, or the session's setting; ECN is the inner one (RFC 6040 section 4.1, normal mode)."""
    return p.outer_tos if p.config.flags & CONFIG_COPY_DSCP else p.config.tos | p.outer_tos & 3


cdef inline void single(Worker* w, Packet* p) noexcept nogil:
    """A whole packet: the template goes into the headroom, the datagram is one piece."""
    cdef Config* c = p.config
    cdef Session* s = p.session
    cdef uint8_t* head
    if c.flags & (CONFIG_ENCRYPT | CONFIG_BUNDLE):
        if c.flags & CONFIG_BUNDLE:
            reserve(w, p.length)
        if c.flags & CONFIG_ENCRYPT:
            queue(w, p, outer_tos(p), room(w, p.length), 0, p.data, p.length)
        else:
            queue(w, p, outer_tos(p), p.data, p.length, NULL, 0)
        s.tx_packets += 1
        s.tx_bytes += p.length
        return
    if full(w.out):
        transmit(w)
    head = push_template(p.data, s, c, p.flags & FLAG_V6, p.length)
    push(w.out, &s.path, s, outer_tos(p), 1, head, <size_t>(p.data - head) + p.length, NULL, 0)
    s.tx_packets += 1
    s.tx_bytes += p.length


cdef inline uint8_t* headers(Worker* w, Packet* p) noexcept nogil:
    """Where the headers of the next segment or fragment are put, behind room for the encapsulation."""
    if p.config.flags & (CONFIG_ENCRYPT | CONFIG_BUNDLE):
        if p.config.flags & CONFIG_BUNDLE:
            reserve(w, p.config.mtu)
        if p.config.flags & CONFIG_ENCRYPT:
            return room(w, p.config.mtu)
    if full(w.out):
        transmit(w)
    return scratch(w.out) + TEMPLATE


cdef inline void queue(Worker* w, Packet* p, uint16_t tos, uint8_t* inner, size_t length, const uint8_t* body,
                       size_t body_length) noexcept nogil:
    """A segment or fragment of a packet: `length` octets at `inner`, where `headers` said, and the others at `body`."""
    cdef Session* s = p.session
    cdef uint8_t* head
    cdef uint16_t protocol
    if p.config.flags & (CONFIG_ENCRYPT | CONFIG_BUNDLE):
        protocol = PPP_IPV6 if p.flags & FLAG_V6 else PPP_IP
        if p.config.flags & CONFIG_ENCRYPT:
            push_encrypted(w, s, p.config, tos, 1, protocol, inner, length, body, body_length)
        else:
            split(w, s, p.config, tos, 1, protocol, inner, length, body, body_length)
    else:
        head = push_template(inner, s, p.config, p.flags & FLAG_V6, length + body_length)
        push(w.out, &s.path, s, tos, 1, head, <size_t>(inner - head) + length, body, body_length)


cdef void cut(Worker* w, Packet* p) noexcept nogil:
    """A super-packet: each segment is a header block and a stretch of payload."""
    cdef Cutter c
    cdef Session* s = p.session
    cdef uint16_t tos = outer_tos(p)
    cdef uint8_t* inner
    cdef const uint8_t* payload
    cdef size_t length, payload_length
    cdef int k, n = cut_begin(&c, p)
    if n < 0:
        drop(w, p, DROP_SEGMENT)
        return
    for k in range(n):
        inner = headers(w, p)
        length = cut_next(&c, inner, &payload, &payload_length)
        queue(w, p, tos, inner, length, payload, payload_length)
        s.tx_bytes += length + payload_length
    s.tx_packets += n


cdef void too_big(Worker* w, Packet* p) noexcept nogil:
    """Larger than the session takes: the sender is told, or the packet is cut into IP fragments; never dropped in silence."""
    cdef uint8_t answer[ICMP_ROOM]
    cdef uint8_t gateway[16]
    cdef virtio_net_hdr v
    cdef iovec iov[2]
    cdef int n
    if not p.flags & FLAG_DF:
        fragments(w, p)
        return
    if w.icmp_tokens == 0:
        drop(w, p, DROP_TOO_BIG)
        return
    w.icmp_tokens -= 1
    if p.flags & FLAG_V6:
        memcpy(gateway, p.config.gateway6, 16)
    else:
        memset(gateway, 0, 10)
        memset(gateway + 10, 0xFF, 2)
        memcpy(gateway + 12, p.config.gateway, 4)
    n = icmp_too_big(p, p.config.mtu, gateway, answer, ICMP_ROOM)
    if n <= 0:
        drop(w, p, DROP_TOO_BIG)
        return
    memset(&v, 0, sizeof(v))
    iov[0].iov_base, iov[0].iov_len = &v, sizeof(v)
    iov[1].iov_base, iov[1].iov_len = answer, <size_t>n
    writev(w.tun, iov, 2)
    drop(w, p, TOO_BIG)


cdef void fragments(Worker* w, Packet* p) noexcept nogil:
    """IPv4 with DF clear. A super-packet is cut first; each of its segments then is cut again."""
    cdef Cutter c
    cdef uint8_t whole[WHOLE]
    cdef const uint8_t* payload
    cdef size_t length, payload_length
    cdef int k, n
    if p.segment_size == 0:
        if p.flags & FLAG_CSUM:
            finish_checksum(p)
        send_fragments(w, p, p.data, p.length)
    else:
        n = cut_begin(&c, p)
        if n < 0:
            drop(w, p, DROP_SEGMENT)
            return
        for k in range(n):
            length = cut_next(&c, whole, &payload, &payload_length)
            if length + payload_length > WHOLE:
                drop(w, p, DROP_TOO_BIG)
                return
            memcpy(whole + length, payload, payload_length)
            send_fragments(w, p, whole, length + payload_length)
            transmit(w)               # `whole` is used again
    drop(w, p, FRAGMENTED)


cdef void send_fragments(Worker* w, Packet* p, const uint8_t* ip, size_t n) noexcept nogil:
    cdef Fragmenter f
    cdef Session* s = p.session
    cdef uint8_t* inner
    cdef const uint8_t* payload
    cdef size_t length, payload_length
    cdef int k, pieces = fragment_begin(&f, ip, n, p.config.mtu)
    for k in range(pieces):
        inner = headers(w, p)
        length = fragment_next(&f, inner, &payload, &payload_length)
        queue(w, p, outer_tos(p), inner, length, payload, payload_length)
        s.tx_packets += 1
        s.tx_bytes += length + payload_length


cdef void down_handed(Worker* w) noexcept nogil:
    """Packets that other workers read for sessions of ours, already in the batch."""
    cdef int i
    for i in range(w.count):
        w.batch[i].config = config_of(w.batch[i].session)
    enter(w, STAGE_ENCAP, w.count)
    encap(w)
    enter(w, STAGE_RING, 0)
    w.count = 0
