"""From a tunnel's header to its session."""
from libc.stdint cimport uint8_t, uint32_t

from .packet cimport Packet
from .worker cimport Listener, Worker

cdef void decap(Worker* w, Listener* l) noexcept nogil
cdef void squeeze(Worker* w) noexcept nogil
cdef uint32_t* free_cell(Worker* w, uint8_t** cell) noexcept nogil
cdef uint32_t* copy_to_cell(Worker* w, Packet* p) noexcept nogil
