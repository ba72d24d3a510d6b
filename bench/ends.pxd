"""Sessions as their far end knows them, where a packet must say where it stands: GRE's sequence numbers and MPPE's counts go on
from one run to the next."""
from libc.stdint cimport int32_t, uint16_t, uint32_t

from ..fastpath.cipher cimport CipherState

cdef enum:
    IDS = 65536

cdef struct End:
    uint32_t sequence       # of the next packet that leaves
    CipherState sending, receiving

cdef class Ends:
    cdef End* at
    cdef readonly int count
    cdef readonly bint sealed
    cdef int32_t numbers[IDS]
    cdef End* end(self, int number) except NULL
