"""The sink, for a generator that must not get too far ahead of it; sink.pyx has the rest."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from ..fastpath.mppe cimport Ciphers
from ..fastpath.sys cimport iovec, mmsghdr
from .ends cimport Ends
from .framing cimport Framing

cdef enum:
    BUFFERS = 64
    BUFFER = 65536
    BUCKETS = 512           # of latency: eight to a power of two

cdef struct Counts:
    uint64_t received, bytes, missing, reordered, duplicates, stale, other

cdef struct Seen:
    uint64_t next           # sequence number
    uint64_t came[16]       # of the WINDOW before it, by their number modulo WINDOW, which came


cdef class Sink:
    cdef int fd, n_streams, stopped
    cdef Framing framing
    cdef Seen* seen
    cdef uint8_t* memory
    cdef mmsghdr receives[BUFFERS]
    cdef iovec iov[BUFFERS]
    cdef uint8_t notes[BUFFERS][64]
    cdef Counts counts
    cdef uint64_t latency[BUCKETS]
    cdef int64_t since
    cdef Ends ends
    cdef Ciphers* ciphers
    cdef int take(self) noexcept nogil
    cdef int step(self, int i) noexcept nogil
    cdef void unseal(self, int r) noexcept nogil
    cdef void count(self, uint8_t* p, int n, int64_t now) noexcept nogil
