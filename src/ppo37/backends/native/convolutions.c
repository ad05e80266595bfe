/* The three convolutions of NatureCNN, forward and backward, in bfloat16 with sums in float.
 *
 * Images are channels-last: [row][column][channel]. Products are made by the instruction that
 * multiplies 16 pairs of bf16 and adds each pair's sum to one of 16 floats. So whatever is summed
 * over stands in pairs: weights as [k / 2][output][2], and for gradients of weights, which are
 * sums over pixels, the same pixel of two samples. Everything else here is about keeping as many
 * sums in registers as there are, and samples in the cache from their first layer to the last.
 *
 * Images are cut into blocks (images.h), so that what a row of a kernel reads lies in one piece in
 * the first layer as it does in the others (4 x 4, stride 2, and 3 x 3).
 *
 * Compiled for one shape: PLANES HEIGHT WIDTH (observations) and C1 C2 C3 (channels). For each
 * layer, ROWS* pixels are computed at once, and TAPS* rows of the gradient of its weights; those
 * divide the length of a kernel row.
 */
#ifndef __AVX512BF16__
#error "for bf16 they need a processor with AVX512-BF16"
#endif

#define LANES 16
#include "vectors.h"

typedef bf16 number;
INLINE void store_pixels(bf16 *to, __m128i pixels) {
    __m512 floats = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(pixels));
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(floats));
}
#include "images.h"

enum {
    N1 = 4 * C0 * C1, N2 = 16 * C1 * C2, N3 = 9 * C2 * C3,  /* numbers of weights */
    PARAMETERS = N1 + C1 + N2 + C2 + N3 + C3,
    AT_ONCE = 4,  /* samples of a part, forward */
    MOST_ROWS = 28,  /* sums in registers: 28 of 32, the rest is for what is multiplied */
    MOST_VECTORS = 4,
};

/* A block of memory of each thread. */
typedef struct {
    bf16 x0[2][X0], g1[2][X1], g2[2][X2], g3[2][X3], y3[X3];
    bf16 pairs_x[2 * (X0 > X1 ? X0 : X1)], pairs_g[2 * X1];
    float sums[X1 > X2 ? X1 : X2], unused[MOST_ROWS][16 * MOST_VECTORS];
} Workspace;

typedef bf16 value;
#include "trunk.h"

long packed_size(void) { return N1 + 2 * (N2 + N3); }

INLINE __m512bh one_pair(const bf16 *p) {
    int32_t both;
    memcpy(&both, p, 4);
    return (__m512bh)_mm512_set1_epi32(both);
}

INLINE __m512bh pairs(const bf16 *p) { return (__m512bh)_mm512_loadu_si512(p); }

INLINE void store_bf16(bf16 *p, __m512 v) {
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v));
}

/* To the nearest, of two the even one; as the processor does it. */
INLINE bf16 narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return (bf16)(bits >> 16 | 64);
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- weights ------------------------------------------------------------------------------- */

/* Where the weight [c][y][x] of an output stands in the sum over blocks of `block` pixels. */
INLINE int place(int c, int y, int x, int channels, int side, int block) {
    int before = y / block * (side / block) + x / block;
    return before * channels * block * block + (c * block + y % block) * block + x % block;
}

/* [outputs][channels][side][side], divided by `scale` -> packed [k / 2][output][2] and, where there
 * is a way back, back [y][x / stride][output / 2][x % stride, c][2]. */
INLINE void pack(const float *weights, int outputs, int channels, int side, int stride, int block,
                 float scale, long part, bf16 *packed, bf16 *back) {
    const long last = first_of(part + 1, PARTS, outputs);
    for (long o = first_of(part, PARTS, outputs); o < last; o++) {
        const float *w = weights + o * channels * side * side;
        for (int c = 0; c < channels; c++)
            for (int y = 0; y < side; y++)
                for (int x = 0; x < side; x++) {
                    bf16 weight = narrow(*w++ / scale);
                    int k = place(c, y, x, channels, side, block);
                    packed[(k / 2 * outputs + o) * 2 + k % 2] = weight;
                    if (!back) continue;
                    int tap = (y * side + x) / stride, n = x % stride * channels + c;
                    int row = tap * outputs / 2 + o / 2;
                    back[(row * stride * channels + n) * 2 + o % 2] = weight;
                }
    }
}

static void pack_part(const void *arguments, long part, int thread) {
    const Packing *a = arguments;
    bf16 *packed = a->packed, *back2 = packed + N1 + N2 + N3, *back3 = back2 + N2;
    pack(a->w1, C1, PLANES, 8, 4, 4, 255.0f, part, packed, 0);  /* D22 */
    pack(a->w2, C2, C1, 4, 2, 1, 1.0f, part, packed + N1, back2);
    pack(a->w3, C3, C2, 3, 1, 1, 1.0f, part, packed + N1 + N2, back3);
}

/* ---- forward ------------------------------------------------------------------------------- */

/* out = max(0, bias + sum of in * w) for `rows` pixels. */
INLINE void multiply(const int rows, const bf16 *const *in, int kernel_rows, int length, int pitch,
                     const bf16 *w, const float *bias, const int outputs, bf16 *const *out) {
    __m512 sums[MOST_ROWS][MOST_VECTORS];
    const int vectors = outputs / 16;
    EACH(i, rows) EACH(v, vectors) sums[i][v] = _mm512_loadu_ps(bias + 16 * v);
    for (int y = 0; y < kernel_rows; y++)
        for (int k = 0; k < length; k += 2, w += 2 * outputs) {
            __m512bh weights[MOST_VECTORS];
            EACH(v, vectors) weights[v] = pairs(w + 32 * v);
            EACH(i, rows) {
                __m512bh pixel = one_pair(in[i] + y * pitch + k);
                EACH(v, vectors) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], pixel, weights[v]);
            }
        }
    EACH(i, rows) EACH(v, vectors)
        store_bf16(out[i] + 16 * v, _mm512_max_ps(_mm512_setzero_ps(), sums[i][v]));  /* keeps NaN */
}

/* One layer for one sample: in [.][width][channels] -> out [height_out][width_out][outputs]. */
INLINE void layer(const int rows, const bf16 *in, int width, int channels, int stride,
                  int kernel_rows, int length, int height_out, int width_out, const bf16 *w,
                  const float *bias, const int outputs, bf16 *out) {
    const bf16 *from[MOST_ROWS];
    bf16 *to[MOST_ROWS];
    int pixels = height_out * width_out;
    for (int first = 0; first < pixels; first += rows) {
        for (int i = 0; i < rows; i++) {
            int p = first + i < pixels ? first + i : pixels - 1;  /* the last one again */
            from[i] = in + (p / width_out * width + p % width_out) * stride * channels;
            to[i] = out + p * outputs;
        }
        multiply(rows, from, kernel_rows, length, width * channels, w, bias, outputs, to);
    }
}

static void forward_part(const void *arguments, long part, int thread) {
    const Forward *a = arguments;
    Workspace *own = a->workspaces + thread;
    const bf16 *w1 = a->packed, *w2 = w1 + N1, *w3 = w2 + N2;
    for (long s = part * AT_ONCE; s < a->samples && s < (part + 1) * AT_ONCE; s++) {
        bf16 *y1 = a->x1 + s * X1, *y2 = a->x2 + s * X2, *y3 = own->y3, *out = a->x3 + s * X3;
        cut_into_blocks(a->obs + s * OBS, own->x0[0]);
        layer(ROWS1, own->x0[0], W0, C0, 1, 2, 2 * C0, H1, W1, w1, a->b1, C1, y1);
        layer(ROWS2, y1, W1, C1, 2, 4, 4 * C1, H2, W2, w2, a->b2, C2, y2);
        layer(ROWS3, y2, W2, C2, 1, 3, 3 * C2, H3, W3, w3, a->b3, C3, y3);
        for (int c = 0; c < C3; c++)
            for (int p = 0; p < H3 * W3; p++) *out++ = y3[p * C3 + c];
    }
}

/* ---- backward ------------------------------------------------------------------------------ */

/* Where x, a result of ReLU, lets a gradient pass. */
INLINE __mmask16 passing(const bf16 *x) {
    /* Positive or NaN: 0 of either sign is all else that there is. */
    __m256i outputs = _mm256_loadu_si256((const __m256i *)x);
    return _mm256_test_epi16_mask(outputs, _mm256_set1_epi16(0x7fff));
}

/* What x3 lets pass of the gradient g, both channel by channel, as pixels; adds its sum to db. */
INLINE void enter(const bf16 *g, const bf16 *x3, bf16 *passed, bf16 *pixels, float *db) {
    for (int i = 0; i < X3; i += 16)
        _mm256_storeu_si256((__m256i *)(passed + i),
                            _mm256_maskz_loadu_epi16(passing(x3 + i), g + i));
    for (int c = 0; c < C3; c++)
        for (int p = 0; p < H3 * W3; p++) pixels[p * C3 + c] = *passed++;
    EACH(v, C3 / 16) {
        __m512 sum = _mm512_loadu_ps(db + 16 * v);
        for (const bf16 *p = pixels + 16 * v; p < pixels + X3; p += C3)
            sum = _mm512_add_ps(sum, _mm512_cvtpbh_ps((__m256bh)_mm256_loadu_si256((__m256i *)p)));
        _mm512_storeu_ps(db + 16 * v, sum);
    }
}

/* What a layer's outputs x let pass of the gradient g, in bf16; adds its sum over pixels to db. */
INLINE void through_relu(const float *g, const bf16 *x, int pixels, const int outputs, bf16 *out,
                         float *db) {
    __m512 sums[MOST_VECTORS];
    const int vectors = outputs / 16;
    EACH(v, vectors) sums[v] = _mm512_loadu_ps(db + 16 * v);
    for (int p = 0; p < pixels; p++)
        EACH(v, vectors) {
            int at = p * outputs + 16 * v;
            __m512 passed = _mm512_maskz_loadu_ps(passing(x + at), g + at);
            store_bf16(out + at, passed);
            sums[v] = _mm512_add_ps(sums[v], passed);
        }
    EACH(v, vectors) _mm512_storeu_ps(db + 16 * v, sums[v]);
}

/* to += g * w for `rows` pixels; g has k channels. */
INLINE void multiply_back(const int rows, const bf16 *const *g, int k, const bf16 *w,
                          const int inputs, float *const *to) {
    __m512 sums[MOST_ROWS][MOST_VECTORS];
    const int vectors = inputs / 16;
    EACH(i, rows) EACH(v, vectors) sums[i][v] = _mm512_loadu_ps(to[i] + 16 * v);
    for (int o = 0; o < k; o += 2, w += 2 * inputs) {
        __m512bh weights[MOST_VECTORS];
        EACH(v, vectors) weights[v] = pairs(w + 32 * v);
        EACH(i, rows) {
            __m512bh gradient = one_pair(g[i] + o);
            EACH(v, vectors) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], gradient, weights[v]);
        }
    }
    EACH(i, rows) EACH(v, vectors) _mm512_storeu_ps(to[i] + 16 * v, sums[i][v]);
}

/* Gradient of a layer's inputs: each output adds to the pixels that it was computed from, those
 * of one stride at a time, because no two outputs share them. */
INLINE void layer_back(const int rows, const bf16 *g, int height_out, int width_out, int outputs,
                       const bf16 *w, int side, int stride, int channels, int height, int width,
                       float unused[][16 * MOST_VECTORS], float *sums) {
    const bf16 *from[MOST_ROWS];
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
                    to[i] = p < pixels ? sums + (row * width + column) * channels : unused[i];
                }
                multiply_back(rows, from, outputs, w, stride * channels, to);
            }
}

/* n numbers of a and of b -> pairs of both */
INLINE void pair_up(const bf16 *a, const bf16 *b, int n, bf16 *out) {
    for (int i = 0; i < n; i += 16) {
        __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(a + i)));
        __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(b + i)));
        _mm512_storeu_si512(out + 2 * i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

/* dw [taps][outputs] += sum over pixels and both samples of x [tap] * g [output] */
INLINE void multiply_weights(const int taps, const bf16 *x, int step, int pitch, int height_out,
                             int width_out, const bf16 *g, const int outputs, float *dw) {
    __m512 sums[MOST_ROWS][MOST_VECTORS];
    const int vectors = outputs / 16;
    EACH(i, taps) EACH(v, vectors) sums[i][v] = _mm512_loadu_ps(dw + i * outputs + 16 * v);
    for (int y = 0; y < height_out; y++) {
        const bf16 *pixel = x + y * pitch;
        for (int p = 0; p < width_out; p++, pixel += step, g += 2 * outputs) {
            __m512bh gradients[MOST_VECTORS];
            EACH(v, vectors) gradients[v] = pairs(g + 32 * v);
            EACH(i, taps) {
                __m512bh tap = one_pair(pixel + 2 * i);
                EACH(v, vectors) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], tap, gradients[v]);
            }
        }
    }
    EACH(i, taps) EACH(v, vectors) _mm512_storeu_ps(dw + i * outputs + 16 * v, sums[i][v]);
}

/* Gradient of a layer's weights, added to dw [kernel row][length][outputs]; x, g are pairs. */
INLINE void layer_weights(const int taps, const bf16 *x, int width, int channels, int stride,
                          int kernel_rows, int length, int height_out, int width_out,
                          const bf16 *g, const int outputs, float *dw) {
    int step = 2 * stride * channels;
    for (int y = 0; y < kernel_rows; y++)
        for (int k = 0; k < length; k += taps, dw += taps * outputs)
            multiply_weights(taps, x + 2 * (y * width * channels + k), step, step * width,
                             height_out, width_out, g, outputs, dw);
}

/* A part of the sums of a layer's gradients over groups, where the parameters have them. */
INLINE void gather(const float *sums, long groups, int outputs, int channels, int side, int block,
                   float scale, long part, float *dw, float *db) {
    const long last = first_of(part + 1, PARTS, outputs);
    for (long o = first_of(part, PARTS, outputs); o < last; o++) {
        float *to = dw + o * channels * side * side;
        for (int i = -1; i < channels * side * side; i++) {
            int c = i / (side * side), y = i / side % side, x = i % side;
            long k = i < 0 ? channels * side * side : place(c, y, x, channels, side, block);
            float sum = 0.0f;
            for (long g = 0; g < groups; g++) sum += sums[g * PARAMETERS + k * outputs + o];
            if (i < 0) db[o] = sum;  /* biases stand behind the weights */
            else to[i] = sum / scale;
        }
    }
}

/* The sums of one group of samples, which are taken in pairs. */
static void backward_part(const void *arguments, long group, int thread) {
    const Backward *a = arguments;
    const bf16 *back2 = a->packed + N1 + N2 + N3, *back3 = back2 + N2;
    Workspace *own = a->workspaces + thread;
    float *w1 = a->sums + group * PARAMETERS, *w2 = w1 + N1 + C1, *w3 = w2 + N2 + C2;
    memset(w1, 0, sizeof(float) * PARAMETERS);
    const long pairs = (a->samples + 1) / 2, last = 2 * first_of(group + 1, a->groups, pairs);
    for (long s = 2 * first_of(group, a->groups, pairs); s < last; s += 2) {
        const bf16 *y0[2], *y1[2], *y2[2];
        for (int i = 0; i < 2; i++) {
            long n = s + i;
            if (n == a->samples) {  /* one is left alone: paired with itself without gradient */
                y0[1] = y0[0], y1[1] = y1[0], y2[1] = y2[0];
                memset(own->g1[1], 0, sizeof own->g1[1]);
                memset(own->g2[1], 0, sizeof own->g2[1]);
                memset(own->g3[1], 0, sizeof own->g3[1]);
                continue;
            }
            cut_into_blocks(a->obs + n * OBS, own->x0[i]);
            y0[i] = own->x0[i], y1[i] = a->x1 + n * X1, y2[i] = a->x2 + n * X2;
            enter(a->g + n * X3, a->x3 + n * X3, own->y3, own->g3[i], w3 + N3);
            layer_back(ROWS3, own->g3[i], H3, W3, C3, back3, 3, 1, C2, H2, W2, own->unused,
                       own->sums);
            through_relu(own->sums, y2[i], H2 * W2, C2, own->g2[i], w2 + N2);
            layer_back(ROWS2, own->g2[i], H2, W2, C2, back2, 4, 2, C1, H1, W1, own->unused,
                       own->sums);
            through_relu(own->sums, y1[i], H1 * W1, C1, own->g1[i], w1 + N1);
        }
        bf16 *x = own->pairs_x, *gradients = own->pairs_g;
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
    const Backward *a = arguments;
    const float *w1 = a->sums, *w2 = w1 + N1 + C1, *w3 = w2 + N2 + C2;
    gather(w1, a->groups, C1, PLANES, 8, 4, 255.0f, part, a->dw1, a->db1);
    gather(w2, a->groups, C2, C1, 4, 1, 1.0f, part, a->dw2, a->db2);
    gather(w3, a->groups, C3, C2, 3, 1, 1.0f, part, a->dw3, a->db3);
}
