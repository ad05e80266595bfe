/* Vector operations of all kernels.
 *
 * A vector has SIMD_WIDTH floats: 16 with AVX-512, 8 with AVX2. An `elem` is a weight or a number
 * between layers: a float, or with BF16 a bfloat16. An `item` is what one instruction multiplies
 * and adds to one sum: a float, or with BF16 a pair of bfloat16 whose two products are both added.
 */
#if SIMD_WIDTH == 16 && !defined(__AVX512F__)
#error "they need a processor with AVX-512"
#elif SIMD_WIDTH == 8 && !(defined(__AVX2__) && defined(__FMA__))
#error "they need a processor with AVX2 and FMA"
#elif BF16 && !defined(__AVX512BF16__)
#error "for bf16 they need a processor with AVX512-BF16"
#endif

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 32") for (int i = 0; i < (n); i++)
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define CEIL_DIV(a, b) (((a) + (b) - 1) / (b))

/* Upper limits of a block of sums in registers: rows, and vectors in each. Of 32 registers, 28 are
 * for sums and the rest for factors. */
enum { MOST_ROWS = 28, MOST_ACROSS = 4 };

#if SIMD_WIDTH == 16
typedef __m512 vector;
#define SIMD(operation) _mm512_##operation
#else
typedef __m256 vector;
#define SIMD(operation) _mm256_##operation
#endif

INLINE vector load(const float *p) { return SIMD(loadu_ps)(p); }
INLINE void store(float *p, vector v) { SIMD(storeu_ps)(p, v); }
INLINE vector splat(float value) { return SIMD(set1_ps)(value); }
INLINE vector vmin(vector a, vector b) { return SIMD(min_ps)(a, b); }

/* The first SIMD_WIDTH of 16 bytes. */
INLINE vector from_bytes(__m128i bytes) { return SIMD(cvtepi32_ps)(SIMD(cvtepu8_epi32)(bytes)); }

#if BF16
typedef uint16_t elem;
typedef uint32_t item;
typedef __m512bh items;

INLINE items load_items(const void *p) { return (__m512bh)_mm512_loadu_si512(p); }

INLINE items splat_item(const void *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

INLINE vector plus_products(vector sum, items a, items b) { return _mm512_dpbf16_ps(sum, a, b); }

INLINE void store_elems(elem *p, vector v) {
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v));
}
#else
typedef float elem, item;
typedef vector items;

INLINE items load_items(const float *p) { return load(p); }
INLINE items splat_item(const float *p) { return splat(*p); }
INLINE vector plus_products(vector sum, items a, items b) { return SIMD(fmadd_ps)(a, b, sum); }
INLINE void store_elems(elem *p, vector v) { store(p, v); }
#endif
