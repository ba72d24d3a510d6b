"""Encrypted packets from the wire (RFC 3078)."""
from .worker cimport Worker

cdef void decrypt(Worker* w) noexcept nogil
