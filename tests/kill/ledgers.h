/* SPDX-License-Identifier: Apache-2.0
 *
 * The cases of `ledgers`, and what they share.
 */
#ifndef KILL_LEDGERS_H
#define KILL_LEDGERS_H

#include "books.h"
#include "scenario.h"

#define KT_LONG_MS 20000

/* The case's store, without a thread. */
struct ql *kt_open_ledger(enum ql_durability durability, int64_t wait_ms);

/* The same with a thread that flushes every millisecond. */
struct ql *kt_open_flushing(enum ql_durability durability);

/* Alice's bytes in the ledger, of all days. */
int64_t kt_alice_in_ledger(void);

/* Calls stop() before the next statement that begins so runs in the connection that
 * the store has; once. */
void kt_before_statement(struct ql *ql, const char *text, void (*stop)(struct ql *ql));

/* ledgers_stopped.c: a flusher that is stopped, or killed. */
int kt_ledger_killed(void);
int kt_ledger_stopped_async(void);
int kt_ledger_stopped_sync(void);
int kt_ledger_busy_shard(void);

/* ledgers_replaced.c: ledgers and regions that are replaced while in use. */
int kt_ledger_replaced_async(void);
int kt_ledger_replaced_sync(void);
int kt_ledger_replaced_busy(void);
int kt_ledger_other_store(void);
int kt_ledger_fenced_before(void);
int kt_ledger_fenced_inside(void);
int kt_ledger_region_removed(void);

/* ledgers_reboots.c: the region is one of an earlier boot. */
int kt_ledger_reboot_flushed(void);
int kt_ledger_reboot_async(void);
int kt_ledger_reboot_sync(void);

/* ledgers_clocks.c: days that change under load. */
int kt_ledger_midnight(void);
int kt_ledger_stepped_back(void);
int kt_ledger_day_over(void);
int kt_ledger_unflushed_days(void);

/* ledgers_forks.c: fork and exec. */
int kt_ledger_fork(void);
int kt_ledger_fork_threaded(void);
int kt_ledger_exec(void);

#endif
