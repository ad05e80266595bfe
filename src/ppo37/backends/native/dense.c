/* The dense layer of NatureCNN, y = max(0, bias + w x) for each row x, and its gradients.
 *
 * Weights are read in PyTorch's order, [output][k]: to rearrange them for the few rows of acting
 * would take longer than the products. The members of a vector are separate sums, added up at the
 * end. A row's result does not depend on the other rows.
 *
 * There may be any number of rows. There are at least OUTPUTS outputs, an even number, and k is a
 * multiple of SIMD_WIDTH. The structures of arguments are also declared in kernels.py.
 */
#include "vectors.h"
#include "workers.h"

enum {
    ROWS = 4, OUTPUTS = SIMD_WIDTH == 16 ? 6 : 3,  /* sums in registers */
    STEP = sizeof(vector) / sizeof(elem),
    PANEL = 32,  /* rows that stay in the cache */
    STRIP = 16 * OUTPUTS,  /* outputs of a panel that are one part */
};

#if BF16
INLINE items load_half(const elem *p) {
    return (__m512bh)_mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)p));
}

/* Write one number at index `at` of each of four rows. */
INLINE void store_column(__m128 column, elem *const *rows, long at) {
    elem each[8];
    _mm_storeu_si128((__m128i *)each, (__m128i)_mm_cvtneps_pbh(column));
    EACH(i, 4) rows[i][at] = each[i];
}

/* Convert floats, a multiple of SIMD_WIDTH in memory, and write the first `count`. */
INLINE void store_floats(const float *from, long count, elem *to) {
    for (long i = 0; i < count; i += SIMD_WIDTH) {
        elem each[SIMD_WIDTH];
        store_elems(each, load(from + i));
        memcpy(to + i, each, sizeof(elem) * MIN(count - i, SIMD_WIDTH));
    }
}
#else
INLINE void store_column(__m128 column, elem *const *rows, long at) {
    float each[4];
    _mm_storeu_ps(each, column);
    EACH(i, 4) rows[i][at] = each[i];
}

INLINE void store_floats(const float *from, long count, elem *to) {
    memcpy(to, from, sizeof(float) * count);
}
#endif

/* ---- forward ------------------------------------------------------------------------------- */

/* The sums of the members of four vectors. */
INLINE __m128 add_up(vector a, vector b, vector c, vector d) {
#if SIMD_WIDTH == 16
    vector ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vector cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    vector abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 sums = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
#else
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
#endif
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

/* Compute OUTPUTS outputs, from index `at`, of ROWS rows. */
INLINE void multiply(const elem *const *x, long k, const elem *w, const float *bias,
                     elem *const *y, long at) {
    vector sums[ROWS][OUTPUTS];
    EACH(r, ROWS) EACH(o, OUTPUTS) sums[r][o] = splat(0.0f);
    long j = 0;
    for (; j + STEP <= k; j += STEP) {
        items weights[OUTPUTS];
        EACH(o, OUTPUTS) weights[o] = load_items(w + o * k + j);
        EACH(r, ROWS) {
            items some = load_items(x[r] + j);
            EACH(o, OUTPUTS) sums[r][o] = plus_products(sums[r][o], some, weights[o]);
        }
    }
#if BF16
    if (j < k)
        EACH(o, OUTPUTS) EACH(r, ROWS)
            sums[r][o] = plus_products(sums[r][o], load_half(x[r] + j), load_half(w + o * k + j));
#endif
    EACH(o, OUTPUTS) {
        __m128 sum = add_up(sums[0][o], sums[1][o], sums[2][o], sums[3][o]);
        sum = _mm_add_ps(sum, _mm_set1_ps(bias[at + o]));
        store_column(_mm_max_ps(_mm_setzero_ps(), sum), y, at + o);  /* keeps NaN */
    }
}

typedef struct {
    const elem *x, *w;  /* [rows][k], [outputs][k] */
    const float *bias;
    elem *y;  /* [rows][outputs] */
    long rows, k, outputs;
} DenseArguments;

static void dense_part(const void *arguments, long part, int thread) {
    const DenseArguments *a = arguments;
    const long strips = CEIL_DIV(a->outputs, STRIP);
    const long panel = part / strips * PANEL, strip = part % strips * STRIP;
    for (long o = strip; o < a->outputs && o < strip + STRIP; o += OUTPUTS) {
        long at = MIN(o, a->outputs - OUTPUTS);  /* the last ones may overlap those before */
        for (long first = panel; first < a->rows && first < panel + PANEL; first += ROWS) {
            const elem *from[ROWS];
            elem *to[ROWS];
            EACH(r, ROWS) {
                long row = MIN(first + r, a->rows - 1);  /* the last one may be repeated */
                from[r] = a->x + row * a->k, to[r] = a->y + row * a->outputs;
            }
            multiply(from, a->k, a->w + at * a->k, a->bias, to, at);
        }
    }
}

void ppo37_dense(const DenseArguments *a, int threads) {
    long parts = CEIL_DIV(a->rows, PANEL) * CEIL_DIV(a->outputs, STRIP);
    ppo37_run_parts(dense_part, a, parts, threads);
}

/* ---- gradients: two products of matrices, c = a b, in which b has k columns ------------------ */

enum {
    PER_ITEM = sizeof(item) / sizeof(elem),
    TILE_ROWS = SIMD_WIDTH == 16 ? 12 : 6, TILE_ACROSS = 2,  /* vectors of sums in registers */
    TILE = TILE_ACROSS * SIMD_WIDTH,  /* columns */
    COLUMNS = 64,  /* of a part */
};

/* Columns [at, at + COLUMNS) of b [count][n] -> [COLUMNS / TILE][items][TILE], 0 outside of b. */
INLINE void pack_columns(const elem *b, long count, long items, long n, long at, item *packed) {
    const long columns = MIN(n - at, COLUMNS);
    for (long j = 0; j < items; j++)
        for (long tile = 0; tile < COLUMNS; tile += TILE) {
            elem *to = (elem *)(packed + tile * items + j * TILE);
            const long width = columns - tile < TILE ? MAX(columns - tile, 0) : TILE;
            const long here = MIN(count - j * PER_ITEM, PER_ITEM);
            const elem *from = b + j * PER_ITEM * n + at + tile;
            if (width < TILE || here < PER_ITEM) memset(to, 0, sizeof(item) * TILE);
            for (long half = 0; half < here; half++)
                for (long i = 0; i < width; i++) to[i * PER_ITEM + half] = from[half * n + i];
        }
}

INLINE void store_row(const float *row, long width, elem *c, float *c_in_fp32, long to) {
    if (c_in_fp32) memcpy(c_in_fp32 + to, row, sizeof(float) * width);
    else store_floats(row, width, c + to);
}

/* Columns [at, at + COLUMNS) of c [rows][n], written to c_in_fp32 if that is not 0, else to c.
 * a [rows][count of items]; columns: of b, from `pack_columns`. */
INLINE void product(const item *a, long rows, long count, const item *columns, long n, long at,
                    elem *c, float *c_in_fp32) {
    for (long tile = at; tile < at + COLUMNS && tile < n; tile += TILE)
        for (long first = 0; first < rows; first += TILE_ROWS) {
            const item *from[TILE_ROWS], *b = columns + (tile - at) * count;
            vector sums[TILE_ROWS][TILE_ACROSS];
            EACH(r, TILE_ROWS) {
                from[r] = a + MIN(first + r, rows - 1) * count;
                EACH(v, TILE_ACROSS) sums[r][v] = splat(0.0f);
            }
            for (long j = 0; j < count; j++, b += TILE) {
                items some[TILE_ACROSS];
                EACH(v, TILE_ACROSS) some[v] = load_items(b + v * SIMD_WIDTH);
                EACH(r, TILE_ROWS) {
                    items one = splat_item(from[r] + j);
                    EACH(v, TILE_ACROSS) sums[r][v] = plus_products(sums[r][v], one, some[v]);
                }
            }
            const long width = MIN(n - tile, TILE);
            for (int r = 0; r < TILE_ROWS && first + r < rows; r++) {
                float row[TILE];
                EACH(v, TILE_ACROSS) store(row + v * SIMD_WIDTH, sums[r][v]);
                const long to = (first + r) * n + tile;
                /* With a constant width the compiler needs no loop. */
                if (width == TILE) store_row(row, TILE, c, c_in_fp32, to);
                else store_row(row, width, c, c_in_fp32, to);
            }
        }
}

typedef struct {
    const elem *x, *w;  /* [rows][k], [outputs][k] */
    /* The gradient of y where ReLU passes it, else 0: [rows][outputs], and transposed
     * [outputs][padded] with 0 after the rows. */
    const elem *g, *g_transposed;
    item *workspaces;  /* `ppo37_dense_workspace_bytes` */
    elem *dx;          /* [rows][k] */
    float *dw;         /* [outputs][k] */
    long rows, padded, k, outputs;  /* padded, outputs: multiples of PER_ITEM */
} DenseGradientArguments;

/* Items of one thread's workspace. */
static long workspace_items(long padded, long outputs) { return COLUMNS * MAX(padded, outputs); }

static void gradients_part(const void *arguments, long part, int thread) {
    const DenseGradientArguments *a = arguments;
    item *packed = a->workspaces + thread * workspace_items(a->padded, a->outputs);
    const long panels = CEIL_DIV(a->k, COLUMNS), at = part % panels * COLUMNS;
    if (part < panels) {
        const long count = a->padded / PER_ITEM;
        pack_columns(a->x, a->rows, count, a->k, at, packed);
        product((const item *)a->g_transposed, a->outputs, count, packed, a->k, at, 0, a->dw);
    } else {
        const long count = a->outputs / PER_ITEM;
        pack_columns(a->w, a->outputs, count, a->k, at, packed);
        product((const item *)a->g, a->rows, count, packed, a->k, at, a->dx, 0);
    }
}

/* Bytes of the workspaces of all threads. */
long ppo37_dense_workspace_bytes(long padded, long outputs, int threads) {
    return sizeof(item) * threads * workspace_items(padded, outputs);
}

void ppo37_dense_gradients(const DenseGradientArguments *a, int threads) {
    ppo37_run_parts(gradients_part, a, 2 * CEIL_DIV(a->k, COLUMNS), threads);
}
