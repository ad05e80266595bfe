/* The dense layer of NatureCNN forward: y = max(0, bias + w x) for each row x.
 *
 * Weights are read as PyTorch keeps them, [output][k], and nothing is rearranged, which for the few
 * rows of acting would take longer than the products. The numbers of a sum are added up in the
 * members of a vector, and these at the end. A row's result does not depend on those beside it.
 *
 * Compiled for vectors of LANES floats; with BF16 rows and weights are bf16, and a vector adds up
 * products of 32 numbers, two in each member. There may be any number of rows, but at least OUTPUTS
 * outputs, and k is a multiple of LANES.
 */
#if BF16 && !defined(__AVX512BF16__)
#error "for bf16 they need a processor with AVX512-BF16"
#endif

#include "vectors.h"

#if BF16
typedef bf16 number;
typedef __m512bh numbers;
INLINE numbers read(const bf16 *p) { return (__m512bh)_mm512_loadu_si512(p); }
INLINE numbers read_half(const bf16 *p) {
    return (__m512bh)_mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)p));
}
INLINE vector plus_products(vector sum, numbers a, numbers b) {
    return _mm512_dpbf16_ps(sum, a, b);
}
INLINE void write(__m128 four, bf16 *const *to, long at) {
    bf16 each[8];
    _mm_storeu_si128((__m128i *)each, (__m128i)_mm_cvtneps_pbh(four));
    EACH(i, 4) to[i][at] = each[i];
}
#else
typedef float number;
typedef vector numbers;
INLINE numbers read(const float *p) { return load(p); }
INLINE vector plus_products(vector sum, numbers a, numbers b) { return plus_product(sum, a, b); }
INLINE void write(__m128 four, float *const *to, long at) {
    float each[4];
    _mm_storeu_ps(each, four);
    EACH(i, 4) to[i][at] = each[i];
}
#endif

enum {
    ROWS = 4, OUTPUTS = LANES == 16 ? 6 : 3,  /* whose sums are in registers */
    STEP = sizeof(vector) / sizeof(number),
    PANEL = 32,  /* rows that stay in the cache */
    STRIP = 16 * OUTPUTS,  /* outputs of a panel that one thread computes */
};

/* The sums of the members of four vectors. */
INLINE __m128 added_up(vector a, vector b, vector c, vector d) {
#if LANES == 16
    vector ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vector cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    vector all_four = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 sums = _mm256_add_ps(_mm512_castps512_ps256(all_four),
                                _mm512_extractf32x8_ps(all_four, 1));
#else
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
#endif
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

/* OUTPUTS outputs, from `at` on, of ROWS rows. */
INLINE void multiply(const number *const *x, long k, const number *w, const float *bias,
                     number *const *y, long at) {
    vector sums[ROWS][OUTPUTS];
    EACH(r, ROWS) EACH(o, OUTPUTS) sums[r][o] = all(0.0f);
    long j = 0;
    for (; j + STEP <= k; j += STEP) {
        numbers weights[OUTPUTS];
        EACH(o, OUTPUTS) weights[o] = read(w + o * k + j);
        EACH(r, ROWS) {
            numbers some = read(x[r] + j);
            EACH(o, OUTPUTS) sums[r][o] = plus_products(sums[r][o], some, weights[o]);
        }
    }
#if BF16
    if (j < k)
        EACH(o, OUTPUTS) EACH(r, ROWS)
            sums[r][o] = plus_products(sums[r][o], read_half(x[r] + j), read_half(w + o * k + j));
#endif
    EACH(o, OUTPUTS) {
        __m128 sum = added_up(sums[0][o], sums[1][o], sums[2][o], sums[3][o]);
        sum = _mm_add_ps(sum, _mm_set1_ps(bias[at + o]));
        write(_mm_max_ps(_mm_setzero_ps(), sum), y, at + o);  /* keeps NaN */
    }
}

/* x [rows][k], w [outputs][k] -> y [rows][outputs] */
void dense(const number *x, long rows, long k, long outputs, const number *w, const float *bias,
           int threads, number *y) {
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
    for (long panel = 0; panel < rows; panel += PANEL)
        for (long strip = 0; strip < outputs; strip += STRIP)
            for (long o = strip; o < outputs && o < strip + STRIP; o += OUTPUTS) {
                long at = o + OUTPUTS <= outputs ? o : outputs - OUTPUTS;  /* some again */
                for (long first = panel; first < rows && first < panel + PANEL; first += ROWS) {
                    const number *from[ROWS];
                    number *to[ROWS];
                    EACH(r, ROWS) {
                        long row = first + r < rows ? first + r : rows - 1;  /* the last one again */
                        from[r] = x + row * k, to[r] = y + row * outputs;
                    }
                    multiply(from, k, w + at * k, bias, to, at);
                }
            }
}
