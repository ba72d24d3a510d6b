"""What a null tunnel knows: its descriptors, and what is under way in a round of either direction."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ..fastpath.cipher cimport CipherState
from ..fastpath.mppe cimport Ciphers
from ..fastpath.sys cimport iovec, mmsghdr
from .framing cimport Framing
from .frames cimport Inlet, Outlet
from .offload cimport Segment

cdef enum:
    OUT = 512               # segments that one send round holds
    ENOUGH = OUT - 128      # ... and where reading stops: one more super-packet of the usual kind still fits
    SLOT = 192              # a link header, framing, then IPv4 and TCP headers of at most 60 octets each
    READ = 128 * 1024       # read from the TUN before sending: two super-packets, so that the wire does not wait
    BUFFERS = 64            # of a receive, at most, where datagrams come merged
    RECEIVED = 768          # datagrams of a receive: where they come merged, fewer buffers are enough
    BUFFER = 65536
    PACKETS = 256           # of a receive, where they come singly
    PACKET = 2176           # octets of each: not a multiple of a page, or they meet in few sets of the cache
    IN = 4096               # segments that one deliver round holds
    ARENA = READ + 2 * BUFFER

cdef struct Counters:
    uint64_t up, up_bytes, down, down_bytes, tun_reads, tun_writes, wire_reads, wire_writes, wakes, bad, dropped, punted

cdef struct State:
    int tun, wire, control
    int64_t spin
    bint tun_hot, wire_hot  # there may be more
    Framing framing
    Counters count
    uint8_t peer[32]
    uint32_t peer_size
    bint merged             # the wire merges and cuts datagrams: UDP
    uint8_t* memory
    uint8_t* arena          # what the TUN gave
    uint8_t* slots          # headers of what goes out
    uint8_t* sealed         # or all of it, encrypted: PACKET octets each
    uint8_t* buffers        # what the wire gave
    iovec out[1024]
    int length[512]
    int pending
    mmsghdr sends[512]
    uint8_t segment[512][32]
    Outlet outlet           # of frames
    Inlet inlet             # its ring is the way in, when it has one
    iovec into[256]
    mmsghdr receives[256]
    uint8_t notes[64][64]
    int wanted              # buffers of the next receive
    Segment got[4096]
    int n_got
    Ciphers* ciphers        # of a sealed framing
    CipherState sending, receiving
