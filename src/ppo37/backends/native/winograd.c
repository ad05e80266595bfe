/* The three convolutions of NatureCNN, forward and backward, in float, with fewer products than
 * the definition has.
 *
 * That is Winograd's minimal filtering. Sums and differences bring the 4 x 4 inputs of a tile and
 * the r x r weights into another basis, where they are multiplied position by position, 16
 * products; sums and differences of these give m x m outputs, m = 5 - r. The convolution itself
 * takes r^2 m^2 = 36 products. In exact arithmetic both are the same, and gradients go through the
 * transposed maps. (A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, 2015;
 * the points are 0, 1, -1 and infinity.) For many tiles and channels, each of the 16 positions has
 * a product of matrices, [tile][channel] by [channel][output].
 *
 * This needs a stride of 1. So the image is cut into blocks of 4 x 4 pixels, each one pixel of 16
 * times the planes, which makes the first convolution (8 x 8, stride 4) one of 2 x 2; the second
 * (4 x 4, stride 2) is one of 2 x 2 over blocks of 2 x 2 pixels; the third is one of 3 x 3.
 *
 * Compiled for one shape (images.h); C1 C2 C3 are multiples of SIMD_WIDTH. For each layer, BLOCK*
 * tiles are computed at a time, LONG_BLOCK* for gradients of weights. In registers are the sums of
 * ROWS* tiles by ACROSS* vectors of channels, of BACK_ROWS* by BACK_ACROSS* on the way back, and
 * for gradients of weights of TAPS* inputs by TAPS_ACROSS* vectors.
 */
#include "vectors.h"
#include "images.h"

/* ---- vectors -------------------------------------------------------------------------------- */

#if SIMD_WIDTH == 16
INLINE vector load_bytes(const uint8_t *p) {
    return from_bytes(_mm_loadu_si128((const __m128i *)p));
}

INLINE vector vabs(vector v) { return _mm512_abs_ps(v); }

/* v where x > limit or x is NaN, else 0 */
INLINE vector mask_gt(vector x, vector limit, vector v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLE_UQ), v);
}
#else
INLINE vector load_bytes(const uint8_t *p) {
    return from_bytes(_mm_loadl_epi64((const __m128i *)p));
}

INLINE vector vabs(vector v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

INLINE vector mask_gt(vector x, vector limit, vector v) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLE_UQ), v);
}
#endif

/* SIMD_WIDTH floats that are `step` apart. */
INLINE vector load_strided(const float *p, long step) {
    float values[SIMD_WIDTH];
    EACH(i, SIMD_WIDTH) values[i] = p[i * step];
    return load(values);
}

/* Where inputs are black and biases 0, a convolution is 0, and so is ReLU's gradient. The products
 * here cancel except for rounding: a sum that is not larger than ROUNDING times its terms counts as
 * 0. */
#define ROUNDING 1e-6f

/* Gradient v of ReLU's outputs x -> that of its inputs. */
INLINE vector relu_backward(vector x, vector v) { return mask_gt(x, splat(0.0f), v); }

/* ---- sizes ---------------------------------------------------------------------------------- */

enum {
    K2 = 4 * C1,
    N1 = 16 * C0 * C1, N2 = 16 * K2 * C2, N3 = 16 * C2 * C3,  /* numbers of transformed weights */
    SIDE = 4, POSITIONS = 16,  /* of a tile's inputs */
};

#define TILES(m, rows, columns) (CEIL_DIV(rows, m) * CEIL_DIV(columns, m))

/* A convolution of r x r over pixels of `channels` numbers, each in `parts` runs of memory. */
typedef struct {
    int bytes;                          /* 1: numbers are bytes, 0: floats */
    int r, m;                           /* of weights, of a tile's outputs */
    int channels, parts, part_pitch, pixel, row;  /* pitches: numbers from one to the next */
    int height, width;                  /* pixels that are read */
    int height_out, width_out, outputs, tiles;
    long size_in, size_out;             /* numbers of a sample */
} Layer;

#define LAYER1 ((Layer){1, 2, 3, C0, 1, 0, C0, W0 * C0, H0, W0, H1, W1, C1, \
                        TILES(3, H1, W1), X0, X1})
#define LAYER2 ((Layer){0, 2, 3, K2, 2, W1 * C1, 2 * C1, 2 * W1 * C1, H2 + 1, W2 + 1, H2, W2, C2, \
                        TILES(3, H2, W2), X1, X2})
#define LAYER3 ((Layer){0, 3, 2, C2, 1, 0, C2, W2 * C2, H2, W2, H3, W3, C3, \
                        TILES(2, H3, W3), X2, X3})

enum {
    GAP = 16,  /* between positions, whose numbers would share cache sets */
    MOST_IN = 16 * (MAX(MAX(LONG_BLOCK1 * C0, LONG_BLOCK2 * K2), LONG_BLOCK3 * C2) + GAP),
    MOST_OUT = 16 * (MAX(MAX(LONG_BLOCK1 * C1, LONG_BLOCK2 * C2), LONG_BLOCK3 * C3) + GAP),
};

/* Conditions of `multiply` and `multiply_transposed`. */
#define FITS(rows, across, n) \
    ((rows) <= MOST_ROWS && (across) <= MOST_ACROSS && (n) % ((across) * SIMD_WIDTH) == 0)
#define CHECK(l, read, made) \
    _Static_assert(ROWS##l <= BLOCK##l && BLOCK##l <= LONG_BLOCK##l, "rows of a block"); \
    _Static_assert(FITS(ROWS##l, ACROSS##l, made), "sums forward"); \
    _Static_assert(BACK_ROWS##l <= BLOCK##l && FITS(BACK_ROWS##l, BACK_ACROSS##l, read), "back"); \
    _Static_assert(FITS(TAPS##l, TAPS_ACROSS##l, made) && (read) % TAPS##l == 0, "of weights")
CHECK(1, C0, C1);
CHECK(2, K2, C2);
CHECK(3, C2, C3);

/* The memory of one thread. */
typedef struct {
    uint8_t x0[AT_ONCE * X0];
    float g1[AT_ONCE * X1], g2[AT_ONCE * X2], g3[AT_ONCE * X3];
    float y3[AT_ONCE * X3], in[MOST_IN], out[MOST_OUT];
    float products[MAX(MOST_IN, MOST_OUT)];
} Workspace;

#include "trunk.h"

/* ---- transforms ----------------------------------------------------------------------------- */

/* Transforms of one row or column, whose members are `step` apart. Each `*_back` is the transpose
 * of the one before. */

INLINE void input_basis(const vector *x, int step, vector *v) {
    v[0] = x[0] - x[2 * step], v[step] = x[step] + x[2 * step];
    v[2 * step] = x[2 * step] - x[step], v[3 * step] = x[step] - x[3 * step];
}

INLINE void input_back(const vector *v, int step, vector *x) {
    x[0] = v[0], x[step] = v[step] - v[2 * step] + v[3 * step];
    x[2 * step] = v[step] + v[2 * step] - v[0], x[3 * step] = -v[3 * step];
}

/* products `step` apart -> outputs `out` apart */
INLINE void output(int r, const vector *m, int step, vector *y, int out) {
    vector sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    y[0] = m[0] + sum;
    if (r == 2) y[out] = difference, y[2 * out] = sum - m[3 * step];
    else y[out] = difference - m[3 * step];
}

INLINE void output_back(int r, const vector *y, int step, vector *m, int out) {
    vector ends = y[0], middle = y[step], last = middle;
    if (r == 2) last = y[2 * step], ends += last;
    m[0] = y[0], m[out] = ends + middle, m[2 * out] = ends - middle, m[3 * out] = -last;
}

INLINE void weight_basis(int r, const vector *w, int step, vector *u, int out) {
    vector ends = w[0], middle = w[step], last = middle;
    if (r == 3) last = w[2 * step], ends += last;
    u[0] = w[0], u[out] = (ends + middle) * 0.5f, u[2 * out] = (ends - middle) * 0.5f;
    u[3 * out] = last;
}

INLINE void weight_back(int r, const vector *u, int step, vector *w, int out) {
    vector sum = (u[step] + u[2 * step]) * 0.5f, difference = (u[step] - u[2 * step]) * 0.5f;
    w[0] = u[0] + sum;
    if (r == 2) w[out] = difference + u[3 * step];
    else w[out] = difference, w[2 * out] = sum + u[3 * step];
}

/* A tile of some samples: the sample's number, and the tile's first row and column. */
typedef struct {
    int sample, top, left;
} Tile;

INLINE Tile tile_of(const Layer l, int q) {
    int tiles_across = CEIL_DIV(l.width_out, l.m), index = q % l.tiles;
    return (Tile){q / l.tiles, index / tiles_across * l.m, index % tiles_across * l.m};
}

/* Indices of the inputs of a tile. Outside of the image they are those of its border; only outputs
 * that do not exist depend on them. */
INLINE void find_inputs(const Layer l, const Tile tile, long *at) {
    EACH(i, POSITIONS) {
        int row = tile.top + i / SIDE, column = tile.left + i % SIDE;
        row = MIN(row, l.height - 1), column = MIN(column, l.width - 1);
        at[i] = tile.sample * l.size_in + row * l.row + column * l.pixel;
    }
}

/* Indices of the outputs of a tile, -1 for those that do not exist. */
INLINE void find_outputs(const Layer l, const Tile tile, long *at) {
    EACH(i, l.m * l.m) {
        long row = tile.top + i / l.m, column = tile.left + i % l.m;
        int exists = row < l.height_out && column < l.width_out;
        at[i] = exists ? tile.sample * l.size_out + (row * l.width_out + column) * l.outputs : -1;
    }
}

/* `count` tiles of x, from `first` -> in [position][tile][channel], with GAP between positions */
INLINE void transform_inputs(const Layer l, const void *x, int first, int count, float *in) {
    long pitch = (long)count * l.channels + GAP;
    for (int q = 0; q < count; q++) {
        long at[POSITIONS];
        find_inputs(l, tile_of(l, first + q), at);
        for (int part = 0; part < l.parts; part++)
            for (int j = 0; j < l.channels / l.parts; j += SIMD_WIDTH, in += SIMD_WIDTH) {
                vector pixels[POSITIONS], rows[POSITIONS], v[POSITIONS];
                EACH(i, POSITIONS) {
                    long from = at[i] + part * l.part_pitch + j;
                    pixels[i] = l.bytes ? load_bytes((const uint8_t *)x + from)
                                        : load((const float *)x + from);
                }
                EACH(i, SIDE) input_basis(pixels + i, SIDE, rows + i);
                EACH(i, SIDE) input_basis(rows + i * SIDE, 1, v + i * SIDE);
                EACH(i, POSITIONS) store(in + i * pitch, v[i]);
            }
    }
}

/* Gradient g of outputs y, through ReLU if y is not 0 -> out [position][tile][output], with GAP
 * between positions; adds its sum over pixels to db, if that is not 0. */
INLINE void transform_gradients(const Layer l, const float *g, const float *y, int first,
                                int count, float *out, float *db) {
    const int m = l.m;
    long pitch = (long)count * l.outputs + GAP;
    for (int q = first; q < first + count; q++) {
        long at[9];
        find_outputs(l, tile_of(l, q), at);
        for (int o = 0; o < l.outputs; o += SIMD_WIDTH, out += SIMD_WIDTH) {
            vector pixels[9], rows[3 * SIDE], v[POSITIONS], sum = splat(0.0f);
            EACH(i, m * m) {
                pixels[i] = splat(0.0f);
                if (at[i] < 0) continue;
                vector gradient = load(g + at[i] + o);
                pixels[i] = y ? relu_backward(load(y + at[i] + o), gradient) : gradient;
                sum += pixels[i];
            }
            EACH(i, m) output_back(l.r, pixels + i, m, rows + i, m);
            EACH(i, SIDE) output_back(l.r, rows + m * i, 1, v + i * SIDE, 1);
            EACH(i, POSITIONS) store(out + i * pitch, v[i]);
            if (db) store(db + o, load(db + o) + sum);
        }
    }
}

/* ---- weights ------------------------------------------------------------------------------- */

/* Transform the weights of SIMD_WIDTH of a layer's outputs or channels, which are `step` apart. */
INLINE void transform_weights(const Layer l, const float *weights, long step, int block,
                              float scale, vector *u) {
    const int r = l.r;
    vector w[9], rows[3 * SIDE];
    EACH(j, r * r) w[j] = load_strided(weights + (j / r * r * block + j % r) * block, step) / scale;
    EACH(j, r) weight_basis(r, w + j, r, rows + j, r);
    EACH(j, SIDE) weight_basis(r, rows + j * r, 1, u + j * SIDE, 1);
}

/* The first of the weights of an output and the block's channel k, in
 * [outputs][channels][r * block][r * block]. */
INLINE const float *kernel_of(const Layer l, const float *weights, int block, int o, int k) {
    int width = l.r * block, channels = l.channels / (block * block);
    int c = block == 4 ? k / 16 : k % channels, i = block == 4 ? k % 16 : k / channels;
    return weights + ((long)(o * channels + c) * width + i / block) * width + i % block;
}

/* Weights, divided by `scale` -> packed [position][k][output] */
INLINE void pack(const Layer l, const float *weights, int block, float scale, long part,
                 float *packed) {
    const long step = (long)l.channels * l.r * l.r, plane = (long)l.channels * l.outputs;
    const long last = first_of(part + 1, PARTS, l.channels);
    for (long k = first_of(part, PARTS, l.channels); k < last; k++)
        for (int o = 0; o < l.outputs; o += SIMD_WIDTH) {
            vector u[POSITIONS];
            transform_weights(l, kernel_of(l, weights, block, o, k), step, block, scale, u);
            EACH(i, POSITIONS) store(packed + i * plane + (long)k * l.outputs + o, u[i]);
        }
}

/* Weights -> packed [position][output][k], for the way back */
INLINE void pack_back(const Layer l, const float *weights, int block, long part, float *packed) {
    const long step = (long)l.r * block * l.r * block, plane = (long)l.channels * l.outputs;
    const long last = first_of(part + 1, PARTS, l.outputs);
    for (long o = first_of(part, PARTS, l.outputs); o < last; o++)
        for (int k = 0; k < l.channels; k += SIMD_WIDTH) {
            vector u[POSITIONS];
            transform_weights(l, kernel_of(l, weights, block, o, k), step, block, 1.0f, u);
            EACH(i, POSITIONS) store(packed + i * plane + (long)o * l.channels + k, u[i]);
        }
}

static void pack_part(const void *arguments, long part, int thread) {
    const PackArguments *a = arguments;
    pack(LAYER1, a->w1, 4, 255.0f, part, a->packed);  /* D22 */
    pack(LAYER2, a->w2, 2, 1.0f, part, a->packed + PACKED2);
    pack(LAYER3, a->w3, 1, 1.0f, part, a->packed + PACKED3);
    pack_back(LAYER2, a->w2, 2, part, a->packed + BACK2);
    pack_back(LAYER3, a->w3, 1, part, a->packed + BACK3);
}

/* Add up the groups' sums of a part of a layer's gradients, into the order of its parameters. */
INLINE void gather(const Layer l, const float *sums, long groups, int block, float scale,
                   long part, float *dw, float *db) {
    const int r = l.r;
    const long step = (long)l.channels * r * r, plane = (long)l.channels * l.outputs;
    const long last = first_of(part + 1, PARTS, l.channels + 1);
    for (long k = first_of(part, PARTS, l.channels + 1); k < last; k++)  /* biases are last */
        for (int o = 0; o < l.outputs; o += SIMD_WIDTH) {
            const int positions = k < l.channels ? POSITIONS : 1;
            long from = o + (k < l.channels ? k * l.outputs : POSITIONS * plane);
            vector u[POSITIONS] = {{0.0f}}, rows[3 * SIDE], w[9];
            for (long g = 0; g < groups; g++)
                for (int i = 0; i < positions; i++)
                    u[i] += load(sums + g * PARAMETERS + from + i * plane);
            if (k == l.channels) {
                store(db + o, u[0]);
                continue;
            }
            EACH(i, SIDE) weight_back(r, u + i, SIDE, rows + i, SIDE);
            EACH(i, r) weight_back(r, rows + i * SIDE, 1, w + i * r, 1);
            float *to = (float *)kernel_of(l, dw, block, o, k);
            EACH(i, r * r) EACH(j, SIMD_WIDTH)
                to[(i / r * r * block + i % r) * block + j * step] = w[i][j] / scale;
        }
}

/* ---- products ------------------------------------------------------------------------------- */

/* out [row][n] = in [row][k] * w [k][n], `count` rows. If `count` is less than `rows`, this also
 * writes to the rows of the next position, which has to be computed after this one. */
INLINE void multiply(const int rows, const int across, const float *in, int count, int k,
                     const float *w, int n, float *out) {
    for (int row = 0; row < count; row += rows) {
        int first = row + rows <= count ? row : MAX(count - rows, 0);  /* rows may overlap */
        for (int at = 0; at < n; at += across * SIMD_WIDTH) {
            vector sums[MOST_ROWS][MOST_ACROSS];
            EACH(i, rows) EACH(v, across) sums[i][v] = splat(0.0f);
            const float *from = in + (long)first * k, *weight = w + at;
            for (int j = 0; j < k; j++, weight += n) {
                vector weights[MOST_ACROSS];
                EACH(v, across) weights[v] = load(weight + SIMD_WIDTH * v);
                EACH(i, rows) {
                    vector one = splat(from[i * k + j]);
                    EACH(v, across) sums[i][v] = plus_products(sums[i][v], one, weights[v]);
                }
            }
            EACH(i, rows) EACH(v, across)
                store(out + (long)(first + i) * n + at + SIMD_WIDTH * v, sums[i][v]);
        }
    }
}

/* sums [k][n] += x [row][k], transposed, * g [row][n], `count` rows */
INLINE void multiply_transposed(const int taps, const int across, const float *x, int count, int k,
                                const float *g, int n, float *all_sums) {
    for (int tap = 0; tap < k; tap += taps)
        for (int at = 0; at < n; at += across * SIMD_WIDTH) {
            vector sums[MOST_ROWS][MOST_ACROSS];
            float *to = all_sums + (long)tap * n + at;
            EACH(i, taps) EACH(v, across) sums[i][v] = load(to + i * n + SIMD_WIDTH * v);
            for (int q = 0; q < count; q++) {
                vector gradients[MOST_ACROSS];
                EACH(v, across) gradients[v] = load(g + (long)q * n + at + SIMD_WIDTH * v);
                EACH(i, taps) {
                    vector one = splat(x[(long)q * k + tap + i]);
                    EACH(v, across) sums[i][v] = plus_products(sums[i][v], one, gradients[v]);
                }
            }
            EACH(i, taps) EACH(v, across) store(to + i * n + SIMD_WIDTH * v, sums[i][v]);
        }
}

/* ---- forward ------------------------------------------------------------------------------- */

/* Products of tiles -> max(0, bias + output), into y. */
INLINE void transform_outputs(const Layer l, const float *products, int first, int count,
                              const float *bias, float *y) {
    const int m = l.m;
    long pitch = (long)count * l.outputs + GAP;
    for (int q = first; q < first + count; q++) {
        long at[9];
        find_outputs(l, tile_of(l, q), at);
        for (int o = 0; o < l.outputs; o += SIMD_WIDTH, products += SIMD_WIDTH) {
            vector v[POSITIONS], rows[3 * SIDE], pixels[9], b = load(bias + o);
            EACH(i, POSITIONS) v[i] = load(products + i * pitch);
            vector terms = vabs(v[0]);
            EACH(i, POSITIONS - 1) terms += vabs(v[i + 1]);
            vector limit = vmin(terms * ROUNDING, splat(3e38f));  /* keeps infinity */
            EACH(i, SIDE) output(l.r, v + i, SIDE, rows + i, SIDE);
            EACH(i, m) output(l.r, rows + i * SIDE, 1, pixels + i * m, 1);
            EACH(i, m * m) {
                vector sum = pixels[i] + b;
                if (at[i] >= 0) store(y + at[i] + o, mask_gt(sum, limit, sum));
            }
        }
    }
}

/* One layer for some samples: x -> y, both channels-last. */
INLINE void layer(const Layer l, const int block, const int rows, const int across,
                  const void *x, int samples, const float *u, const float *bias,
                  Workspace *own, float *y) {
    int tiles = samples * l.tiles;
    for (int first = 0; first < tiles; first += block) {
        int count = MIN(tiles - first, block);
        transform_inputs(l, x, first, count, own->in);
        for (int i = 0; i < POSITIONS; i++)
            multiply(rows, across, own->in + i * ((long)count * l.channels + GAP), count,
                     l.channels, u + (long)i * l.channels * l.outputs, l.outputs,
                     own->products + i * ((long)count * l.outputs + GAP));
        transform_outputs(l, own->products, first, count, bias, y);
    }
}

static void forward_part(const void *arguments, long part, int thread) {
    const ForwardArguments *a = arguments;
    Workspace *own = a->workspaces + thread;
    long first = part * AT_ONCE;
    int count = (int)MIN(a->samples - first, AT_ONCE);
    const float *u1 = a->packed, *u2 = u1 + PACKED2, *u3 = u1 + PACKED3;
    float *y1 = a->x1 + first * X1, *y2 = a->x2 + first * X2;
    for (int i = 0; i < count; i++) cut_into_blocks(a->obs + (first + i) * OBS, own->x0 + i * X0);
    layer(LAYER1, BLOCK1, ROWS1, ACROSS1, own->x0, count, u1, a->b1, own, y1);
    layer(LAYER2, BLOCK2, ROWS2, ACROSS2, y1, count, u2, a->b2, own, y2);
    layer(LAYER3, BLOCK3, ROWS3, ACROSS3, y2, count, u3, a->b3, own, own->y3);
    for (int i = 0; i < count; i++) to_planes(own->y3 + i * X3, a->x3 + (first + i) * X3);
}

/* ---- backward ------------------------------------------------------------------------------ */

/* Gradient g of x3 through ReLU, both [channel][pixel] -> pixels [pixel][channel]. */
INLINE void relu_backward_to_nhwc(const float *g, const float *x3, float *pixels) {
    for (int c = 0; c < C3; c++)
        for (int p = 0; p < H3 * W3; p++, g++, x3++) pixels[p * C3 + c] = *x3 == 0.0f ? 0.0f : *g;
}

/* Gradient of a layer's inputs, from g, that of its outputs y. */
INLINE void layer_back(const Layer l, const int block, const int rows, const int across,
                       const float *g, const float *y, int samples, const float *back,
                       Workspace *own, float *sums) {
    int tiles = samples * l.tiles;
    memset(sums, 0, sizeof(float) * samples * l.size_in);
    for (int first = 0; first < tiles; first += block) {
        int count = MIN(tiles - first, block);
        long pitch = (long)count * l.channels + GAP;
        transform_gradients(l, g, y, first, count, own->out, 0);
        for (int i = 0; i < POSITIONS; i++)
            multiply(rows, across, own->out + i * ((long)count * l.outputs + GAP), count,
                     l.outputs, back + (long)i * l.channels * l.outputs, l.channels,
                     own->products + i * pitch);
        const float *products = own->products;
        for (int q = first; q < first + count; q++) {
            long at[POSITIONS];
            find_inputs(l, tile_of(l, q), at);
            for (int part = 0; part < l.parts; part++)
                for (int j = 0; j < l.channels / l.parts; j += SIMD_WIDTH, products += SIMD_WIDTH) {
                    vector v[POSITIONS], columns[POSITIONS], pixels[POSITIONS];
                    EACH(i, POSITIONS) v[i] = load(products + i * pitch);
                    EACH(i, SIDE) input_back(v + i, SIDE, columns + i);
                    EACH(i, SIDE) input_back(columns + i * SIDE, 1, pixels + i * SIDE);
                    EACH(i, POSITIONS) {
                        float *to = sums + at[i] + part * l.part_pitch + j;
                        store(to, load(to) + pixels[i]);
                    }
                }
        }
    }
}

/* Add a layer's gradients to du: of transformed weights [position][channel][output], then of
 * biases. */
INLINE void layer_weights(const Layer l, const int block, const int taps, const int across,
                          const void *x, const float *g, const float *y, int samples,
                          Workspace *own, float *du) {
    int tiles = samples * l.tiles;
    for (int first = 0; first < tiles; first += block) {
        int count = MIN(tiles - first, block);
        transform_inputs(l, x, first, count, own->in);
        transform_gradients(l, g, y, first, count, own->out,
                            du + (long)POSITIONS * l.channels * l.outputs);
        for (int i = 0; i < POSITIONS; i++)
            multiply_transposed(taps, across, own->in + i * ((long)count * l.channels + GAP), count,
                                l.channels, own->out + i * ((long)count * l.outputs + GAP),
                                l.outputs, du + (long)i * l.channels * l.outputs);
    }
}

static void backward_part(const void *arguments, long group, int thread) {
    const BackwardArguments *a = arguments;
    const float *back2 = a->packed + BACK2, *back3 = a->packed + BACK3;
    Workspace *own = a->workspaces + thread;
    float *u1 = a->sums + group * PARAMETERS, *u2 = u1 + SUMS2, *u3 = u1 + SUMS3;
    const long groups = groups_of(a->samples);
    memset(u1, 0, sizeof(float) * PARAMETERS);
    long last = first_of(group + 1, groups, a->samples);
    for (long s = first_of(group, groups, a->samples); s < last; s += AT_ONCE) {
        int count = (int)MIN(last - s, AT_ONCE);
        const float *y1 = a->x1 + s * X1, *y2 = a->x2 + s * X2;
        for (int i = 0; i < count; i++) {
            cut_into_blocks(a->obs + (s + i) * OBS, own->x0 + i * X0);
            relu_backward_to_nhwc(a->g + (s + i) * X3, a->x3 + (s + i) * X3, own->g3 + i * X3);
        }
        layer_back(LAYER3, BLOCK3, BACK_ROWS3, BACK_ACROSS3, own->g3, 0, count, back3, own,
                   own->g2);
        layer_back(LAYER2, BLOCK2, BACK_ROWS2, BACK_ACROSS2, own->g2, y2, count, back2, own,
                   own->g1);
        layer_weights(LAYER3, LONG_BLOCK3, TAPS3, TAPS_ACROSS3, y2, own->g3, 0, count, own, u3);
        layer_weights(LAYER2, LONG_BLOCK2, TAPS2, TAPS_ACROSS2, y1, own->g2, y2, count, own, u2);
        layer_weights(LAYER1, LONG_BLOCK1, TAPS1, TAPS_ACROSS1, own->x0, own->g1, y1, count, own,
                      u1);
    }
}

static void gather_part(const void *arguments, long part, int thread) {
    const BackwardArguments *a = arguments;
    const float *u1 = a->sums, *u2 = u1 + SUMS2, *u3 = u1 + SUMS3;
    const long groups = groups_of(a->samples);
    gather(LAYER1, u1, groups, 4, 255.0f, part, a->dw1, a->db1);
    gather(LAYER2, u2, groups, 2, 1.0f, part, a->dw2, a->db2);
    gather(LAYER3, u3, groups, 1, 1.0f, part, a->dw3, a->db3);
}
