"""MPPE with 128 bits, stateless, in three ways, packet after packet in memory: what bench/mppe.py compares.

    ours       fast path: mppe_encrypt for each packet of a batch, mppe_run
    kernel     as Linux' ppp_mppe without SHA-NI: generic SHA-1 in C, RC4 with a table of words in C, one packet at a time
    openssl    SHA1, RC4_set_key and RC4 of libcrypto, whose addresses the caller finds, one packet at a time

Each pass goes over the same packets and goes on with the keys where its last one stopped. Time is the thread's.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ..fastpath.cipher cimport CipherKeys, CipherState
from ..fastpath.mppe cimport Ciphers, free_ciphers, mppe_begin, mppe_encrypt, mppe_run, new_ciphers
from ..fastpath.sys cimport clock_gettime, timespec

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>

    typedef struct { uint32_t table[256], x, y; } word_rc4;

    static __attribute__((noinline)) void word_rc4_key(word_rc4 *c, const uint8_t *key, unsigned length) {
        uint32_t i, j = 0, k = 0;
        c->x = 1;
        c->y = 0;
        for (i = 0; i < 256; i++)
            c->table[i] = i;
        for (i = 0; i < 256; i++) {
            uint32_t a = c->table[i];
            j = (j + key[k] + a) & 0xFF;
            c->table[i] = c->table[j];
            c->table[j] = a;
            if (++k >= length)
                k = 0;
        }
    }

    static __attribute__((noinline)) void word_rc4_crypt(word_rc4 *c, uint8_t *out, const uint8_t *in, unsigned length) {
        uint32_t *const s = c->table, x = c->x, y = c->y, i = x, j = y, a, b, next, ahead, there;
        if (!length)
            return;
        a = s[i];
        j = (j + a) & 0xFF;
        b = s[j];
        for (;;) {
            s[j] = a;
            a = (a + b) & 0xFF;
            s[i] = b;
            i = (i + 1) & 0xFF;
            ahead = s[i];
            next = (j + ahead) & 0xFF;
            there = s[next];
            *out++ = *in++ ^ s[a];
            if (--length == 0)
                break;
            j = next;
            a = ahead;
            b = there;
        }
        c->x = i;
        c->y = j;
    }

    #define WORD_ROTATE(x, n) ((x) << (n) | (x) >> (32 - (n)))
    static __attribute__((noinline)) void word_sha1(uint32_t *h, const uint8_t *p, int blocks) {
        for (; blocks; blocks--, p += 64) {
            uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
            for (int t = 0; t < 16; t++)
                w[t] = (uint32_t)p[4 * t] << 24 | (uint32_t)p[4 * t + 1] << 16 | (uint32_t)p[4 * t + 2] << 8 | p[4 * t + 3];
            for (int t = 16; t < 80; t++)
                w[t] = WORD_ROTATE(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
            for (int t = 0; t < 80; t++) {
                uint32_t f, k, sum;
                if (t < 20) f = (b & c) | (~b & d), k = 0x5A827999;
                else if (t < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
                else if (t < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
                else f = b ^ c ^ d, k = 0xCA62C1D6;
                sum = WORD_ROTATE(a, 5) + f + e + k + w[t];
                e = d, d = c, c = WORD_ROTATE(b, 30), b = a, a = sum;
            }
            h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
        }
    }

    static void word_packet(const uint8_t *start, uint8_t *key, uint8_t *out, const uint8_t *in, unsigned length) {
        static const uint32_t first[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
        uint8_t m[128], digest[16];
        uint32_t h[5];
        word_rc4 c;
        memcpy(h, first, sizeof h);
        memcpy(m, start, 16), memset(m + 16, 0, 40), memcpy(m + 56, key, 16), memset(m + 72, 0xF2, 40);
        memset(m + 112, 0, 16), m[112] = 0x80, m[126] = 112 * 8 >> 8, m[127] = (uint8_t)(112 * 8);
        word_sha1(h, m, 2);
        for (int t = 0; t < 16; t++)
            digest[t] = (uint8_t)(h[t / 4] >> (24 - 8 * (t % 4)));
        word_rc4_key(&c, digest, 16);
        word_rc4_crypt(&c, key, digest, 16);
        word_rc4_key(&c, key, 16);
        word_rc4_crypt(&c, out, in, length);
    }

    typedef unsigned char *(*openssl_sha1)(const unsigned char *, size_t, unsigned char *);
    typedef void (*openssl_key)(void *, int, const unsigned char *);
    typedef void (*openssl_rc4)(void *, size_t, const unsigned char *, unsigned char *);
    typedef struct { openssl_sha1 sha1; openssl_key key; openssl_rc4 rc4; } openssl;

    static void openssl_packet(const openssl *o, const uint8_t *start, uint8_t *key, uint8_t *out, const uint8_t *in, unsigned length) {
        uint8_t m[112], digest[20];
        unsigned state[258];                    /* RC4_KEY: two indices, 256 words */
        memcpy(m, start, 16), memset(m + 16, 0, 40), memcpy(m + 56, key, 16), memset(m + 72, 0xF2, 40);
        o->sha1(m, sizeof m, digest);
        o->key(state, 16, digest);
        o->rc4(state, 16, digest, key);
        o->key(state, 16, key);
        o->rc4(state, length, in, out);
    }
    """
    ctypedef void* openssl_sha1
    ctypedef void* openssl_key
    ctypedef void* openssl_rc4
    ctypedef struct openssl:
        openssl_sha1 sha1
        openssl_key key
        openssl_rc4 rc4
    void word_packet(const uint8_t* start, uint8_t* key, uint8_t* out, const uint8_t* data, unsigned int length)
    void openssl_packet(const openssl* o, const uint8_t* start, uint8_t* key, uint8_t* out, const uint8_t* data, unsigned int length)

cdef enum:
    CLOCK_THREAD_CPUTIME_ID = 3
    ROOM = 2048               # of a packet
    KEY = 16


cdef inline uint64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef class Ways:
    """Packets of one size, each with the session whose it is; `libcrypto` are the addresses of SHA1, RC4_set_key and RC4."""
    cdef Ciphers* ciphers
    cdef CipherState* states
    cdef uint8_t* starts      # of the sessions, KEY octets each
    cdef uint8_t* keys[2]     # the kernel's and OpenSSL's session keys
    cdef uint8_t* data
    cdef uint8_t* out
    cdef int* sessions
    cdef readonly int count
    cdef uint32_t size
    cdef openssl libcrypto

    def __init__(self, list sessions, uint32_t size, bytes octets, tuple libcrypto):
        """`sessions` gives each packet's; `octets` are random, enough for start keys and packets."""
        cdef CipherKeys keys
        cdef const uint8_t* random = octets
        cdef int i, k, n = max(sessions) + 1
        if size > ROOM or len(octets) < n * KEY + ROOM * len(sessions):
            raise ValueError(f"packets of {size} octets, {len(octets)} random octets")
        self.ciphers = new_ciphers()
        self.states = <CipherState*>calloc(n, sizeof(CipherState))
        self.starts, self.keys[0], self.keys[1] = <uint8_t*>calloc(n, KEY), <uint8_t*>calloc(n, KEY), <uint8_t*>calloc(n, KEY)
        self.count, self.size = <int>len(sessions), size
        self.data, self.out = <uint8_t*>calloc(self.count, ROOM), <uint8_t*>calloc(self.count, ROOM)
        self.sessions = <int*>calloc(self.count, sizeof(int))
        memcpy(self.starts, random, n * KEY)
        memcpy(self.data, random + n * KEY, self.count * ROOM)
        for i, session in enumerate(sessions):
            self.sessions[i] = session
        for i in range(n):
            memset(&keys, 0, sizeof(keys))
            memcpy(keys.send_start, self.starts + i * KEY, KEY)
            keys.send_bits, keys.send_stateless, keys.generation = 128, 1, 1
            mppe_begin(self.ciphers, &self.states[i], &keys, True)
            for k in range(2):
                memcpy(self.keys[k] + i * KEY, self.states[i].key[0], KEY)
        self.libcrypto.sha1, self.libcrypto.key, self.libcrypto.rc4 = (<void*><uintptr_t>libcrypto[0], <void*><uintptr_t>libcrypto[1],
                                                                       <void*><uintptr_t>libcrypto[2])

    def __dealloc__(self):
        free_ciphers(self.ciphers)
        for memory in (<uintptr_t>self.states, <uintptr_t>self.starts, <uintptr_t>self.keys[0], <uintptr_t>self.keys[1],
                       <uintptr_t>self.data, <uintptr_t>self.out, <uintptr_t>self.sessions):
            free(<void*><uintptr_t>memory)

    def ours(self, int batch):
        """All packets in batches of so many; ns of CPU time."""
        cdef uint64_t start
        cdef int i
        with nogil:
            start = now()
            for i in range(self.count):
                mppe_encrypt(self.ciphers, &self.states[self.sessions[i]], self.data + i * ROOM, self.out + i * ROOM, 0, self.size)
                if (i + 1) % batch == 0:
                    mppe_run(self.ciphers)
            mppe_run(self.ciphers)
            start = now() - start
        return start

    def kernel(self):
        cdef uint64_t start
        cdef int i, s
        with nogil:
            start = now()
            for i in range(self.count):
                s = self.sessions[i] * KEY
                word_packet(self.starts + s, self.keys[0] + s, self.out + i * ROOM, self.data + i * ROOM, self.size)
            start = now() - start
        return start

    def openssl(self):
        cdef uint64_t start
        cdef int i, s
        with nogil:
            start = now()
            for i in range(self.count):
                s = self.sessions[i] * KEY
                openssl_packet(&self.libcrypto, self.starts + s, self.keys[1] + s, self.out + i * ROOM, self.data + i * ROOM, self.size)
            start = now() - start
        return start

    def output(self):
        """What the last pass left, all packets in a row."""
        return b"".join([(self.out + i * ROOM)[:self.size] for i in range(self.count)])
