"""What the generator writes behind an inner IPv4 and UDP header, and the sink reads: 24 octets, in the
machine's order: sequence (8, by stream), time (8, CLOCK_MONOTONIC in ns), stream (4), MARK (4); zeros follow."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ..fastpath.sys cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "<time.h>" nogil:
    int clock_nanosleep(int, int, const timespec*, timespec*)

cdef enum:
    MARK = 0x68656164
    STAMP = 24
    INNER = 28              # IPv4 and UDP headers

cdef struct Stamp:
    uint64_t sequence
    int64_t time
    uint32_t stream, mark


cdef inline int64_t clock() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1000000000 + t.tv_nsec


cdef inline void nap(int64_t ns) noexcept nogil:
    cdef timespec t
    t.tv_sec = ns // 1000000000
    t.tv_nsec = ns % 1000000000
    clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL)
