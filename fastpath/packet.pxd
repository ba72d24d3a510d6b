"""A packet on its way, what became of it, and the batch that carries it through the stages.

    data ----------------------------> length
    | inner IP packet, or PPP frame, or datagram, whatever the stage before left |

A *super-packet* is a TCP or UDP burst of one flow in one buffer: `segment_size` octets of payload a
segment behind one set of headers. It stays whole until `cut`; `deliver` makes new ones.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .table cimport Config, Session

cpdef enum Kind:
    KIND_NONE = 0
    KIND_L2TP = 1
    KIND_PPTP = 2
    KIND_PPPOE = 3
    KIND_BUNDLE = 4           # of links of any kind: nothing on the wire names it

# What became of a packet. Each outcome is declared here once: the C constant, the Python enum, the
# counter's index and its name. fastpath/README.md says where each is set.
cpdef enum Verdict:
    PASS = 0              # still on its way: never counted
    UP                    # delivered inward
    DOWN                  # sent toward the wire
    PUNT                  # given to control
    ECHO                  # LCP echo or discard, dealt with by the worker
    HELLO                 # L2TP HELLO acknowledged by the worker while control is away
    ACK                   # a GRE acknowledgment without payload
    JOINED                # a fragment that became part of a packet, or an empty one
    OFFERED               # a PADI that the worker answered, or will
    HANDED                # given to the worker that owns the session
    FRAGMENTED            # sent as several IP fragments (DF clear)
    TOO_BIG               # answered by ICMP fragmentation-needed or packet-too-big
    DROP_SHORT            # a header is cut off
    DROP_VERSION          # not L2TPv2, not enhanced GRE, not PPPoE of version 1
    DROP_LENGTH           # a length field that the datagram does not hold
    DROP_OFFSET           # an L2TP offset that runs past the end
    DROP_NO_SESSION       # no session has this id
    DROP_PEER             # the id is another peer's or another tunnel's
    DROP_NOT_OPEN         # user data before the link is open
    DROP_SEQUENCE         # a duplicate, or later than its successor
    DROP_LATE             # a fragment that came after it was given up, or the same again
    DROP_LOST             # a fragment of a packet of which another was lost
    DROP_OVERDUE          # a fragment of a packet of which another did not come in time
    DROP_BEGIN            # a fragment of a packet without its beginning
    DROP_END              # a fragment of a packet that had not ended when the next began
    DROP_MRRU             # a fragment of a packet larger than the MRRU, or of more fragments than may wait
    DROP_WAITS            # a fragment for which there is no cell, or that is larger
    DROP_LINK             # a bundle without a link to send by
    DROP_CLEAR            # user data in clear where it must be encrypted
    DROP_CIPHER           # encrypted, and cannot be read
    DROP_COHERENCY        # encrypted, and packets before it were lost: nothing can be read before a flushed one
    DROP_STALE            # encrypted, and older than one that was read, or the same again
    DROP_AHEAD            # encrypted, and after so large a gap that its key is not derived now
    DROP_IP               # not a well-formed IP packet
    DROP_SPOOF            # an inner source address that is not the session's
    DROP_SCOPE            # IPv6 that stays on its link, and that control does not answer
    DROP_SOLICIT          # more solicitations, echoes or DHCPv6 than control takes
    DROP_ECN              # congestion experienced outside, not ECN-capable inside (RFC 6040)
    DROP_NO_ROUTE         # no session has the inner destination
    DROP_TOO_BIG          # too large, and the ICMP answer was over its rate, or not allowed
    DROP_SEGMENT          # a super-packet whose headers we cannot cut
    DROP_RING             # the ring to the owning worker is full
    DROP_DISCOVERY        # PPPoE discovery that makes no sense, or is for a concentrator to say
    DROP_SERVICE          # a PADI for a service that we do not have there
    DROP_PADI             # more PADIs than we answer, or as many sessions as we want
    DROP_COOKIE           # a PADR without a cookie of ours
    DROP_NO_TUNNEL        # a control message for a tunnel id that nobody has
    DROP_RATE             # more new tunnels asked for than control takes
    DROP_BRIDGED          # an Ethernet frame whose PPP header says what was not agreed on
    DROP_FCS              # an Ethernet frame whose check sum is wrong
    DROP_STP              # spanning tree's, where it does not pass
    DROP_TAGGED           # an Ethernet frame with a tag, which the peer does not take
    DROP_FRAME            # an Ethernet frame larger than the session takes
    DROP_NO_PORT          # an Ethernet frame for a session without a TAP
    DROP_PUNT             # the channel to control is full
    DROP_INNER            # the inner port refused the write
    DROP_WIRE             # the wire refused the send
    VERDICTS              # how many

# What cut and deliver have to know of a packet's headers; filled once, by `read_headers`.
cpdef enum Flag:
    FLAG_CSUM = 1         # the checksum at l4 is still to be computed (virtio NEEDS_CSUM)
    FLAG_DF = 2           # IPv4 with Don't Fragment, or IPv6
    FLAG_V6 = 4
    FLAG_FRAGMENT = 8     # an IP fragment: no transport header to look at

cdef struct Packet:
    uint8_t* data         # the current header; headroom in front is the buffer's business
    uint32_t length       # octets from data
    uint32_t slot         # of the session, once it is known
    Session* session
    Config* config        # the session's configuration in force for this batch
    uint16_t segment_size # payload octets of a segment; 0: one packet
    uint16_t csum_start   # with FLAG_CSUM: where the sum begins, and where in it the field is
    uint16_t csum_offset
    uint8_t ip_length     # octets of the inner IP header, extension headers included; coalesce compares from here to verdict at once
    uint8_t transport     # IPPROTO_* behind it
    uint8_t flags
    uint8_t verdict
    uint8_t outer_tos     # up: TOS octet of the datagram it came in; down: the inner one, or traffic class, to be inherited
    uint8_t buffer        # index of the receive buffer it lies in
    uint32_t tunnel       # that it names, see table.pxd; must be the session's
    uint32_t sequence     # L2TP's Ns or GRE's sequence number
    uint16_t protocol     # PPP protocol number
    uint8_t sequence_bits # of that number, 16 or 32; 0: it has none
    uint8_t place         # of a bundle: of the link that it came by

cdef inline void forward(Packet* p, size_t n) noexcept nogil:
    """Strip n octets in front."""
    p.data += n
    p.length -= <uint32_t>n
