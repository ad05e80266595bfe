/* The images of NatureCNN: their sizes, and how observations are cut into blocks.
 *
 * A block of 4 x 4 pixels is one pixel of 16 times the planes, so that the first convolution (8 x 8,
 * stride 4) is one of 2 x 2 with stride 1. Who includes this has defined PLANES HEIGHT WIDTH
 * (observations), C1 C2 C3 (channels), `number`, what a pixel of a block is kept as, and
 * `store_pixels`, which keeps 16 of them.
 */

enum {
    C0 = 16 * PLANES,
    H0 = (HEIGHT - 8) / 4 + 2, W0 = (WIDTH - 8) / 4 + 2,
    H1 = H0 - 1, W1 = W0 - 1,
    H2 = (H1 - 4) / 2 + 1, W2 = (W1 - 4) / 2 + 1,
    H3 = H2 - 2, W3 = W2 - 2,
    OBS = PLANES * HEIGHT * WIDTH,  /* sizes of one sample, as it enters each layer */
    X0 = H0 * W0 * C0, X1 = H1 * W1 * C1, X2 = H2 * W2 * C2, X3 = H3 * W3 * C3,
};

/* uint8 [plane][row][column] -> blocks; four side by side at once */
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
                EACH(i, 4) store_pixels(
                    to + i * C0, i % 2 ? _mm_unpackhi_epi64(top[i / 2], low[i / 2])
                                       : _mm_unpacklo_epi64(top[i / 2], low[i / 2]));
            }
        }
}
