"""RC4: key schedules and key streams, one at a time or several side by side.

    table   a permutation S of 256 octets; i and j point into it     keys have 16 octets, one of 8 twice

A step, S[j += S[i]] <-> S[i], waits for the step before it: it loads what that may have stored. Two ways around that:

* One stream reads the next eight S[i] before it stores anything, and reads again the few times when j hit one of them.
* Five streams take their steps in turn. Inline assembly holds i and j of each as pointers into tables that lie at multiples of
  256, so that an 8-bit addition to the lowest octet is one modulo 256, and gathers 16 octets of key stream in a register (pinsrb).
  Six key schedules go side by side likewise.

The lanes begin one step early, so that blocks of 16 steps begin at an i that is a multiple of 16: with j = -S[0] the step at i = 0
changes nothing, and its octet belongs to nobody.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>

    #define RC4_LANES 5
    #define RC4_CHUNK 256                       /* octets of key stream at once */
    #define RC4_INLINE static inline __attribute__((always_inline, unused))

    typedef uint8_t rc4_key[16];
    typedef struct {
        uint8_t table[RC4_LANES][256];
        uint8_t stream[RC4_LANES][RC4_CHUNK];
        uint8_t *i[RC4_LANES], *j[RC4_LANES];
    } __attribute__((aligned(256))) rc4_lanes;

    static const uint8_t rc4_identity[256] __attribute__((aligned(64), unused)) = {
    #define RC4_16(n) n, n+1, n+2, n+3, n+4, n+5, n+6, n+7, n+8, n+9, n+10, n+11, n+12, n+13, n+14, n+15
        RC4_16(0), RC4_16(16), RC4_16(32), RC4_16(48), RC4_16(64), RC4_16(80), RC4_16(96), RC4_16(112), RC4_16(128), RC4_16(144),
        RC4_16(160), RC4_16(176), RC4_16(192), RC4_16(208), RC4_16(224), RC4_16(240) };

    /* -- one stream, plain C. x0 to x7 are S[i] to S[i + 7]; HIT reads those again that j may have changed. */

    #define RC4_READ(m) x##m = S[i + m];
    #define RC4_FROM1 RC4_READ(1) RC4_FROM2
    #define RC4_FROM2 RC4_READ(2) RC4_FROM3
    #define RC4_FROM3 RC4_READ(3) RC4_FROM4
    #define RC4_FROM4 RC4_READ(4) RC4_FROM5
    #define RC4_FROM5 RC4_READ(5) RC4_FROM6
    #define RC4_FROM6 RC4_READ(6) RC4_FROM7
    #define RC4_FROM7 RC4_READ(7)
    #define RC4_HIT(m, AGAIN) if (__builtin_expect((uint8_t)(j - i - m - 1) < 7 - m, 0)) { AGAIN }
    #define RC4_EIGHT(STEP) { \\
        uint8_t x0 = S[i], x1 = S[i+1], x2 = S[i+2], x3 = S[i+3], x4 = S[i+4], x5 = S[i+5], x6 = S[i+6], x7 = S[i+7]; \\
        STEP(0) RC4_HIT(0, RC4_FROM1) STEP(1) RC4_HIT(1, RC4_FROM2) STEP(2) RC4_HIT(2, RC4_FROM3) STEP(3) RC4_HIT(3, RC4_FROM4) \\
        STEP(4) RC4_HIT(4, RC4_FROM5) STEP(5) RC4_HIT(5, RC4_FROM6) STEP(6) RC4_HIT(6, RC4_FROM7) STEP(7) }

    static __attribute__((unused)) void rc4_schedule(uint8_t *S, const uint8_t *key) {
        uint8_t j = 0, y;
        memcpy(S, rc4_identity, 256);
        for (unsigned i = 0; i < 256; i += 8) {
            const uint8_t *k = key + (i & 8);
    #define RC4_STEP(m) j += (uint8_t)(x##m + k[m]); y = S[j]; S[j] = x##m; S[i + m] = y;
            RC4_EIGHT(RC4_STEP)
    #undef RC4_STEP
        }
    }

    RC4_INLINE uint8_t rc4_step(uint8_t *S, uint8_t i, uint8_t *j) {
        uint8_t x = S[i], y;
        *j += x;
        y = S[*j];
        S[*j] = x;
        S[i] = y;
        return S[(uint8_t)(x + y)];
    }

    /* The next n octets of key stream; *at is the i of the next step. */
    static __attribute__((unused)) void rc4_one(uint8_t *S, uint8_t *at, uint8_t *jay, uint8_t *out, size_t n) {
        uint8_t i = *at, j = *jay, y;
        for (; n && i & 7; n--)
            *out++ = rc4_step(S, i++, &j);
        for (; n >= 8; n -= 8, i += 8, out += 8) {
    #define RC4_STEP(m) j += x##m; y = S[j]; S[j] = x##m; S[i + m] = y; out[m] = S[(uint8_t)(x##m + y)];
            RC4_EIGHT(RC4_STEP)
    #undef RC4_STEP
        }
        for (; n; n--)
            *out++ = rc4_step(S, i++, &j);
        *at = i;
        *jay = j;
    }

    /* out = in ^ stream, 16 octets at once; in may be out. */
    typedef uint8_t rc4_16 __attribute__((vector_size(16), aligned(1), may_alias));
    RC4_INLINE void rc4_xor(uint8_t *out, const uint8_t *in, const uint8_t *stream, size_t n) {
        for (; n >= 16; n -= 16, out += 16, in += 16, stream += 16)
            *(rc4_16 *)out = *(const rc4_16 *)in ^ *(const rc4_16 *)stream;
        for (; n; n--)
            *out++ = *in++ ^ *stream++;
    }

    /* -- several side by side */

    #if defined(__x86_64__)
    #include <emmintrin.h>

    #define RC4_BLOCK(STEPS) STEPS(0) STEPS(1) STEPS(2) STEPS(3) STEPS(4) STEPS(5) STEPS(6) STEPS(7) \\
        STEPS(8) STEPS(9) STEPS(10) STEPS(11) STEPS(12) STEPS(13) STEPS(14) STEPS(15)

    /* Octet q of lane n: x = S[i]; j += x; y = S[j]; S[j] = x; S[i] = y; stream[q] = S[x + y]. Y is the register that holds y. */
    #define RC4_OCTET(n, q, YD, YB, YQ) \\
        "movzbl " #q "(%[i" #n "]), %%eax\\n addb %%al, %b[j" #n "]\\n movzbl (%[j" #n "]), %%" YD "\\n" \\
        "movb %%al, (%[j" #n "])\\n movb %%" YB ", " #q "(%[i" #n "])\\n addb %%al, %%" YB "\\n" \\
        "pinsrb $" #q ", 256*" #n "(%[t],%%" YQ "), %%xmm" #n "\\n"
    #define RC4_FIVE(q) RC4_OCTET(0, q, "ecx", "cl", "rcx") RC4_OCTET(1, q, "edx", "dl", "rdx") RC4_OCTET(2, q, "ecx", "cl", "rcx") \\
        RC4_OCTET(3, q, "edx", "dl", "rdx") RC4_OCTET(4, q, "ecx", "cl", "rcx")

    /* `blocks` times 16 octets of key stream of all lanes. */
    static __attribute__((unused, noinline)) void rc4_run(rc4_lanes *l, unsigned blocks) {
        uint8_t *i0 = l->i[0], *i1 = l->i[1], *i2 = l->i[2], *i3 = l->i[3], *i4 = l->i[4];
        uint8_t *j0 = l->j[0], *j1 = l->j[1], *j2 = l->j[2], *j3 = l->j[3], *j4 = l->j[4];
        for (unsigned b = 0; b < blocks; b++) {
            register __m128i s0 __asm__("xmm0"), s1 __asm__("xmm1"), s2 __asm__("xmm2"), s3 __asm__("xmm3"), s4 __asm__("xmm4");
            __asm__ volatile(RC4_BLOCK(RC4_FIVE)
                "addb $16, %b[i0]\\n addb $16, %b[i1]\\n addb $16, %b[i2]\\n addb $16, %b[i3]\\n addb $16, %b[i4]\\n"
                : [i0] "+&r"(i0), [i1] "+&r"(i1), [i2] "+&r"(i2), [i3] "+&r"(i3), [i4] "+&r"(i4),
                  [j0] "+&r"(j0), [j1] "+&r"(j1), [j2] "+&r"(j2), [j3] "+&r"(j3), [j4] "+&r"(j4),
                  "=x"(s0), "=x"(s1), "=x"(s2), "=x"(s3), "=x"(s4)
                : [t] "r"(l) : "rax", "rcx", "rdx", "memory", "cc");
            __m128i t0 = s0, t1 = s1, t2 = s2, t3 = s3, t4 = s4;      /* a sanitizer's call would take the registers */
            _mm_store_si128((__m128i *)l->stream[0] + b, t0);
            _mm_store_si128((__m128i *)l->stream[1] + b, t1);
            _mm_store_si128((__m128i *)l->stream[2] + b, t2);
            _mm_store_si128((__m128i *)l->stream[3] + b, t3);
            _mm_store_si128((__m128i *)l->stream[4] + b, t4);
        }
        l->i[0] = i0, l->i[1] = i1, l->i[2] = i2, l->i[3] = i3, l->i[4] = i4;
        l->j[0] = j0, l->j[1] = j1, l->j[2] = j2, l->j[3] = j3, l->j[4] = j4;
    }

    /* Step q of a schedule, at p = &S[i] of the first table: j += S[i] + key[q], swap. X and Y are registers. */
    #define RC4_MIX(n, q, XD, XB, YD, YB) \\
        "movzbl 256*" #n "+" #q "(%[p]), %%" XD "\\n addb 16*" #n "+" #q "(%[k]), %b[j" #n "]\\n addb %%" XB ", %b[j" #n "]\\n" \\
        "movzbl (%[j" #n "]), %%" YD "\\n movb %%" XB ", (%[j" #n "])\\n movb %%" YB ", 256*" #n "+" #q "(%[p])\\n"
    #define RC4_MIX_A(n, q) RC4_MIX(n, q, "eax", "al", "ecx", "cl")
    #define RC4_MIX_B(n, q) RC4_MIX(n, q, "edx", "dl", "esi", "sil")
    #define RC4_MIX6(q) RC4_MIX_A(0, q) RC4_MIX_B(1, q) RC4_MIX_A(2, q) RC4_MIX_B(3, q) RC4_MIX_A(4, q) RC4_MIX_B(5, q)

    /* The first 16 octets of a key stream: i is 1 to 16. */
    #define RC4_FIRST(n, q, XD, XB, YD, YB, YQ) \\
        "movzbl 256*" #n "+1+" #q "(%[p]), %%" XD "\\n addb %%" XB ", %b[j" #n "]\\n movzbl (%[j" #n "]), %%" YD "\\n" \\
        "movb %%" XB ", (%[j" #n "])\\n movb %%" YB ", 256*" #n "+1+" #q "(%[p])\\n addb %%" XB ", %%" YB "\\n" \\
        "pinsrb $" #q ", 256*" #n "(%[p],%%" YQ "), %%xmm" #n "\\n"
    #define RC4_FIRST_A(n, q) RC4_FIRST(n, q, "eax", "al", "ecx", "cl", "rcx")
    #define RC4_FIRST_B(n, q) RC4_FIRST(n, q, "edx", "dl", "esi", "sil", "rsi")
    #define RC4_FIRST6(q) RC4_FIRST_A(0, q) RC4_FIRST_B(1, q) RC4_FIRST_A(2, q) RC4_FIRST_B(3, q) RC4_FIRST_A(4, q) RC4_FIRST_B(5, q)
    #define RC4_SIX_J uint8_t *j0 = t, *j1 = t + 256, *j2 = t + 512, *j3 = t + 768, *j4 = t + 1024, *j5 = t + 1280
    #define RC4_SIX_IO [j0] "+&r"(j0), [j1] "+&r"(j1), [j2] "+&r"(j2), [j3] "+&r"(j3), [j4] "+&r"(j4), [j5] "+&r"(j5)
    #define RC4_USED "rax", "rcx", "rdx", "rsi", "memory", "cc"

    /* The tables of six keys, side by side from a multiple of 256 on. */
    static __attribute__((unused, noinline)) void rc4_schedule6(uint8_t *t, const uint8_t (*keys)[16]) {
        RC4_SIX_J;
        for (int n = 0; n < 6; n++)
            memcpy(t + 256 * n, rc4_identity, 256);
        for (uint8_t *p = t; p < t + 256; p += 16)
            __asm__ volatile(RC4_BLOCK(RC4_MIX6) : RC4_SIX_IO : [p] "r"(p), [k] "r"(keys) : RC4_USED);
    }

    /* keys ^= the first 16 octets of the key streams of these tables, which are good for nothing afterwards. */
    static __attribute__((unused, noinline)) void rc4_first6(uint8_t *t, uint8_t (*keys)[16]) {
        RC4_SIX_J;
        register __m128i s0 __asm__("xmm0"), s1 __asm__("xmm1"), s2 __asm__("xmm2");
        register __m128i s3 __asm__("xmm3"), s4 __asm__("xmm4"), s5 __asm__("xmm5");
        __asm__ volatile(RC4_BLOCK(RC4_FIRST6)
            : RC4_SIX_IO, "=x"(s0), "=x"(s1), "=x"(s2), "=x"(s3), "=x"(s4), "=x"(s5) : [p] "r"(t) : RC4_USED);
        __m128i t0 = s0, t1 = s1, t2 = s2, t3 = s3, t4 = s4, t5 = s5;
        __m128i s[6] = {t0, t1, t2, t3, t4, t5};
        rc4_xor(keys[0], keys[0], (const uint8_t *)s, 96);
    }

    #else

    /* Never called: no level but the portable one is in force. */
    static __attribute__((unused)) void rc4_run(rc4_lanes *l, unsigned blocks) { (void)l, (void)blocks; }
    static __attribute__((unused)) void rc4_schedule6(uint8_t *t, const uint8_t (*keys)[16]) { (void)t, (void)keys; }
    static __attribute__((unused)) void rc4_first6(uint8_t *t, uint8_t (*keys)[16]) { (void)t, (void)keys; }
    #endif
    """
    enum:
        LANES "RC4_LANES"
        CHUNK "RC4_CHUNK"
    ctypedef struct rc4_lanes:
        uint8_t table[5][256]
        uint8_t stream[5][256]
        uint8_t* i[5]
        uint8_t* j[5]
    ctypedef uint8_t Key "rc4_key" [16]
    void rc4_schedule(uint8_t* table, const uint8_t* key)
    void rc4_one(uint8_t* table, uint8_t* i, uint8_t* j, uint8_t* out, size_t n)
    void rc4_xor(uint8_t* out, const uint8_t* data, const uint8_t* stream, size_t n)
    void rc4_run(rc4_lanes* lanes, uint32_t blocks)
    void rc4_schedule6(uint8_t* tables, const Key* keys)
    void rc4_first6(uint8_t* tables, Key* keys)
