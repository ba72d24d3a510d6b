"""Packet rings; packetring.pxd says what they are."""
import os
import socket
import struct

from libc.string cimport memset

from .sys cimport EAGAIN, EINTR, ENOBUFS, MAP_SHARED, MSG_DONTWAIT, PROT_READ, PROT_WRITE, errno, mmap, munmap

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    ssize_t sendto(int, const void*, size_t, int, const sockaddr*, uint32_t)
    int setsockopt(int, int, int, const void*, uint32_t)
    int getsockopt(int, int, int, void*, uint32_t*)
    int SOL_PACKET, SOL_SOCKET, SO_ERROR
cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t)
cdef extern from "<linux/if_packet.h>" nogil:
    int PACKET_VERSION, PACKET_RX_RING, PACKET_TX_RING, PACKET_LOSS, PACKET_QDISC_BYPASS, TPACKET_V2, PACKET_OUTGOING
cdef extern from * nogil:
    int AF_PACKET


cdef bytes NO_RING = bytes(28)     # the socket outlives who mapped a ring of it: an old one goes first


cdef uint32_t unsent(TxRing* r) noexcept nogil:
    """How many of the marked frames the kernel did not take; it takes them in order."""
    cdef uint32_t n = 0
    while n < r.marked and load_acquire32(&(<tpacket2_hdr*>(r.slots + <size_t>((r.next + FRAMES - 1 - n) % FRAMES) * FRAME)).tp_status) \
            == TP_STATUS_SEND_REQUEST:
        n += 1
    return n


cdef int tx_send(TxRing* r, int interface, uint16_t protocol) noexcept nogil:
    """Send what was marked, all of it through one interface; how many frames are still to be sent: 0, unless the device or the
    socket's buffer is full, when another call goes on. -1: there is no such interface, or it is down, and they are lost."""
    cdef sockaddr_ll to
    if r.marked == 0:
        return 0
    memset(&to, 0, sizeof(to))
    to.sll_family = AF_PACKET
    to.sll_protocol = htons(protocol)
    to.sll_ifindex = interface
    while sendto(r.fd, NULL, 0, MSG_DONTWAIT, <sockaddr*>&to, sizeof(to)) < 0:
        if errno == EINTR:
            continue
        if errno in (EAGAIN, ENOBUFS):
            break
        take_back(r)
        return -1
    r.marked = unsent(r)            # a buffer that filled up on the way is no error
    return <int>r.marked


cdef void take_back(TxRing* r) noexcept nogil:
    """Nothing is marked any more: what could not be sent through one interface must not leave through the next, nor much later."""
    cdef uint32_t k, n = unsent(r)
    for k in range(n):
        r.next = (r.next + FRAMES - 1) % FRAMES
        store_release32(&(<tpacket2_hdr*>(r.slots + <size_t>r.next * FRAME)).tp_status, TP_STATUS_AVAILABLE)
    r.marked = 0


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


cdef open_tx(TxRing* r, int fd):
    """A ring on a packet socket of type SOCK_RAW, which stays the caller's. A frame that the kernel cannot send is lost."""
    _option(fd, PACKET_TX_RING, NO_RING)
    _option(fd, PACKET_VERSION, struct.pack("i", TPACKET_V2))
    _option(fd, PACKET_LOSS, struct.pack("i", 1))
    _option(fd, PACKET_QDISC_BYPASS, struct.pack("i", 1))
    _option(fd, PACKET_TX_RING, struct.pack("IIII", BLOCK, FRAMES * FRAME // BLOCK, FRAME, FRAMES))
    r.fd, r.next, r.marked = fd, 0, 0
    r.slots = <uint8_t*>_map(fd, <size_t>FRAMES * FRAME)


cdef open_rx(RxRing* r, int fd):
    """A ring on a packet socket that is not bound yet, or has a filter that passes nothing, or had a ring before."""
    _option(fd, PACKET_RX_RING, NO_RING)
    _option(fd, PACKET_VERSION, struct.pack("i", TPACKET_V2))
    _option(fd, PACKET_RX_RING, struct.pack("IIII", BLOCK, FRAMES * FRAME // BLOCK, FRAME, FRAMES))
    r.fd, r.next, r.held = fd, 0, 0
    r.slots = <uint8_t*>_map(fd, <size_t>FRAMES * FRAME)


cdef void close_tx(TxRing* r) noexcept:
    if r.slots != NULL:
        munmap(r.slots, <size_t>FRAMES * FRAME)
        r.slots = NULL


cdef void close_rx(RxRing* r) noexcept:
    if r.slots != NULL:
        munmap(r.slots, <size_t>FRAMES * FRAME)
        r.slots = NULL
