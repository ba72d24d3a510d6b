"""Packet rings for tests: frames as octets."""
from libc.string cimport memcpy

from .packetring cimport (FRAMES, LONGEST, Frame, RxRing, TxRing, close_rx, close_tx, open_rx, open_tx, rx_next, rx_release, tx_mark, tx_send,
                          tx_slot)

SLOTS, LONGEST_FRAME = FRAMES, LONGEST


cdef class Tx:
    cdef TxRing ring

    def __init__(self, int fd):
        open_tx(&self.ring, fd)

    def __dealloc__(self):
        close_tx(&self.ring)

    def put(self, bytes frame):
        """False: no slot is free."""
        cdef void* at = tx_slot(&self.ring)
        assert len(frame) <= LONGEST
        if at == NULL:
            return False
        memcpy(at, <const char*>frame, len(frame))
        tx_mark(&self.ring, <unsigned int>len(frame))
        return True

    def send(self, int interface, int protocol):
        return tx_send(&self.ring, interface, <unsigned short>protocol)


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
