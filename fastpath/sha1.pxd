"""SHA-1 (FIPS 180-4) of messages of two blocks, one at a time or two side by side: all that MPPE's keys need.

A message is 128 octets that its caller has padded; what comes out is the first 16 octets of its digest. With SHA-NI the rounds of one
message wait for each other, so that two at once take half as long again as one; four measured no better.
"""
from libc.stdint cimport uint8_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>

    typedef uint8_t sha1_message[128], sha1_digest[16];
    static const uint32_t sha1_start[5] __attribute__((unused)) = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};

    #define SHA1_ROTATE(x, n) ((x) << (n) | (x) >> (32 - (n)))
    #define SHA1_WORD(t) (w[(t) & 15] = SHA1_ROTATE(w[((t) + 13) & 15] ^ w[((t) + 8) & 15] ^ w[((t) + 2) & 15] ^ w[(t) & 15], 1))
    #define SHA1_ROUND(F, K, W) { \\
        uint32_t next = SHA1_ROTATE(a, 5) + (F) + e + K + (W); \\
        e = d, d = c, c = SHA1_ROTATE(b, 30), b = a, a = next; }

    static inline uint32_t sha1_load(const uint8_t *p) {
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }

    static __attribute__((unused)) void sha1_plain(const uint8_t *message, uint8_t *digest) {
        uint32_t h[5], w[16];
        memcpy(h, sha1_start, sizeof h);
        for (int block = 0; block < 2; block++, message += 64) {
            uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
            for (int t = 0; t < 16; t++)
                w[t] = sha1_load(message + 4 * t);
    #pragma GCC unroll 16
            for (int t = 0; t < 16; t++) SHA1_ROUND(d ^ (b & (c ^ d)), 0x5A827999, w[t])
    #pragma GCC unroll 4
            for (int t = 16; t < 20; t++) SHA1_ROUND(d ^ (b & (c ^ d)), 0x5A827999, SHA1_WORD(t))
    #pragma GCC unroll 20
            for (int t = 20; t < 40; t++) SHA1_ROUND(b ^ c ^ d, 0x6ED9EBA1, SHA1_WORD(t))
    #pragma GCC unroll 20
            for (int t = 40; t < 60; t++) SHA1_ROUND((b & c) | (d & (b | c)), 0x8F1BBCDC, SHA1_WORD(t))
    #pragma GCC unroll 20
            for (int t = 60; t < 80; t++) SHA1_ROUND(b ^ c ^ d, 0xCA62C1D6, SHA1_WORD(t))
            h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
        }
        for (int t = 0; t < 4; t++)
            for (int q = 0; q < 4; q++)
                digest[4 * t + q] = (uint8_t)(h[t] >> (24 - 8 * q));
    }

    #if defined(__x86_64__)
    #include <immintrin.h>
    #define SHA1_NI __attribute__((target("sha,sse4.1")))

    /* Four rounds of each message, with the schedule of the words that later rounds need (m[g & 3] are words 4g to 4g + 3). */
    #define SHA1_FOUR(g) _Pragma("GCC unroll 2") for (int n = 0; n < N; n++) { \\
        __m128i sum = (g) ? _mm_sha1nexte_epu32(e[n], m[n][(g) & 3]) : _mm_add_epi32(e[n], m[n][0]); \\
        e[n] = a[n]; \\
        a[n] = _mm_sha1rnds4_epu32(a[n], sum, (g) / 5); \\
        if ((g) >= 3 && (g) < 19) m[n][((g) + 1) & 3] = _mm_sha1msg2_epu32(m[n][((g) + 1) & 3], m[n][(g) & 3]); \\
        if ((g) >= 1 && (g) < 17) m[n][((g) + 3) & 3] = _mm_sha1msg1_epu32(m[n][((g) + 3) & 3], m[n][(g) & 3]); \\
        if ((g) >= 2 && (g) < 18) m[n][((g) + 2) & 3] = _mm_xor_si128(m[n][((g) + 2) & 3], m[n][(g) & 3]); }

    static inline __attribute__((always_inline)) SHA1_NI void sha1_ni(const uint8_t (*messages)[128], uint8_t (*digests)[16], const int N) {
        const __m128i turn = _mm_set_epi64x(0x0001020304050607LL, 0x08090A0B0C0D0E0FLL);
        __m128i a[2], e[2], a0[2], e0[2], m[2][4];
        for (int n = 0; n < N; n++) {
            a[n] = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)sha1_start), 0x1B);
            e[n] = _mm_set_epi32((int)sha1_start[4], 0, 0, 0);
        }
        for (int block = 0; block < 2; block++) {
            for (int n = 0; n < N; n++) {
                a0[n] = a[n], e0[n] = e[n];
                for (int q = 0; q < 4; q++)
                    m[n][q] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(messages[n] + 64 * block) + q), turn);
            }
            SHA1_FOUR(0) SHA1_FOUR(1) SHA1_FOUR(2) SHA1_FOUR(3) SHA1_FOUR(4) SHA1_FOUR(5) SHA1_FOUR(6) SHA1_FOUR(7) SHA1_FOUR(8)
            SHA1_FOUR(9) SHA1_FOUR(10) SHA1_FOUR(11) SHA1_FOUR(12) SHA1_FOUR(13) SHA1_FOUR(14) SHA1_FOUR(15) SHA1_FOUR(16)
            SHA1_FOUR(17) SHA1_FOUR(18) SHA1_FOUR(19)
            for (int n = 0; n < N; n++) {
                e[n] = _mm_sha1nexte_epu32(e[n], e0[n]);
                a[n] = _mm_add_epi32(a[n], a0[n]);
            }
        }
        for (int n = 0; n < N; n++)
            _mm_storeu_si128((__m128i *)digests[n], _mm_shuffle_epi8(a[n], turn));
    }

    static __attribute__((unused)) SHA1_NI void sha1_ni1(const uint8_t (*messages)[128], uint8_t (*digests)[16]) { sha1_ni(messages, digests, 1); }
    static __attribute__((unused)) SHA1_NI void sha1_ni2(const uint8_t (*messages)[128], uint8_t (*digests)[16]) { sha1_ni(messages, digests, 2); }
    #else
    #define sha1_ni1(messages, digests) ((void)0)       /* never called */
    #define sha1_ni2(messages, digests) ((void)0)
    #endif
    """
    ctypedef uint8_t Message "sha1_message" [128]
    ctypedef uint8_t Digest "sha1_digest" [16]
    void sha1_plain(const uint8_t* message, uint8_t* digest)
    void sha1_ni1(const Message* messages, Digest* digests)
    void sha1_ni2(const Message* messages, Digest* digests)
