"""Key chains, lanes and coherency counts.

Work that a peer's counts may cause is bounded: a key costs 0.4 us, and what lies between the last count and this one must be
derived. A gap may be 3,071 keys at most, larger ones are packets from behind; and all gaps of a worker share an allowance a tick
(`refill`), of which large gaps leave a quarter to small ones.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from .bytes cimport load16
from .cipher cimport KEY, STATE_FLUSH, STATE_TORN, STATE_WAITING, CipherKeys, CipherState
from .cpu cimport LEVEL_PORTABLE, level
from .lanes cimport Job, Lanes, emit, one, side_by_side
from .packet cimport DROP_AHEAD, DROP_CIPHER, DROP_COHERENCY, DROP_STALE
from .ppp cimport pull_encrypted
from .rc4 cimport CHUNK, LANES, rc4_one, rc4_schedule, rc4_xor
from .sessionkey cimport SIX, Successor, first_key, next_key, next_keys
from .sys cimport MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap, store_release8

cdef enum:
    JOBS = 256                # packets of one run
    NONE = 0xFFFF
    LARGE = 64                # a gap of more keys
    FLUSHES = 8               # that one peer may have sent without our knowledge
    ALLOWANCE = 16384         # keys: 7 ms of a tick's 100

cdef struct Chain:
    CipherState* state
    uint8_t key[KEY]
    uint16_t count            # of the last packet
    uint16_t job              # the next whose key is wanted
    uint16_t last

cdef struct Ciphers:
    Lanes lanes
    Job jobs[JOBS]
    Chain chains[JOBS]
    int count
    int chained
    uint32_t allowance


cdef Ciphers* new_ciphers() except NULL:
    """Zeroed, at the beginning of a page: tables lie at multiples of 256."""
    cdef void* at = mmap(NULL, sizeof(Ciphers), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if at == <void*>-1:
        raise MemoryError("a worker's ciphers")
    cdef Ciphers* c = <Ciphers*>at
    cdef int n
    for n in range(LANES):        # a lane without a packet runs along in its own table
        c.lanes.lanes.i[n] = c.lanes.lanes.j[n] = c.lanes.lanes.table[n]
    refill(c)
    return c


cdef void free_ciphers(Ciphers* c) noexcept:
    munmap(c, sizeof(Ciphers))


cdef void allow(Ciphers* c, uint32_t keys) noexcept nogil:
    """Of gaps, until the next call."""
    c.allowance = keys


cdef void refill(Ciphers* c) noexcept nogil:
    """Once a tick."""
    allow(c, ALLOWANCE)


cdef inline void fill(Successor* s, Chain* chain) noexcept nogil:
    s.start, s.key, s.bits = chain.state.start, chain.key, chain.state.bits


cdef void derive(Ciphers* c) noexcept nogil:
    """The keys of all packets: each step takes up to six chains one key further, and a chain that is done makes room for another."""
    cdef Chain* running[SIX]
    cdef Successor successors[SIX]
    cdef Chain* chain
    cdef Job* job
    cdef int k, n = 0, kept, taken = 0
    while True:
        while n < SIX and taken < c.chained:
            running[n] = &c.chains[taken]
            fill(&successors[n], running[n])
            taken += 1
            n += 1
        if n == 0:
            return
        next_keys(c.lanes.tables[0], successors, n)
        kept = 0
        for k in range(n):
            chain = running[k]
            job = &c.jobs[chain.job]
            job.derive -= 1
            if job.derive == 0:
                memcpy(job.key, chain.key, KEY)
                chain.job = job.next
            if chain.job != NONE:
                running[kept] = chain
                successors[kept] = successors[k]
                kept += 1
        n = kept


cdef bint mppe_full(const Ciphers* c) noexcept nogil:
    """No other packet can wait: the next makes those that do run."""
    return c.count == JOBS


cdef void mppe_run(Ciphers* c) noexcept nogil:
    """Do what waits. Budget at 1400 octets: 1,000 ns a packet of six sessions, 1,200 of one."""
    cdef int k
    cdef Chain* chain
    cdef CipherState* s
    if c.count == 0:
        return
    derive(c)
    if level() == LEVEL_PORTABLE:
        for k in range(c.count):
            rc4_schedule(c.lanes.tables[0], c.jobs[k].key)
            one(&c.jobs[k], c.lanes.tables[0], 1, 0, 0)
    else:
        side_by_side(&c.lanes, c.jobs, c.count)
    for k in range(c.chained):
        chain = &c.chains[k]
        put(chain.state, chain.key, chain.count)
    c.count = c.chained = 0


# -- states

cdef inline void put(CipherState* s, const uint8_t* key, uint16_t count) noexcept nogil:
    """Key and count in force from now on, both at once for whoever finds the record after a crash."""
    cdef uint8_t idle = (s.active ^ 1) & 1
    memcpy(s.key[idle], key, KEY)
    s.count[idle] = count
    store_release8(&s.active, idle)


cdef void mppe_begin(Ciphers* c, CipherState* s, const CipherKeys* keys, bint sending) noexcept nogil:
    """From the start key. The first count is 0."""
    mppe_run(c)
    s.generation = 0              # whoever finds it half done begins again
    if sending:
        memcpy(s.start, keys.send_start, KEY)
    else:
        memcpy(s.start, keys.receive_start, KEY)
    s.bits = keys.send_bits if sending else keys.receive_bits
    s.stateless = keys.send_stateless if sending else keys.receive_stateless
    s.flags = s.garbled = 0
    first_key(s.start, s.bits, s.key[0])
    s.count[0] = MPPE_COUNT
    store_release8(&s.active, 0)
    if not s.stateless:
        rewind(s)
    s.generation = keys.generation


cdef inline void rewind(CipherState* s) noexcept nogil:
    """Begin the key stream of the session key in force."""
    rc4_schedule(s.table, s.key[s.active & 1])
    s.i, s.j = 1, 0


cdef Chain* chain_of(Ciphers* c, CipherState* s) noexcept nogil:
    """Of this batch. An index from an earlier one leads to another state, or nowhere."""
    cdef Chain* chain = &c.chains[s.chain % JOBS]
    if s.chain < c.chained and chain.state == s:
        return chain
    s.chain = <uint16_t>c.chained
    chain = &c.chains[c.chained]
    c.chained += 1
    chain.state = s
    memcpy(chain.key, s.key[s.active & 1], KEY)
    chain.count = s.count[s.active & 1]
    chain.job = chain.last = NONE
    return chain


cdef void wait(Ciphers* c, Chain* chain, const uint8_t* data, uint8_t* out, uint32_t head, uint32_t length, uint16_t keys) noexcept nogil:
    """A packet waits for `mppe_run`, with the key that comes so many after the last one's."""
    cdef Job* job = &c.jobs[c.count]
    job.data, job.out, job.head, job.length, job.derive, job.next = data, out, head, length, keys, NONE
    if chain.job == NONE:
        chain.job = <uint16_t>c.count
    else:
        c.jobs[chain.last].next = <uint16_t>c.count
    chain.last = <uint16_t>c.count
    c.count += 1


cdef void straight(CipherState* s, const uint8_t* data, uint8_t* out, uint32_t head, uint32_t length) noexcept nogil:
    """A packet of a stateful cipher: the key stream goes on."""
    cdef uint8_t stream[CHUNK]
    cdef Job job
    cdef uint32_t at = 0, n
    job.data, job.out, job.head = data, out, head
    while at < length:
        n = CHUNK if length - at > CHUNK else length - at
        rc4_one(s.table, &s.i, &s.j, stream, n)
        emit(&job, at, stream, n)
        at += n


cdef void rekey(CipherState* s, uint16_t count, int times) noexcept nogil:
    """So many keys further; the count with it."""
    cdef uint8_t key[KEY]
    cdef int k
    memcpy(key, s.key[s.active & 1], KEY)
    for k in range(times):
        next_key(s.table, s.start, key, s.bits)
    put(s, key, count)


cdef int mppe_encrypt(Ciphers* c, CipherState* s, const uint8_t* data, uint8_t* out, uint32_t head, uint32_t length) noexcept nogil:
    """A packet's header; its octets are at `out` after `mppe_run`: `length` of them, `head` of which stand there now and the others
    at `data`.

    A stateful sender changes its key with each count that ends in FF, and says so by A: there are peers that change theirs only
    then. A peer that asked for a flushed packet gets the next one of these, the counts up to it left out: what A means elsewhere,
    the same key from its beginning (RFC 3078 section 3.1) or the next one, is not understood alike."""
    cdef Chain* chain
    cdef uint16_t count, header
    if s.stateless:
        if c.count == JOBS:
            mppe_run(c)
        chain = chain_of(c, s)
        chain.count = chain.count + 1 & MPPE_COUNT
        wait(c, chain, data, out, head, length, 1)
        return MPPE_A | MPPE_D | chain.count
    count = s.count[s.active & 1] + 1 & MPPE_COUNT
    header = MPPE_D
    if s.flags & (STATE_FLUSH | STATE_TORN):
        count |= 0xFF
    s.flags = STATE_TORN
    if count & 0xFF == 0xFF:
        header |= MPPE_A
        rekey(s, count, 1)
        rewind(s)
    else:
        put(s, s.key[s.active & 1], count)
    straight(s, data, out, head, length)
    store_release8(&s.flags, 0)
    return header | count


cdef bint spend(Ciphers* c, uint32_t keys) noexcept nogil:
    """Take the keys of a gap out of the allowance."""
    if keys > c.allowance or (keys > LARGE and c.allowance - keys < ALLOWANCE // 4):
        return False
    c.allowance -= keys
    return True


cdef int mppe_decrypt(Ciphers* c, CipherState* s, uint8_t* frame, uint32_t length) noexcept nogil:
    """A packet whose header is at `frame`, `length` octets with it, at least 3; 0, or what becomes of it. It is readable, in place,
    after `mppe_run`."""
    cdef uint16_t header = load16(frame), gap, count = header & MPPE_COUNT
    cdef Chain* chain
    if not header & MPPE_D or header & MPPE_C:
        return DROP_CIPHER
    if not s.stateless:
        return decrypt_stateful(c, s, header, frame + MPPE_HEADER, length - MPPE_HEADER)
    if c.count == JOBS:
        mppe_run(c)
    chain = chain_of(c, s)
    gap = count - chain.count & MPPE_COUNT
    if gap == 0 or gap > MPPE_AHEAD:
        return DROP_STALE
    if gap > 1 and not spend(c, gap - 1):
        return DROP_AHEAD
    chain.count = count
    wait(c, chain, frame + MPPE_HEADER, frame + MPPE_HEADER, 0, length - MPPE_HEADER, gap)
    return 0


cdef int decrypt_stateful(Ciphers* c, CipherState* s, uint16_t header, uint8_t* data, uint32_t length) noexcept nogil:
    """RFC 3078 section 8.2. The key has changed with each count that ends in FF. While a flushed packet is waited for, the others
    still tell where the peer is, so that no key is missed however long that takes."""
    cdef uint16_t last = s.count[s.active & 1], count = header & MPPE_COUNT, gap = count - last & MPPE_COUNT
    cdef int keys = ((last + gap + 1) >> 8) - ((last + 1) >> 8)
    if s.flags & STATE_TORN:
        s.flags = STATE_WAITING
    if gap == 0 or gap > MPPE_AHEAD:
        return DROP_STALE
    if header & MPPE_A == 0 and (s.flags & STATE_WAITING or gap != 1):
        if not spend(c, keys):
            return DROP_AHEAD
        s.flags = STATE_WAITING
        rekey(s, count, keys)
        return DROP_COHERENCY
    if keys > 1 and not spend(c, keys - 1):
        return DROP_AHEAD
    s.flags = STATE_TORN
    rekey(s, count, keys)
    if header & MPPE_A or keys:
        rewind(s)
        if header & MPPE_A:
            choose_key(c, s, data, length)
    straight(s, data, data, 0, length)
    store_release8(&s.flags, 0)
    return 0


cdef bint sensible(CipherState* s, const uint8_t* data, uint32_t length) noexcept nogil:
    """Whether a packet makes sense with the session key in force."""
    cdef uint8_t stream[4]
    cdef uint8_t table[256]
    cdef uint8_t i = 1, j = 0
    cdef uint16_t protocol
    if length < 4:
        return True
    rc4_schedule(table, s.key[s.active & 1])
    rc4_one(table, &i, &j, stream, 4)
    rc4_xor(stream, stream, data, 4)
    return pull_encrypted(stream, 4, &protocol) > 0


cdef void choose_key(Ciphers* c, CipherState* s, const uint8_t* data, uint32_t length) noexcept nogil:
    """A flushed packet begins the key stream of the session key anew (RFC 3078 section 3.1), or that of a later key: Linux takes
    the next one for each flushed packet, and some may have been lost. What this one begins with tells which."""
    cdef uint8_t key[KEY]
    cdef uint16_t count = s.count[s.active & 1]
    cdef int tried = 0
    memcpy(key, s.key[s.active & 1], KEY)
    while not sensible(s, data, length):
        if tried == FLUSHES or not spend(c, 1):
            put(s, key, count)
            break
        rekey(s, count, 1)
        tried += 1
    if tried:
        rewind(s)
