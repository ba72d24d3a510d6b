"""PPTP's data as frames of our own, past the kernel's output: Ethernet and IPv4 in front of GRE, by a packet socket.

Control resolves where a peer is reached: interface, path MTU and link header stand in a `NextHop` that the session names, and change
when routes or neighbours do. A datagram goes by the raw socket instead while its next hop is not known, when it is too long for the
path, while control is away and so nobody follows changes, and when the supervisor found that the kernel's output must not be passed
by (Header.bypass). DF is clear, so that a narrow link behind the next hop fragments. The interface's queueing discipline has a frame
as it has what the kernel sends.
"""
from .worker cimport Out, Segment, Worker


cdef bint find_hop(Worker* w, const Segment* s) noexcept nogil
cdef void frame_message(Worker* w, Out* out, int i, const Segment* s) noexcept nogil
