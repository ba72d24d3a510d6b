"""From a tunnel's header to its session."""
from .worker cimport Listener, Worker

cdef void decap(Worker* w, Listener* l) noexcept nogil
cdef void squeeze(Worker* w) noexcept nogil
