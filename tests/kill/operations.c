/* SPDX-License-Identifier: Apache-2.0 */
#include "operations.h"

#include "books.h"
#include "flushing.h"
#include "operations_setups.h"
#include "operations_store.h"

static void run_open(const char *directory)
{
    kt_store_open(directory);
}

static void run_check(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_check(kt_store.ql, "alice", NULL, NULL) == QL_OK, "check");
}

static void run_acquire(const char *directory)
{
    (void)directory;
    kt_store_take("bob");
}

static void run_acquire_alice(const char *directory)
{
    (void)directory;
    kt_store_take("alice");
}

static void run_admit(const char *directory)
{
    (void)directory;
    struct ql_verdict verdict;
    KT_CHECK(ql_admit(kt_store.ql, "bob", NULL, &kt_store.lease, &verdict) == QL_OK, "admit");
}

static void run_charge(const char *directory)
{
    (void)directory;
    kt_store_charge("alice", 7);
}

static void run_charge_new(const char *directory)
{
    (void)directory;
    kt_store_charge("bob", 7);
}

static void run_settle(const char *directory)
{
    (void)directory;
    struct ql_charge charges[] = {{"bytes", 7}, {"statements", 3}};
    KT_CHECK(ql_settle(kt_store.ql, kt_store.lease, charges, 2) == QL_OK, "settle");
}

static void run_release(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_release(kt_store.ql, kt_store.lease) == QL_OK, "release");
}

static void run_revoke(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_revoke(kt_store.ql, kt_store.lease) == QL_OK, "revoke");
}

static void run_settle_late(const char *directory)
{
    (void)directory;
    struct ql_charge charges[] = {{"bytes", 7}, {"statements", 3}};
    KT_CHECK(ql_settle(kt_store.ql, kt_store.lease, charges, 2) == QL_LATE, "settle");
}

static void run_renew(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_renew(kt_store.ql, kt_store.lease) == QL_OK, "renew");
}

static void run_renew_over(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_renew(kt_store.ql, kt_store.lease) == QL_E_EXPIRED, "renew");
}

static void run_usage(const char *directory)
{
    (void)directory;
    struct ql_usage usage;
    KT_CHECK(ql_usage(kt_store.ql, "alice", &usage) == QL_OK && usage.leases == 0, "usage");
}

static void run_flush(const char *directory)
{
    (void)directory;
    kt_copy(kt_store.ql);
    kt_clear(kt_store.ql);
}

static void run_clear(const char *directory)
{
    (void)directory;
    kt_clear(kt_store.ql);
}

static void run_mark_all(const char *directory)
{
    (void)directory;
    kt_mark_all(kt_store.ql);
}

static void run_restore(const char *directory)
{
    (void)directory;
    kt_restore(kt_store.ql, "bob", 0, 5);
}

static void run_reopen(const char *directory)
{
    (void)directory;
    kt_reopen(kt_store.ql, "alice", 9, 101);
}

static void run_reopen_new(const char *directory)
{
    (void)directory;
    kt_reopen(kt_store.ql, "bob", 9, 101);
}

static void run_change_limits(const char *directory)
{
    const struct ql_limit limits[] = {
        {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
        {"daily_tokens", "tokens", QL_WINDOW_DAY, 1000},
        {"daily_exports", "exports", QL_WINDOW_DAY, 1000},
    };
    struct ql_options options = kt_options(kt_store.clock_ns, KT_STORE_SLOTS, KT_STORE_ROOM);
    options.limits = limits;
    options.limit_count = 3;
    options.replace_limits = true;
    kt_open(directory, &options);
}

static void run_ledger_flush(const char *directory)
{
    (void)directory;
    kt_flush(kt_store.ql);
}

static void run_close(const char *directory)
{
    (void)directory;
    ql_close(kt_store.ql);
}

#define ALICE_100 "alice leases=0 bytes=100/0 statements=0/0"
#define ALICE_107 "alice leases=0 bytes=107/0 statements=0/0"

const struct kt_operation kt_operations[] = {
    {"create", .script = {.run = run_open}},
    {"create-again", .prepare = kt_prepare_removed_region, .script = {.run = run_open}},
    {"create-over-stale", .prepare = kt_prepare_stale_region, .script = {.run = run_open}},
    {"attach", .prepare = kt_prepare_store, .script = {.run = run_open}},
    {"attach-over-dead", .prepare = kt_prepare_dead_owner, .script = {.run = run_open}},
    {"attach-beside-dead", .prepare = kt_prepare_dead_neighbour, .script = {.run = run_open}},
    {"fork-child", .script = {.setup = kt_set_up_charged, .run = run_charge, .fork_child = true},
     .before = ALICE_100, .after = ALICE_107},
    {"check", .script = {.setup = kt_set_up_charged, .run = run_check}},
    {"acquire", .script = {.setup = kt_set_up_charged, .run = run_acquire},
     .after = "lease 1 generation=1"},
    {"admit", .script = {.setup = kt_set_up_charged, .run = run_admit},
     .after = "lease 1 generation=1"},
    {"charge", .script = {.setup = kt_set_up_charged, .run = run_charge}, .before = ALICE_100,
     .after = ALICE_107},
    {"charge-new", .script = {.setup = kt_set_up_charged, .run = run_charge_new},
     .after = "bob leases=0 bytes=7/0"},
    {"settle", .script = {.setup = kt_set_up_lease, .run = run_settle}, .before = ALICE_100,
     .after = "alice leases=0 bytes=107/0 statements=3/0"},
    {"release", .script = {.setup = kt_set_up_lease, .run = run_release},
     .after = "lease 2 generation=1 state=2"},
    {"settle-late", .script = {.setup = kt_set_up_late, .run = run_settle_late},
     .before = ALICE_100, .after = "alice leases=0 bytes=107/0 statements=3/0"},
    {"renew", .script = {.setup = kt_set_up_timed, .run = run_renew}},
    {"renew-over", .script = {.setup = kt_set_up_over, .run = run_renew_over}},
    {"expire", .script = {.setup = kt_set_up_over, .run = run_usage}},
    {"forget", .script = {.setup = kt_set_up_all_kept, .run = run_acquire},
     .after = "lease 1 generation=2"},
    {"revoke", .script = {.setup = kt_set_up_lease, .run = run_revoke},
     .after = "lease 2 generation=1 state=3"},
    {"reap", .script = {.setup = kt_set_up_dead_leases, .run = run_acquire_alice},
     .after = "lease 3 generation=1"},
    {"contended", .script = {.setup = kt_set_up_live_lock, .run = run_charge},
     .before = "bytes=101/0", .after = "bytes=108/0"},
    {"steal", .script = {.setup = kt_set_up_dead_lock, .run = run_charge}, .before = "bytes=101/0",
     .after = "bytes=108/0"},
    {"roll-over", .script = {.setup = kt_set_up_next_day, .run = run_charge},
     .before = "bytes=0/100",
     .after = "bytes=7/100 statements=0/0\ndirty alice meter=0 day=-1 100"},
    {"limits", .script = {.setup = kt_set_up_room_for_meters, .run = run_change_limits},
     .after = "and more meters"},
    {"evict", .script = {.setup = kt_set_up_full, .run = run_charge_new},
     .after = "bob leases=0 bytes=7/0"},
    {"evict-charged", .script = {.setup = kt_set_up_full_of_charged, .run = run_charge_new},
     .after = "dirty bob meter=0 day=0 7"},
    {"charge-clean", .script = {.setup = kt_set_up_flushed, .run = run_charge},
     .after = "dirty alice meter=0 day=0 107"},
    {"roll-over-clean", .script = {.setup = kt_set_up_flushed_next_day, .run = run_charge},
     .after = "dirty alice meter=0 day=0 7"},
    {"flush-clear", .script = {.setup = kt_set_up_charged, .run = run_flush},
     .before = "dirty alice"},
    {"clear-raised", .script = {.setup = kt_set_up_raised, .run = run_clear},
     .before = "dirty alice meter=1 day=0 3", .after = "dirty alice meter=0 day=0 107\nlease 1"},
    {"mark-all", .script = {.setup = kt_set_up_flushed, .run = run_mark_all},
     .after = "dirty alice meter=1 day=0 3"},
    {"restore", .script = {.setup = kt_set_up_flushed, .run = run_restore},
     .after = "bob leases=0 bytes=0/5"},
    {"reopen", .script = {.setup = kt_set_up_flushed_next_day, .run = run_reopen},
     .before = "bytes=0/100", .after = "bytes=9/101"},
    {"reopen-new", .script = {.setup = kt_set_up_flushed, .run = run_reopen_new},
     .after = "bob leases=0 bytes=9/101"},
    {"detach", .script = {.setup = kt_set_up_lease, .run = run_close}},
    {"charge-durable", .script = {.setup = kt_set_up_charged, .run = run_charge},
     .before = ALICE_100, .after = ALICE_107, .durability = QL_DURABILITY_SYNC},
    {"settle-durable", .script = {.setup = kt_set_up_lease, .run = run_settle}, .before = ALICE_100,
     .after = "alice leases=0 bytes=107/0 statements=3/0", .durability = QL_DURABILITY_SYNC},
    {"flush", .script = {.setup = kt_set_up_charged, .run = run_ledger_flush},
     .durability = QL_DURABILITY_ASYNC},
    {"flush-adopt", .script = {.setup = kt_set_up_no_ledger, .run = run_ledger_flush},
     .durability = QL_DURABILITY_ASYNC},
    {"restore-region", .prepare = kt_prepare_stale_region, .script = {.run = run_open},
     .durability = QL_DURABILITY_ASYNC},
};
const size_t kt_operation_count = sizeof kt_operations / sizeof kt_operations[0];
