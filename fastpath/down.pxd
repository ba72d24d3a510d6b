"""Toward the wire. The stages are named for the benchmarks that run them one by one."""
from .worker cimport Worker

cdef int down(Worker* w) noexcept nogil
cdef void down_handed(Worker* w) noexcept nogil

cdef bint choose_arena(Worker* w) noexcept nogil
cdef void route(Worker* w) noexcept nogil
cdef void encap(Worker* w) noexcept nogil
