/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a case tries a store with a ledger: the place for the store, a clock that the
 * case sets, and SQL on the ledger from outside. The store has no thread: what is
 * flushed is flushed by the calls.
 */
#ifndef TESTS_UNIT_STAGE_H
#define TESTS_UNIT_STAGE_H

#include "harness.h"
#include "ledger/ledger.h"

#define STAGE_DAY INT64_C(86400)
#define STAGE_ROOM 64

struct stage {
    char base[KT_PATH];
    char store[KT_PATH + 8]; /* in base; not made yet */
    int64_t *clock_ns;
};

extern struct stage stage;

/* Before and after a case; in the middle of one: all is new again. */
int stage_set_up(void **state);
int stage_tear_down(void **state);
void stage_renew(void);

/* Three limits: on leases, on bytes and on statements. Flushed only when a call asks
 * for it. They stay the thread's until it calls this again. */
struct ql_options stage_options(uint32_t room);

/* The store, with STAGE_ROOM. */
struct ql *stage_open(void);

void stage_charge(struct ql *ql, const char *subject, const char *meter, int64_t amount);
void stage_flush(struct ql *ql);

/* Runs SQL on the ledger; the first number of its answer. */
void stage_sql(const char *sql);
int64_t stage_number(const char *sql);

/* What a subject has used today; -1: the store has no such meter. */
int64_t stage_total(struct ql *ql, const char *subject, const char *meter);
int64_t stage_yesterday(struct ql *ql, const char *subject, const char *meter);

#endif
