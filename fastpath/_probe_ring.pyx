"""Packet rings for tests: frames as octets."""
from .packetring cimport Frame, RxRing, close_rx, open_rx, rx_next, rx_release


cdef class Rx:
    cdef RxRing ring

    def __init__(self, int fd):
        open_rx(&self.ring, fd)

    def __dealloc__(self):
        close_rx(&self.ring)

    def frames(self):
        """All that have come: (octets, length on the wire, TPID, TCI, interface, outgoing)."""
        cdef Frame f
        found = []
        while True:
            n = len(found)
            while rx_next(&self.ring, &f):
                found.append((f.data[:f.length], f.whole, f.vlan, f.tci, f.interface, bool(f.outgoing)))
            if len(found) == n:
                return found
            rx_release(&self.ring)
