/* Shrink screens of the console to the size of observations, and stack them.
 *
 * The numbers are those of OpenCV's INTER_AREA, which the engine uses: each pixel is the mean of
 * the area that it covers, summed in float, first along rows and then over rows, one product after
 * the other in this order, and rounded to the nearest integer (halves to even).
 *
 * Compiled for screens of HEIGHT x WIDTH and results of SIDE x SIDE. Products and sums must not be
 * fused: that would round differently.
 */
#ifndef __AVX512VBMI__
#error "this file needs AVX512-VBMI"
#endif

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum {
    TAPS = WIDTH / SIDE + 2,  /* most pixels of a row that one new pixel covers */
    MOST = HEIGHT / SIDE + WIDTH / SIDE + 2,  /* upper limit of pixels or rows of an area */
    VECTORS = (SIDE + 15) / 16,
    WINDOW = 64,  /* bytes of a row that are loaded for 16 new pixels */
};

#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

_Static_assert(16 * WIDTH / SIDE + 2 <= WINDOW, "WINDOW is too small");
_Static_assert(HEIGHT >= SIDE && WIDTH >= SIDE, "screens can only be shrunk");

typedef struct {
    int first, count;
    float weights[MOST];
} Area;

typedef struct {
    Area rows[SIDE];
    int windows[VECTORS];  /* the first pixel of a row that 16 new pixels need */
    uint8_t offsets[TAPS][VECTORS][64];  /* from there, in one of every four bytes */
    float weights[TAPS][VECTORS][16];
} Plan;

long plan_bytes(void) { return sizeof(Plan); }

/* The old pixels, of `size`, that new pixel `i` of `side` covers. */
static Area area(int i, int size, int side) {
    double scale = 1.0 / ((double)side / size), from = i * scale, to = from + scale;
    double width = fmin(scale, size - from);
    int last = (int)fmin(floor(to), size - 1), whole = (int)fmin(ceil(from), last);
    Area found = {whole, 0, {0}};
    if (whole - from > 1e-3) {
        found.first--;
        found.weights[found.count++] = (float)((whole - from) / width);
    }
    for (int j = whole; j < last; j++) found.weights[found.count++] = (float)(1.0 / width);
    if (to - last > 1e-3)
        found.weights[found.count++] = (float)(fmin(fmin(to - last, 1.0), width) / width);
    return found;
}

void make_plan(Plan *plan) {
    memset(plan, 0, sizeof *plan);
    for (int i = 0; i < SIDE; i++) plan->rows[i] = area(i, HEIGHT, SIDE);
    for (int i = 0; i < SIDE; i++) {
        Area one = area(i, WIDTH, SIDE);
        int v = i / 16;
        if (i % 16 == 0) plan->windows[v] = one.first;
        for (int t = 0; t < one.count; t++) {
            plan->offsets[t][v][i % 16 * 4] = (uint8_t)(one.first + t - plan->windows[v]);
            plan->weights[t][v][i % 16] = one.weights[t];
        }
    }
}

/* Shrink one row, padded to WIDTH + WINDOW pixels, to SIDE sums. */
static inline void shrink_row(const Plan *plan, const uint8_t *row, float sums[VECTORS][16]) {
    const __mmask64 lowest = 0x1111111111111111;
    EACH(v, VECTORS) {
        __m512i window = _mm512_loadu_si512(row + plan->windows[v]);
        __m512 sum = _mm512_setzero_ps();
        EACH(t, TAPS) {
            __m512i offsets = _mm512_loadu_si512(plan->offsets[t][v]);
            __m512i pixels = _mm512_maskz_permutexvar_epi8(lowest, offsets, window);
            __m512 weights = _mm512_loadu_ps(plan->weights[t][v]);
            sum = _mm512_add_ps(sum, _mm512_mul_ps(_mm512_cvtepi32_ps(pixels), weights));
        }
        _mm512_storeu_ps(sums[v], sum);
    }
}

/* Shrink one screen [HEIGHT][WIDTH] to [SIDE][SIDE]. */
static void shrink(const Plan *plan, const uint8_t *screen, uint8_t *out) {
    uint8_t row[WIDTH + WINDOW];
    float along[VECTORS][16];
    int current = -1;  /* the row of `along`; two new rows may share an old one */
    memset(row, 0, sizeof row);
    for (int y = 0; y < SIDE; y++, out += SIDE) {
        const Area *rows = plan->rows + y;
        __m512 sums[VECTORS];
        for (int r = 0; r < rows->count; r++) {
            __m512 weight = _mm512_set1_ps(rows->weights[r]);
            if (rows->first + r != current) {
                current = rows->first + r;
                memcpy(row, screen + current * WIDTH, WIDTH);
                shrink_row(plan, row, along);
            }
            EACH(v, VECTORS) {
                __m512 part = _mm512_mul_ps(_mm512_loadu_ps(along[v]), weight);
                sums[v] = r ? _mm512_add_ps(sums[v], part) : part;
            }
        }
        EACH(v, VECTORS) {
            int left = SIDE - 16 * v;
            __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(sums[v]));
            _mm_mask_storeu_epi8(out + 16 * v, left < 16 ? (1 << left) - 1 : 0xffff, bytes);
        }
    }
}

/* Move each stack up by one frame and add a shrunk screen. `is_new` clears the older frames.
 * screens [count][HEIGHT][WIDTH]; before, after [count][depth][SIDE][SIDE]. */
void push(const Plan *plan, int count, int depth, const uint8_t *screens, const uint8_t *is_new,
          const uint8_t *before, uint8_t *after) {
    const long frame = SIDE * SIDE, stack = depth * frame;
    for (int i = 0; i < count; i++, before += stack, after += stack) {
        if (is_new[i]) memset(after, 0, stack - frame);
        else memcpy(after, before + frame, stack - frame);
        shrink(plan, screens + i * HEIGHT * WIDTH, after + stack - frame);
    }
}
