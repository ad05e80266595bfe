/* What `convolutions.c` and `winograd.c` do for the three convolutions, as seen from outside.
 *
 * Who includes this has defined `value`, what a number between layers is kept as, `Workspace`, a
 * block of memory of each thread, AT_ONCE, the samples of a part forward, and PARAMETERS, how many
 * sums a group of samples has; and defines the parts of the four tasks below, and `packed_size`, how
 * many numbers `pack_weights` writes.
 *
 * A sample's result does not depend on those beside it. Sums over samples are made in their order
 * within each of some groups, and then over groups; there are as many as `groups_of` says, whatever
 * the number of threads, so no result depends on that.
 */
#include "workers.h"

/* What is no product of samples, weights to pack and sums to gather, is divided into so many. */
enum { PARTS = 16 };

/* Groups of samples whose gradients are summed up apart. */
static inline long groups_of(long samples) {
    return samples < 16 ? 1 : samples < 16 * 16 ? samples / 16 : 16;
}

long workspace_bytes(void) { return sizeof(Workspace); }

/* Numbers that `backward` wants for the sums of its groups. */
long sums_size(long samples) { return groups_of(samples) * PARAMETERS; }

/* ---- weights ------------------------------------------------------------------------------- */

typedef struct {
    const float *w1, *w2, *w3;
    value *packed;
} Packing;

static task pack_part;

/* packed: `packed_size` numbers. */
void pack_weights(const float *w1, const float *w2, const float *w3, int threads, value *packed) {
    Packing arguments = {w1, w2, w3, packed};
    run_parts(pack_part, &arguments, PARTS, threads);
}

/* ---- forward ------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *obs;
    long samples;
    const value *packed;
    const float *b1, *b2, *b3;
    Workspace *workspaces;
    value *x1, *x2, *x3;
} Forward;

static task forward_part;  /* AT_ONCE samples */

/* obs [samples][OBS] -> x1, x2 (channels-last) and x3 [sample][channel][pixel]. */
void forward(const uint8_t *obs, long samples, int threads, const value *packed, const float *b1,
             const float *b2, const float *b3, Workspace *workspaces, value *x1, value *x2,
             value *x3) {
    Forward arguments = {obs, samples, packed, b1, b2, b3, workspaces, x1, x2, x3};
    run_parts(forward_part, &arguments, (samples + AT_ONCE - 1) / AT_ONCE, threads);
}

/* ---- backward ------------------------------------------------------------------------------ */

typedef struct {
    const uint8_t *obs;
    long samples, groups;
    const value *packed, *x1, *x2, *x3, *g;
    Workspace *workspaces;
    float *sums, *dw1, *db1, *dw2, *db2, *dw3, *db3;
} Backward;

static task backward_part;  /* the sums of one group, [PARAMETERS] */
static task gather_part;    /* some of the sums over groups, where the parameters have them */

/* Gradients of all parameters, given g, that of x3. sums: `sums_size` numbers. */
void backward(const uint8_t *obs, long samples, int threads, const value *packed, const value *x1,
              const value *x2, const value *x3, const value *g, Workspace *workspaces, float *sums,
              float *dw1, float *db1, float *dw2, float *db2, float *dw3, float *db3) {
    Backward arguments = {obs, samples, groups_of(samples), packed, x1, x2, x3, g, workspaces,
                          sums, dw1, db1, dw2, db2, dw3, db3};
    run_parts(backward_part, &arguments, arguments.groups, threads);
    run_parts(gather_part, &arguments, PARTS, threads);
}
