"""One worker: what a thread owns, and what the stages pass to each other.

Nothing here is shared but the table, the rings (one producer, one consumer each) and the counts of
a buffer's borrowers. All memory is taken once, before the thread starts.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .flows cimport Flows
from .mppe cimport Ciphers
from .packet cimport VERDICTS, Packet
from .packetring cimport RxRing
from .sys cimport iovec, mmsghdr, virtio_net_hdr
from .table cimport TEMPLATE, NextHop, Path, Session, Table, WorkerRecord

cdef enum:
    WORKERS = 16              # at most
    LISTENERS = 16            # ports of one worker's wire side, at most; each may have an express
    HEADROOM = 128            # free octets in front of what is read
    RECEIVES = 64             # buffers of one recvmmsg, at most
    BUFFERS = 128             # receive buffers of 64 KiB: RECEIVES in use, the rest lent to other workers
    BUFFER = 65536 + HEADROOM
    CELL = 2048               # a lone datagram that waits for another worker is copied into a cell, so as not to hold 64 KiB
    CELLS = 4096
    BATCH = 512               # packets of one pass through the stages
    BURST = 128               # datagrams that one receive can hold (UDP_SEGMENT's own limit)
    WAITS = 16384             # cells of packets that wait for one before them
    WINDOW = 256              # packets of one session that may wait, at most
    JOIN_ROOM = 1048576       # octets of packets that were put together in one pass
    ARENAS = 8                # of TUN reads; one in use, the rest lent
    ARENA = 262144            # octets: a super-packet of 64 KiB always fits behind three others
    SEGMENTS = 1024           # datagrams of one flush
    SCRATCH = 192             # octets a header block: encapsulation, IP, TCP with options
    LINK = 34                 # octets for Ethernet's and IPv4's header in front of it, where they are ours
    CIPHER_ROOM = 524288      # octets of encrypted datagrams of one flush
    PUNTS = 128               # frames of one flush to control, or of one read from it
    ALTERNATE = 65536         # octets of a worker's stack for fatal signals
    FRAME = 2048 + 64         # the largest of them; a longer one is DROP_LENGTH
    TAPS = 1024               # numbers of a worker's TAPs; 0 is none
    TAPS_READY = 32           # that are read in turn
    WHEEL = 512               # ticks of 100 ms: 51.2 s, and so less than a slot rests before it is reused

# A receive buffer's description.
cdef struct Receive:
    uint8_t* data             # the first datagram
    uint32_t segment          # octets a datagram, when UDP_GRO merged several
    uint32_t length
    uint16_t tunnel           # of a peer whose datagrams name none: its peer_hash
    uint8_t tos
    uint16_t tpid             # of the tag that the kernel took off a frame; 0: there was none
    uint16_t tci
    Path path                 # peer and local address of the datagrams

# How many packets of a buffer other workers still hold: added to by its worker before a packet is handed over, taken from with
# release by the borrowers. A line of its own, because it is written from elsewhere.
cdef struct Loan:
    uint32_t refs
    uint8_t pad[60]

# A packet that waits for another, in a cell.
cdef struct Wait:
    Packet packet
    uint32_t sequence         # of L2TP's number the low half
    uint32_t generation       # of its session
    uint32_t next             # behind it in its session, or in a list of cells; 0: none
    uint32_t older            # of all that wait
    uint32_t newer
    uint64_t since            # ns
    bint lies                 # where it was received: a fragment of this batch

# All that wait for the same kind of thing, by age; 0: none does.
cdef struct Ages:
    uint32_t oldest
    uint32_t newest

# What waits to be sent: one datagram each, as one or two pieces in Out.iov.
cdef struct Segment:
    Path* path
    Session* session          # NULL: a control message
    uint32_t iov
    uint16_t pieces
    uint16_t tos
    uint32_t size             # UDP payload octets
    uint32_t packets          # 1 when its end is to be counted as DOWN, 0 for frames of our own

cdef struct Out:
    int count
    int iovs
    Segment segments[SEGMENTS]
    iovec iov[2 * SEGMENTS]
    uint8_t scratch[SEGMENTS][SCRATCH]
    mmsghdr messages[SEGMENTS]
    uint8_t control[SEGMENTS][96]
    uint8_t names[SEGMENTS][32]
    uint8_t links[SEGMENTS][LINK]
    iovec framed[SEGMENTS][3] # pieces of a frame of our own: its link header, and those of the datagram

cdef enum:
    READY_TUN = 62            # of what epoll reports: a listener's index, or one of these
    READY_PUNT = 61
    READY_WAKE = 60
    READY_TAP = 59            # a bit alone: taps_ready has something
    TAP = 64                  # and a TAP's number

cpdef enum PortKind:
    PORT_UDP = 0              # L2TP over UDP
    PORT_GRE = 1              # PPTP over a raw socket of protocol 47
    PORT_ETHERNET = 2         # PPPoE over a packet socket of an interface, which receives into a ring

cdef struct Listener:
    int fd
    int wanted                # how many buffers the next receive may fill
    uint8_t kind              # PortKind
    uint8_t gso               # UDP_SEGMENT may be used
    uint8_t family6           # an AF_INET6 socket
    uint8_t any               # bound to the wildcard address: answers need the local address
    RxRing ring               # of a packet socket; slots is NULL where there is none
    Path path                 # port index, local address and port, for what is received on it; an express has the port of its main one

# An Ethernet port of one session's own, see bridge.pxd. Filled by Forwarder.plug while it is free, emptied by its worker.
cdef enum:
    TAP_FREE = 0
    TAP_PLUGGED = 1

cdef struct Tap:
    int fd
    uint32_t slot             # of the session
    uint32_t generation
    uint8_t state             # stored with release

# In front of every frame between a worker and control.
cdef struct PuntHeader:       # 64 octets
    uint8_t kind              # PuntKind, see punt.pxd
    uint8_t worker            # that received it
    uint16_t protocol         # PPP protocol number
    uint32_t slot
    uint32_t generation
    uint32_t length           # of the frame behind
    Path path
    uint8_t pad[8]

cdef struct Worker:
    # what it works on
    Table* table
    WorkerRecord* record
    int index
    int workers
    int tun                   # its queue of the shared inner port
    int punt
    int epoll
    uint32_t woken            # bit i: worker i was handed something in this pass
    int wake                  # eventfd that other workers write when it sleeps
    int listeners             # sockets to read
    Listener listener[2 * LISTENERS]
    Worker* others[WORKERS]
    void* rings[WORKERS]      # Ring* from worker i to this one; NULL for itself
    # settings
    uint8_t merge             # deliver may write super-packets: 1 of TCP, 2 of UDP too
    uint64_t spin_ns
    uint32_t window           # how far ahead of what is missing a packet may be, and wait
    uint64_t window_ns        # how long it may; 0: not at all
    uint64_t join_ns          # how long a fragment may wait for the rest of its packet, and for those before it
    uint32_t stop
    # stage timers (stage.pxd)
    uint8_t profiling         # somebody looks, as of this pass
    uint8_t stage             # that we are in, at any time
    uint64_t stage_since      # when it was entered
    # time: one reading a batch
    uint64_t now_ns
    uint32_t tick
    uint32_t wheel_tick       # up to which the wheel has been turned
    uint32_t wheel[WHEEL]     # first slot of each list, 0: empty
    # counters of this batch
    uint64_t verdicts[64]
    uint32_t icmp_tokens
    uint32_t solicit_tokens   # IPv6 frames of link scope that may still go to control in this tick
    uint32_t greet_tokens     # SCCRQs that may still go to control in this tick
    uint32_t owing            # first slot of those that owe an acknowledgment, 0: none
    uint32_t due[BATCH]       # slots of those whose acknowledgment leaves at the end of this batch
    int dues
    int frames                # a packet socket for frames of our own; -1: there is none
    uint8_t bypass            # it may be used in this tick
    uint16_t ip_id            # of the next one
    uint32_t hop_index        # of the NextHop in `hop`, 0: none
    NextHop hop
    uint64_t lost             # ports that epoll found broken, as bits
    void* discovery           # Discovery*, see discovery.pxd; NULL: there is no PPPoE
    # what a crash leaves word of (crash.pxd)
    uint8_t* alternate        # ALTERNATE octets: the stack on which a fatal signal is handled
    uint32_t slot             # of the session that the wheel or an order of control's is about, 0 otherwise
    # scratch
    Packet batch[BATCH]
    int count
    Flows flows
    int room                  # packets of a batch: BATCH, or one for a while after a crash
    Packet late[BATCH]        # the rest of a batch in which something is not in order
    int late_at
    int late_count
    Wait* waits               # WAITS; the one with number 0 is not used
    uint8_t* wait_cells       # WAITS * CELL
    uint32_t waits_used       # how many were ever in use
    uint32_t waits_free       # first of those that are free again
    uint32_t waits_out        # how many are in use
    Ages ordered              # packets of sequenced sessions
    Ages joining              # fragments
    uint32_t spent            # first of those whose packet went on in this pass
    uint32_t fragments        # of the batch, for join
    Packet pieces[BATCH]      # the rest of a batch in which a fragment is not a whole packet
    int pieces_at
    int pieces_count
    uint16_t lying[BATCH]     # cells taken by fragments of this batch
    int lies
    uint8_t* joined           # JOIN_ROOM: packets put together
    uint32_t joined_used
    Receive receive[BUFFERS]
    int taken[RECEIVES]       # buffers that the last recvmmsg filled
    Loan buffer_loans[BUFFERS]
    Loan arena_loans[ARENAS]
    uint32_t cell_refs[CELLS]
    uint32_t cell             # the last one taken
    uint8_t* cells            # CELLS * CELL: lone datagrams for other workers
    int arena                 # that the inner port is read into
    uint32_t arena_used       # octets of it behind which there is room
    uint8_t drained           # the last collect emptied the inner port
    uint8_t* buffers          # BUFFERS * BUFFER
    uint8_t* arenas           # ARENAS * ARENA
    mmsghdr incoming[RECEIVES]
    iovec incoming_iov[RECEIVES]
    uint8_t incoming_control[RECEIVES][128]
    uint8_t incoming_names[RECEIVES][32]
    Out* out
    # encryption
    Ciphers* ciphers
    uint8_t* cipher_room      # CIPHER_ROOM
    uint32_t cipher_used      # octets of it that wait in Out
    uint32_t encrypted        # packets of the batch that link left encrypted
    # bridging
    uint32_t bridged          # packets of the batch that are Ethernet frames
    Tap taps[TAPS]
    uint32_t taps_used        # the largest number ever in use, and one
    uint32_t taps_ready[TAPS_READY]   # numbers of those that may have something
    int taps_waiting          # how many
    PuntHeader punt_headers[PUNTS]
    iovec punt_iov[2 * PUNTS]
    mmsghdr punt_messages[PUNTS]
    int punts
    uint32_t punt_room        # octets that the channel holds
    uint8_t* orders           # PUNTS * FRAME: what control sent
    iovec order_iov[PUNTS]
    mmsghdr order_messages[PUNTS]


cdef void work(Worker* w) noexcept nogil
