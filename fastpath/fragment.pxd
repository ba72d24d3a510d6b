"""IPv4 fragmentation of a packet with Don't Fragment clear (RFC 791 section 3.2).

    fragment_begin(fragmenter, ip, n, mtu)     how many fragments, or -1
    fragment_next(fragmenter, out, ...)        the next one: its header in out, its payload where it lies

The first fragment has all options, the others those with the copy bit. A fragment may be fragmented again: offsets go on from
its own, and More Fragments stays set on the last piece when it was set before. A checksum still to be computed must be finished
and a super-packet cut before: what stands in the packet is what leaves.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from .bytes cimport load16, store16
from .checksum cimport checksum_add, fold, put_sum
from .ip cimport IP4_DF, IP4_FRAGMENT, IP4_HEADER, IP4_LENGTH, IP4_MF, IP4_OFFSET, IP4_SUM

cdef enum:
    FRAGMENT_ROOM = 60        # octets of the longest IPv4 header
    OPTION_COPY = 0x80        # this option belongs into every fragment
    OPTION_LAST = 0
    OPTION_PAD = 1

cdef struct Fragmenter:
    const uint8_t* packet
    uint32_t length           # of the packet
    uint32_t at               # where the next payload starts
    uint32_t size             # payload of every fragment but the last
    uint16_t place            # the packet's own offset, in octets
    uint16_t more             # the packet's own More Fragments
    uint8_t header            # octets of the next fragment's header
    uint8_t template[FRAGMENT_ROOM]


cdef inline int fragment_begin(Fragmenter* f, const uint8_t* ip, size_t n, size_t mtu) noexcept nogil:
    """Prepare to send the n octets at ip in pieces of at most mtu; return how many, or -1: no IPv4 packet, DF, or no room."""
    cdef uint32_t header
    cdef uint16_t word
    if n < IP4_HEADER or ip[0] >> 4 != 4:
        return -1
    header = (ip[0] & 15) << 2
    if header < IP4_HEADER or header > n or load16(ip + IP4_LENGTH) != n or mtu < header + 8:
        return -1
    word = load16(ip + IP4_FRAGMENT)
    f.place = (word & IP4_OFFSET) << 3
    if word & IP4_DF or f.place + n > 65535:
        return -1
    f.packet = ip
    f.length = <uint32_t>n
    f.at = header
    f.header = <uint8_t>header
    f.size = <uint32_t>(mtu - header) & ~<uint32_t>7
    f.more = word & IP4_MF
    memset(f.template, 0, FRAGMENT_ROOM)
    memcpy(f.template, ip, header)
    return 1 if n == header else <int>((f.length - header + f.size - 1) // f.size)


cdef inline size_t fragment_next(Fragmenter* f, uint8_t* out, const uint8_t** payload, size_t* payload_length) noexcept nogil:
    """Write the next fragment's header into the FRAGMENT_ROOM octets at out; return its length."""
    cdef uint32_t header = f.header, first = (f.packet[0] & 15) << 2
    cdef uint32_t n = f.length - f.at
    cdef uint16_t word = f.more
    if n > f.size:
        n = f.size
        word = IP4_MF
    word |= <uint16_t>((f.place + f.at - first) >> 3)
    memcpy(out, f.template, FRAGMENT_ROOM)
    store16(out + IP4_LENGTH, <uint16_t>(header + n))
    store16(out + IP4_FRAGMENT, word)
    put_sum(out + IP4_SUM, 0)
    put_sum(out + IP4_SUM, <uint16_t>~fold(checksum_add(0, out, header)))
    payload[0] = f.packet + f.at
    payload_length[0] = n
    if f.at == first and header > IP4_HEADER:
        keep_copied(f, header)
    f.at += n
    return header


cdef inline void keep_copied(Fragmenter* f, uint32_t header) noexcept nogil:
    """Leave in the template's header only the options with the copy bit, padded to a multiple of four."""
    cdef uint32_t at = IP4_HEADER, end = IP4_HEADER, size
    cdef const uint8_t* ip = f.packet
    memset(f.template + IP4_HEADER, OPTION_LAST, FRAGMENT_ROOM - IP4_HEADER)
    while at < header and ip[at] != OPTION_LAST:
        if ip[at] == OPTION_PAD:
            at += 1
            continue
        if at + 2 > header or ip[at + 1] < 2 or at + ip[at + 1] > header:
            break
        size = ip[at + 1]
        if ip[at] & OPTION_COPY:
            memcpy(f.template + end, ip + at, size)
            end += size
        at += size
    f.header = <uint8_t>((end + 3) & ~<uint32_t>3)
    f.template[0] = 0x40 | f.header >> 2
