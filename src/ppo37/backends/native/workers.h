/* A pool of threads that share the parts of a task; see workers.c. */

typedef void part_function(const void *arguments, long part, int thread);

/* Call work(arguments, part, thread) once for every part in [0, parts) and return when all are
 * done. Up to `threads` threads compute, the caller among them. `thread` is in [0, threads), and no
 * two running threads have the same. Any thread may get any part: results must not depend on it. */
void ppo37_run_parts(part_function *work, const void *arguments, long parts, int threads);

/* The first item of part `part`, if `count` items are divided evenly among `parts`. */
static inline long first_of(long part, long parts, long count) { return count * part / parts; }
