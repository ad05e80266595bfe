/* The dense layer of NatureCNN: y = max(0, bias + w x) for each row x, and its gradients.
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
#include "workers.h"

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
    STRIP = 16 * OUTPUTS,  /* outputs of a panel that are one part */
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

typedef struct {
    const number *x, *w;
    long rows, k, outputs, strips;
    const float *bias;
    number *y;
} Dense;

static void dense_part(const void *arguments, long part, int thread) {
    const Dense *a = arguments;
    const long panel = part / a->strips * PANEL, strip = part % a->strips * STRIP;
    for (long o = strip; o < a->outputs && o < strip + STRIP; o += OUTPUTS) {
        long at = o + OUTPUTS <= a->outputs ? o : a->outputs - OUTPUTS;  /* some again */
        for (long first = panel; first < a->rows && first < panel + PANEL; first += ROWS) {
            const number *from[ROWS];
            number *to[ROWS];
            EACH(r, ROWS) {
                long row = first + r < a->rows ? first + r : a->rows - 1;  /* the last one again */
                from[r] = a->x + row * a->k, to[r] = a->y + row * a->outputs;
            }
            multiply(from, a->k, a->w + at * a->k, a->bias, to, at);
        }
    }
}

/* x [rows][k], w [outputs][k] -> y [rows][outputs] */
void dense(const number *x, long rows, long k, long outputs, const number *w, const float *bias,
           int threads, number *y) {
    Dense arguments = {x, w, rows, k, outputs, (outputs + STRIP - 1) / STRIP, bias, y};
    run_parts(dense_part, &arguments, (rows + PANEL - 1) / PANEL * arguments.strips, threads);
}

/* ---- gradients ------------------------------------------------------------------------------
 *
 * Two products of matrices, c = a b, in which b has k columns. Items are what one instruction
 * multiplies: floats, or in bf16 pairs of numbers that follow each other in the sum.
 */

#if BF16
typedef uint32_t item;
INLINE numbers one_item(const item *p) { return (__m512bh)_mm512_set1_epi32((int)*p); }
INLINE numbers read_items(const item *p) { return (__m512bh)_mm512_loadu_si512(p); }

/* Floats -> bf16, of which there are LANES at a time to read and `count` to write. */
INLINE void narrow(const float *from, long count, bf16 *to) {
    for (long i = 0; i < count; i += LANES) {
        bf16 each[LANES];
        _mm256_storeu_si256((__m256i *)each, (__m256i)_mm512_cvtneps_pbh(load(from + i)));
        memcpy(to + i, each, sizeof(bf16) * MIN(count - i, LANES));
    }
}
#else
typedef float item;
INLINE numbers one_item(const item *p) { return all(*p); }
INLINE numbers read_items(const item *p) { return load(p); }
INLINE void narrow(const float *from, long count, float *to) {
    memcpy(to, from, sizeof(float) * count);
}
#endif

enum {
    NUMBERS = sizeof(item) / sizeof(number),
    TILE_ROWS = LANES == 16 ? 12 : 6, TILE_ACROSS = 2,  /* vectors of sums in registers */
    TILE = TILE_ACROSS * LANES,  /* columns */
    COLUMNS = 64,  /* of a part */
};

/* Columns [at, at + COLUMNS) of b [count][n] -> [COLUMNS / TILE][items][TILE], 0 beyond the borders
 * of b. */
INLINE void pack_columns(const number *b, long count, long items, long n, long at, item *packed) {
    const long columns = MIN(n - at, COLUMNS);
    for (long j = 0; j < items; j++)
        for (long tile = 0; tile < COLUMNS; tile += TILE) {
            number *to = (number *)(packed + tile * items + j * TILE);
            const long width = columns - tile < TILE ? MAX(columns - tile, 0) : TILE;
            const long here = MIN(count - j * NUMBERS, NUMBERS);
            const number *from = b + j * NUMBERS * n + at + tile;
            if (width < TILE || here < NUMBERS) memset(to, 0, sizeof(item) * TILE);
            for (long half = 0; half < here; half++)
                for (long i = 0; i < width; i++) to[i * NUMBERS + half] = from[half * n + i];
        }
}

INLINE void write_row(const float *row, long width, number *c, float *c_in_fp32, long to) {
    if (c_in_fp32) memcpy(c_in_fp32 + to, row, sizeof(float) * width);
    else narrow(row, width, c + to);
}

/* Columns [at, at + COLUMNS) of c [rows][n], in `number` or in fp32; a is [rows][items], and
 * `columns` was made of b by `pack_columns`. */
INLINE void product(const item *a, long rows, long items, const item *columns, long n, long at,
                    number *c, float *c_in_fp32) {
    for (long tile = at; tile < at + COLUMNS && tile < n; tile += TILE)
        for (long first = 0; first < rows; first += TILE_ROWS) {
            const item *from[TILE_ROWS], *b = columns + (tile - at) * items;
            vector sums[TILE_ROWS][TILE_ACROSS];
            EACH(r, TILE_ROWS) {
                from[r] = a + (first + r < rows ? first + r : rows - 1) * items;
                EACH(v, TILE_ACROSS) sums[r][v] = all(0.0f);
            }
            for (long j = 0; j < items; j++, b += TILE) {
                numbers some[TILE_ACROSS];
                EACH(v, TILE_ACROSS) some[v] = read_items(b + v * LANES);
                EACH(r, TILE_ROWS) {
                    numbers one = one_item(from[r] + j);
                    EACH(v, TILE_ACROSS) sums[r][v] = plus_products(sums[r][v], one, some[v]);
                }
            }
            const long width = MIN(n - tile, TILE);
            for (int r = 0; r < TILE_ROWS && first + r < rows; r++) {
                float row[TILE];
                EACH(v, TILE_ACROSS) store(row + v * LANES, sums[r][v]);
                const long to = (first + r) * n + tile;
                /* A width that is known needs no loop. */
                if (width == TILE) write_row(row, TILE, c, c_in_fp32, to);
                else write_row(row, width, c, c_in_fp32, to);
            }
        }
}

typedef struct {
    const number *x, *w, *g, *g_transposed;
    long rows, padded, k, outputs, panels, workspace_items;
    item *workspaces;
    number *dx;
    float *dw;
} Gradients;

static void gradients_part(const void *arguments, long part, int thread) {
    const Gradients *a = arguments;
    item *packed = a->workspaces + thread * a->workspace_items;
    const long at = part % a->panels * COLUMNS;
    if (part < a->panels) {
        const long items = a->padded / NUMBERS;
        pack_columns(a->x, a->rows, items, a->k, at, packed);
        product((const item *)a->g_transposed, a->outputs, items, packed, a->k, at, 0, a->dw);
    } else {
        const long items = a->outputs / NUMBERS;
        pack_columns(a->w, a->outputs, items, a->k, at, packed);
        product((const item *)a->g, a->rows, items, packed, a->k, at, a->dx, 0);
    }
}

static long items_at_most(long padded, long outputs) { return COLUMNS * MAX(padded, outputs); }

/* The memory that `dense_gradients` works in. */
long dense_workspace_bytes(long padded, long outputs, int threads) {
    return sizeof(item) * threads * items_at_most(padded, outputs);
}

/* g [rows][outputs], the gradient that passed ReLU, and the same as g_transposed [outputs][padded],
 * with zeros behind -> dx [rows][k], dw [outputs][k]. padded, outputs: multiples of NUMBERS. */
void dense_gradients(const number *x, long rows, long padded, long k, long outputs,
                     const number *w, const number *g, const number *g_transposed, int threads,
                     item *workspaces, number *dx, float *dw) {
    const long panels = (k + COLUMNS - 1) / COLUMNS;
    Gradients arguments = {x, w, g, g_transposed, rows, padded, k, outputs, panels,
                           items_at_most(padded, outputs), workspaces, dx, dw};
    run_parts(gradients_part, &arguments, 2 * panels, threads);
}
