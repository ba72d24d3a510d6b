"""From the wire inward."""
from .worker cimport Listener, Worker

cdef int up(Worker* w, Listener* l) noexcept nogil
cdef void up_handed(Worker* w) noexcept nogil
