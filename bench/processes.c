/* SPDX-License-Identifier: Apache-2.0
 *
 * One process alone, two on subjects of their own, two on one hot subject; the
 * library and the bare limit in turn. A directory store on a tmpfs, so that no
 * disk is in the figure.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum {
    REPETITIONS = 7,
    TURN_MS = 150,
    BATCH = 256, /* operations between two looks at the clock */
    PROCESSES_MAX = 2,
};

struct board {
    atomic_int ready;
    atomic_int go;
    struct {
        _Alignas(64) double rate;
    } of[PROCESSES_MAX];
};

struct field {
    struct board *board;
    struct bare *bare;
    const char *store;
};

static const char *const subjects[PROCESSES_MAX] = {"alice@example.com", "bob@example.com"};

static void one_batch(struct field *field, struct ql *ql, const char *subject)
{
    for (int i = 0; i < BATCH; i++) {
        struct ql_lease lease;
        struct ql_charge charge = {"bytes", 1};
        if (ql == NULL) {
            bare_count(field->bare, subject);
        } else if (ql_admit(ql, subject, NULL, &lease, NULL) != QL_OK ||
                   ql_settle(ql, lease, &charge, 1) != QL_OK) {
            bench_die("two processes", "a call failed");
        }
    }
}

/* A child: opens, says that it is ready, counts for a turn. Never returns. */
static void work(struct field *field, int me, const char *subject, int library)
{
    struct ql *ql = NULL;
    bench_pin(me);
    if (library) {
        ql = bench_open(field->store, (struct ql_options)QL_OPTIONS_INIT);
    }
    one_batch(field, ql, subject);
    atomic_fetch_add(&field->board->ready, 1);
    while (!atomic_load(&field->board->go)) {
        sched_yield();
    }
    uint64_t count = 0;
    uint64_t begin = bench_now_ns();
    uint64_t now = begin;
    while (now - begin < (uint64_t)TURN_MS * 1000000u) {
        one_batch(field, ql, subject);
        count += BATCH;
        now = bench_now_ns();
    }
    field->board->of[me].rate = (double)count * 1e9 / (double)(now - begin);
    ql_close(ql);
    _exit(0);
}

/* Operations a second of all processes together. */
static double turn(struct field *field, int processes, int shared, int library)
{
    pid_t children[PROCESSES_MAX];
    double rate = 0;
    atomic_store(&field->board->ready, 0);
    atomic_store(&field->board->go, 0);
    for (int i = 0; i < processes; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            work(field, i, subjects[shared ? 0 : i], library);
        }
    }
    while (atomic_load(&field->board->ready) < processes) {
        sched_yield();
        if (waitpid(-1, NULL, WNOHANG) > 0) {
            bench_die("two processes", "a child ended early");
        }
    }
    atomic_store(&field->board->go, 1);
    for (int i = 0; i < processes; i++) {
        waitpid(children[i], NULL, 0);
        rate += field->board->of[i].rate;
    }
    return rate;
}

struct rates {
    double alone[REPETITIONS];
    double own[REPETITIONS];
    double shared[REPETITIONS];
};

static void measure(struct field *field, struct rates *rates, int i, int library)
{
    rates->alone[i] = turn(field, 1, 0, library);
    rates->own[i] = turn(field, 2, 0, library) / rates->alone[i];
    rates->shared[i] = turn(field, 2, 1, library) / rates->alone[i];
}

static void print_rates(const char *row, double *bare, double *library, double *alone)
{
    double per_second = bench_median(alone, REPETITIONS);
    printf(
        "{\"row\": \"%s\", \"limit_ratio\": %.3f, \"ratio\": %.3f, \"alone_per_second\": %.0f}\n",
        row, bench_median(bare, REPETITIONS), bench_median(library, REPETITIONS), per_second);
    fflush(stdout);
}

/* A store for each repetition: in one of many, the two subjects' hashes fall
 * into one shard. */
static void measure_library(struct field *field, struct rates *rates, int i)
{
    char store[] = "/dev/shm/quotalite-bench-XXXXXX";
    if (mkdtemp(store) == NULL) {
        bench_die("/dev/shm", "cannot make a directory");
    }
    field->store = store;
    measure(field, rates, i, 1);
    bench_remove_store(store);
}

void bench_process_rows(void)
{
    struct rates bare;
    struct rates library;
    struct field field = {bench_shared(sizeof(struct board)), bare_make(65536), NULL};
    bare_insert(field.bare, subjects[0]);
    bare_insert(field.bare, subjects[1]);
    for (int i = 0; i < REPETITIONS; i++) {
        measure(&field, &bare, i, 0);
        measure_library(&field, &library, i);
    }
    print_rates("two_processes_own", bare.own, library.own, library.alone);
    print_rates("two_processes_hot", bare.shared, library.shared, library.alone);
}
