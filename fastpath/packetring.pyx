"""Packet rings; packetring.pxd says what they are."""
import os
import socket
import struct

from .sys cimport MAP_SHARED, PROT_READ, PROT_WRITE, errno, load_acquire32, mmap, munmap, store_release32

cdef extern from "<sys/socket.h>" nogil:
    int setsockopt(int, int, int, const void*, uint32_t)
    int getsockopt(int, int, int, void*, uint32_t*)
    int SOL_PACKET, SOL_SOCKET, SO_ERROR
cdef extern from "<linux/if_packet.h>" nogil:
    int PACKET_VERSION, PACKET_RX_RING, TPACKET_V2, PACKET_OUTGOING


cdef bytes NO_RING = bytes(28)     # the socket outlives who mapped a ring of it: an old one goes first


cdef bint rx_next(RxRing* r, Frame* f) noexcept nogil:
    """The next frame; False: there is none, or all slots are held. Budget: 15 ns."""
    cdef tpacket2_hdr* h = <tpacket2_hdr*>(r.slots + <size_t>r.next * FRAME)
    cdef uint32_t status
    cdef sockaddr_ll* from_
    if r.held == FRAMES:
        return False
    status = load_acquire32(&h.tp_status)
    if status & TP_STATUS_USER == 0:
        return False
    from_ = <sockaddr_ll*>(<uint8_t*>h + RX_ADDRESS)
    f.data = <uint8_t*>h + h.tp_mac
    f.length = h.tp_snaplen
    f.whole = h.tp_len
    f.vlan = f.tci = 0
    if status & TP_STATUS_VLAN_VALID:
        f.vlan, f.tci = h.tp_vlan_tpid if status & TP_STATUS_VLAN_TPID_VALID else <uint16_t>0x8100, h.tp_vlan_tci
    f.interface = from_.sll_ifindex
    f.outgoing = from_.sll_pkttype == PACKET_OUTGOING
    r.held += 1
    r.next = (r.next + 1) % FRAMES
    return True


cdef void rx_release(RxRing* r) noexcept nogil:
    """Give back all that was read; what `rx_next` pointed to is the kernel's from here on."""
    while r.held:
        store_release32(&(<tpacket2_hdr*>(r.slots + <size_t>((r.next + FRAMES - r.held) % FRAMES) * FRAME)).tp_status, TP_STATUS_KERNEL)
        r.held -= 1


cdef void rx_error(RxRing* r) noexcept nogil:
    """Take the error of the socket, which says that its interface went down: nobody reads from the socket itself, and epoll would report it
    for ever."""
    cdef int error
    cdef uint32_t size = sizeof(error)
    getsockopt(r.fd, SOL_SOCKET, SO_ERROR, &error, &size)


cdef void* _map(int fd, size_t size) except NULL:
    cdef void* at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if at == <void*>-1:
        raise MemoryError("a packet ring")
    return at


cdef _option(int fd, int option, bytes value):
    if setsockopt(fd, SOL_PACKET, option, <const char*>value, <uint32_t>len(value)) < 0:
        raise OSError(errno, f"{os.strerror(errno)}: option {option} of a packet socket")


cdef open_rx(RxRing* r, int fd):
    """A ring on a packet socket that is not bound yet, or has a filter that passes nothing, or had a ring before."""
    _option(fd, PACKET_RX_RING, NO_RING)
    _option(fd, PACKET_VERSION, struct.pack("i", TPACKET_V2))
    _option(fd, PACKET_RX_RING, struct.pack("IIII", BLOCK, FRAMES * FRAME // BLOCK, FRAME, FRAMES))
    r.fd, r.next, r.held = fd, 0, 0
    r.slots = <uint8_t*>_map(fd, <size_t>FRAMES * FRAME)


cdef void close_rx(RxRing* r) noexcept:
    if r.slots != NULL:
        munmap(r.slots, <size_t>FRAMES * FRAME)
        r.slots = NULL
