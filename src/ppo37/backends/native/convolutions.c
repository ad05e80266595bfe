/* The three convolutions of NatureCNN, forward and backward, in bfloat16 with sums in float.
 *
 * Images are channels-last: [row][column][channel]. One instruction multiplies 16 pairs of bf16
 * and adds the two products of each pair to one of 16 floats. So the numbers of a sum are stored
 * in pairs: weights as [k / 2][output][2], and for gradients of weights, which are sums over
 * pixels, the same pixel of two samples. The rest keeps as many sums in registers as there are,
 * and samples in the cache from their first layer to the last.
 *
 * Images are cut into blocks (images.h), so that what a row of a kernel reads is contiguous in the
 * first layer as it is in the others (4 x 4, stride 2, and 3 x 3).
 *
 * Compiled for one shape (images.h). For each layer, ROWS* pixels are computed at once, and TAPS*
 * rows of the gradient of its weights, which divide the length of a kernel row.
 */
#include "vectors.h"
#include "images.h"

enum {
    N1 = 4 * C0 * C1, N2 = 16 * C1 * C2, N3 = 9 * C2 * C3,  /* numbers of weights */
};

/* The memory of one thread. */
typedef struct {
    elem x0[2][X0], g1[2][X1], g2[2][X2], g3[2][X3], y3[X3];
    elem pairs_x[2 * MAX(X0, X1)], pairs_g[2 * X1];
    float sums[MAX(X1, X2)], discarded[MOST_ROWS][16 * MOST_ACROSS];
} Workspace;

#include "trunk.h"

/* Round to bf16, to nearest even, as the processor does. */
INLINE elem to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return (elem)(bits >> 16 | 64);
    return (elem)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- weights ------------------------------------------------------------------------------- */

/* The index of the weight [c][y][x] of an output in the sum over blocks of `block` pixels. */
INLINE int weight_index(int c, int y, int x, int channels, int side, int block) {
    int before = y / block * (side / block) + x / block;
    return before * channels * block * block + (c * block + y % block) * block + x % block;
}

/* [outputs][channels][side][side], divided by `scale` -> packed [k / 2][output][2] and, if `back`
 * is not 0, back [y][x / stride][output / 2][x % stride, c][2]. */
INLINE void pack(const float *weights, int outputs, int channels, int side, int stride, int block,
                 float scale, long part, elem *packed, elem *back) {
    const long last = first_of(part + 1, PARTS, outputs);
    for (long o = first_of(part, PARTS, outputs); o < last; o++) {
        const float *w = weights + o * channels * side * side;
        for (int c = 0; c < channels; c++)
            for (int y = 0; y < side; y++)
                for (int x = 0; x < side; x++) {
                    elem weight = to_bf16(*w++ / scale);
                    int k = weight_index(c, y, x, channels, side, block);
                    packed[(k / 2 * outputs + o) * 2 + k % 2] = weight;
                    if (!back) continue;
                    int tap = (y * side + x) / stride, n = x % stride * channels + c;
                    int row = tap * outputs / 2 + o / 2;
                    back[(row * stride * channels + n) * 2 + o % 2] = weight;
                }
    }
}

static void pack_part(const void *arguments, long part, int thread) {
    const PackArguments *a = arguments;
    elem *packed = a->packed;
    pack(a->w1, C1, PLANES, 8, 4, 4, 255.0f, part, packed, 0);  /* D22 */
    pack(a->w2, C2, C1, 4, 2, 1, 1.0f, part, packed + PACKED2, packed + BACK2);
    pack(a->w3, C3, C2, 3, 1, 1, 1.0f, part, packed + PACKED3, packed + BACK3);
}

/* ---- forward ------------------------------------------------------------------------------- */

/* out = max(0, bias + sum of in * w) for `rows` pixels. */
INLINE void multiply(const int rows, const elem *const *in, int kernel_rows, int length, int pitch,
                     const elem *w, const float *bias, const int outputs, elem *const *out) {
    vector sums[MOST_ROWS][MOST_ACROSS];
    const int vectors = outputs / 16;
    EACH(i, rows) EACH(v, vectors) sums[i][v] = load(bias + 16 * v);
    for (int y = 0; y < kernel_rows; y++)
        for (int k = 0; k < length; k += 2, w += 2 * outputs) {
            items weights[MOST_ACROSS];
            EACH(v, vectors) weights[v] = load_items(w + 32 * v);
            EACH(i, rows) {
                items pixel = splat_item(in[i] + y * pitch + k);
                EACH(v, vectors) sums[i][v] = plus_products(sums[i][v], pixel, weights[v]);
            }
        }
    EACH(i, rows) EACH(v, vectors)
        store_elems(out[i] + 16 * v, _mm512_max_ps(splat(0.0f), sums[i][v]));  /* keeps NaN */
}

/* One layer for one sample: in [.][width][channels] -> out [height_out][width_out][outputs]. */
INLINE void layer(const int rows, const elem *in, int width, int channels, int stride,
                  int kernel_rows, int length, int height_out, int width_out, const elem *w,
                  const float *bias, const int outputs, elem *out) {
    const elem *from[MOST_ROWS];
    elem *to[MOST_ROWS];
    int pixels = height_out * width_out;
    for (int first = 0; first < pixels; first += rows) {
        for (int i = 0; i < rows; i++) {
            int p = MIN(first + i, pixels - 1);  /* the last one may be repeated */
            from[i] = in + (p / width_out * width + p % width_out) * stride * channels;
            to[i] = out + p * outputs;
        }
        multiply(rows, from, kernel_rows, length, width * channels, w, bias, outputs, to);
    }
}

static void forward_part(const void *arguments, long part, int thread) {
    const ForwardArguments *a = arguments;
    Workspace *own = a->workspaces + thread;
    const elem *w1 = a->packed, *w2 = w1 + PACKED2, *w3 = w1 + PACKED3;
    for (long s = part * AT_ONCE; s < a->samples && s < (part + 1) * AT_ONCE; s++) {
        elem *y1 = a->x1 + s * X1, *y2 = a->x2 + s * X2, *y3 = own->y3;
        cut_into_blocks(a->obs + s * OBS, own->x0[0]);
        layer(ROWS1, own->x0[0], W0, C0, 1, 2, 2 * C0, H1, W1, w1, a->b1, C1, y1);
        layer(ROWS2, y1, W1, C1, 2, 4, 4 * C1, H2, W2, w2, a->b2, C2, y2);
        layer(ROWS3, y2, W2, C2, 1, 3, 3 * C2, H3, W3, w3, a->b3, C3, y3);
        to_planes(y3, a->x3 + s * X3);
    }
}

/* ---- backward ------------------------------------------------------------------------------ */

/* A mask of the outputs x of ReLU that pass a gradient. */
INLINE __mmask16 passing(const elem *x) {
    /* Positive or NaN: the only other values are 0 and -0. */
    __m256i outputs = _mm256_loadu_si256((const __m256i *)x);
    return _mm256_test_epi16_mask(outputs, _mm256_set1_epi16(0x7fff));
}

/* Gradient g of x3 through ReLU, both [channel][pixel] -> pixels [pixel][channel]; adds its sum to
 * db. */
INLINE void relu_backward_to_nhwc(const elem *g, const elem *x3, elem *passed, elem *pixels,
                                  float *db) {
    for (int i = 0; i < X3; i += 16)
        _mm256_storeu_si256((__m256i *)(passed + i),
                            _mm256_maskz_loadu_epi16(passing(x3 + i), g + i));
    for (int c = 0; c < C3; c++)
        for (int p = 0; p < H3 * W3; p++) pixels[p * C3 + c] = *passed++;
    EACH(v, C3 / 16) {
        vector sum = load(db + 16 * v);
        for (const elem *p = pixels + 16 * v; p < pixels + X3; p += C3)
            sum = _mm512_add_ps(sum, _mm512_cvtpbh_ps((__m256bh)_mm256_loadu_si256((__m256i *)p)));
        store(db + 16 * v, sum);
    }
}

/* Gradient g of a layer's outputs x through ReLU, in bf16; adds its sum over pixels to db. */
INLINE void relu_backward(const float *g, const elem *x, int pixels, const int outputs, elem *out,
                         float *db) {
    vector sums[MOST_ACROSS];
    const int vectors = outputs / 16;
    EACH(v, vectors) sums[v] = load(db + 16 * v);
    for (int p = 0; p < pixels; p++)
        EACH(v, vectors) {
            int at = p * outputs + 16 * v;
            vector passed = _mm512_maskz_loadu_ps(passing(x + at), g + at);
            store_elems(out + at, passed);
            sums[v] = _mm512_add_ps(sums[v], passed);
        }
    EACH(v, vectors) store(db + 16 * v, sums[v]);
}

/* to += g * w for `rows` pixels; g has k channels. */
INLINE void multiply_back(const int rows, const elem *const *g, int k, const elem *w,
                          const int inputs, float *const *to) {
    vector sums[MOST_ROWS][MOST_ACROSS];
    const int vectors = inputs / 16;
    EACH(i, rows) EACH(v, vectors) sums[i][v] = load(to[i] + 16 * v);
    for (int o = 0; o < k; o += 2, w += 2 * inputs) {
        items weights[MOST_ACROSS];
        EACH(v, vectors) weights[v] = load_items(w + 32 * v);
        EACH(i, rows) {
            items gradient = splat_item(g[i] + o);
            EACH(v, vectors) sums[i][v] = plus_products(sums[i][v], gradient, weights[v]);
        }
    }
    EACH(i, rows) EACH(v, vectors) store(to[i] + 16 * v, sums[i][v]);
}

/* Gradient of a layer's inputs: each output adds to the pixels that it was computed from, one
 * stride of them at a time, because no two outputs share these. */
INLINE void layer_back(const int rows, const elem *g, int height_out, int width_out, int outputs,
                       const elem *w, int side, int stride, int channels, int height, int width,
                       float discarded[][16 * MOST_ACROSS], float *sums) {
    const elem *from[MOST_ROWS];
    float *to[MOST_ROWS];
    int pixels = height_out * width_out;
    memset(sums, 0, sizeof(float) * height * width * channels);
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x += stride, w += outputs * stride * channels)
            for (int first = 0; first < pixels; first += rows) {
                for (int i = 0; i < rows; i++) {
                    int p = first + i;
                    int row = p / width_out * stride + y, column = p % width_out * stride + x;
                    from[i] = g + (p < pixels ? p : 0) * outputs;
                    to[i] = p < pixels ? sums + (row * width + column) * channels : discarded[i];
                }
                multiply_back(rows, from, outputs, w, stride * channels, to);
            }
}

/* n numbers of a and n of b -> n pairs of one of each */
INLINE void pair_up(const elem *a, const elem *b, int n, elem *out) {
    for (int i = 0; i < n; i += 16) {
        __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(a + i)));
        __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(b + i)));
        _mm512_storeu_si512(out + 2 * i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

/* dw [taps][outputs] += sum over pixels and both samples of x [tap] * g [output] */
INLINE void multiply_weights(const int taps, const elem *x, int step, int pitch, int height_out,
                             int width_out, const elem *g, const int outputs, float *dw) {
    vector sums[MOST_ROWS][MOST_ACROSS];
    const int vectors = outputs / 16;
    EACH(i, taps) EACH(v, vectors) sums[i][v] = load(dw + i * outputs + 16 * v);
    for (int y = 0; y < height_out; y++) {
        const elem *pixel = x + y * pitch;
        for (int p = 0; p < width_out; p++, pixel += step, g += 2 * outputs) {
            items gradients[MOST_ACROSS];
            EACH(v, vectors) gradients[v] = load_items(g + 32 * v);
            EACH(i, taps) {
                items tap = splat_item(pixel + 2 * i);
                EACH(v, vectors) sums[i][v] = plus_products(sums[i][v], tap, gradients[v]);
            }
        }
    }
    EACH(i, taps) EACH(v, vectors) store(dw + i * outputs + 16 * v, sums[i][v]);
}

/* Gradient of a layer's weights, added to dw [kernel row][length][outputs]; x, g are pairs. */
INLINE void layer_weights(const int taps, const elem *x, int width, int channels, int stride,
                          int kernel_rows, int length, int height_out, int width_out,
                          const elem *g, const int outputs, float *dw) {
    int step = 2 * stride * channels;
    for (int y = 0; y < kernel_rows; y++)
        for (int k = 0; k < length; k += taps, dw += taps * outputs)
            multiply_weights(taps, x + 2 * (y * width * channels + k), step, step * width,
                             height_out, width_out, g, outputs, dw);
}

/* Add up the groups' sums of a part of a layer's gradients, into the order of its parameters. */
INLINE void gather(const float *sums, long groups, int outputs, int channels, int side, int block,
                   float scale, long part, float *dw, float *db) {
    const long last = first_of(part + 1, PARTS, outputs);
    for (long o = first_of(part, PARTS, outputs); o < last; o++) {
        float *to = dw + o * channels * side * side;
        for (int i = -1; i < channels * side * side; i++) {
            int c = i / (side * side), y = i / side % side, x = i % side;
            long k = i < 0 ? channels * side * side : weight_index(c, y, x, channels, side, block);
            float sum = 0.0f;
            for (long g = 0; g < groups; g++) sum += sums[g * PARAMETERS + k * outputs + o];
            if (i < 0) db[o] = sum;  /* biases follow the weights */
            else to[i] = sum / scale;
        }
    }
}

/* Samples are taken in pairs. */
static void backward_part(const void *arguments, long group, int thread) {
    const BackwardArguments *a = arguments;
    const elem *back2 = a->packed + BACK2, *back3 = a->packed + BACK3;
    Workspace *own = a->workspaces + thread;
    float *w1 = a->sums + group * PARAMETERS, *w2 = w1 + SUMS2, *w3 = w1 + SUMS3;
    const long groups = groups_of(a->samples), pairs = CEIL_DIV(a->samples, 2);
    memset(w1, 0, sizeof(float) * PARAMETERS);
    const long last = 2 * first_of(group + 1, groups, pairs);
    for (long s = 2 * first_of(group, groups, pairs); s < last; s += 2) {
        const elem *y0[2], *y1[2], *y2[2];
        for (int i = 0; i < 2; i++) {
            long n = s + i;
            if (n == a->samples) {  /* an odd one: paired with itself, without gradient */
                y0[1] = y0[0], y1[1] = y1[0], y2[1] = y2[0];
                memset(own->g1[1], 0, sizeof own->g1[1]);
                memset(own->g2[1], 0, sizeof own->g2[1]);
                memset(own->g3[1], 0, sizeof own->g3[1]);
                continue;
            }
            cut_into_blocks(a->obs + n * OBS, own->x0[i]);
            y0[i] = own->x0[i], y1[i] = a->x1 + n * X1, y2[i] = a->x2 + n * X2;
            relu_backward_to_nhwc(a->g + n * X3, a->x3 + n * X3, own->y3, own->g3[i], w3 + N3);
            layer_back(ROWS3, own->g3[i], H3, W3, C3, back3, 3, 1, C2, H2, W2, own->discarded,
                       own->sums);
            relu_backward(own->sums, y2[i], H2 * W2, C2, own->g2[i], w2 + N2);
            layer_back(ROWS2, own->g2[i], H2, W2, C2, back2, 4, 2, C1, H1, W1, own->discarded,
                       own->sums);
            relu_backward(own->sums, y1[i], H1 * W1, C1, own->g1[i], w1 + N1);
        }
        elem *x = own->pairs_x, *gradients = own->pairs_g;
        pair_up(y2[0], y2[1], X2, x);
        pair_up(own->g3[0], own->g3[1], X3, gradients);
        layer_weights(TAPS3, x, W2, C2, 1, 3, 3 * C2, H3, W3, gradients, C3, w3);
        pair_up(y1[0], y1[1], X1, x);
        pair_up(own->g2[0], own->g2[1], X2, gradients);
        layer_weights(TAPS2, x, W1, C1, 2, 4, 4 * C1, H2, W2, gradients, C2, w2);
        pair_up(y0[0], y0[1], X0, x);
        pair_up(own->g1[0], own->g1[1], X1, gradients);
        layer_weights(TAPS1, x, W0, C0, 1, 2, 2 * C0, H1, W1, gradients, C1, w1);
    }
}

static void gather_part(const void *arguments, long part, int thread) {
    const BackwardArguments *a = arguments;
    const float *w1 = a->sums, *w2 = w1 + SUMS2, *w3 = w1 + SUMS3;
    const long groups = groups_of(a->samples);
    gather(w1, groups, C1, PLANES, 8, 4, 255.0f, part, a->dw1, a->db1);
    gather(w2, groups, C2, C1, 4, 1, 1.0f, part, a->dw2, a->db2);
    gather(w3, groups, C3, C2, 3, 1, 1.0f, part, a->dw3, a->db3);
}
