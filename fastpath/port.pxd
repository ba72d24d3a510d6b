"""The wire side's sockets, UDP and raw: what waits to be sent, batched reads and grouped sends.

`push` puts one datagram into Out; `transmit` sends all of them. Pieces stay where they are until then.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from .checksum cimport word64
from .packet cimport DOWN, DROP_WIRE, Packet, Verdict
from .sys cimport iovec
from .table cimport Path, Session
from .worker cimport SCRATCH, SEGMENTS, Listener, Out, Segment, Worker


cdef inline void count(Worker* w, Verdict v, uint64_t n) noexcept nogil:
    w.verdicts[<int>v] += n


cdef inline void drop(Worker* w, Packet* p, Verdict v) noexcept nogil:
    p.verdict = v
    count(w, v, 1)


cdef inline uint8_t* scratch(Out* out) noexcept nogil:
    """SCRATCH octets for the next datagram's headers."""
    return out.scratch[out.count]


cdef inline bint full(Out* out) noexcept nogil:
    return out.count >= SEGMENTS


cdef inline Segment* push(Out* out, Path* path, Session* session, uint16_t tos, uint32_t packets,
                          void* head, size_t head_length, const void* body, size_t body_length) noexcept nogil:
    """Queue one datagram of one or two pieces; the caller made sure that Out is not full."""
    cdef Segment* s = &out.segments[out.count]
    cdef iovec* v = &out.iov[out.iovs]
    s.path = path
    s.session = session
    s.tos = tos
    s.packets = packets
    s.size = <uint32_t>(head_length + body_length)
    s.iov = out.iovs
    v[0].iov_base = head
    v[0].iov_len = head_length
    s.pieces = 1
    if body_length:
        v[1].iov_base = <void*>body
        v[1].iov_len = body_length
        s.pieces = 2
    out.iovs += s.pieces
    out.count += 1
    return s


cdef inline bint same_path(const Path* a, const Path* b) noexcept nogil:
    return a == b or memcmp(a, b, sizeof(Path)) == 0


cdef inline bint same_peer(const Path* a, const Path* b) noexcept nogil:
    return word64(a.peer) == word64(b.peer) and word64(a.peer + 8) == word64(b.peer + 8) and a.peer_port == b.peer_port


cdef inline void counted(Worker* w, const Segment* s, int n, bint sent) noexcept nogil:
    """What became of the n datagrams from s on."""
    cdef int i
    cdef uint64_t packets = 0
    for i in range(n):
        packets += s[i].packets
    count(w, DOWN if sent else DROP_WIRE, packets)


cdef int receive(Worker* w, Listener* l) noexcept nogil
cdef void transmit(Worker* w) noexcept nogil
cdef void prepare(Worker* w) noexcept nogil
