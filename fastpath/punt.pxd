"""The channel between a worker and control: one SEQPACKET message a frame, this header in front."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .table cimport Path

cdef enum:
    FRAME = 2048 + 64         # the largest message; longer frames are cut (no control frame is)

cpdef enum PuntKind:
    PUNT_L2TP = 1             # an L2TP control message, both ways
    PUNT_PPP = 2              # a PPP frame behind its protocol field, both ways
    PUNT_DEAD = 3             # up: a session's peer answers no echo
    PUNT_ARM = 4              # down: a session is open, start its keepalive
    PUNT_HELLO = 5            # down: control is back (nothing else said)

cdef struct PuntHeader:       # 64 octets
    uint8_t kind
    uint8_t worker            # that received it
    uint16_t protocol         # PPP protocol number
    uint32_t slot
    uint32_t generation
    uint32_t length           # of the frame behind
    Path path
    uint8_t pad[4]
