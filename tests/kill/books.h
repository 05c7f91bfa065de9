/* SPDX-License-Identifier: Apache-2.0
 *
 * A store's ledger as a reader with SQLite of its own sees it, beside what the
 * region says: row by row they have to be the same after a flush.
 */
#ifndef KILL_BOOKS_H
#define KILL_BOOKS_H

#include "api/handle.h"
#include "harness.h"

/* The store has a ledger, no thread, and flushes when it is told to. */
struct ql_options kt_ledger_options(int64_t *clock_ns, enum ql_durability durability,
                                    int64_t wait_ms);

void kt_flush(struct ql *ql);

/* What the ledger has of a window; of all its days for day -1. */
int64_t kt_ledger_total(const char *directory, const char *subject, const char *meter, int64_t day);

/* Has SQLite check the file. */
void kt_ledger_check(const char *directory);

struct kt_difference {
    unsigned rows;  /* that were compared */
    unsigned over;  /* of which the ledger has more */
    unsigned under; /* of which the region has more */
    char first[256];
};

/* The store's day and the day before it: every subject of the region and every row
 * of the ledger. Nobody charges or flushes meanwhile. */
struct kt_difference kt_ledger_compare(const char *directory, struct ql *ql);

/* Flushes; then the ledger is sound, and the same as the region. */
void kt_ledger_expect_equal(const char *directory, struct ql *ql, const char *when);

/* Which of these children is in a flush (has the FLUSHER byte); -1: none. They are
 * stopped. */
int kt_flusher_of(const pid_t *pids, int count);

#endif
