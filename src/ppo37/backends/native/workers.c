/* A pool of threads for the kernels.
 *
 * OpenMP gives every thread a fixed share and lets it wait for the others by spinning. Beside other
 * programs that is slow: where one thread has lost its core for some milliseconds, the others burn
 * theirs until it comes back. Here the threads take one part after the other, so that whoever has a
 * core does the work, and who waits sleeps, sooner where another program wants the core. The results
 * are the same: a part is computed in the same way by every thread.
 *
 * One task at a time: a call that finds the pool at work does all parts of its own task itself.
 */
#define _GNU_SOURCE
#include "workers.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/resource.h>
#include <time.h>

/* Nanoseconds that a waiting thread keeps its core: in any case, and while nobody else wants it. To
 * be woken takes up to 0.1 ms, and between two tasks of a gradient step are up to 2 ms: who sleeps
 * in each of these pauses loses a tenth of the time. */
enum { SPIN = 50000, AWAKE = 3000000 };

/* Another thread that runs for so many nanoseconds is a program's, not one of the system's, and the
 * core counts as wanted for so many. */
enum { PROGRAM = 200000, CROWDED = 100000000 };

enum { MOST_THREADS = 255, PAUSES = 32 };

/* The tasks so far, the threads that may help with the last one, and its parts that nobody has
 * taken. In one number, because they must be seen and changed together. */
typedef struct {
    uint32_t task;
    uint32_t threads;
    uint32_t left;
} State;

static uint64_t packed(State s) { return (uint64_t)s.task << 32 | s.threads << 24 | s.left; }

static State unpacked(uint64_t bits) {
    return (State){(uint32_t)(bits >> 32), bits >> 24 & 0xff, bits & 0xffffff};
}

static _Atomic uint64_t state;

/* Of the last task. They change only while no part of it is left or in work. */
static task *_Atomic work_of_task;
static const void *_Atomic arguments_of_task;
static _Atomic long undone;  /* parts that are not finished */

static atomic_flag in_use = ATOMIC_FLAG_INIT;
static int helpers;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t begun = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
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

/* How often another thread has run where this one could have; another number every time where the
 * system does not tell, as if it always had. */
static long times_displaced(void) {
#ifdef RUSAGE_THREAD
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
#else
    static _Thread_local long number;
    return ++number;
#endif
}

/* Whether a thread that has waited since `begin` goes on without sleeping; after a short pause. */
static int stays_awake(long begin) {
    static _Thread_local long crowded_until;
    pause_briefly();
    long now = now_ns();
    if (now - begin < SPIN) return 1;
    if (now - begin > AWAKE || now < crowded_until) return 0;
    long before = times_displaced();
    sched_yield();
    long later = now_ns();
    if (later - now < PROGRAM || times_displaced() == before) return 1;
    crowded_until = later + CROWDED;
    return 0;
}

/* Do parts of the last task until none is left. */
static void do_parts(int thread) {
    uint64_t bits = atomic_load(&state);
    for (;;) {
        State s = unpacked(bits);
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

static void *help(void *thread) {
    uint32_t seen = 0;
    for (;;) {
        for (long begin = now_ns(); unpacked(atomic_load(&state)).task == seen;) {
            if (stays_awake(begin)) continue;
            pthread_mutex_lock(&mutex);
            atomic_fetch_add(&sleepers, 1);
            while (unpacked(atomic_load(&state)).task == seen) pthread_cond_wait(&begun, &mutex);
            atomic_fetch_sub(&sleepers, 1);
            pthread_mutex_unlock(&mutex);
        }
        seen = unpacked(atomic_load(&state)).task;
        do_parts((int)(intptr_t)thread);
    }
    return 0;
}

/* A child of fork has no helpers, and must not do the parts that another thread of its parent had
 * left: its first helper would find them. */
static void forget_helpers(void) {
    helpers = 0;
    atomic_store(&state, 0);
    atomic_store(&sleepers, 0);
    atomic_store(&caller_sleeps, 0);
    atomic_flag_clear(&in_use);
    pthread_mutex_init(&mutex, 0);
    pthread_cond_init(&begun, 0);
    pthread_cond_init(&finished, 0);
}

/* Start helpers for so many threads in all; where the system has none left, fewer do. */
static void have_helpers(int threads) {
    static int prepared;
    if (!prepared) prepared = !pthread_atfork(0, 0, forget_helpers);
    while (helpers < threads - 1) {
        pthread_t made;
        if (pthread_create(&made, 0, help, (void *)(intptr_t)(helpers + 1))) break;
        pthread_detach(made);
        helpers++;
    }
}

void run_parts(task *work, const void *arguments, long parts, int threads) {
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    if (threads < 2 || parts < 2 || parts > 0xffffff || atomic_flag_test_and_set(&in_use)) {
        for (long part = 0; part < parts; part++) work(arguments, part, 0);
        return;
    }
    have_helpers(threads);
    atomic_store(&work_of_task, work);
    atomic_store(&arguments_of_task, arguments);
    atomic_store(&undone, parts);
    uint32_t number = unpacked(atomic_load(&state)).task + 1;
    atomic_store(&state, packed((State){number, (uint32_t)threads, (uint32_t)parts}));
    if (atomic_load(&sleepers)) {
        pthread_mutex_lock(&mutex);
        pthread_cond_broadcast(&begun);
        pthread_mutex_unlock(&mutex);
    }
    do_parts(0);
    for (long begin = now_ns(); atomic_load(&undone);) {
        if (stays_awake(begin)) continue;
        pthread_mutex_lock(&mutex);
        atomic_store(&caller_sleeps, 1);
        while (atomic_load(&undone)) pthread_cond_wait(&finished, &mutex);
        atomic_store(&caller_sleeps, 0);
        pthread_mutex_unlock(&mutex);
    }
    atomic_flag_clear(&in_use);
}
