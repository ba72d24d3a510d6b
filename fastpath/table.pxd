"""The tables file: everything that control and the workers share, mapped by both.

    Header | sessions[banks << 16] | addresses[2][capacity] | tunnels[65536] | used[banks << 10] | ciphers[banks << 16] | nexthops[4096]
        | services[2] | bundles[banks << 16] | workers[n]

Every field has one writer, named at its cache line. A record is filled, then published by a release
store of its state; workers read that state with acquire. The sections are sparse: a slot that was
never used costs no memory, and because a look at one would cost it too, scans go by the map of used ones.

A session's slot follows from the ids that we choose: slot = (our tunnel id mod banks) << 16 | our
session id. Ids can be guessed, so what was received must match the record's path and tunnel too.
In PPTP the call id is the session's and a hash of the peer's address stands for the tunnel's; in PPPoE a hash of
the network does, which is an interface and its VLANs.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .bundle cimport Bundle
from .cipher cimport Cipher
from .prefix cimport AddressEntry, AddressIndex, longest_match, prefetch_entry
from .service cimport Services
from .sys cimport load_acquire8, prefetch, prefetch_write

cdef enum:
    LAYOUT = 4                # of this page; another one's sessions cannot be adopted
    TEMPLATE = 64             # octets of an encapsulation template
    TUNNELS = 65536
    NEXTHOPS = 4096
    COUNTERS = 64             # room for verdicts in a worker's record
    STAGES = 32               # room for stage timers
    CRASHES = 8               # of which there is a record
    SUSPECTS = 29             # sessions of one crash that are named
    TICK_NS = 100000000       # a tick: 100 ms of the monotonic clock

cpdef enum State:
    FREE = 0
    OPENING = 1               # all PPP is punted, user data is DROP_NOT_OPEN
    OPEN = 2
    RETIRED = 3               # waits until no worker can still hold it

cpdef enum ConfigFlag:
    CONFIG_ADMIT_ANY = 1      # any inner source address
    CONFIG_CLAMP_MSS = 2
    CONFIG_SEQUENCED = 4      # data is numbered both ways: L2TP's Ns, GRE's sequence numbers
    CONFIG_COPY_DSCP = 8      # the outer DSCP is the inner one (RFC 2983); ECN always is (RFC 6040 section 4.1)
    CONFIG_IP = 16            # IPCP is open: IPv4 is user data
    CONFIG_IPV6 = 32          # IPV6CP is open: IPv6 is
    CONFIG_BARE = 64          # PPP without address and control field, ever (RFC 2516 section 7)
    CONFIG_BUNDLE = 128       # a bundle's: what is sent goes by its links (RFC 1990)
    CONFIG_ENCRYPT = 256      # user data leaves encrypted (RFC 3078)
    CONFIG_DECRYPT = 512      # encrypted packets are understood
    CONFIG_REQUIRE = 1024     # and nothing else: user data in clear passes neither way

# Where datagrams come from and go to. Addresses are 16 octets, IPv4 as ::ffff:a.b.c.d; ports in host order. A link-local address
# (fe80::/10) means something on one link only, so octets 4 to 7 of it, which are zero on the wire, are its interface's index.
cdef struct Path:             # 40 octets
    uint8_t peer[16]
    uint8_t local[16]         # the address that the peer dialled: answers leave from it
    uint16_t peer_port
    uint16_t local_port
    uint8_t port              # index of the listener
    uint8_t pad[3]

# What may change while a session lives: two copies and an index (see Session.active). What every packet needs
# stands in the first 64 octets, the first 32 of the template with it.
cdef struct Config:           # 128 octets
    uint16_t flags
    uint8_t template_length
    uint8_t ppp_at            # where in the template PPP's header begins
    uint8_t ns_at             # where in the template the sequence number is patched; 0: nowhere
    uint8_t length_at         # where the length of what is behind the tunnel's header is patched; 0: nowhere
    uint8_t tos               # the outer DSCP in its place, unless CONFIG_COPY_DSCP
    uint8_t bridge            # BridgeFlag, see bridge.pxd
    uint16_t mtu              # the largest inner packet toward the peer
    uint16_t mss              # to which TCP's MSS is clamped, IPv4; IPv6 gets 20 less
    uint16_t keepalive        # ticks of silence before echoes are sent; 0: never
    uint16_t cipher           # generation of the keys in force; 0: none
    # what it owns, as half of load_key's key, 0: none; what else it owns is in by_address
    uint64_t address          # its IPv4 address
    uint64_t prefix           # the /64 that is its link's
    uint8_t template[TEMPLATE]
    uint32_t our_magic        # in our echo requests and replies
    uint32_t peer_magic
    uint8_t gateway[4]        # our own end, source of ICMP answers
    uint8_t gateway6[16]
    uint16_t tap              # number of its owner's TAP that is its own, 0: none
    uint8_t pad2[2]

cdef struct Session:          # 512 octets
    # -- identity: written by control before it publishes, constant until the slot is reused
    uint32_t generation       # with the slot: the session's handle everywhere; never runs backwards
    uint16_t tunnel           # our tunnel id; PPTP: peer_hash of the peer
    uint16_t session          # our session id or call id, the low half of the slot
    uint8_t kind
    uint8_t state             # published with release
    uint8_t owner             # the worker that owns it whole, both directions
    uint8_t active            # which Config is in force, stored with release
    uint8_t ciphered          # control's own: the slot's cipher record is not all zero
    uint8_t place             # in its bundle
    uint8_t attached          # a link's peer takes what is sent by it: 0 by control when it joins, then 1 by the worker that finds so
    uint8_t pad0
    Path path
    uint32_t nexthop          # of the NextHop that leads to the peer, 0: none; stored with release by control at any time
    uint32_t bundle           # slot of the bundle whose link it is, its own slot when it is one, 0: neither; as nexthop
    # -- configuration: written by control; the idle copy only
    Config config[2]
    # -- receive: written by the owning worker
    uint64_t rx_packets
    uint64_t rx_bytes         # octets of inner IP packets
    uint32_t last_rx          # tick of the last datagram of any kind
    uint32_t last_user        # tick of the last user data from the peer
    uint32_t rx_next          # sequence number expected next, of L2TP's the low half
    uint32_t rx_acked         # GRE: rx_next when it was last acknowledged
    uint32_t ack_next         # slot after this one of those that owe an acknowledgment, 0: last
    uint8_t rx_flow           # Flow, see order.pxd
    uint8_t acking            # Acking, see ack.pxd
    uint8_t solicits          # frames of link scope given to control since
    uint8_t pad8
    uint32_t solicits_since   # tick
    uint32_t waiting          # the worker's cell that holds the first packet that waits, 0: none does
    uint32_t waits            # how many do
    uint8_t pad2[12]
    # -- transmit: written by the owning worker
    uint64_t tx_packets
    uint64_t tx_bytes
    uint32_t tx_next          # sequence number of what is sent next, of L2TP's the low half
    uint8_t no_gso            # a segment was too large for UDP_SEGMENT on this path
    uint8_t pad3[3]
    uint32_t gso_again        # tick at which it is tried again
    uint32_t last_tx_user     # tick of the last user data to the peer
    uint8_t pad4[32]
    # -- timers: written by the owning worker; a slot is reused only when it is in no list
    uint32_t next             # slot after this one in its wheel list, 0: last
    uint32_t armed            # 1: in one of the wheel's lists
    uint32_t due              # tick
    uint8_t echoes            # sent since something was last heard
    uint8_t echo_id
    uint8_t pad5[50]

cdef struct Tunnel:           # 128 octets, index: our tunnel id
    # -- written by control, before the acknowledgment leaves
    uint8_t state             # 0: none; else as control/l2tp names them
    uint8_t pad0
    uint16_t peer_tunnel
    uint16_t ns               # next to send
    uint16_t nr               # next expected
    uint16_t acked            # lowest of ours that is not acknowledged
    uint8_t pad1[2]
    uint32_t generation       # a new one each time the id is taken
    Path path
    uint8_t pad2[8]
    # -- written by the worker that acknowledges HELLO while control is away
    uint32_t worker_generation    # what follows is about this generation
    uint16_t worker_nr        # next expected as the worker saw it
    uint8_t pad3[58]

cdef struct WorkerRecord:     # written by its worker, whole pages
    uint64_t epoch            # batch boundaries passed, stored with release
    uint64_t heartbeat        # monotonic ns
    uint64_t busy_ns          # CPU time of the thread
    uint64_t wakes
    uint64_t batches
    uint64_t packets_up
    uint64_t packets_down
    uint64_t ring_in
    # a line of its own, because other workers read it: counts as quiescent while set; set in a new file, and when the forwarder died
    uint8_t asleep
    uint8_t pad0[63]
    uint64_t ring_out
    uint64_t super_in         # super-packets read from the inner port
    uint64_t super_out        # super-packets written to the inner port
    uint64_t gso_sends        # UDP_SEGMENT sends, and those that had to be sent again singly
    uint64_t gso_failures
    uint64_t sends
    uint64_t receives
    uint64_t reads
    uint64_t writes
    uint64_t frames           # datagrams sent as frames of our own
    uint64_t verdicts[COUNTERS]
    uint64_t stage_ns[STAGES]          # stage.pxd: while somebody looks
    uint64_t stage_kernel_ns[STAGES]   # the part of it in system calls
    uint64_t stage_packets[STAGES]
    uint64_t stage_batches[STAGES]
    uint8_t pad1[4096 - 128 - 10 * 8 - 8 * (COUNTERS + 4 * STAGES)]

# A crash of a worker, written by it while it dies (crash.pyx).
cdef struct Crash:            # 256 octets
    uint64_t time_ns          # monotonic
    uint16_t count            # of the slots
    uint8_t signal
    uint8_t worker
    uint8_t stage
    uint8_t pad[3]
    uint32_t slots[SUSPECTS]  # whose packets were at hand
    uint32_t generations[SUSPECTS]
    uint8_t pad2[8]

# Where frames to some peers go, see nexthop.pxd. Written by control; odd while it writes.
cdef struct NextHop:          # 64 octets
    uint32_t version
    int32_t interface         # 0: not known at the moment
    uint32_t mtu              # the largest IP packet
    uint8_t header[14]        # Ethernet's
    uint8_t pad[38]

cdef struct Header:
    uint64_t magic
    uint32_t layout
    uint32_t banks            # a power of two
    uint32_t max_sessions
    uint32_t workers
    uint32_t capacity         # entries of one copy of the address index, a power of two
    uint8_t active            # which AddressIndex is in force, stored with release
    uint8_t offered           # which Services
    uint8_t pad0[2]
    uint64_t sessions         # offsets from the start of the file
    uint64_t addresses[2]
    uint64_t tunnels
    uint64_t worker_records
    uint64_t used             # a bit a slot: it was published once
    uint64_t size
    uint64_t heartbeat        # control's, monotonic ns; stale: the worker answers HELLO
    uint64_t profile_until    # monotonic ns: until then stages are timed; written by who looks at them
    uint64_t ciphers
    uint64_t crashes          # how many there were, stored with release by the worker that dies
    uint32_t nexthops         # the offset of that section, in pages
    uint8_t bypass            # frames may pass the kernel's output by; written by the supervisor
    uint8_t pad1[3]           # two lines up to here
    AddressIndex index[2]
    Crash crash[CRASHES]      # number n in place n % CRASHES

# Where one process mapped it.
cdef struct Table:
    Header* header
    Session* sessions
    AddressEntry* addresses[2]
    Tunnel* tunnels
    WorkerRecord* workers
    uint64_t* used
    Cipher* ciphers           # by slot
    NextHop* nexthops
    Services* services        # PPPoE's, two copies
    Bundle* bundles           # by slot
    uint32_t bank_mask
    uint32_t address_mask

cdef class Tables:
    cdef Table table
    cdef size_t size
    cdef object flips         # slot -> epochs when its idle copy went out of force
    cdef object swapped       # epochs when the idle address index went out of force
    cdef object offers        # epochs when the idle copy of PPPoE's services went out of force
    cdef object spent         # slot -> epochs when its cipher went out of force: its keys are to be wiped
    cdef _wait(self, mark, what)
    cdef Session* _session(self, uint32_t slot) except NULL
    cdef _wipe(self, uint32_t slot)
    cdef _wipe_spent(self, int most)
    cdef _rebuild(self, const uint64_t* key, uint8_t length)


cdef inline uint32_t slot_of(const Table* t, uint16_t tunnel, uint16_t session) noexcept nogil:
    return (tunnel & t.bank_mask) << 16 | session


cdef inline uint16_t peer_hash(const uint8_t* peer) noexcept nogil:
    """What stands for the tunnel id of a PPTP peer: its calls lie in one bank, and call ids are unique there."""
    cdef uint64_t h[2]
    memcpy(h, peer, 16)
    h[1] ^= h[0] * <uint64_t>0x9E3779B97F4A7C15
    return <uint16_t>((h[1] ^ h[1] >> 32) * <uint64_t>0xD6E8FEB86659FD93 >> 48)


cdef inline uint16_t network_hash(const uint8_t* station, uint8_t port) noexcept nogil:
    """What stands for the tunnel id in PPPoE: peer_hash of the station's network, with the port where its MAC was."""
    cdef uint8_t network[16]
    memcpy(network, station, 10)
    memset(network + 10, 0, 5)
    network[15] = port
    return peer_hash(network)


cdef inline Config* config_of(Session* s) noexcept nogil:
    return &s.config[load_acquire8(&s.active) & 1]


# What each direction, and the timer, touch of a record, asked for ahead. Which configuration is in force is not known before the
# first line is there; most sessions were configured once after they were published, so that the guess is the second copy.
cdef inline void prefetch_up(const Session* s) noexcept nogil:
    prefetch(s)
    prefetch(&s.config[1])
    prefetch_write(&s.rx_packets)


cdef inline void prefetch_down(const Session* s) noexcept nogil:
    prefetch(s)
    prefetch(&s.config[1])
    prefetch_write(&s.tx_packets)


cdef inline void prefetch_timer(const Session* s) noexcept nogil:
    prefetch(s)
    prefetch(&s.config[1])
    prefetch(&s.rx_packets)
    prefetch_write(&s.next)


cdef inline void prefetch_address(const Table* t, const uint64_t* key) noexcept nogil:
    """Ask for the entry where the search for an address begins."""
    cdef int copy = load_acquire8(&t.header.active) & 1
    prefetch_entry(t.addresses[copy], t.address_mask, &t.header.index[copy], key)


cdef inline uint32_t by_address(const Table* t, const uint64_t* address) noexcept nogil:
    """The slot that the longest matching prefix leads to, or 0."""
    cdef int copy = load_acquire8(&t.header.active) & 1
    return longest_match(t.addresses[copy], t.address_mask, &t.header.index[copy], address)
