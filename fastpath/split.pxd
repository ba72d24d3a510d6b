"""Split: a bundle's packet goes out by its links (RFC 1990 section 3).

    fits, and there is one link    plain: it cannot be overtaken, and frames that are no fragments keep their order there
    fits, there are several        one fragment, whole, so that the peer knows the order
    larger than a link's frames    fragments of equal size, as few as possible

Each fragment goes by the link that has carried least, by its rate. A link that has just joined is left out while there are others,
until something was heard on it that its peer says only when it takes fragments too: a fragment, or the answer to the echo request that
follows the news that it is let in. Of a peer that says nothing the time runs out.

What a packet consists of stays where it is until `transmit`: the first fragment's header goes in front of it, those of the others have
their own place, and pieces of it follow. An encrypted packet is cut before its octets are ciphered, since that happens where they lie.
Only what leaves by another worker's link is copied.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .bundle cimport LEAST_ROOM
from .port cimport transmit
from .table cimport Config, Session
from .worker cimport SEGMENTS, Worker


cdef inline void reserve(Worker* w, size_t length) noexcept nogil:
    """Make room in Out for all fragments of a packet, so that its octets stay until the last one is queued."""
    if w.out.count + <int>(length // (LEAST_ROOM - 8)) + 2 > SEGMENTS:
        transmit(w)


cdef void split(Worker* w, Session* s, const Config* c, uint16_t tos, uint32_t packets, uint16_t protocol, uint8_t* block, size_t length,
                const uint8_t* body, size_t body_length) noexcept nogil
cdef void down_links(Worker* w) noexcept nogil
