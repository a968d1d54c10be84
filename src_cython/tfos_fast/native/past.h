/* Copies past the caches: stores that do not read the old contents first, and leave the caches to whoever needs them. */
#ifndef TFOS_PAST_H
#define TFOS_PAST_H
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
static inline void tfos_past(char *to, const char *from, size_t size) {
    size_t head = (16 - ((size_t)to & 15)) & 15; /* these stores want aligned addresses */
    if (head > size)
        head = size;
    memcpy(to, from, head);
    for (to += head, from += head, size -= head; size >= 64; to += 64, from += 64, size -= 64) {
        __m128i a = _mm_loadu_si128((const __m128i *)from), b = _mm_loadu_si128((const __m128i *)(from + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(from + 32)), d = _mm_loadu_si128((const __m128i *)(from + 48));
        _mm_stream_si128((__m128i *)to, a);
        _mm_stream_si128((__m128i *)(to + 16), b);
        _mm_stream_si128((__m128i *)(to + 32), c);
        _mm_stream_si128((__m128i *)(to + 48), d);
    }
    for (; size >= 16; to += 16, from += 16, size -= 16)
        _mm_stream_si128((__m128i *)to, _mm_loadu_si128((const __m128i *)from));
    memcpy(to, from, size);
}
static inline void tfos_past_done(void) { _mm_sfence(); } /* all of it is there before anybody is told */
#else
static inline void tfos_past(char *to, const char *from, size_t size) { memcpy(to, from, size); }
static inline void tfos_past_done(void) {}
#endif
#endif
