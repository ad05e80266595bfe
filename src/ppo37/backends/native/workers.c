/* A pool of threads for the kernels.
 *
 * With OpenMP every thread gets a fixed share, and threads that are done spin until the last one
 * is. That is slow beside other programs: where a thread loses its core for some milliseconds, the
 * others spin as long. Here each thread takes the next part, so a thread that has a core computes,
 * and a waiting thread soon sleeps where another program wants its core. The results are the same,
 * because every thread computes a part in the same way.
 *
 * The pool runs one task at a time. A call that finds it busy computes all its parts itself.
 */
#define _GNU_SOURCE
#include "workers.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/resource.h>
#include <time.h>

/* Nanoseconds that a waiting thread spins: always, and at most while no other program wants its
 * core. To wake up takes up to 0.1 ms, and the pauses between two tasks of a gradient step last up
 * to 2 ms: a thread that sleeps in each of them loses a tenth of the time. */
enum { SPIN = 50000, LONGEST_SPIN = 3000000 };

/* If another thread runs for PROGRAM nanoseconds, it belongs to a program and not to the system,
 * and this thread does not spin for more than SPIN in the next BUSY nanoseconds. */
enum { PROGRAM = 200000, BUSY = 100000000 };

enum { MOST_THREADS = 255, PAUSES = 32 };

/* The number of tasks so far, the threads that may compute the last one, and its parts that are not
 * taken yet. Kept in one 64-bit number, because they are read and changed together. */
typedef struct {
    uint32_t task;
    uint32_t threads;
    uint32_t left;
} State;

static uint64_t to_bits(State s) { return (uint64_t)s.task << 32 | s.threads << 24 | s.left; }

static State from_bits(uint64_t bits) {
    return (State){(uint32_t)(bits >> 32), bits >> 24 & 0xff, bits & 0xffffff};
}

static _Atomic uint64_t state;

/* The last task. Changed only after all its parts are done. */
static part_function *_Atomic work_of_task;
static const void *_Atomic arguments_of_task;
static _Atomic long undone;  /* parts that are not done */

static atomic_flag in_use = ATOMIC_FLAG_INIT;
static int helpers;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t started = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static _Atomic int sleepers, caller_sleeps;

static void pause_briefly(void) {
    for (int i = 0; i < PAUSES; i++)
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#else
        atomic_signal_fence(memory_order_seq_cst);
#endif
}

static long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

/* Return how often the system ran another thread instead of this one. Where the system does not
 * count that, return another number each time, as if it always had. */
static long preemptions(void) {
#ifdef RUSAGE_THREAD
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
#else
    static _Thread_local long calls;
    return ++calls;
#endif
}

/* Pause briefly; return whether a thread that has waited since `begin` spins on instead of
 * sleeping. */
static int spin_on(long begin) {
    static _Thread_local long busy_until;
    pause_briefly();
    long now = now_ns();
    if (now - begin < SPIN) return 1;
    if (now - begin > LONGEST_SPIN || now < busy_until) return 0;
    long before = preemptions();
    sched_yield();
    long later = now_ns();
    if (later - now < PROGRAM || preemptions() == before) return 1;
    busy_until = later + BUSY;
    return 0;
}

/* Compute parts of the last task until none is left. */
static void do_parts(int thread) {
    uint64_t bits = atomic_load(&state);
    for (;;) {
        State s = from_bits(bits);
        if (!s.left || thread >= (int)s.threads) return;
        if (!atomic_compare_exchange_weak(&state, &bits, bits - 1)) continue;
        atomic_load(&work_of_task)(atomic_load(&arguments_of_task), s.left - 1, thread);
        if (atomic_fetch_sub(&undone, 1) == 1 && atomic_load(&caller_sleeps)) {
            pthread_mutex_lock(&mutex);
            pthread_cond_signal(&finished);
            pthread_mutex_unlock(&mutex);
        }
        bits = atomic_load(&state);
    }
}

static void *helper(void *thread) {
    uint32_t seen = 0;
    for (;;) {
        for (long begin = now_ns(); from_bits(atomic_load(&state)).task == seen;) {
            if (spin_on(begin)) continue;
            pthread_mutex_lock(&mutex);
            atomic_fetch_add(&sleepers, 1);
            while (from_bits(atomic_load(&state)).task == seen) pthread_cond_wait(&started, &mutex);
            atomic_fetch_sub(&sleepers, 1);
            pthread_mutex_unlock(&mutex);
        }
        seen = from_bits(atomic_load(&state)).task;
        do_parts((int)(intptr_t)thread);
    }
    return 0;
}

/* Reset the pool in a child of fork, which has no helpers. If another thread of the parent was in a
 * task, its parts are dropped: the child's first helper would compute them. */
static void reset_after_fork(void) {
    helpers = 0;
    atomic_store(&state, 0);
    atomic_store(&sleepers, 0);
    atomic_store(&caller_sleeps, 0);
    atomic_flag_clear(&in_use);
    pthread_mutex_init(&mutex, 0);
    pthread_cond_init(&started, 0);
    pthread_cond_init(&finished, 0);
}

/* Start helpers until there are `threads` threads with the caller, or the system allows no more. */
static void start_helpers(int threads) {
    static int prepared;
    if (!prepared) prepared = !pthread_atfork(0, 0, reset_after_fork);
    while (helpers < threads - 1) {
        pthread_t made;
        if (pthread_create(&made, 0, helper, (void *)(intptr_t)(helpers + 1))) break;
        pthread_detach(made);
        helpers++;
    }
}

void ppo37_run_parts(part_function *work, const void *arguments, long parts, int threads) {
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    if (threads < 2 || parts < 2 || parts > 0xffffff || atomic_flag_test_and_set(&in_use)) {
        for (long part = 0; part < parts; part++) work(arguments, part, 0);
        return;
    }
    start_helpers(threads);
    atomic_store(&work_of_task, work);
    atomic_store(&arguments_of_task, arguments);
    atomic_store(&undone, parts);
    uint32_t next = from_bits(atomic_load(&state)).task + 1;
    atomic_store(&state, to_bits((State){next, (uint32_t)threads, (uint32_t)parts}));
    if (atomic_load(&sleepers)) {
        pthread_mutex_lock(&mutex);
        pthread_cond_broadcast(&started);
        pthread_mutex_unlock(&mutex);
    }
    do_parts(0);
    for (long begin = now_ns(); atomic_load(&undone);) {
        if (spin_on(begin)) continue;
        pthread_mutex_lock(&mutex);
        atomic_store(&caller_sleeps, 1);
        while (atomic_load(&undone)) pthread_cond_wait(&finished, &mutex);
        atomic_store(&caller_sleeps, 0);
        pthread_mutex_unlock(&mutex);
    }
    atomic_flag_clear(&in_use);
}
