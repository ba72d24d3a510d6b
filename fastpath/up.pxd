"""From the wire inward. The stages are named for the benchmarks that run them one by one."""
from .packet cimport Packet
from .worker cimport Listener, Worker

cdef int up(Worker* w, Listener* l) noexcept nogil
cdef void up_handed(Worker* w) noexcept nogil
cdef void up_due(Worker* w) noexcept nogil
cdef void up_overdue(Worker* w) noexcept nogil
cdef void up_joined(Worker* w) noexcept nogil
cdef bint passes(Worker* w, Packet* p) noexcept nogil

cdef void link(Worker* w) noexcept nogil
cdef void admit(Worker* w) noexcept nogil
