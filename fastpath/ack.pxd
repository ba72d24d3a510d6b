"""Acknowledgments of PPTP's data (RFC 2637 section 4.2): what was received in order is acknowledged by data that leaves anyway
(encap.pxd), else alone: when ACK_EVERY packets wait for it, at the end of their batch, or at the next tick.

Nothing is held back for a window of our own: a concentrator is no place to queue. What the peer acknowledges is not looked at, and so a
peer that never does costs nothing.
"""
from libc.stdint cimport uint32_t

from .table cimport Session
from .worker cimport Worker

cdef enum:
    ACK_EVERY = 16            # peers begin with half the window that we offer, and may not wait for a tick each time

cdef enum Acking:
    ACK_NONE = 0
    ACK_OWED = 1              # in the worker's list of sessions that owe one
    ACK_DUE = 2               # and it leaves at the end of this batch


cdef inline void owe(Worker* w, uint32_t slot, Session* s) noexcept nogil:
    """A packet of a PPTP session went on in order. Budget: 1 ns."""
    if s.acking == ACK_NONE:
        s.acking = ACK_OWED
        s.ack_next = w.owing
        w.owing = slot
    if s.rx_next - s.rx_acked >= ACK_EVERY and s.acking == ACK_OWED:
        s.acking = ACK_DUE
        w.due[w.dues] = slot
        w.dues += 1


cdef void pay_due(Worker* w) noexcept nogil
cdef void pay_all(Worker* w) noexcept nogil
