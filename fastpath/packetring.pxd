"""Packet rings: frames that come in, in memory that the kernel and a worker have both mapped (AF_PACKET, packet(7), TPACKET_V2).

A frame has a slot, which is the worker's from when it arrives until it gives it back. (TPACKET_V3 packs frames into blocks instead, which
are the worker's when they are full, or after a millisecond at the least: too late for who waits for an answer.)

There is no ring out: sendmmsg is cheaper, and a slot is free before everybody has read the frame who gets it.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <linux/if_ether.h>
    #include <linux/if_packet.h>
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
    size_t RX_ADDRESS "TPACKET_ALIGN(sizeof(struct tpacket2_hdr))"
    enum:
        TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID

cdef enum:
    FRAME = 2048              # octets of a slot
    FRAMES = 2048
    BLOCK = 262144            # octets that the kernel takes at a time

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


cdef bint rx_next(RxRing* r, Frame* f) noexcept nogil
cdef void rx_release(RxRing* r) noexcept nogil
cdef void rx_error(RxRing* r) noexcept nogil

cdef open_rx(RxRing* r, int fd)
cdef void close_rx(RxRing* r) noexcept
