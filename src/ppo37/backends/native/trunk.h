/* The interface of the three convolutions, the same for `convolutions.c` and `winograd.c`.
 *
 * The file that includes this defines before: N1 N2 N3, the numbers of each layer's weights as its
 * kernels keep them, and `Workspace`, the memory of one thread. It defines after: the four
 * functions `*_part` that are declared here.
 *
 * A sample's result does not depend on the other samples of a batch. Gradients are summed over the
 * samples of a group in their order, and then over the groups. The number of groups depends on the
 * number of samples only, so no result depends on the number of threads.
 *
 * The structures of arguments are also declared in kernels.py.
 */
#include "workers.h"

/* Parts of packing the weights, and of adding up the groups' sums. */
enum { PARTS = 16 };

/* Where each layer's weights begin in `packed`; those of the way back follow. */
enum {
    PACKED2 = N1, PACKED3 = PACKED2 + N2, BACK2 = PACKED3 + N3, BACK3 = BACK2 + N2,
    PACKED_SIZE = BACK3 + N3,
};

/* Where each layer's sums begin in those of a group: gradients of weights, then of biases. */
enum { SUMS2 = N1 + C1, SUMS3 = SUMS2 + N2 + C2, PARAMETERS = SUMS3 + N3 + C3 };

/* Groups of samples whose gradients are summed up separately. */
static inline long groups_of(long samples) {
    return samples < 16 ? 1 : samples < 16 * 16 ? samples / 16 : 16;
}

/* Bytes of the workspace of one thread. */
long ppo37_workspace_bytes(void) { return sizeof(Workspace); }

/* Numbers that `ppo37_pack_weights` writes. */
long ppo37_packed_size(void) { return PACKED_SIZE; }

/* Floats of `BackwardArguments.sums`. */
long ppo37_sums_size(long samples) { return groups_of(samples) * PARAMETERS; }

/* ---- weights ------------------------------------------------------------------------------- */

typedef struct {
    const float *w1, *w2, *w3;
    elem *packed;  /* [PACKED_SIZE] */
} PackArguments;

static part_function pack_part;

void ppo37_pack_weights(const PackArguments *arguments, int threads) {
    ppo37_run_parts(pack_part, arguments, PARTS, threads);
}

/* ---- forward ------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *obs;  /* [samples][plane][row][column] */
    const elem *packed;
    const float *b1, *b2, *b3;
    Workspace *workspaces;  /* [threads] */
    elem *x1, *x2;  /* outputs of the layers: [sample][row][column][channel] */
    elem *x3;       /* [sample][channel][row][column] */
    long samples;
} ForwardArguments;

static part_function forward_part;  /* AT_ONCE samples */

void ppo37_forward(const ForwardArguments *arguments, int threads) {
    ppo37_run_parts(forward_part, arguments, CEIL_DIV(arguments->samples, AT_ONCE), threads);
}

/* ---- backward ------------------------------------------------------------------------------ */

typedef struct {
    const uint8_t *obs;
    const elem *packed, *x1, *x2, *x3, *g;  /* g: the gradient of x3 */
    Workspace *workspaces;
    float *sums;  /* [groups][PARAMETERS] */
    float *dw1, *db1, *dw2, *db2, *dw3, *db3;
    long samples;
} BackwardArguments;

static part_function backward_part;  /* the sums of one group */
static part_function gather_part;    /* gradients of some parameters, from the sums of all groups */

void ppo37_backward(const BackwardArguments *arguments, int threads) {
    ppo37_run_parts(backward_part, arguments, groups_of(arguments->samples), threads);
    ppo37_run_parts(gather_part, arguments, PARTS, threads);
}
