"""Sequence: a session's packets go on in order and never late (RFC 2637 section 4.3, RFC 2661 section 5.4).

    older than what went on        a duplicate, or too late: dropped
    the next one                   goes on, and what waited for it behind it
    less than a window ahead       waits in a cell, until what is missing came or its time is over
    further ahead                  the window moves on: what it leaves behind is lost, and what waited for it goes on

A cell holds one frame. All cells that wait are in a list by age, so that the oldest is the next whose time is over, and those of a
session in one by sequence.
"""
from libc.stdint cimport int32_t

from .packet cimport Packet
from .table cimport Session
from .worker cimport Worker

cdef enum Flow:
    NOT_STARTED = 0           # whatever number comes first is the first
    FLOWING = 1               # nothing waits
    WAITING = 2


cdef inline int32_t ahead_of(const Session* s, const Packet* p) noexcept nogil:
    """How far a packet is ahead of the next one, in numbers of as many bits as it has."""
    return <int32_t>((p.sequence - s.rx_next) << (32 - p.sequence_bits)) >> (32 - p.sequence_bits)


cdef void order(Worker* w) noexcept nogil
cdef void order_rest(Worker* w) noexcept nogil
cdef void order_due(Worker* w) noexcept nogil
