"""Far ends of sessions; ends.pxd says what for."""
from libc.stdint cimport uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ..fastpath.cipher cimport KEY, CipherKeys
from ..fastpath.mppe cimport Ciphers, free_ciphers, mppe_begin, new_ciphers


cdef class Ends:
    """So many sessions, numbered from 0."""

    def __cinit__(self, int count):
        if count < 1:
            raise ValueError("an end is of a session")
        self.count = count
        self.at = <End*>calloc(count, sizeof(End))
        if not self.at:
            raise MemoryError("the ends of sessions")
        for i in range(IDS):
            self.numbers[i] = -1

    def __dealloc__(self):
        free(self.at)

    cdef End* end(self, int number) except NULL:
        if not 0 <= number < self.count:
            raise IndexError(number)
        return &self.at[number]

    def copy(self):
        """Others that stand where these do."""
        cdef Ends other = Ends(self.count)
        memcpy(other.at, self.at, self.count * sizeof(End))
        memcpy(other.numbers, self.numbers, sizeof(self.numbers))
        other.sealed = self.sealed
        return other

    def name(self, int number, uint16_t identifier):
        """The id by which the forwarder sends to a session."""
        self.end(number)
        self.numbers[identifier] = number

    def next(self, int number):
        """The sequence number of a packet that leaves now."""
        cdef End* end = self.end(number)
        end.sequence += 1
        return end.sequence - 1

    def seal(self, int number, bytes send, bytes receive, int bits):
        """Packets are encrypted, stateless, by these start keys of 16 octets, or of 8 for fewer than 128 bits."""
        cdef End* end = self.end(number)
        cdef CipherKeys keys
        cdef Ciphers* c
        if len(send) not in (8, KEY) or len(send) != len(receive):
            raise ValueError("start keys have 8 or 16 octets")
        memset(&keys, 0, sizeof(keys))
        send, receive = (send * 2)[:KEY], (receive * 2)[:KEY]
        memcpy(keys.send_start, <const char*>send, KEY)
        memcpy(keys.receive_start, <const char*>receive, KEY)
        keys.generation = 1
        keys.send_bits = keys.receive_bits = bits
        keys.send_stateless = keys.receive_stateless = 1
        c = new_ciphers()
        mppe_begin(c, &end.sending, &keys, True)
        mppe_begin(c, &end.receiving, &keys, False)
        free_ciphers(c)
        self.sealed = True
