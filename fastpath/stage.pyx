"""The stage timers while they run; stage.pxd says what they are."""
from libc.stdint cimport uint64_t

from .sys cimport CLOCK_MONOTONIC, clock_gettime, load_acquire64, timespec
from .worker cimport Worker


cdef uint64_t stage_clock() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef void switch(Worker* w) noexcept nogil:
    """On, and time counts from this pass on; or off."""
    cdef bint wanted = w.now_ns < load_acquire64(&w.table.header.profile_until)
    if wanted and not w.profiling:
        w.stage = STAGE_LOOP
        w.stage_since = w.now_ns
    w.profiling = wanted


cdef void change(Worker* w, Stage stage, int packets) noexcept nogil:
    cdef uint64_t now = stage_clock()
    w.record.stage_ns[w.stage] += now - w.stage_since
    w.stage_since = now
    if packets:
        passed_on(w, stage, packets)


cdef void passed_on(Worker* w, Stage stage, int packets) noexcept nogil:
    w.record.stage_packets[<int>stage] += packets
    w.record.stage_batches[<int>stage] += 1


cdef void left_kernel(Worker* w, uint64_t since) noexcept nogil:
    w.record.stage_kernel_ns[w.stage] += stage_clock() - since
