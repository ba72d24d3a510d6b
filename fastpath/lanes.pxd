"""Packets through RC4 side by side, each with a key of its own.

    jobs -> schedules, six at once -> five lanes, 16 octets of each in turn -> key stream -> out = in ^ stream

A lane whose packet ends takes the next one, whatever the others are at.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uintptr_t
from libc.string cimport memcpy, memset

from .cipher cimport KEY
from .rc4 cimport CHUNK, LANES, Key, rc4_lanes, rc4_one, rc4_run, rc4_schedule, rc4_schedule6, rc4_xor
from .sessionkey cimport FEW, SIX

cdef struct Job:
    const uint8_t* data       # where the octets behind the head are read
    uint8_t* out              # where they go; the head is there already
    uint32_t head
    uint32_t length
    uint16_t derive           # keys of the chain from the one before it to its own
    uint16_t next             # of the same chain
    uint8_t key[KEY]

cdef struct Lanes:            # at a multiple of 256
    rc4_lanes lanes
    uint8_t tables[SIX][256]  # schedules that wait for a lane


cdef inline void emit(Job* job, uint32_t at, const uint8_t* stream, uint32_t n) noexcept nogil:
    """Cipher n octets of a packet from `at` on: those of the head where they lie, the others on their way."""
    cdef uint32_t k
    if at < job.head:
        k = n if job.head - at > n else job.head - at
        rc4_xor(job.out + at, job.out + at, stream, k)
        at += k
        stream += k
        n -= k
    rc4_xor(job.out + at, job.data + (at - job.head), stream, n)


cdef inline void one(Job* job, uint8_t* table, uint8_t i, uint8_t j, uint32_t at) noexcept nogil:
    """A packet, or the rest of one, by itself. Budget: 0.9 ns an octet."""
    cdef uint8_t stream[CHUNK]
    cdef uint32_t n
    while at < job.length:
        n = CHUNK if job.length - at > CHUNK else job.length - at
        rc4_one(table, &i, &j, stream, n)
        emit(job, at, stream, n)
        at += n


cdef inline void schedule(uint8_t* tables, const Job* jobs, int n) noexcept nogil:
    """The tables of n packets, at most six."""
    cdef Key keys[SIX]
    cdef int k
    if n < FEW:
        for k in range(n):
            rc4_schedule(tables + 256 * k, jobs[k].key)
        return
    for k in range(n):
        memcpy(keys[k], jobs[k].key, KEY)
    for k in range(n, SIX):
        memset(keys[k], 0, KEY)
    rc4_schedule6(tables, keys)


cdef inline void side_by_side(Lanes* c, Job* jobs, int count) noexcept nogil:
    """All packets through the lanes; a lane whose packet ends takes the next one. When there are few left they go one by one.
    Budget: 120 ns a packet and 0.5 ns an octet."""
    cdef rc4_lanes* l = &c.lanes
    cdef Job* job[LANES]
    cdef int at[LANES]            # the octet that the lane's stream goes on with; -1: the one that a lane begins too early
    cdef int k, n, begun = 0, scheduled = 0, table = 0, busy = 0, blocks
    for k in range(LANES):
        job[k] = NULL
    while True:
        for k in range(LANES):
            if job[k] != NULL or begun == count:
                continue
            if begun == scheduled:
                n = min(count - scheduled, <int>SIX)
                schedule(c.tables[0], &jobs[scheduled], n)
                scheduled += n
                table = 0
            job[k] = &jobs[begun]
            memcpy(l.table[k], c.tables[table], 256)
            l.i[k] = l.table[k]
            l.j[k] = l.table[k] + <uint8_t>(256 - l.table[k][0])
            at[k] = -1
            begun += 1
            table += 1
            busy += 1
        if busy < FEW:
            break
        blocks = CHUNK // 16
        for k in range(LANES):
            if job[k] != NULL:
                blocks = min(blocks, (<int>job[k].length - at[k] + 15) >> 4)
        rc4_run(l, blocks)
        for k in range(LANES):
            if job[k] == NULL:
                continue
            n = min(16 * blocks, <int>job[k].length - at[k])
            if at[k] < 0:
                emit(job[k], 0, l.stream[k] + 1, n - 1)
            else:
                emit(job[k], at[k], l.stream[k], n)
            at[k] += n
            if at[k] >= <int>job[k].length:
                job[k] = NULL
                busy -= 1
    for k in range(LANES):
        if job[k] == NULL:
            continue
        if at[k] < 0:
            one(job[k], l.table[k], 1, 0, 0)
        else:
            one(job[k], l.table[k], <uint8_t><uintptr_t>l.i[k], <uint8_t><uintptr_t>l.j[k], at[k])
