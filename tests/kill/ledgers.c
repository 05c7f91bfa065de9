/* SPDX-License-Identifier: Apache-2.0
 *
 * Stores with a ledger, each case by its name; see ledgers.h.
 *
 *   ledgers CASE
 */
#include "ledgers.h"

#include <sqlite3.h>
#include <string.h>

static const struct kt_case cases[] = {
    {"killed", kt_ledger_killed},
    {"stopped_async", kt_ledger_stopped_async},
    {"stopped_sync", kt_ledger_stopped_sync},
    {"busy_shard", kt_ledger_busy_shard},
    {"replaced_async", kt_ledger_replaced_async},
    {"replaced_sync", kt_ledger_replaced_sync},
    {"replaced_busy", kt_ledger_replaced_busy},
    {"other_store", kt_ledger_other_store},
    {"fenced_before", kt_ledger_fenced_before},
    {"fenced_inside", kt_ledger_fenced_inside},
    {"region_removed", kt_ledger_region_removed},
    {"reboot_flushed", kt_ledger_reboot_flushed},
    {"reboot_async", kt_ledger_reboot_async},
    {"reboot_sync", kt_ledger_reboot_sync},
    {"midnight", kt_ledger_midnight},
    {"stepped_back", kt_ledger_stepped_back},
    {"day_over", kt_ledger_day_over},
    {"unflushed_days", kt_ledger_unflushed_days},
    {"fork", kt_ledger_fork},
    {"fork_threaded", kt_ledger_fork_threaded},
    {"exec", kt_ledger_exec},
};

struct ql *kt_open_ledger(enum ql_durability durability, int64_t wait_ms)
{
    struct ql_options options = kt_ledger_options(kt_clock_ns, durability, wait_ms);
    return kt_open(kt_directory, &options);
}

struct ql *kt_open_flushing(enum ql_durability durability)
{
    struct ql_options options = kt_ledger_options(kt_clock_ns, durability, KT_LONG_MS);
    options.no_thread = false;
    options.flush_interval_ms = 1;
    return kt_open(kt_directory, &options);
}

int64_t kt_alice_in_ledger(void)
{
    return kt_ledger_total(kt_directory, "alice", "bytes", -1);
}

struct pending_stop {
    struct ql *ql;
    const char *text;
    void (*stop)(struct ql *ql);
};

static int at_statement(unsigned type, void *context, void *statement, void *text)
{
    (void)type;
    (void)statement;
    struct pending_stop *pending = context;
    if (pending->text == NULL || strncmp(text, pending->text, strlen(pending->text)) != 0)
        return 0;
    pending->text = NULL;
    pending->stop(pending->ql);
    return 0;
}

void kt_before_statement(struct ql *ql, const char *text, void (*stop)(struct ql *ql))
{
    static struct pending_stop pending;
    sqlite3 *db = ql->store->flusher.ledger.db;
    pending = (struct pending_stop){ql, text, stop};
    KT_CHECK(db != NULL, "the store has no connection");
    KT_CHECK(sqlite3_trace_v2(db, SQLITE_TRACE_STMT, at_statement, &pending) == SQLITE_OK, "trace");
}

int main(int argc, char **argv)
{
    return kt_case_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
