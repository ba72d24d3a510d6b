"""Doors for tests and benches to the inline code; each copies its input into memory of the exact
size, so that a sanitizer sees an over-read of one byte."""
from libc.stdint cimport uint8_t

from .bytes cimport load16, load32


def loads(const uint8_t[::1] p):
    """(load16, load32) of at least 4 bytes."""
    if p.shape[0] < 4:
        raise ValueError("4 bytes, please")
    return load16(&p[0]), load32(&p[0])
