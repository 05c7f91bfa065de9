/* SPDX-License-Identifier: Apache-2.0
 *
 * A store with a ledger, a clock that the test sets, and SQL on the ledger from
 * outside. It has no thread: what is flushed is flushed by the calls.
 */
#ifndef TESTS_UNIT_BENCH_H
#define TESTS_UNIT_BENCH_H

#include "harness.h"
#include "ledger/ledger.h"

#define BENCH_DAY INT64_C(86400)

struct bench {
    char base[KT_PATH];
    char store[KT_PATH + 8]; /* in base; not made yet */
    int64_t *clock_ns;
};

void bench_make(struct bench *bench);
void bench_remove(const struct bench *bench);

/* Three limits: on leases, on bytes and on statements. Flushed only when a call asks
 * for it. They stay the thread's until it calls this again. */
struct ql_options bench_options(const struct bench *bench, uint32_t room);

/* Runs SQL on the ledger; the first number of its answer. */
void bench_sql(const struct bench *bench, const char *sql);
int64_t bench_number(const struct bench *bench, const char *sql);

/* What a subject has used today; -1: the store has no such meter. */
int64_t bench_total(struct ql *ql, const char *subject, const char *meter);
int64_t bench_yesterday(struct ql *ql, const char *subject, const char *meter);

#endif
