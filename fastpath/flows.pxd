"""The packets of a batch by flow, so that segments meet also where flows take turns (the stage `deliver`).

    a1 b1 a2 c1 b2 a3   ->   a1 a2 a3  b1 b2  c1

The packets of a flow keep their order, and flows come as their first packets did. A packet whose ports cannot be seen (a fragment) may
belong to any flow: nothing from behind it passes it. Flows are told apart by a hash: two that share one go on in one row, in the order
in which they came, and `coalesce` looks at every header anyway.

It sorts only what needs it: from the first short run on that another flow ends; and after a batch in which no flow came twice, some
batches are left as they are.

Budget: 8 ns a packet where flows take turns, 2 ns a write where they do not.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from .checksum cimport word32, word64
from .ip cimport IP4_SOURCE, IP6_SOURCE, IPPROTO_TCP, IPPROTO_UDP
from .packet cimport FLAG_FRAGMENT, FLAG_V6, Packet
from .sys cimport unlikely

cdef enum:
    FLOWS_PACKETS = 512       # of a batch, at most
    FLOWS_ENTRIES = 1024      # twice as many as flows, at least
    FLOWS_END = 0xFFFF
    FLOWS_RUN = 16            # packets of a write that is long enough
    FLOWS_REST = 15           # batches that are left alone

cdef struct FlowEntry:
    uint32_t hash
    uint16_t round            # entries of another one are empty
    uint16_t flow             # index into first and last

cdef struct Flows:
    uint16_t round
    uint16_t rest             # batches to be left alone
    FlowEntry entries[FLOWS_ENTRIES]
    uint16_t first[FLOWS_PACKETS]      # of each flow: its first packet in the batch, and its last so far
    uint16_t last[FLOWS_PACKETS]
    uint16_t next[FLOWS_PACKETS]       # of each packet: the one behind it in its flow
    uint16_t order[FLOWS_PACKETS]

cdef extern from * nogil:
    """
    #include <stdint.h>
    /* A batch in the order in which it came. */
    static uint16_t headrace_straight[512];
    __attribute__((constructor)) static void headrace_count_straight(void) {
        for (int i = 0; i < 512; i++) headrace_straight[i] = (uint16_t)i;
    }
    """
    uint16_t* STRAIGHT "headrace_straight"


cdef inline bint has_ports(const Packet* p) noexcept nogil:
    return not p.flags & FLAG_FRAGMENT and p.length >= p.ip_length + <uint32_t>4


cdef inline uint64_t flow_hash(const Packet* p) noexcept nogil:
    """Of addresses, protocol and, with TCP and UDP, ports. The packet's headers were read, and it has ports or something in their place."""
    cdef const uint8_t* ip = p.data
    cdef uint64_t h = p.transport
    if p.transport == IPPROTO_TCP or p.transport == IPPROTO_UDP:
        h += <uint64_t>word32(ip + p.ip_length) << 8
    h *= <uint64_t>0x9E3779B97F4A7C15
    if p.flags & FLAG_V6:
        ip += IP6_SOURCE
        h ^= (word64(ip) ^ word64(ip + 16)) * <uint64_t>0xC2B2AE3D27D4EB4F ^ word64(ip + 8) ^ word64(ip + 24) << 1
    else:
        h ^= word64(ip + IP4_SOURCE)
    h = (h ^ h >> 29) * <uint64_t>0xD6E8FEB86659FD93
    return h ^ h >> 32


cdef inline void begin_round(Flows* f) noexcept nogil:
    """Empty the table."""
    f.round += 1
    if f.round == 0:
        memset(f.entries, 0, sizeof(f.entries))
        f.round = 1


cdef inline void by_flow(Flows* f, const Packet* batch, int start, int n) noexcept nogil:
    """Fill order[start:n] with the packets from start on, by flow."""
    cdef int i, k = -1, flows = 0, at = start
    cdef uint64_t h = 0, before
    cdef FlowEntry* e
    begin_round(f)
    for i in range(start, n):
        f.next[i] = FLOWS_END
        if unlikely(not has_ports(&batch[i])):
            begin_round(f)            # nobody's row goes on past it
            f.first[flows] = f.last[flows] = <uint16_t>i
            flows += 1
            k = -1
            continue
        before = h
        h = flow_hash(&batch[i])
        if k < 0 or h != before:
            e = &f.entries[h % FLOWS_ENTRIES]
            while e.round == f.round and e.hash != <uint32_t>(h >> 32):
                e = &f.entries[(e - f.entries + 1) % FLOWS_ENTRIES]
            if e.round != f.round:
                e.round, e.hash, e.flow = f.round, <uint32_t>(h >> 32), <uint16_t>flows
                f.first[flows] = f.last[flows] = <uint16_t>i
                k = flows
                flows += 1
                continue
            k = <int>e.flow
        f.next[f.last[k]] = <uint16_t>i
        f.last[k] = <uint16_t>i
    if flows == n - start:
        f.rest = FLOWS_REST
    for k in range(flows):
        i = f.first[k]
        while i != FLOWS_END:
            f.order[at] = <uint16_t>i
            at += 1
            i = f.next[i]


cdef inline const uint16_t* straight(Flows* f) noexcept nogil:
    """The order in which a batch begins."""
    if f.rest:
        f.rest -= 1
    return STRAIGHT


cdef inline const uint16_t* onward(Flows* f, const Packet* batch, const uint16_t* order, int taken, int at, int n) noexcept nogil:
    """In which order to go on, when the first `at` packets of the batch are gone, `taken` of them in the last write: as before, until a
    short run ends where another flow begins."""
    if order != STRAIGHT or taken >= FLOWS_RUN or f.rest or n - at < 2 or not has_ports(&batch[at - 1]) or not has_ports(&batch[at]) \
            or flow_hash(&batch[at - 1]) == flow_hash(&batch[at]):
        return order
    by_flow(f, batch, at, n)
    return f.order
