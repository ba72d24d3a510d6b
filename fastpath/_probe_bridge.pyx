"""Bridged frames for tests: headers and check sums of octets."""
from libc.stdint cimport uint8_t

from .bridge cimport Bridged, frame_check
from .bridge cimport pull_bridged as pull


def pull_bridged(bytes data):
    """{"length", "fill", "fcs"} of a frame behind PPP's protocol field, or a verdict's number."""
    cdef Bridged b
    cdef int at = pull(<const uint8_t*><const char*>data, len(data), &b)
    return -at if at < 0 else {"at": at, "length": b.length, "fill": b.fill, "fcs": bool(b.fcs)}


def check(bytes frame, size_t zeros=0):
    return frame_check(<const uint8_t*><const char*>frame, len(frame), zeros)
