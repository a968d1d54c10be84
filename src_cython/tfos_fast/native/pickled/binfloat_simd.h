/* Runs of pickled floats: each an opcode 'G' and eight bytes, most significant first (CPython, Lib/pickle.py, BINFLOAT).
 *
 * Processors with AVX-512 VBMI (Intel from Ice Lake, AMD from Zen 4 on) look at eight opcodes in one comparison, since the first bytes of
 * eight floats lie in 64, and bring eight values into place and order by one permutation of two such vectors. Those with AVX2 (Intel from
 * Haswell, AMD from Zen on) take four at a time, and all others go value by value. Which of them is chosen when the module is loaded. No
 * vector reaches beyond the floats that were asked for.
 *
 * `past`: the vectors are written past the caches (past.h), whole lines of them but for the ends; value by value nothing is.
 */
#ifndef TFOS_FLOATS_H
#define TFOS_FLOATS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TFOS_FLOAT 9  /* bytes of one, with its opcode */

/* ---- value by value ---------------------------------------------------------------------------------------------------------- */

static size_t tfos_run_plain(const uint8_t *p, size_t most) {
    size_t count = 0;
    while (count + 8 <= most) {
        int other = (p[0] ^ 'G') | (p[9] ^ 'G') | (p[18] ^ 'G') | (p[27] ^ 'G');
        if (other | (p[36] ^ 'G') | (p[45] ^ 'G') | (p[54] ^ 'G') | (p[63] ^ 'G'))
            break;
        count += 8;
        p += 72;
    }
    while (count < most && p[0] == 'G') {
        count += 1;
        p += TFOS_FLOAT;
    }
    return count;
}

static inline double tfos_float_at(const uint8_t *p) {
    uint64_t bits;
    double value;
    memcpy(&bits, p + 1, 8);
    bits = __builtin_bswap64(bits);
    memcpy(&value, &bits, 8);
    return value;
}

static void tfos_to_float32_plain(const uint8_t *p, float *out, size_t count, int past) {
    (void)past;
    for (size_t i = 0; i < count; i++)
        out[i] = (float)tfos_float_at(p + TFOS_FLOAT * i);
}

static void tfos_to_float64_plain(const uint8_t *p, double *out, size_t count, int past) {
    (void)past;
    for (size_t i = 0; i < count; i++)
        out[i] = tfos_float_at(p + TFOS_FLOAT * i);
}

/* How many values of this size come before the first line of the cache that begins at one: all, when none does. */
static inline size_t tfos_before_line(const void *out, size_t size, size_t count) {
    size_t bytes = -(uintptr_t)out & 63;
    return bytes % size || bytes / size > count ? count : bytes / size;
}

/* ---- four at a time ---------------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__) && defined(__GNUC__)
#define TFOS_VECTORS 1
#include <immintrin.h>

#define TFOS_HALF __attribute__((target("avx2")))

TFOS_HALF static size_t tfos_run_half(const uint8_t *p, size_t most) {
    const __m256i opcode = _mm256_set1_epi8('G');
    const unsigned first = 0x08040201u, second = 0x80402010u; /* bytes 0, 9, 18, 27 of the one vector, 36, 45, 54, 63 over both */
    size_t count = 0;
    while (count + 8 <= most) {
        __m256i low = _mm256_loadu_si256((const __m256i *)p), high = _mm256_loadu_si256((const __m256i *)(p + 32));
        unsigned lower = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, opcode));
        unsigned higher = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, opcode));
        if ((lower & first) != first || (higher & second) != second)
            break;
        count += 8;
        p += 8 * TFOS_FLOAT;
    }
    return count + tfos_run_plain(p, most - count);
}

/* Of a vector that is read i bytes behind the first value, lane i holds value i: four of them, blended, and each lane turned. */
TFOS_HALF static inline __m256i tfos_four(const uint8_t *p) {
    const __m256i turned = _mm256_set_epi8(
        8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    __m256i a = _mm256_loadu_si256((const __m256i *)(p + 1)), b = _mm256_loadu_si256((const __m256i *)(p + 2));
    __m256i c = _mm256_loadu_si256((const __m256i *)(p + 3)), d = _mm256_loadu_si256((const __m256i *)(p + 4));
    __m256i lower = _mm256_blend_epi32(a, b, 0x0C), higher = _mm256_blend_epi32(c, d, 0xC0);
    return _mm256_shuffle_epi8(_mm256_blend_epi32(lower, higher, 0xF0), turned);
}

TFOS_HALF static void tfos_to_float32_half(const uint8_t *p, float *out, size_t count, int past) {
    size_t i = past ? tfos_before_line(out, sizeof *out, count) : 0;
    tfos_to_float32_plain(p, out, i, past);
    for (p += TFOS_FLOAT * i; i + 4 <= count; i += 4, p += 4 * TFOS_FLOAT) {
        __m128 values = _mm256_cvtpd_ps(_mm256_castsi256_pd(tfos_four(p)));
        if (past)
            _mm_stream_ps(out + i, values);
        else
            _mm_storeu_ps(out + i, values);
    }
    tfos_to_float32_plain(p, out + i, count - i, past);
}

TFOS_HALF static void tfos_to_float64_half(const uint8_t *p, double *out, size_t count, int past) {
    size_t i = past ? tfos_before_line(out, sizeof *out, count) : 0;
    tfos_to_float64_plain(p, out, i, past);
    for (p += TFOS_FLOAT * i; i + 4 <= count; i += 4, p += 4 * TFOS_FLOAT) {
        if (past)
            _mm256_stream_si256((__m256i *)(out + i), tfos_four(p));
        else
            _mm256_storeu_si256((__m256i *)(out + i), tfos_four(p));
    }
    tfos_to_float64_plain(p, out + i, count - i, past);
}

/* ---- eight at a time --------------------------------------------------------------------------------------------------------- */

#define TFOS_WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi")))
#define TFOS_EIGHT (8 * TFOS_FLOAT)
#define TFOS_OPCODES 0x8040201008040201ULL  /* every ninth byte, eight times */

TFOS_WIDE static size_t tfos_run_wide(const uint8_t *p, size_t most) {
    const __m512i opcode = _mm512_set1_epi8('G');
    size_t count = 0;
    while (count + 8 <= most) {
        if (_mm512_mask_cmpneq_epi8_mask(TFOS_OPCODES, _mm512_loadu_si512(p), opcode))
            break;
        count += 8;
        p += TFOS_EIGHT;
    }
    return count + tfos_run_plain(p, most - count);
}

/* Of lane i the bytes 9 i + 8 down to 9 i + 1. Those from 64 on are in the second vector, which begins eight bytes behind the first. */
TFOS_WIDE static inline __m512i tfos_places(void) {
    return _mm512_set_epi8(
        120, 121, 122, 123, 124, 125, 126, 127,
        55, 56, 57, 58, 59, 60, 61, 62,
        46, 47, 48, 49, 50, 51, 52, 53,
        37, 38, 39, 40, 41, 42, 43, 44,
        28, 29, 30, 31, 32, 33, 34, 35,
        19, 20, 21, 22, 23, 24, 25, 26,
        10, 11, 12, 13, 14, 15, 16, 17,
        1, 2, 3, 4, 5, 6, 7, 8);
}

TFOS_WIDE static inline __m512d tfos_eight(const uint8_t *p, __m512i places) {
    return _mm512_castsi512_pd(_mm512_permutex2var_epi8(_mm512_loadu_si512(p), places, _mm512_loadu_si512(p + 8)));
}

TFOS_WIDE static void tfos_to_float32_wide(const uint8_t *p, float *out, size_t count, int past) {
    const __m512i places = tfos_places();
    size_t i = 0;
    if (past) {
        i = tfos_before_line(out, sizeof *out, count);
        tfos_to_float32_plain(p, out, i, past);
        for (p += TFOS_FLOAT * i; i + 16 <= count; i += 16, p += 2 * TFOS_EIGHT) {
            __m256d low = _mm256_castps_pd(_mm512_cvtpd_ps(tfos_eight(p, places)));
            __m256d high = _mm256_castps_pd(_mm512_cvtpd_ps(tfos_eight(p + TFOS_EIGHT, places)));
            _mm512_stream_pd((double *)(out + i), _mm512_insertf64x4(_mm512_castpd256_pd512(low), high, 1));
        }
    }
    for (; i + 8 <= count; i += 8, p += TFOS_EIGHT)
        _mm256_storeu_ps(out + i, _mm512_cvtpd_ps(tfos_eight(p, places)));
    tfos_to_float32_plain(p, out + i, count - i, past);
}

TFOS_WIDE static void tfos_to_float64_wide(const uint8_t *p, double *out, size_t count, int past) {
    const __m512i places = tfos_places();
    size_t i = past ? tfos_before_line(out, sizeof *out, count) : 0;
    tfos_to_float64_plain(p, out, i, past);
    for (p += TFOS_FLOAT * i; i + 8 <= count; i += 8, p += TFOS_EIGHT) {
        if (past)
            _mm512_stream_pd(out + i, tfos_eight(p, places));
        else
            _mm512_storeu_pd(out + i, tfos_eight(p, places));
    }
    tfos_to_float64_plain(p, out + i, count - i, past);
}
#endif

/* ---- the choice -------------------------------------------------------------------------------------------------------------- */

static size_t (*tfos_run_of_floats)(const uint8_t *, size_t) = tfos_run_plain;
static void (*tfos_to_float32)(const uint8_t *, float *, size_t, int) = tfos_to_float32_plain;
static void (*tfos_to_float64)(const uint8_t *, double *, size_t, int) = tfos_to_float64_plain;

/* Choose the most that the processor can take at a time, up to `most`; returns how many: 8, 4 or 1. */
static inline int tfos_choose_floats(int most) {
#ifdef TFOS_VECTORS
    __builtin_cpu_init();
    if (most >= 8 && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        tfos_run_of_floats = tfos_run_wide;
        tfos_to_float32 = tfos_to_float32_wide;
        tfos_to_float64 = tfos_to_float64_wide;
        return 8;
    }
    if (most >= 4 && __builtin_cpu_supports("avx2")) {
        tfos_run_of_floats = tfos_run_half;
        tfos_to_float32 = tfos_to_float32_half;
        tfos_to_float64 = tfos_to_float64_half;
        return 4;
    }
#endif
    tfos_run_of_floats = tfos_run_plain;
    tfos_to_float32 = tfos_to_float32_plain;
    tfos_to_float64 = tfos_to_float64_plain;
    return 1;
}

#endif
