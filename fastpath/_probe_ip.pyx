"""Doors for tests to the IP work: checksum, ip, ecn, mss, cut, fragment, coalesce, icmp.

Packets are copied into memory of their exact size, and what is written goes into room of the exact size, so that a sanitizer
sees an access that is one octet off.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from .checksum cimport checksum_add, checksum_add_by, checksum_ways, fold
from .coalesce cimport COALESCE_PACKETS, coalesce
from .cut cimport CUT_ROOM, Cutter, cut_begin, cut_next, finish_checksum
from .ecn cimport ecn_decap
from .flows cimport FLOWS_PACKETS, Flows, onward, straight
from .fragment cimport FRAGMENT_ROOM, Fragmenter, fragment_begin, fragment_next
from .icmp cimport icmp_too_big
from .ip cimport read_headers
from .mss cimport clamp_mss
from .packet cimport FLAG_CSUM, Packet
from .sys cimport iovec, virtio_net_hdr


cdef class Held:
    """A packet in memory of its own."""
    cdef Packet packet
    cdef uint8_t* memory

    def __cinit__(self, const uint8_t[::1] octets, uint16_t segment_size=0, uint8_t flags=0):
        self.memory = <uint8_t*>malloc(octets.shape[0] or 1)
        if octets.shape[0]:
            memcpy(self.memory, &octets[0], octets.shape[0])
        self.packet.data = self.memory + (0 if octets.shape[0] else 1)
        self.packet.length = <unsigned int>octets.shape[0]
        self.packet.segment_size = segment_size
        self.packet.flags = flags

    def __dealloc__(self):
        free(self.memory)

    cdef octets(self):
        return (<const char*>self.packet.data)[:self.packet.length]


cdef inline piece(const void* p, size_t n):
    return (<const char*>p)[:n]


def ways():
    """How many implementations of the sum this machine has; 0 is the portable one."""
    return checksum_ways


def checksum(*pieces, way=-1):
    """The folded sum of the pieces, stored; by one implementation, or as the fast path does it."""
    cdef uint64_t sum = 0
    cdef uint16_t folded
    cdef Held held
    for octets in pieces:
        held = Held(octets)
        if way >= 0:
            sum = checksum_add_by(way, sum, held.packet.data, held.packet.length)
        else:
            sum = checksum_add(sum, held.packet.data, held.packet.length)
    folded = fold(sum)
    return piece(&folded, 2)


def headers(octets, flags=0):
    """length, ip_length, transport, flags; or None."""
    cdef Held held = Held(octets, 0, flags)
    if not read_headers(&held.packet):
        return None
    return held.packet.length, held.packet.ip_length, held.packet.transport, held.packet.flags


def clamped(octets, mss, flags=0):
    cdef Held held = Held(octets, 0, flags)
    if not read_headers(&held.packet):
        return None
    clamp_mss(&held.packet, mss)
    return held.octets()


def decapsulated(octets, outer_tos):
    """The packet with the outer ECN field brought in; None: drop it."""
    cdef Held held = Held(octets)
    if not read_headers(&held.packet):
        raise ValueError("not an IP packet")
    return held.octets() if ecn_decap(&held.packet, outer_tos) else None


def cut(octets, segment_size):
    """The segments of a super-packet; None: it cannot be cut."""
    cdef Held held = Held(octets, segment_size)
    cdef Cutter cutter
    cdef uint8_t* out
    cdef const uint8_t* payload
    cdef size_t n, length
    cdef int i, count
    if not read_headers(&held.packet):
        return None
    count = cut_begin(&cutter, &held.packet)
    if count < 0:
        return None
    segments = []
    for i in range(count):
        out = <uint8_t*>malloc(CUT_ROOM)
        n = cut_next(&cutter, out, &payload, &length)
        segments.append(piece(out, n) + piece(payload, length))
        free(out)
    return segments


def finished(octets, csum_start, csum_offset):
    """The packet with its checksum completed; None: it has no room for one there."""
    cdef Held held = Held(octets, 0, FLAG_CSUM)
    held.packet.csum_start = csum_start
    held.packet.csum_offset = csum_offset
    if not finish_checksum(&held.packet):
        return None
    assert held.packet.flags == 0
    return held.octets()


def fragments(octets, mtu):
    """The fragments of an IPv4 packet; None: it must not be fragmented."""
    cdef Held held = Held(octets)
    cdef Fragmenter fragmenter
    cdef uint8_t* out
    cdef const uint8_t* payload
    cdef size_t n, length
    cdef int i, count = fragment_begin(&fragmenter, held.packet.data, held.packet.length, mtu)
    if count < 0:
        return None
    pieces = []
    for i in range(count):
        out = <uint8_t*>malloc(FRAGMENT_ROOM)
        n = fragment_next(&fragmenter, out, &payload, &length)
        pieces.append(piece(out, n) + piece(payload, length))
        free(out)
    return pieces


cdef Flows flows              # as a worker has one


def coalesced(packets, room=COALESCE_PACKETS, udp=True, by_flow=False):
    """What `deliver` would write for these packets: a list of (virtio_net_hdr, pieces). Without `by_flow` it takes what follows
    directly."""
    cdef Held held
    cdef uint16_t* came = <uint16_t*>malloc((len(packets) or 1) * sizeof(uint16_t))
    cdef const uint16_t* order = came
    cdef Packet* batch = <Packet*>calloc(len(packets) or 1, sizeof(Packet))
    cdef iovec* iov = <iovec*>malloc(room * sizeof(iovec))
    cdef virtio_net_hdr v
    cdef int n = 0, at = 0, taken, i
    kept = []
    for octets in packets:
        held = Held(octets)
        if read_headers(&held.packet):
            kept.append(held)
            batch[n] = held.packet
            came[n] = <uint16_t>n
            n += 1
    writes = []
    if by_flow:
        assert n <= FLOWS_PACKETS
        flows.rest = 0
        order = straight(&flows)
    while at < n:
        taken = coalesce(batch, order + at, n - at, &v, iov, room, udp)
        assert 1 <= taken <= n - at and taken <= room
        writes.append((v, [piece(iov[i].iov_base, iov[i].iov_len) for i in range(taken)]))
        at += taken
        if by_flow:
            order = onward(&flows, batch, order, taken, at, n)
    free(batch)
    free(came)
    free(iov)
    return writes


def too_big(octets, mtu, const uint8_t[::1] gateway, room=1280, segment_size=0):
    """The ICMP answer to a packet; empty: none may be sent; None: not an IP packet."""
    cdef Held held = Held(octets, segment_size)
    cdef uint8_t* out
    cdef int n
    if gateway.shape[0] != 16:
        raise ValueError("16 octets, please")
    if not read_headers(&held.packet):
        return None
    out = <uint8_t*>malloc(room or 1)
    n = icmp_too_big(&held.packet, mtu, &gateway[0], out, room)
    assert 0 <= n <= <int>room
    answer = piece(out, n)
    free(out)
    return answer
