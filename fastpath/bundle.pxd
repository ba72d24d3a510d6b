"""Multilink bundles (RFC 1990): what control says of them, and what their worker keeps of their fragments.

A bundle is the session of its links' user data. It has a slot, a generation, an owner and a Config like every session, and a record of
its own in the tables file by that slot. Its links are sessions too, of any tunnel and worker; theirs is what belongs to a link: LCP,
authentication, echoes, and frames of protocol 003D. A link may be its own bundle, when its peer has no other and will have none.

    Session[link].bundle, .place  ->  Bundle.members[active].member[place]  ->  Session[link], by slot and generation

Both ways must agree, so that a slot that is used anew is in nobody's bundle. A link's place is its own from join_link to leave_link.

    | B E 000000 | sequence number, 24 bits | a stretch of: PPP protocol, user data |     or, short: | B E 00 | 12 bits |

Numbers are kept in 32 bits and go on where the wire's begin anew. Each direction has them long or short by itself.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    LINKS = 8                 # of a bundle, at most
    JOIN_WINDOW = 256         # fragments of a bundle that may wait, and how far their numbers may lie apart
    LEAST_ROOM = 128          # octets that a link's frames must hold: the headers of a segment go into one fragment
    EVEN = 65536              # what an octet costs by the fastest link, and by all where their rates are not known
    UNLIKELY = 256            # times that one link is faster than another: no rates, but what somebody put there

cpdef enum BundleFlag:
    BUNDLE_SHORT_RX = 1       # the peer's sequence numbers have 12 bits: we asked for it
    BUNDLE_SHORT_TX = 2       # ours have

cdef struct Member:           # 20 octets: a link in its place
    uint32_t slot             # of its session; 0: nobody's place
    uint32_t generation
    uint32_t rate             # its share of what is sent is in proportion to it; 0: not known
    uint32_t cost             # of an octet, the reverse of its rate
    uint16_t room             # octets of an Information field that its peer takes: its MRU
    uint8_t pad[2]

# Written by control: two copies and an index, as Config.
cdef struct Members:          # 192 octets
    Member member[LINKS]
    uint32_t version          # another one each time
    uint16_t flags            # BundleFlag
    uint16_t mrru             # ours: octets of the largest Information field that is put together
    uint16_t room             # the least of the links'
    uint8_t links             # how many places are taken
    uint8_t places            # the last one that is, and one
    uint8_t pad[20]

# The last fragment that came by a link.
cdef struct Heard:            # 16 octets
    uint32_t slot             # whose it is: a place may have a new link since
    uint32_t generation
    uint32_t last
    uint8_t heard             # it counts
    uint8_t pad[3]

cdef struct Bundle:           # 1280 octets, by the bundle's slot
    Members members[2]
    uint8_t active            # which of them is in force, stored with release
    uint8_t pad0[63]
    # -- receive: written by the owning worker
    uint32_t next             # the first number that has neither gone on nor been given up
    uint32_t scan             # up to here, from next, they wait and are of one packet
    uint32_t gathered         # octets of those
    uint16_t waits            # how many wait in all
    uint16_t lates            # fragments in a row that came too late
    uint8_t started           # one has come
    uint8_t pad1[15]
    Heard heard[LINKS]
    uint8_t pad2[32]
    uint16_t window[JOIN_WINDOW]      # by number: the worker's cell in which it waits, 0: none
    # -- transmit: written by the owning worker
    uint32_t tx_next          # number of the fragment that is sent next
    uint32_t tx_version       # of the members for which the rest counts
    uint64_t lag[LINKS]       # what each link has carried, by its rate
    uint32_t tx_since         # tick of that version's first packet
    uint8_t tx_open           # bits, by place: which links are sent by
    uint8_t pad3[51]
