/* Screens of the console, shrunk to what an agent sees, and stacked.
 *
 * The same numbers as OpenCV's INTER_AREA, by which the engine shrinks its screens: each pixel is
 * the mean of the area that it covers, in float, first along rows and then over them, one product
 * after the other in this order, rounded to the nearest integer and to the even one of two.
 *
 * Compiled for HEIGHT x WIDTH pixels that become SIDE x SIDE. To be compiled without fusing
 * products and sums, which would round differently.
 */
#ifndef __AVX512VBMI__
#error "they need a processor with AVX512-VBMI"
#endif

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum {
    TAPS = WIDTH / SIDE + 2,  /* most pixels of a row that one of the result covers */
    MOST = HEIGHT / SIDE + WIDTH / SIDE + 2,  /* pixels or rows */
    VECTORS = (SIDE + 15) / 16,
    WINDOW = 64,  /* bytes of a row that 16 pixels of the result may need */
};

#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

_Static_assert(16 * WIDTH / SIDE + 2 <= WINDOW, "the window is too narrow");
_Static_assert(HEIGHT >= SIDE && WIDTH >= SIDE, "screens are shrunk, not enlarged");

typedef struct {
    int first, count;
    float shares[MOST];
} Area;

typedef struct {
    Area rows[SIDE];
    int windows[VECTORS];  /* where in a row the pixels begin that 16 of the result need */
    uint8_t places[TAPS][VECTORS][64];  /* which of them, one in every four bytes */
    float shares[TAPS][VECTORS][16];
} Plan;

long plan_bytes(void) { return sizeof(Plan); }

/* What pixel `i` of `side` covers of `size` pixels. */
static Area area(int i, int size, int side) {
    double scale = 1.0 / ((double)side / size), from = i * scale, to = from + scale;
    double width = fmin(scale, size - from);
    int last = (int)fmin(floor(to), size - 1), whole = (int)fmin(ceil(from), last);
    Area found = {whole, 0, {0}};
    if (whole - from > 1e-3) {
        found.first--;
        found.shares[found.count++] = (float)((whole - from) / width);
    }
    for (int at = whole; at < last; at++) found.shares[found.count++] = (float)(1.0 / width);
    if (to - last > 1e-3)
        found.shares[found.count++] = (float)(fmin(fmin(to - last, 1.0), width) / width);
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
            plan->places[t][v][i % 16 * 4] = (uint8_t)(one.first + t - plan->windows[v]);
            plan->shares[t][v][i % 16] = one.shares[t];
        }
    }
}

/* One screen [HEIGHT][WIDTH] -> [SIDE][SIDE]. */
static void shrink(const Plan *plan, const uint8_t *screen, uint8_t *out) {
    const __mmask64 lowest = 0x1111111111111111;
    uint8_t row[WIDTH + WINDOW];
    float along[VECTORS][16];
    int known = -1;  /* the row that `along` is of; neighbours share one */
    memset(row, 0, sizeof row);
    for (int y = 0; y < SIDE; y++, out += SIDE) {
        const Area *rows = plan->rows + y;
        __m512 sums[VECTORS];
        for (int r = 0; r < rows->count; r++) {
            __m512 share = _mm512_set1_ps(rows->shares[r]);
            if (rows->first + r != known) {
                known = rows->first + r;
                memcpy(row, screen + known * WIDTH, WIDTH);
                EACH(v, VECTORS) {
                    __m512i window = _mm512_loadu_si512(row + plan->windows[v]);
                    __m512 sum = _mm512_setzero_ps();
                    EACH(t, TAPS) {
                        __m512i places = _mm512_loadu_si512(plan->places[t][v]);
                        __m512i pixels = _mm512_maskz_permutexvar_epi8(lowest, places, window);
                        __m512 shares = _mm512_loadu_ps(plan->shares[t][v]);
                        sum = _mm512_add_ps(sum, _mm512_mul_ps(_mm512_cvtepi32_ps(pixels), shares));
                    }
                    _mm512_storeu_ps(along[v], sum);
                }
            }
            EACH(v, VECTORS) {
                __m512 part = _mm512_mul_ps(_mm512_loadu_ps(along[v]), share);
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

/* The last `depth` pictures of each of `count` screens: those of `before` without the first, and
 * the new one. Where a game has `begun`, there are none before it.
 * screens [count][HEIGHT][WIDTH]; before, after [count][depth][SIDE][SIDE]. */
void push(const Plan *plan, int count, int depth, const uint8_t *screens, const uint8_t *begun,
          const uint8_t *before, uint8_t *after) {
    const long picture = SIDE * SIDE, stack = depth * picture;
    for (int i = 0; i < count; i++, before += stack, after += stack) {
        if (begun[i]) memset(after, 0, stack - picture);
        else memcpy(after, before + picture, stack - picture);
        shrink(plan, screens + i * HEIGHT * WIDTH, after + stack - picture);
    }
}
