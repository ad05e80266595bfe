/* Sizes of the images of NatureCNN, and cutting observations into blocks.
 *
 * A block of 4 x 4 pixels becomes one pixel of 16 times the planes, so that the first convolution
 * (8 x 8, stride 4) is one of 2 x 2 with stride 1. Compiled for PLANES HEIGHT WIDTH (observations)
 * and C1 C2 C3 (channels). With BF16 the numbers of a block are bfloat16, else bytes.
 */

enum {
    C0 = 16 * PLANES,
    H0 = (HEIGHT - 8) / 4 + 2, W0 = (WIDTH - 8) / 4 + 2,
    H1 = H0 - 1, W1 = W0 - 1,
    H2 = (H1 - 4) / 2 + 1, W2 = (W1 - 4) / 2 + 1,
    H3 = H2 - 2, W3 = W2 - 2,
    OBS = PLANES * HEIGHT * WIDTH,  /* numbers of one sample: observation, inputs of each layer */
    X0 = H0 * W0 * C0, X1 = H1 * W1 * C1, X2 = H2 * W2 * C2, X3 = H3 * W3 * C3,
    AT_ONCE = 4,  /* samples of a part, forward */
};

#if BF16
typedef elem block_elem;
INLINE void store_pixels(elem *to, __m128i pixels) { store_elems(to, from_bytes(pixels)); }
#else
typedef uint8_t block_elem;
INLINE void store_pixels(uint8_t *to, __m128i pixels) { _mm_storeu_si128((__m128i *)to, pixels); }
#endif

/* uint8 [plane][row][column] -> [block row][block column][plane][16]; four blocks at a time */
static void cut_into_blocks(const uint8_t *obs, block_elem *x0) {
    for (int y = 0; y < H0; y++)
        for (int first = 0; first < W0; first += 4) {
            int x = MIN(first, W0 - 4);  /* the last four may overlap those before */
            block_elem *to = x0 + (y * W0 + x) * C0;
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

/* [pixel][channel] -> [channel][pixel], of the third layer's outputs */
INLINE void to_planes(const elem *pixels, elem *planes) {
    for (int c = 0; c < C3; c++)
        for (int p = 0; p < H3 * W3; p++) *planes++ = pixels[p * C3 + c];
}
