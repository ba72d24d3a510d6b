"""Doors for tests and benches to the inline code; each copies its input into memory of the exact
size, so that a sanitizer sees an over-read of one byte."""
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .bytes cimport load16, load32
from .gre cimport Gre, GRE_LONGEST
from .gre cimport pull_gre as pull_gre_header
from .gre cimport push_gre as push_gre_header
from .l2tp cimport L2tp
from .l2tp cimport pull_l2tp as pull_l2tp_header
from .packet import Verdict
from .ppp cimport pull_ppp as pull_ppp_header


cdef uint8_t* exact(const uint8_t[::1] octets) except NULL:
    """The octets in memory of their own, up to its end; `release` frees it."""
    cdef size_t n = octets.shape[0]
    cdef uint8_t* memory = <uint8_t*>malloc(n or 1)
    if memory == NULL:
        raise MemoryError()
    if n:
        memcpy(memory, &octets[0], n)
    return memory if n else memory + 1


cdef void release(uint8_t* at, size_t n) noexcept:
    free(at if n else at - 1)


def loads(const uint8_t[::1] p):
    """(load16, load32) of at least 4 bytes."""
    if p.shape[0] < 4:
        raise ValueError("4 bytes, please")
    return load16(&p[0]), load32(&p[0])


def pull_l2tp(const uint8_t[::1] octets):
    """(octets in front of the payload, the header's fields), or the Verdict that it gets."""
    cdef L2tp h
    cdef uint8_t* p = exact(octets)
    cdef int at = pull_l2tp_header(p, octets.shape[0], &h)
    release(p, octets.shape[0])
    return (at, h) if at >= 0 else Verdict(-at)


def pull_gre(const uint8_t[::1] octets):
    """(octets in front of the payload, the header's fields), or the Verdict that it gets."""
    cdef Gre h
    cdef uint8_t* p = exact(octets)
    cdef int at = pull_gre_header(p, octets.shape[0], &h)
    release(p, octets.shape[0])
    return (at, h) if at >= 0 else Verdict(-at)


def push_gre(fields):
    """The octets of a header."""
    cdef Gre h = fields
    cdef uint8_t p[GRE_LONGEST]
    return p[:push_gre_header(p, &h)]


def pull_ppp(const uint8_t[::1] octets):
    """(octets of the header, protocol), or None."""
    cdef uint16_t protocol = 0
    cdef uint8_t* p = exact(octets)
    cdef int at = pull_ppp_header(p, octets.shape[0], &protocol)
    release(p, octets.shape[0])
    return (at, protocol) if at >= 0 else None
