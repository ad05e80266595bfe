/* What all kernels are written with: vectors of LANES floats, 16 of AVX-512 or 8 of AVX2. */
#if LANES == 16 && !defined(__AVX512F__)
#error "they need a processor with AVX-512"
#elif LANES == 8 && !(defined(__AVX2__) && defined(__FMA__))
#error "they need a processor with AVX2 and FMA"
#endif

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 32") for (int i = 0; i < (n); i++)
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

typedef uint16_t bf16;

#if LANES == 16
typedef __m512 vector;
INLINE vector load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, vector v) { _mm512_storeu_ps(p, v); }
INLINE vector all(float value) { return _mm512_set1_ps(value); }
INLINE vector plus_product(vector sum, vector a, vector b) { return _mm512_fmadd_ps(a, b, sum); }
#else
typedef __m256 vector;
INLINE vector load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, vector v) { _mm256_storeu_ps(p, v); }
INLINE vector all(float value) { return _mm256_set1_ps(value); }
INLINE vector plus_product(vector sum, vector a, vector b) { return _mm256_fmadd_ps(a, b, sum); }
#endif
