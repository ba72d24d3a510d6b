"""Packet rings: frames that the kernel and a worker pass to each other in memory that both have mapped (AF_PACKET, packet(7)).

    out   a frame a slot; the worker fills slots and marks them, one system call sends all that are marked. It bypasses the queueing
          discipline, netfilter and IPsec: who uses it answers for that.
    in    a frame a slot, the worker's from when it arrives until it gives it back. (TPACKET_V3 packs frames into blocks instead, which are
          the worker's when they are full, or after a millisecond at the least: too late for who waits for an answer.)

Both are TPACKET_V2.

One writer a ring: its worker.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .sys cimport load_acquire32, store_release32

cdef extern from * nogil:
    """
    #include <linux/if_ether.h>
    #include <linux/if_packet.h>
    #define HEADRACE_TX_DATA (TPACKET2_HDRLEN - sizeof(struct sockaddr_ll))
    """
    struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    struct sockaddr_ll:
        uint16_t sll_family
        uint16_t sll_protocol
        int sll_ifindex
        uint8_t sll_pkttype
    size_t TX_DATA "HEADRACE_TX_DATA"
    size_t RX_ADDRESS "TPACKET_ALIGN(sizeof(struct tpacket2_hdr))"
    enum:
        TP_STATUS_AVAILABLE, TP_STATUS_SEND_REQUEST, TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID

cdef enum:
    FRAME = 2048              # octets of a slot out
    FRAMES = 2048
    LONGEST = FRAME - 64      # octets that fit one
    BLOCK = 262144            # octets that the kernel takes at a time

cdef struct TxRing:
    int fd
    uint8_t* slots            # FRAMES * FRAME
    uint32_t next             # to fill
    uint32_t marked           # since the last `tx_send`

cdef struct RxRing:
    int fd
    uint8_t* slots            # FRAMES * FRAME
    uint32_t next             # to read
    uint32_t held             # those before it that were read and not given back

# A frame that came in, where it lies.
cdef struct Frame:
    uint8_t* data             # the link's header
    uint32_t length           # octets that were kept
    uint32_t whole            # octets that the frame had
    uint16_t vlan             # the outer tag, which the kernel took out: TPID and TCI, 0: there was none
    uint16_t tci
    int interface
    uint8_t outgoing          # it is one that this machine sent


cdef inline uint8_t* tx_slot(TxRing* r) noexcept nogil:
    """LONGEST octets for the next frame, or NULL: the kernel has not let go of that slot."""
    cdef uint8_t* at = r.slots + <size_t>r.next * FRAME
    if load_acquire32(&(<tpacket2_hdr*>at).tp_status) != TP_STATUS_AVAILABLE:
        return NULL
    return at + TX_DATA


cdef inline void tx_mark(TxRing* r, uint32_t length) noexcept nogil:
    """The slot is filled. Budget: 2 ns."""
    cdef tpacket2_hdr* h = <tpacket2_hdr*>(r.slots + <size_t>r.next * FRAME)
    h.tp_len = length
    store_release32(&h.tp_status, TP_STATUS_SEND_REQUEST)
    r.next = (r.next + 1) % FRAMES
    r.marked += 1


cdef int tx_send(TxRing* r, int interface, uint16_t protocol) noexcept nogil
cdef void take_back(TxRing* r) noexcept nogil
cdef bint rx_next(RxRing* r, Frame* f) noexcept nogil
cdef void rx_release(RxRing* r) noexcept nogil
cdef void rx_error(RxRing* r) noexcept nogil

cdef open_tx(TxRing* r, int fd)
cdef open_rx(RxRing* r, int fd)
cdef void close_tx(TxRing* r) noexcept
cdef void close_rx(RxRing* r) noexcept
