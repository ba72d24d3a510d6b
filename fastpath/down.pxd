"""Toward the wire."""
from .worker cimport Worker

cdef int down(Worker* w) noexcept nogil
cdef void down_handed(Worker* w) noexcept nogil
