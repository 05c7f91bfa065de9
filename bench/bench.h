/* SPDX-License-Identifier: Apache-2.0
 *
 * What the benchmarks share: time, statistics, the bare limit, and one line of
 * JSON a row on standard output, which run.py reads.
 *
 * The bare limit is what no exact counter of this kind can do without: hash a
 * key, find its cell, and make three atomic adds. It measures in the same run,
 * turn by turn with the library, so that a busy machine harms both.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "quotalite.h"

/* ---- support.c --------------------------------------------------------- */

uint64_t bench_now_ns(void);
void bench_pin(int cpu);
void bench_pin_none(void);
_Noreturn void bench_die(const char *what, const char *why);
/* Memory that forked processes share, zeroed. */
void *bench_shared(size_t size);

/* Sorts the values. */
double bench_median(double *values, size_t count);
uint64_t bench_quantile(uint64_t *sorted, size_t count, double quantile);
void bench_sort(uint64_t *values, size_t count);

/* Pseudo-random; the seeds are fixed. */
uint64_t bench_random(uint64_t *state);

/* "user-0012ab34": unlike keys of one length, made faster than they are found. */
#define BENCH_KEY_MAX 16
void bench_key(char key[BENCH_KEY_MAX], uint32_t number);

/* Runs count operations, returns the nanoseconds that they took. */
typedef uint64_t (*bench_loop)(void *context, uint64_t count);
struct bench_side {
    bench_loop loop;
    void *context;
};

/* Measures both sides turn by turn, prints the medians and that of the ratios. */
void bench_pair(const char *row, struct bench_side limit, struct bench_side measured,
                uint64_t count);

/* A store that is made for a benchmark: one concurrent limit, one of bytes a
 * day, neither ever reached; further options as given. */
struct ql *bench_open(const char *store, struct ql_options options);

/* Removes a store's directory; it has no folders in it. */
void bench_remove_store(const char *directory);

/* ---- limit.c ----------------------------------------------------------- */

struct bare;
struct bare *bare_make(uint32_t cells);
/* 1 if it was found and counted. */
int bare_count(struct bare *bare, const char *key);
void bare_insert(struct bare *bare, const char *key);

/* ---- the rows ---------------------------------------------------------- */

void bench_hot_rows(void);                /* hot.c */
void bench_million_rows(void);            /* hot.c */
void bench_memory_row(void);              /* hot.c */
void bench_process_rows(void);            /* processes.c */
void bench_store_rows(const char *disk);  /* stores.c */
void bench_kill_row(void);                /* kill.c */
void bench_ledger_rows(const char *disk); /* ledger.c */

#endif
