"""Batched reads and grouped sends on UDP sockets, on raw ones of GRE, and on packet sockets.

receive   recvmmsg into 64 KiB buffers; with UDP_GRO each holds up to BURST equal datagrams, a raw socket gives the IPv4 header too;
          a packet socket's frames lie in a ring
transmit  datagrams with the same path, TOS and size leave in one message with UDP_SEGMENT; GRE has nothing of the kind, but may
          leave as frames of our own

A segment that is larger than the path's MTU gives EMSGSIZE, a route with an IPsec policy EIO: such a group is
sent again datagram by datagram, and its sessions stay without UDP_SEGMENT for a minute.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .bytes cimport load16, load32, store16, store32
from .encrypt cimport run_ciphers
from .nexthop cimport find_hop, frame_message
from .packetring cimport Frame, rx_next, rx_release
from .stage cimport STAGE_TRANSMIT, Stage, enter, in_kernel, out_of_kernel
from .sys cimport (AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE,
                   IP_PKTINFO, IP_TOS, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, IPV6_TCLASS, MSG_DONTWAIT, PACKET_AUXDATA, SOL_PACKET, SOL_UDP, TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID, UDP_GRO,
                   UDP_SEGMENT, cmsghdr, errno, in6_pktinfo, in_pktinfo, iovec, load_acquire32, mmsghdr, msghdr, poison, recvmmsg, sendmmsg,
                   sockaddr_in, sockaddr_in6, tpacket_auxdata, unpoison)
from .table cimport Path, peer_hash
from .worker cimport BUFFER, BUFFERS, HEADROOM, PORT_ETHERNET, PORT_GRE, RECEIVES, SEGMENTS, Listener, Out, Receive, Segment, Worker

cdef enum:
    GROUP = 64                # UDP_MAX_SEGMENTS before Linux 6.2... the least that any kernel takes
    LARGEST = 65507 - 40      # octets of one send
    RETRY = 600               # ticks until UDP_SEGMENT is tried again
    RECEIVED = 768            # datagrams that a receive shall bring: more would leave the cache before deliver reads them again


cdef void prepare(Worker* w) noexcept nogil:
    """Lay out the messages that recvmmsg fills; once, before the first `receive`."""
    cdef int i
    memset(w.incoming, 0, sizeof(w.incoming))
    for i in range(RECEIVES):
        w.taken[i] = i
        w.incoming[i].msg_hdr.msg_iov = &w.incoming_iov[i]
        w.incoming[i].msg_hdr.msg_iovlen = 1
        w.incoming[i].msg_hdr.msg_name = w.incoming_names[i]
        w.incoming[i].msg_hdr.msg_control = w.incoming_control[i]
        reset(w, i)


cdef inline void reset(Worker* w, int i) noexcept nogil:
    w.incoming[i].msg_hdr.msg_namelen = sizeof(w.incoming_names[0])
    w.incoming[i].msg_hdr.msg_controllen = sizeof(w.incoming_control[0])
    w.incoming_iov[i].iov_base = w.buffers + <size_t>w.taken[i] * BUFFER + HEADROOM
    w.incoming_iov[i].iov_len = BUFFER - HEADROOM


cdef int free_buffers(Worker* w, int wanted) noexcept nogil:
    """Put buffers that nobody else holds into `taken`, the low ones first, because they are warm; how many, at most `wanted`."""
    cdef int i, found = 0
    for i in range(BUFFERS):
        if load_acquire32(&w.buffer_loans[i].refs) == 0:
            if w.taken[found] != i:
                w.taken[found] = i
                reset(w, found)
            found += 1
            if found == wanted:
                break
    return found


cdef int receive(Worker* w, Listener* l) noexcept nogil:
    """One recvmmsg. Return how many of `taken` it filled; their Receive says what they are. Where the wire merges nothing, the
    more datagrams it brings the more of a flow go into one write to the inner port; where it does, a few are much.
    Budget: 10 ns a buffer, besides the kernel's part; 20 ns a frame of a ring."""
    cdef int i, n = l.wanted
    cdef uint32_t datagrams = 0
    cdef uint64_t since
    cdef Receive* r
    if l.ring.slots != NULL:
        return receive_frames(w, l)
    if w.workers > 1:
        n = free_buffers(w, n)
        if n == 0:
            return 0
    for i in range(n):
        unpoison(w.incoming_iov[i].iov_base, BUFFER - HEADROOM)
    since = in_kernel(w)
    n = recvmmsg(l.fd, w.incoming, n, MSG_DONTWAIT, NULL)
    out_of_kernel(w, since)
    if n <= 0:
        return 0
    w.record.receives += 1
    for i in range(n):
        r = &w.receive[w.taken[i]]
        r.length = w.incoming[i].msg_len
        r.data = <uint8_t*>w.incoming_iov[i].iov_base
        poison(<uint8_t*>w.incoming_iov[i].iov_base + r.length, BUFFER - HEADROOM - r.length)
        if l.kind == PORT_GRE:
            read_ip(l, r.data, r)
        elif l.kind == PORT_ETHERNET:
            read_tag(l, &w.incoming[i].msg_hdr, r)
        else:
            read_ancillary(l, &w.incoming[i].msg_hdr, r)
        datagrams += (r.length + r.segment - 1) // r.segment if r.segment else 1
        reset(w, i)
    l.wanted = RECEIVES if datagrams <= <uint32_t>n * (RECEIVED // RECEIVES) else <int>(<uint32_t>n * RECEIVED // datagrams)
    return n


cdef int receive_frames(Worker* w, Listener* l) noexcept nogil:
    """The same from a ring: each frame where it lies, until the next call."""
    cdef int i = 0, n = RECEIVES
    cdef Frame f
    cdef Receive* r
    rx_release(&l.ring)
    if w.workers > 1:
        n = free_buffers(w, n)
    while i < n and rx_next(&l.ring, &f):
        r = &w.receive[w.taken[i]]
        r.data = f.data
        r.path = l.path
        r.length = r.segment = f.length
        r.tos = 0
        r.tpid, r.tci = f.vlan, f.tci
        i += 1
    if i:
        w.record.receives += 1
    return i


cdef inline void map4(uint8_t* out, const void* address) noexcept nogil:
    """An IPv4 address as ::ffff:a.b.c.d."""
    memset(out, 0, 10)
    out[10] = out[11] = 0xFF
    memcpy(out + 12, address, 4)


cdef inline void put_scope(uint8_t* address, uint32_t interface) noexcept nogil:
    """Say in a link-local address on which link it is (see Path)."""
    if load16(address) & 0xFFC0 == 0xFE80:
        store32(address + 4, interface)


cdef inline uint32_t take_scope(uint8_t* address) noexcept nogil:
    """Make an address of a Path what the wire has; return its link's interface, 0 for any."""
    cdef uint32_t interface
    if load16(address) & 0xFFC0 != 0xFE80:
        return 0
    interface = load32(address + 4)
    store32(address + 4, 0)
    return interface


cdef void read_ip(Listener* l, const uint8_t* p, Receive* r) noexcept nogil:
    """The IPv4 header in front of what a raw socket received. The kernel has looked at it, and put fragments together."""
    cdef uint32_t header = (p[0] & 15) * 4
    r.path = l.path
    r.tos = 0
    if r.length < 20 or r.length < header:
        r.length = 0
    else:
        r.tos = p[1]
        map4(r.path.peer, p + 12)
        map4(r.path.local, p + 16)
        r.tunnel = peer_hash(r.path.peer)
        r.data += header
        r.length -= header
    r.segment = r.length


cdef void read_tag(Listener* l, msghdr* m, Receive* r) noexcept nogil:
    """What a packet socket says of a frame beside it: the outer VLAN tag, which the kernel has taken off."""
    cdef cmsghdr* c = CMSG_FIRSTHDR(m)
    cdef tpacket_auxdata* aux
    r.path = l.path
    r.segment = r.length
    r.tos = 0
    r.tpid = 0
    while c != NULL:
        if c.cmsg_level == SOL_PACKET and c.cmsg_type == PACKET_AUXDATA:
            aux = <tpacket_auxdata*>CMSG_DATA(c)
            if aux.tp_status & TP_STATUS_VLAN_VALID:
                r.tpid = aux.tp_vlan_tpid if aux.tp_status & TP_STATUS_VLAN_TPID_VALID else <uint16_t>0x8100
                r.tci = aux.tp_vlan_tci
        c = CMSG_NXTHDR(m, c)


cdef void read_ancillary(Listener* l, msghdr* m, Receive* r) noexcept nogil:
    """Peer, local address, TOS and the size of the datagrams in this buffer."""
    cdef cmsghdr* c = CMSG_FIRSTHDR(m)
    cdef sockaddr_in* a4 = <sockaddr_in*>m.msg_name
    cdef sockaddr_in6* a6 = <sockaddr_in6*>m.msg_name
    cdef int32_t size
    r.segment = r.length
    r.tos = 0
    r.path = l.path
    if l.family6:
        memcpy(r.path.peer, &a6.sin6_addr, 16)
        put_scope(r.path.peer, a6.sin6_scope_id)
        r.path.peer_port = load16(<uint8_t*>&a6.sin6_port)
    else:
        map4(r.path.peer, &a4.sin_addr)
        r.path.peer_port = load16(<uint8_t*>&a4.sin_port)
    while c != NULL:
        if c.cmsg_level == SOL_UDP and c.cmsg_type == UDP_GRO:
            memcpy(&size, CMSG_DATA(c), 4)
            if size > 0:
                r.segment = <uint32_t>size
        elif c.cmsg_level == IPPROTO_IP and c.cmsg_type == IP_PKTINFO:
            map4(r.path.local, &(<in_pktinfo*>CMSG_DATA(c)).ipi_addr)
        elif c.cmsg_level == IPPROTO_IP and c.cmsg_type == IP_TOS:
            r.tos = CMSG_DATA(c)[0]
        elif c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_PKTINFO:
            memcpy(r.path.local, &(<in6_pktinfo*>CMSG_DATA(c)).ipi6_addr, 16)
            put_scope(r.path.local, (<in6_pktinfo*>CMSG_DATA(c)).ipi6_ifindex)
        elif c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_TCLASS:
            memcpy(&size, CMSG_DATA(c), 4)
            r.tos = <uint8_t>size
        c = CMSG_NXTHDR(m, c)


cdef void address_message(Worker* w, Out* out, int i, const Segment* s, uint16_t segment_size) noexcept nogil:
    """Name and ancillary data of message i: peer, local address when the socket has none of its own, TOS, UDP_SEGMENT."""
    cdef msghdr* m = &out.messages[i].msg_hdr
    cdef const Path* path = s.path
    cdef Listener* l = &w.listener[path.port]
    cdef sockaddr_in* a4 = <sockaddr_in*>out.names[i]
    cdef sockaddr_in6* a6 = <sockaddr_in6*>out.names[i]
    cdef cmsghdr* c = <cmsghdr*>out.control[i]
    cdef in6_pktinfo* info6
    cdef size_t used = 0
    cdef int32_t tos = s.tos
    m.msg_flags = 0
    if l.kind == PORT_ETHERNET:         # a whole frame, and the socket knows its interface
        m.msg_name = m.msg_control = NULL
        m.msg_namelen = 0
        m.msg_controllen = 0
        return
    m.msg_name = out.names[i]
    if l.family6:
        memset(a6, 0, sizeof(sockaddr_in6))
        a6.sin6_family = AF_INET6
        store16(<uint8_t*>&a6.sin6_port, path.peer_port)
        memcpy(&a6.sin6_addr, path.peer, 16)
        a6.sin6_scope_id = take_scope(<uint8_t*>&a6.sin6_addr)
        m.msg_namelen = sizeof(sockaddr_in6)
    else:
        a4.sin_family = AF_INET
        store16(<uint8_t*>&a4.sin_port, path.peer_port)
        memcpy(&a4.sin_addr, path.peer + 12, 4)
        m.msg_namelen = sizeof(sockaddr_in)
    if l.any:
        if l.family6:
            c.cmsg_level, c.cmsg_type, c.cmsg_len = IPPROTO_IPV6, IPV6_PKTINFO, CMSG_LEN(sizeof(in6_pktinfo))
            info6 = <in6_pktinfo*>CMSG_DATA(c)
            memcpy(&info6.ipi6_addr, path.local, 16)
            info6.ipi6_ifindex = take_scope(<uint8_t*>&info6.ipi6_addr)
            used = CMSG_SPACE(sizeof(in6_pktinfo))
        else:
            c.cmsg_level, c.cmsg_type, c.cmsg_len = IPPROTO_IP, IP_PKTINFO, CMSG_LEN(sizeof(in_pktinfo))
            memset(CMSG_DATA(c), 0, sizeof(in_pktinfo))
            memcpy(&(<in_pktinfo*>CMSG_DATA(c)).ipi_spec_dst, path.local + 12, 4)
            used = CMSG_SPACE(sizeof(in_pktinfo))
    if tos:
        c = <cmsghdr*>(out.control[i] + used)
        c.cmsg_level, c.cmsg_type, c.cmsg_len = IPPROTO_IP, IP_TOS, CMSG_LEN(4)
        if l.family6:
            c.cmsg_level, c.cmsg_type = IPPROTO_IPV6, IPV6_TCLASS
        memcpy(CMSG_DATA(c), &tos, 4)
        used += CMSG_SPACE(4)
    if segment_size:
        c = <cmsghdr*>(out.control[i] + used)
        c.cmsg_level, c.cmsg_type, c.cmsg_len = SOL_UDP, UDP_SEGMENT, CMSG_LEN(2)
        memcpy(CMSG_DATA(c), &segment_size, 2)
        used += CMSG_SPACE(2)
    m.msg_control = out.control[i] if used else NULL
    m.msg_controllen = used


cdef inline bint may_segment(Worker* w, const Segment* s) noexcept nogil:
    if s.session == NULL or s.session.no_gso == 0:
        return True
    if <int32_t>(w.tick - s.session.gso_again) < 0:
        return False
    s.session.no_gso = 0
    return True


cdef int group(Worker* w, const Segment* s, int n) noexcept nogil:
    """How many of the n datagrams from s on may leave in one message."""
    cdef int k = 1
    cdef uint32_t total = s.size
    if not w.listener[s.path.port].gso or not may_segment(w, s):
        return 1
    while (k < n and k < GROUP and s[k - 1].size == s.size and s[k].size <= s.size and s[k].tos == s.tos
           and total + s[k].size <= LARGEST and (s[k].path == s.path or same_path(s[k].path, s.path))
           and (s[k].session == s.session or may_segment(w, &s[k]))):
        total += s[k].size
        k += 1
    return k


cdef void send_singly(Worker* w, Out* out, const Segment* s, int n) noexcept nogil:
    """The n datagrams from s on, each in a message of its own, without UDP_SEGMENT."""
    cdef int i, sent, lost, done = 0
    for i in range(n):
        address_message(w, out, i, &s[i], 0)
        out.messages[i].msg_hdr.msg_iov = &out.iov[s[i].iov]
        out.messages[i].msg_hdr.msg_iovlen = s[i].pieces
        if s[i].session != NULL:
            s[i].session.no_gso = 1
            s[i].session.gso_again = w.tick + RETRY
    while done < n:
        sent = sendmmsg(w.listener[s.path.port].fd, out.messages + done, n - done, 0)
        if sent > 0:
            counted(w, s + done, sent, True)
            done += sent
        elif errno != EINTR:
            lost = n - done if errno == EAGAIN else 1
            counted(w, s + done, lost, False)
            done += lost


cdef int fill(Worker* w, Out* out, int first, int* starts, int* fd) noexcept nogil:
    """Build messages from segment `first` on while they go through one socket, fd[0]; starts[i] is message i's first segment.
    Return the number of messages; starts[that] is where to go on."""
    cdef int i = first, k, by, messages = 0
    cdef Segment* s
    cdef uint8_t port = out.segments[first].path.port
    cdef bint bypass = w.bypass and w.listener[port].kind == PORT_GRE
    w.hop_index = 0                   # once a round it is looked at again
    while i < out.count and out.segments[i].path.port == port:
        s = &out.segments[i]
        by = w.frames if bypass and find_hop(w, s) else w.listener[port].fd
        if i == first:
            fd[0] = by
        elif fd[0] != by:
            break
        k = 1
        if by == w.frames:
            frame_message(w, out, messages, s)
        else:
            k = group(w, s, out.count - i)
            address_message(w, out, messages, s, <uint16_t>s.size if k > 1 else 0)
            out.messages[messages].msg_hdr.msg_iov = &out.iov[s.iov]
            out.messages[messages].msg_hdr.msg_iovlen = <size_t>(s[k - 1].iov + s[k - 1].pieces - s.iov)
        starts[messages] = i
        messages += 1
        i += k
    starts[messages] = i
    return messages


cdef void transmit(Worker* w) noexcept nogil:
    """Send what is queued. Budget: with 44 datagrams a message 6 ns a datagram, besides the kernel's part."""
    cdef Out* out = w.out
    cdef int starts[SEGMENTS + 1]
    cdef int first = 0, messages, done, sent, n, i, fd = -1
    cdef uint64_t since
    cdef Stage before = <Stage>w.stage                           # often in the middle of another one
    if w.cipher_used:
        run_ciphers(w)
    enter(w, STAGE_TRANSMIT, out.count)
    while first < out.count:
        messages = fill(w, out, first, starts, &fd)
        done = 0
        while done < messages:
            since = in_kernel(w)
            sent = sendmmsg(fd, out.messages + done, messages - done, 0)
            out_of_kernel(w, since)
            w.record.sends += 1
            if sent > 0:
                if fd == w.frames:
                    w.record.frames += sent
                for i in range(done, done + sent):
                    counted(w, &out.segments[starts[i]], starts[i + 1] - starts[i], True)
                    if starts[i + 1] - starts[i] > 1:
                        w.record.gso_sends += 1
                done += sent
                continue
            if errno == EINTR:
                continue
            n = starts[done + 1] - starts[done]
            if n > 1 and errno in (EMSGSIZE, EIO, EINVAL):
                w.record.gso_failures += 1
                send_singly(w, out, &out.segments[starts[done]], n)
                break               # the messages are overwritten: build the rest anew
            if errno == EAGAIN:         # the socket is full, for all of them
                counted(w, &out.segments[starts[done]], starts[messages] - starts[done], False)
                done = messages
                break
            counted(w, &out.segments[starts[done]], n, False)
            done += 1
        first = starts[done + 1] if done < messages else starts[messages]
    out.count = 0
    out.iovs = 0
    enter(w, before, 0)
