"""Doors for tests to RC4, SHA-1, session keys and the ciphers of MPPE; frames lie in memory of their exact size."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from .bytes cimport store16
from .cipher cimport KEY, STATE_FLUSH, STATE_TORN, CipherKeys, CipherState
from .lanes cimport Job, Lanes, one, side_by_side
from .mppe cimport (MPPE_HEADER, Ciphers, allow, free_ciphers, mppe_begin, mppe_decrypt, mppe_encrypt, mppe_run, new_ciphers)
from .packet import Verdict
from .ppp cimport pull_encrypted as pull_encrypted_header
from .rc4 cimport Key, rc4_first6, rc4_one, rc4_schedule, rc4_schedule6
from .sessionkey cimport SIX, Successor, first_key, next_keys
from .sha1 cimport Digest, Message, sha1_ni1, sha1_ni2, sha1_plain
from .sys cimport MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap


def rc4(bytes key, list lengths):
    """Stretches of these lengths of one key stream, by plain C."""
    cdef uint8_t table[256]
    cdef uint8_t i = 1, j = 0
    cdef bytes out
    rc4_schedule(table, <const uint8_t*><const char*>key)
    stretches = []
    for n in lengths:
        out = bytes(n)
        rc4_one(table, &i, &j, <uint8_t*><char*>out, n)
        stretches.append(out)
    return stretches


def digests(list messages):
    """Of messages of 128 octets, each by itself and by SHA-NI, alone and beside the next."""
    cdef Message m[2]
    cdef Digest d[2]
    cdef list plain = [], alone = [], beside = []
    for k in range(0, len(messages), 2):
        for n in range(2):
            memcpy(m[n], <const char*><bytes>messages[k + n], 128)
            sha1_plain(m[n], d[n])
            plain.append(d[n][:16])
            sha1_ni1(&m[n], &d[n])
            alone.append(d[n][:16])
        sha1_ni2(m, d)
        beside += [d[0][:16], d[1][:16]]
    return plain, alone, beside


def session_keys(list starts, int bits, int n):
    """The first n session keys that follow from each of up to six start keys."""
    cdef uint8_t* tables = <uint8_t*>mmap(NULL, SIX * 256, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    cdef uint8_t start[SIX][KEY]
    cdef uint8_t keys[SIX][KEY]
    cdef Successor s[SIX]
    cdef bytes b
    chains = []
    for k, b in enumerate(starts):
        memcpy(start[k], <const char*>b, len(b))
        first_key(start[k], bits, keys[k])
        s[k].start, s[k].key, s[k].bits = start[k], keys[k], bits
        chains.append([keys[k][:16]])
    for _ in range(n - 1):
        next_keys(tables, s, <int>len(starts))
        for k in range(len(starts)):
            chains[k].append(keys[k][:16])
    munmap(tables, SIX * 256)
    return chains


def crypt(list packets, bint lanes=True):
    """Packets (key, octets, of which lie in the head), side by side or one by one."""
    cdef Lanes* l = <Lanes*>mmap(NULL, sizeof(Lanes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    cdef Job* jobs = <Job*>calloc(len(packets) or 1, sizeof(Job))
    cdef uint8_t table[256]
    cdef bytes octets, key
    cdef size_t n, first
    out = []
    for k in range(5):
        l.lanes.i[k] = l.lanes.j[k] = l.lanes.table[k]
    for k, (key, octets, head) in enumerate(packets):
        n, first = len(octets), head
        jobs[k].length, jobs[k].head = <uint32_t>n, <uint32_t>first
        jobs[k].out = <uint8_t*>malloc(n)
        jobs[k].data = <uint8_t*>malloc(n - first or 1)
        memcpy(jobs[k].out, <const char*>octets, first)
        memcpy(<void*>jobs[k].data, <const char*>octets + first, n - first)
        memcpy(jobs[k].key, <const char*>key, KEY)
    if lanes:
        side_by_side(l, jobs, <int>len(packets))
    else:
        for k in range(len(packets)):
            rc4_schedule(table, jobs[k].key)
            one(&jobs[k], table, 1, 0, 0)
    for k in range(len(packets)):
        out.append(jobs[k].out[:jobs[k].length])
        free(jobs[k].out)
        free(<void*>jobs[k].data)
    free(jobs)
    munmap(l, sizeof(Lanes))
    return out


def pull_encrypted(bytes octets):
    """(octets of the protocol field, protocol), or None."""
    cdef uint16_t protocol = 0
    cdef uint8_t* p = <uint8_t*>malloc(len(octets) or 1)
    memcpy(p, <const char*>octets, len(octets))
    cdef int at = pull_encrypted_header(p, len(octets), &protocol)
    free(p)
    return (at, protocol) if at else None


cdef class Side:
    """A worker's ciphers, and the states of several sessions in one direction."""
    cdef Ciphers* ciphers
    cdef CipherState* states
    cdef int count
    cdef bint sending
    cdef list waiting         # (index in what `run` returns, address, length, MPPE header)
    cdef list done

    def __init__(self, list sessions, *, bint sending):
        """`sessions` are (start key, bits, stateless) each."""
        cdef CipherKeys keys
        cdef bytes start
        self.ciphers = new_ciphers()
        self.states = <CipherState*>calloc(len(sessions), sizeof(CipherState))
        self.count, self.sending, self.waiting, self.done = <int>len(sessions), sending, [], []
        for k, (start, bits, stateless) in enumerate(sessions):
            memset(&keys, 0, sizeof(keys))
            memcpy(keys.send_start, <const char*>start, len(start))
            memcpy(keys.receive_start, <const char*>start, len(start))
            keys.send_bits, keys.receive_bits, keys.generation = bits, bits, 1
            keys.send_stateless = keys.receive_stateless = stateless
            mppe_begin(self.ciphers, &self.states[k], &keys, sending)

    def __dealloc__(self):
        for _, at, _ in self.waiting or ():
            free(<void*><size_t>at)
        free_ciphers(self.ciphers)
        free(self.states)

    def encrypt(self, int session, bytes plain, uint32_t head=0):
        """Put a packet into the batch. `head` octets lie in front of the others, elsewhere."""
        cdef size_t n = len(plain)
        cdef uint8_t* frame = <uint8_t*>malloc(n + MPPE_HEADER)
        cdef uint8_t* data = <uint8_t*>malloc(n - head or 1)
        memcpy(frame + MPPE_HEADER, <const char*>plain, head)
        memcpy(data, <const char*>plain + head, n - head)
        store16(frame, <uint16_t>mppe_encrypt(self.ciphers, &self.states[session], data, frame + MPPE_HEADER, head, <uint32_t>n))
        self.waiting.append((len(self.done), <size_t>frame, n + MPPE_HEADER))
        self.waiting.append((None, <size_t>data, 0))
        self.done.append(None)

    def decrypt(self, int session, bytes octets):
        """Put a frame into the batch."""
        cdef size_t n = len(octets)
        cdef uint8_t* frame = <uint8_t*>malloc(n)
        memcpy(frame, <const char*>octets, n)
        verdict = mppe_decrypt(self.ciphers, &self.states[session], frame, <uint32_t>n)
        self.waiting.append((None if verdict else len(self.done), <size_t>frame, n))
        self.done.append(Verdict(verdict) if verdict else None)

    def run(self):
        """The packets of the batch: frames of what was encrypted, plain octets or the Verdict of what was decrypted."""
        cdef size_t at, n
        mppe_run(self.ciphers)
        for index, at, n in self.waiting:
            if index is not None:
                self.done[index] = (<uint8_t*>at)[:n] if self.sending else (<uint8_t*>at)[MPPE_HEADER:n]
            free(<void*>at)
        done, self.waiting, self.done = self.done, [], []
        return done

    def flush(self, int session):
        """The peer asked for it."""
        self.states[session].flags |= STATE_FLUSH

    def tear(self, int session):
        """As a worker leaves it that died while it wrote the table."""
        self.states[session].flags = STATE_TORN
        memset(self.states[session].table, 0, 256)

    def allow(self, uint32_t keys):
        allow(self.ciphers, keys)

    def state(self, int session):
        """(session key, coherency count)"""
        cdef CipherState* s = &self.states[session]
        return s.key[s.active & 1][:16], s.count[s.active & 1]
