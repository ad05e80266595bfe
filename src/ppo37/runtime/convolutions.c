/* The three convolutions of NatureCNN, forward and backward, in bfloat16 or float; sums in float.
 *
 * Images are channels-last: [row][column][channel]. One instruction multiplies a vector of floats
 * by a float and adds the products to as many sums; or, for bf16, a vector of pairs by a pair, and
 * adds what a pair's products come to. So whatever is summed over stands DEEP together, alone or
 * in pairs: weights as [k / DEEP][output][DEEP], and for gradients of weights, which are sums over
 * pixels, the same pixel of DEEP samples. Everything else here is about keeping as many sums in
 * registers as there are, and samples in the cache from their first layer to the last.
 *
 * The image is cut into blocks of 4 x 4 pixels, each one pixel of 16 times the planes, so that
 * the first convolution (8 x 8, stride 4) is one of 2 x 2 with stride 1, and what a kernel row
 * reads lies in one piece, as it does for the others (4 x 4, stride 2, and 3 x 3).
 *
 * A sample's result does not depend on those beside it; sums over samples are made in their
 * order within each thread and then over threads, so they depend on the number of threads only.
 *
 * Compiled for vectors of LANES floats, BF16 or not, and one shape: PLANES HEIGHT WIDTH
 * (observations) and C1 C2 C3 (channels). For each layer, ROWS* pixels by ACROSS* vectors of
 * channels are computed at once, BACK_ROWS* by BACK_ACROSS* on the way back, and of the gradient
 * of its weights TAPS* rows by ACROSS*. Each divides what it is a part of, pixels excepted.
 */
#if BF16 && !(LANES == 16 && defined(__AVX512BF16__))
#error "for bf16 they need a processor with AVX512-BF16"
#elif LANES == 16 && !defined(__AVX512BW__)
#error "they need a processor with AVX-512"
#elif LANES == 8 && !(defined(__AVX2__) && defined(__FMA__))
#error "they need a processor with AVX2 and FMA"
#endif

#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 32") for (int i = 0; i < (n); i++)

/* ---- what the processor computes with ------------------------------------------------------- */

/* number: what is stored; vector: LANES floats; numbers: what a vector of products is made from,
 * LANES times DEEP of them; spread: DEEP numbers, LANES times; gated: where x, a result of ReLU,
 * lets a gradient pass, which is where it is positive or not a number. */
#if LANES == 16
typedef __m512 vector;
INLINE vector load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, vector v) { _mm512_storeu_ps(p, v); }
INLINE vector add(vector a, vector b) { return _mm512_add_ps(a, b); }
INLINE vector relu(vector v) { return _mm512_max_ps(_mm512_setzero_ps(), v); }  /* keeps NaN */
#else
typedef __m256 vector;
INLINE vector load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, vector v) { _mm256_storeu_ps(p, v); }
INLINE vector add(vector a, vector b) { return _mm256_add_ps(a, b); }
INLINE vector relu(vector v) { return _mm256_max_ps(_mm256_setzero_ps(), v); }
#endif

#if BF16
enum { DEEP = 2 };
typedef uint16_t number;
typedef __m512bh numbers;

INLINE numbers load_numbers(const number *p) { return (numbers)_mm512_loadu_si512(p); }

INLINE numbers spread(const number *p) {
    int32_t both;
    memcpy(&both, p, 4);
    return (numbers)_mm512_set1_epi32(both);
}

INLINE vector plus_product(vector sum, numbers a, numbers b) {
    return _mm512_dpbf16_ps(sum, a, b);
}

INLINE vector widened(const number *p) {
    return _mm512_cvtpbh_ps((__m256bh)_mm256_loadu_si256((const __m256i *)p));
}

INLINE void store_narrowed(number *p, vector v) {
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v));
}

/* To the nearest, of two the even one; as the processor does it. */
INLINE number narrowed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return (number)(bits >> 16 | 64);
    return (number)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE vector gated(const number *x, vector v) {
    __m256i outputs = _mm256_loadu_si256((const __m256i *)x);  /* 0 of either sign is not passed */
    return _mm512_maskz_mov_ps(_mm256_test_epi16_mask(outputs, _mm256_set1_epi16(0x7fff)), v);
}

/* n numbers of each of the samples -> one after the other in pairs */
INLINE const number *together(const number *const *samples, int n, number *out) {
    for (int i = 0; i < n; i += 16) {
        __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(samples[0] + i)));
        __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(samples[1] + i)));
        _mm512_storeu_si512(out + 2 * i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
    return out;
}
#else
enum { DEEP = 1 };
typedef float number;
typedef vector numbers;

INLINE numbers load_numbers(const number *p) { return load(p); }
INLINE vector widened(const number *p) { return load(p); }
INLINE void store_narrowed(number *p, vector v) { store(p, v); }
INLINE number narrowed(float value) { return value; }
#if LANES == 16
INLINE numbers spread(const number *p) { return _mm512_set1_ps(*p); }
INLINE vector plus_product(vector sum, numbers a, numbers b) { return _mm512_fmadd_ps(a, b, sum); }
INLINE vector gated(const number *x, vector v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(load(x), _mm512_setzero_ps(), _CMP_NEQ_UQ), v);
}
#else
INLINE numbers spread(const number *p) { return _mm256_set1_ps(*p); }
INLINE vector plus_product(vector sum, numbers a, numbers b) { return _mm256_fmadd_ps(a, b, sum); }
INLINE vector gated(const number *x, vector v) {
    return _mm256_and_ps(_mm256_cmp_ps(load(x), _mm256_setzero_ps(), _CMP_NEQ_UQ), v);
}
#endif
INLINE const number *together(const number *const *samples, int n, number *out) {
    (void)n, (void)out;
    return samples[0];
}
#endif

/* 16 bytes -> numbers */
INLINE void store_bytes(number *p, __m128i bytes) {
#if LANES == 16
    store_narrowed(p, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
#else
    store_narrowed(p, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
    store_narrowed(p + 8, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_bsrli_si128(bytes, 8))));
#endif
}

/* ---- sizes ---------------------------------------------------------------------------------- */

enum {
    C0 = 16 * PLANES,
    H0 = (HEIGHT - 8) / 4 + 2, W0 = (WIDTH - 8) / 4 + 2,
    H1 = H0 - 1, W1 = W0 - 1,
    H2 = (H1 - 4) / 2 + 1, W2 = (W1 - 4) / 2 + 1,
    H3 = H2 - 2, W3 = W2 - 2,
    OBS = PLANES * HEIGHT * WIDTH,  /* sizes of one sample, as it enters each layer */
    X0 = H0 * W0 * C0, X1 = H1 * W1 * C1, X2 = H2 * W2 * C2, X3 = H3 * W3 * C3,
    N1 = 4 * C0 * C1, N2 = 16 * C1 * C2, N3 = 9 * C2 * C3,  /* numbers of weights */
    PARAMETERS = N1 + C1 + N2 + C2 + N3 + C3,
    MOST_ROWS = 28, MOST_ACROSS = 4,
};

/* A block of memory of each thread. */
typedef struct {
    number x0[DEEP][X0], g1[DEEP][X1], g2[DEEP][X2], g3[DEEP][X3], y3[X3];
    number pairs_x[2 * (X0 > X1 ? X0 : X1)], pairs_g[2 * X1];
    float sums[X1 > X2 ? X1 : X2], unused[2 * C1 > C2 ? 2 * C1 : C2];
    float gradients[PARAMETERS];
} Workspace;

long workspace_bytes(void) { return (sizeof(Workspace) + 63) / 64 * 64; }

/* ---- weights ------------------------------------------------------------------------------- */

/* Where the weight [c][y][x] of an output stands in the sum over blocks of `block` pixels. */
INLINE int place(int c, int y, int x, int channels, int side, int block) {
    int before = y / block * (side / block) + x / block;
    return before * channels * block * block + (c * block + y % block) * block + x % block;
}

/* [outputs][channels][side][side], divided by `scale` -> packed [k / DEEP][output][DEEP] and, where
 * there is a way back, back [y][x / stride][output / DEEP][x % stride, c][DEEP]. */
INLINE void pack(const float *weights, int outputs, int channels, int side, int stride, int block,
                 float scale, number *packed, number *back) {
#pragma omp for schedule(static) nowait
    for (int o = 0; o < outputs; o++) {
        const float *w = weights + o * channels * side * side;
        for (int c = 0; c < channels; c++)
            for (int y = 0; y < side; y++)
                for (int x = 0; x < side; x++) {
                    number weight = narrowed(*w++ / scale);
                    int k = place(c, y, x, channels, side, block);
                    packed[(k / DEEP * outputs + o) * DEEP + k % DEEP] = weight;
                    if (!back) continue;
                    int tap = (y * side + x) / stride, n = x % stride * channels + c;
                    int row = (tap * outputs + o) / DEEP;
                    back[(row * stride * channels + n) * DEEP + o % DEEP] = weight;
                }
    }
}

/* packed: N1 + 2 * (N2 + N3) numbers. */
void pack_weights(const float *w1, const float *w2, const float *w3, int threads,
                  number *packed) {
    number *back2 = packed + N1 + N2 + N3, *back3 = back2 + N2;
#pragma omp parallel num_threads(threads)
    {
        pack(w1, C1, PLANES, 8, 4, 4, 255.0f, packed, 0);  /* D22 */
        pack(w2, C2, C1, 4, 2, 1, 1.0f, packed + N1, back2);
        pack(w3, C3, C2, 3, 1, 1, 1.0f, packed + N1 + N2, back3);
    }
}

/* ---- forward ------------------------------------------------------------------------------- */

/* uint8 [plane][row][column] -> blocks of 4 x 4 pixels; four blocks side by side at once */
static void cut_into_blocks(const uint8_t *obs, number *x0) {
    for (int y = 0; y < H0; y++)
        for (int first = 0; first < W0; first += 4) {
            int x = first + 4 <= W0 ? first : W0 - 4;  /* the last ones again */
            number *to = x0 + (y * W0 + x) * C0;
            for (int c = 0; c < PLANES; c++, to += 16) {
                const uint8_t *from = obs + (c * HEIGHT + 4 * y) * WIDTH + 4 * x;
                __m128i row[4];
                EACH(r, 4) row[r] = _mm_loadu_si128((const __m128i *)(from + r * WIDTH));
                __m128i top[2] = {_mm_unpacklo_epi32(row[0], row[1]),
                                  _mm_unpackhi_epi32(row[0], row[1])};
                __m128i low[2] = {_mm_unpacklo_epi32(row[2], row[3]),
                                  _mm_unpackhi_epi32(row[2], row[3])};
                EACH(i, 4) store_bytes(to + i * C0,
                                       i % 2 ? _mm_unpackhi_epi64(top[i / 2], low[i / 2])
                                             : _mm_unpacklo_epi64(top[i / 2], low[i / 2]));
            }
        }
}

/* out = max(0, bias + sum of in * w) for `rows` pixels and `across` vectors of their channels,
 * from channel `at` on. */
INLINE void multiply(const int rows, const int across, const number *const *in, int kernel_rows,
                     int length, int pitch, const number *w, const float *bias, int outputs,
                     int at, number *const *out) {
    vector sums[MOST_ROWS][MOST_ACROSS];
    EACH(i, rows) EACH(v, across) sums[i][v] = load(bias + at + LANES * v);
    w += DEEP * at;
    for (int y = 0; y < kernel_rows; y++)
        for (int k = 0; k < length; k += DEEP, w += DEEP * outputs) {
            numbers weights[MOST_ACROSS];
            EACH(v, across) weights[v] = load_numbers(w + DEEP * LANES * v);
            EACH(i, rows) {
                numbers pixel = spread(in[i] + y * pitch + k);
                EACH(v, across) sums[i][v] = plus_product(sums[i][v], pixel, weights[v]);
            }
        }
    EACH(i, rows) EACH(v, across) store_narrowed(out[i] + at + LANES * v, relu(sums[i][v]));
}

/* One layer for one sample: in [.][width][channels] -> out [height_out][width_out][outputs]. */
INLINE void layer(const int rows, const int across, const number *in, int width, int channels,
                  int stride, int kernel_rows, int length, int height_out, int width_out,
                  const number *w, const float *bias, int outputs, number *out) {
    const number *from[MOST_ROWS];
    number *to[MOST_ROWS];
    int pixels = height_out * width_out;
    for (int first = 0; first < pixels; first += rows) {
        for (int i = 0; i < rows; i++) {
            int p = first + i < pixels ? first + i : pixels - 1;  /* the last one again */
            from[i] = in + (p / width_out * width + p % width_out) * stride * channels;
            to[i] = out + p * outputs;
        }
        for (int at = 0; at < outputs; at += across * LANES)
            multiply(rows, across, from, kernel_rows, length, width * channels, w, bias, outputs,
                     at, to);
    }
}

/* obs [samples][OBS] -> x1, x2 (channels-last) and x3 [sample][channel][pixel]. */
void forward(const uint8_t *obs, long samples, int threads, const number *packed, const float *b1,
             const float *b2, const float *b3, char *workspaces, number *x1, number *x2,
             number *x3) {
#pragma omp parallel num_threads(threads)
    {
        Workspace *own = (Workspace *)(workspaces + omp_get_thread_num() * workspace_bytes());
        number *y3 = own->y3;
#pragma omp for schedule(static)
        for (long s = 0; s < samples; s++) {
            number *y1 = x1 + s * X1, *y2 = x2 + s * X2, *out = x3 + s * X3;
            cut_into_blocks(obs + s * OBS, own->x0[0]);
            layer(ROWS1, ACROSS1, own->x0[0], W0, C0, 1, 2, 2 * C0, H1, W1, packed, b1, C1, y1);
            layer(ROWS2, ACROSS2, y1, W1, C1, 2, 4, 4 * C1, H2, W2, packed + N1, b2, C2, y2);
            layer(ROWS3, ACROSS3, y2, W2, C2, 1, 3, 3 * C2, H3, W3, packed + N1 + N2, b3, C3, y3);
            for (int c = 0; c < C3; c++)
                for (int p = 0; p < H3 * W3; p++) *out++ = y3[p * C3 + c];
        }
    }
}

/* ---- backward ------------------------------------------------------------------------------ */

/* What x3 lets pass of the gradient g, both channel by channel, as pixels; adds its sum to db. */
INLINE void enter(const number *g, const number *x3, number *passed, number *pixels, float *db) {
    for (int i = 0; i < X3; i += LANES)
        store_narrowed(passed + i, gated(x3 + i, widened(g + i)));
    for (int c = 0; c < C3; c++)
        for (int p = 0; p < H3 * W3; p++) pixels[p * C3 + c] = *passed++;
    for (int at = 0; at < C3; at += LANES) {
        vector sum = load(db + at);
        for (const number *p = pixels + at; p < pixels + X3; p += C3) sum = add(sum, widened(p));
        store(db + at, sum);
    }
}

/* What a layer's outputs x let pass of the gradient g; adds its sum over pixels to db. */
INLINE void through_relu(const float *g, const number *x, int pixels, int outputs, number *out,
                         float *db) {
    for (int at = 0; at < outputs; at += LANES) {
        vector sum = load(db + at);
        for (int i = at; i < pixels * outputs; i += outputs) {
            vector passed = gated(x + i, load(g + i));
            store_narrowed(out + i, passed);
            sum = add(sum, passed);
        }
        store(db + at, sum);
    }
}

/* to += g * w for `rows` pixels and `across` vectors of inputs from `at` on; g has k channels. */
INLINE void multiply_back(const int rows, const int across, const number *const *g, int k,
                          const number *w, int inputs, int at, float *const *to) {
    vector sums[MOST_ROWS][MOST_ACROSS];
    EACH(i, rows) EACH(v, across) sums[i][v] = load(to[i] + at + LANES * v);
    w += DEEP * at;
    for (int o = 0; o < k; o += DEEP, w += DEEP * inputs) {
        numbers weights[MOST_ACROSS];
        EACH(v, across) weights[v] = load_numbers(w + DEEP * LANES * v);
        EACH(i, rows) {
            numbers gradient = spread(g[i] + o);
            EACH(v, across) sums[i][v] = plus_product(sums[i][v], gradient, weights[v]);
        }
    }
    EACH(i, rows) EACH(v, across) store(to[i] + at + LANES * v, sums[i][v]);
}

/* Gradient of a layer's inputs: each output adds to the pixels that it was computed from, those
 * of one stride at a time, because no two outputs share them. */
INLINE void layer_back(const int rows, const int across, const number *g, int height_out,
                       int width_out, int outputs, const number *w, int side, int stride,
                       int channels, int height, int width, float *unused, float *sums) {
    const number *from[MOST_ROWS];
    float *to[MOST_ROWS];
    int pixels = height_out * width_out, inputs = stride * channels;
    memset(sums, 0, sizeof(float) * height * width * channels);
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x += stride, w += outputs * inputs)
            for (int first = 0; first < pixels; first += rows) {
                for (int i = 0; i < rows; i++) {
                    int p = first + i;
                    int row = p / width_out * stride + y, column = p % width_out * stride + x;
                    from[i] = g + (p < pixels ? p : 0) * outputs;
                    to[i] = p < pixels ? sums + (row * width + column) * channels : unused;
                }
                for (int at = 0; at < inputs; at += across * LANES)
                    multiply_back(rows, across, from, outputs, w, inputs, at, to);
            }
}

/* dw [taps][outputs] += sum over pixels and DEEP samples of x [tap] * g [output], for `across`
 * vectors of outputs */
INLINE void multiply_weights(const int taps, const int across, const number *x, int step,
                             int pitch, int height_out, int width_out, const number *g,
                             int outputs, float *dw) {
    vector sums[MOST_ROWS][MOST_ACROSS];
    EACH(i, taps) EACH(v, across) sums[i][v] = load(dw + i * outputs + LANES * v);
    for (int y = 0; y < height_out; y++) {
        const number *pixel = x + y * pitch;
        for (int p = 0; p < width_out; p++, pixel += step, g += DEEP * outputs) {
            numbers gradients[MOST_ACROSS];
            EACH(v, across) gradients[v] = load_numbers(g + DEEP * LANES * v);
            EACH(i, taps) {
                numbers tap = spread(pixel + DEEP * i);
                EACH(v, across) sums[i][v] = plus_product(sums[i][v], tap, gradients[v]);
            }
        }
    }
    EACH(i, taps) EACH(v, across) store(dw + i * outputs + LANES * v, sums[i][v]);
}

/* Gradient of a layer's weights, added to dw [kernel row][length][outputs]; x and g hold DEEP
 * samples together. */
INLINE void layer_weights(const int taps, const int across, const number *x, int width,
                          int channels, int stride, int kernel_rows, int length, int height_out,
                          int width_out, const number *g, int outputs, float *dw) {
    int step = DEEP * stride * channels;
    for (int y = 0; y < kernel_rows; y++)
        for (int k = 0; k < length; k += taps, dw += taps * outputs)
            for (int at = 0; at < outputs; at += across * LANES)
                multiply_weights(taps, across, x + DEEP * (y * width * channels + k), step,
                                 step * width, height_out, width_out, g + DEEP * at, outputs,
                                 dw + at);
}

/* Sums of a layer's gradients over threads, where the parameters have them. */
INLINE void gather(const char *workspaces, int threads, long at, int outputs, int channels,
                   int side, int block, float scale, float *dw, float *db) {
#pragma omp for schedule(static)
    for (int o = 0; o < outputs; o++) {
        float *to = dw + o * channels * side * side;
        for (int i = -1; i < channels * side * side; i++) {
            int c = i / (side * side), y = i / side % side, x = i % side;
            long k = i < 0 ? channels * side * side : place(c, y, x, channels, side, block);
            float sum = 0.0f;
            for (int t = 0; t < threads; t++) {
                const Workspace *one = (const Workspace *)(workspaces + t * workspace_bytes());
                sum += one->gradients[at + k * outputs + o];
            }
            if (i < 0) db[o] = sum;  /* biases stand behind the weights */
            else to[i] = sum / scale;
        }
    }
}

/* Gradients of all parameters, given g, that of x3. */
void backward(const uint8_t *obs, long samples, int threads, const number *packed,
              const number *x1, const number *x2, const number *x3, const number *g,
              char *workspaces, float *dw1, float *db1, float *dw2, float *db2, float *dw3,
              float *db3) {
    const number *back2 = packed + N1 + N2 + N3, *back3 = back2 + N2;
#pragma omp parallel num_threads(threads)
    {
        Workspace *own = (Workspace *)(workspaces + omp_get_thread_num() * workspace_bytes());
        float *w1 = own->gradients, *w2 = w1 + N1 + C1, *w3 = w2 + N2 + C2;
        memset(own->gradients, 0, sizeof own->gradients);
#pragma omp for schedule(static)
        for (long s = 0; s < samples; s += DEEP) {
            const number *y0[DEEP], *y1[DEEP], *y2[DEEP], *g1[DEEP], *g2[DEEP], *g3[DEEP];
            for (int i = 0; i < DEEP; i++) {
                long n = s + i;
                g1[i] = own->g1[i], g2[i] = own->g2[i], g3[i] = own->g3[i];
                if (n == samples) {  /* one is left alone: paired with itself without gradient */
                    y0[i] = y0[0], y1[i] = y1[0], y2[i] = y2[0];
                    memset(own->g1[i], 0, sizeof own->g1[i]);
                    memset(own->g2[i], 0, sizeof own->g2[i]);
                    memset(own->g3[i], 0, sizeof own->g3[i]);
                    continue;
                }
                cut_into_blocks(obs + n * OBS, own->x0[i]);
                y0[i] = own->x0[i], y1[i] = x1 + n * X1, y2[i] = x2 + n * X2;
                enter(g + n * X3, x3 + n * X3, own->y3, own->g3[i], w3 + N3);
                layer_back(BACK_ROWS3, BACK_ACROSS3, own->g3[i], H3, W3, C3, back3, 3, 1, C2, H2,
                           W2, own->unused, own->sums);
                through_relu(own->sums, y2[i], H2 * W2, C2, own->g2[i], w2 + N2);
                layer_back(BACK_ROWS2, BACK_ACROSS2, own->g2[i], H2, W2, C2, back2, 4, 2, C1, H1,
                           W1, own->unused, own->sums);
                through_relu(own->sums, y1[i], H1 * W1, C1, own->g1[i], w1 + N1);
            }
            number *x = own->pairs_x, *gradients = own->pairs_g;
            layer_weights(TAPS3, ACROSS3, together(y2, X2, x), W2, C2, 1, 3, 3 * C2, H3, W3,
                          together(g3, X3, gradients), C3, w3);
            layer_weights(TAPS2, ACROSS2, together(y1, X1, x), W1, C1, 2, 4, 4 * C1, H2, W2,
                          together(g2, X2, gradients), C2, w2);
            layer_weights(TAPS1, ACROSS1, together(y0, X0, x), W0, C0, 1, 2, 2 * C0, H1, W1,
                          together(g1, X1, gradients), C1, w1);
        }
        int team = omp_get_num_threads();
        gather(workspaces, team, 0, C1, PLANES, 8, 4, 255.0f, dw1, db1);
        gather(workspaces, team, N1 + C1, C2, C1, 4, 1, 1.0f, dw2, db2);
        gather(workspaces, team, N1 + C1 + N2 + C2, C3, C2, 3, 1, 1.0f, dw3, db3);
    }
}
