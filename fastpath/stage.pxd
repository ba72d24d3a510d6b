"""What each stage costs: timers that are stamped once a batch, while somebody looks.

    enter(receive)  enter(decap)  enter(link) ...            the time between two belongs to the stage entered first
        |  in_kernel .. out_of_kernel                        and this much of it to system calls

They run until Header.profile_until, a time: who looks sets it a little ahead, and should he die, they end by themselves.
A worker looks at it once a pass. Off, each of these functions is one branch that is always predicted, and in `enter` a store; on, a reading of the
clock (17 ns by clock_gettime without entering the kernel; rdtsc's 8 would save 0.1 us a pass, and want a calibration).

All time of a worker belongs to some stage: what is between them to `loop`, and to `sleep` where nothing was there to do.
"""
from libc.stdint cimport uint64_t

from .sys cimport load_acquire64, unlikely
from .worker cimport Worker

# In the order of their work. A new stage takes its place here, a call of `enter` and a line in bench/budget.py.
cpdef enum Stage:
    STAGE_LOOP = 0        # clock, epoll, counters: the passes themselves
    STAGE_SLEEP           # in epoll, and nothing came
    STAGE_RECEIVE
    STAGE_DECAP
    STAGE_ORDER
    STAGE_LINK
    STAGE_JOIN
    STAGE_DECRYPT
    STAGE_BRIDGE          # Ethernet frames, both ways
    STAGE_ADMIT
    STAGE_DELIVER
    STAGE_COLLECT
    STAGE_ROUTE
    STAGE_ENCAP           # cut, encap and split are one loop
    STAGE_ENCRYPT         # in transmit, all at once
    STAGE_TRANSMIT
    STAGE_RING            # taking packets that other workers handed over
    STAGE_PUNT            # frames to and from control
    STAGE_WHEEL           # keepalives
    STAGE_COUNT           # how many

cdef void switch(Worker* w) noexcept nogil
cdef void change(Worker* w, Stage stage, int packets) noexcept nogil
cdef void passed_on(Worker* w, Stage stage, int packets) noexcept nogil
cdef uint64_t stage_clock() noexcept nogil
cdef void left_kernel(Worker* w, uint64_t since) noexcept nogil


cdef inline void look(Worker* w) noexcept nogil:
    """Once a pass, after the clock was read: does anybody look?"""
    if unlikely(w.now_ns < load_acquire64(&w.table.header.profile_until) or w.profiling):
        switch(w)


cdef inline Stage enter(Worker* w, Stage stage, int packets) noexcept nogil:
    """What follows is that stage's, for a batch of so many packets; 0: they are `carried` later, or this goes on with a batch that
    was interrupted. Return the stage that ended, for who interrupts one. Which one we are in is known at any time: a crash tells."""
    cdef Stage before = <Stage>w.stage
    if unlikely(w.profiling):
        change(w, stage, packets)
    w.stage = stage
    return before


cdef inline void carried(Worker* w, Stage stage, int packets) noexcept nogil:
    """A batch of so many packets went through a stage that did not know it when it was entered."""
    if unlikely(w.profiling):
        passed_on(w, stage, packets)


cdef inline uint64_t in_kernel(Worker* w) noexcept nogil:
    """In front of a system call."""
    if unlikely(w.profiling):
        return stage_clock()
    return 0


cdef inline void out_of_kernel(Worker* w, uint64_t since) noexcept nogil:
    """Behind it; `since` is what in_kernel returned."""
    if unlikely(w.profiling):
        left_kernel(w, since)
