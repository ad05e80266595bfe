/* Threads that share the parts of a task; workers.c. */

typedef void task(const void *arguments, long part, int thread);

/* Call work(arguments, part, thread) once for every part in [0, parts), by up to `threads` threads,
 * this one among them, and return when all parts are done. `thread` is in [0, threads): no two
 * threads that are at work have the same one. Which thread does which part is a matter of chance;
 * results must not depend on it. */
void run_parts(task *work, const void *arguments, long parts, int threads);

/* The first item of part `part`, if `count` items are divided evenly among `parts`. */
static inline long first_of(long part, long parts, long count) { return count * part / parts; }
