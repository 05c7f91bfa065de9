/* SPDX-License-Identifier: Apache-2.0
 *
 * How long a survivor waits for a lock whose holder was killed inside it. A
 * worker is stopped; if a call that does not wait is then QL_E_BUSY, the worker
 * holds the lock. A second thread waits for that lock, the worker is killed,
 * and the time from the kill until the waiter is through is what counts: the
 * kernel's share (ending the process, closing its files) is in it.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum { WANTED = 100, TRIALS_MAX = 2000 };

static const char subject[] = "alice@example.com";

static void worker(const char *store)
{
    struct ql *ql = bench_open(store, (struct ql_options)QL_OPTIONS_INIT);
    for (;;) {
        struct ql_lease lease;
        struct ql_charge charge = {"bytes", 1};
        if (ql_admit(ql, subject, NULL, &lease, NULL) == QL_OK) {
            (void)!ql_settle(ql, lease, &charge, 1);
        }
    }
}

static void *wait_for_lock(void *context)
{
    static uint64_t through;
    if (ql_charge(context, subject, "bytes", 1, NULL) != QL_OK) {
        bench_die("lock wait", "the survivor did not get on");
    }
    through = bench_now_ns();
    return &through;
}

static void sleep_us(uint64_t microseconds)
{
    struct timespec time = {0, (long)microseconds * 1000};
    nanosleep(&time, NULL);
}

/* The worker is stopped inside the lock: nanoseconds from its death until a
 * waiter, who has waited for some time, is through. */
static uint64_t kill_inside(struct ql *patient, pid_t child, uint64_t *random)
{
    pthread_t thread;
    void *through;
    if (pthread_create(&thread, NULL, wait_for_lock, patient) != 0) {
        bench_die("lock wait", "cannot start a thread");
    }
    sleep_us(500 + bench_random(random) % 8000);
    uint64_t begin = bench_now_ns();
    kill(child, SIGKILL);
    pthread_join(thread, &through);
    return *(uint64_t *)through - begin;
}

/* Starts a worker and stops it somewhere. */
static pid_t stopped_worker(const char *store, uint64_t *random)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        worker(store);
    }
    sleep_us(2000 + bench_random(random) % 1000);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    if (!WIFSTOPPED(status)) {
        bench_die("lock wait", "the worker ended");
    }
    return child;
}

static void print_waits(uint64_t *waits, int inside, int trials)
{
    uint64_t sum = 0;
    for (int i = 0; i < inside; i++) {
        sum += waits[i];
    }
    if (inside == 0) {
        return;
    }
    bench_sort(waits, (size_t)inside);
    printf("{\"row\": \"lock_wait_after_kill\", \"trials\": %d, \"inside\": %d, \"mean_ms\": %.3f, "
           "\"max_ms\": %.3f}\n",
           trials, inside, (double)sum / inside / 1e6, (double)waits[inside - 1] / 1e6);
    fflush(stdout);
}

void bench_kill_row(void)
{
    char store[] = "/dev/shm/quotalite-bench-XXXXXX";
    uint64_t waits[WANTED];
    uint64_t random = 0x9e3779b97f4a7c15;
    int inside = 0;
    int trials = 0;
    bench_pin_none();
    if (mkdtemp(store) == NULL) {
        bench_die("/dev/shm", "cannot make a directory");
    }
    struct ql_options hasty = QL_OPTIONS_INIT;
    hasty.charge_wait_ms = -1;
    struct ql *asker = bench_open(store, hasty);
    struct ql *patient = bench_open(store, (struct ql_options)QL_OPTIONS_INIT);
    for (; inside < WANTED && trials < TRIALS_MAX; trials++) {
        pid_t child = stopped_worker(store, &random);
        if (ql_charge(asker, subject, "bytes", 1, NULL) == QL_E_BUSY) {
            waits[inside++] = kill_inside(patient, child, &random);
        } else {
            kill(child, SIGKILL);
        }
        waitpid(child, NULL, 0);
    }
    print_waits(waits, inside, trials);
    ql_close(asker);
    ql_close(patient);
    bench_remove_store(store);
}
