/* SPDX-License-Identifier: Apache-2.0 */
#include "operations_setups.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "books.h"
#include "flushing.h"
#include "operations_store.h"

/* ---- pieces -------------------------------------------------------------- */

/* Takes the lock of the only shard and leaves changes that are not committed. */
static struct qli_guard *enter_lock(const struct kt_view *view)
{
    struct qli_guard *guard = &view->region.guards[1];
    uint64_t slot = kt_view_slot(view, getpid());
    KT_CHECK(guard->word == 0, "the lock is taken");
    guard->word = qli_word_make(slot, view->region.holders[slot].generation);
    struct qli_engine engine = kt_view_engine(view);
    struct qli_shard *shard = qli_engine_shard(&engine, 0);
    struct qli_log log = qli_log_of(&view->region, guard);
    qli_log_store(&log, &shard->subject_count, 77);
    qli_log_store(&log, &shard->lease_free, 7);
    qli_log_store(&log, &shard->lease_free, 6);
    return guard;
}

static void fork_and_wait(void (*body)(const char *), const char *directory)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        body(directory);
        _exit(0);
    }
    kt_wait_success(pid);
}

/* ---- prepared stores ----------------------------------------------------- */

void kt_prepare_store(const char *directory)
{
    kt_store_open(directory);
    kt_store_charge("alice", 100);
    ql_close(kt_store.ql);
}

static void die_with_all(const char *directory, uint32_t holders)
{
    kt_store_open_for(directory, holders);
    kt_store_charge("alice", 100);
    kt_store_take("alice");
    kt_store_take("alice");
    struct kt_view view = kt_view_open(directory);
    enter_lock(&view);
}

/* The next one can have no other slot. */
void kt_prepare_dead_owner(const char *directory)
{
    die_with_all(directory, 1);
}

void kt_prepare_dead_neighbour(const char *directory)
{
    die_with_all(directory, KT_STORE_ROOM);
}

/* A store whose region somebody removed. */
void kt_prepare_removed_region(const char *directory)
{
    kt_prepare_store(directory);
    kt_remove_file(directory, "region");
}

void kt_prepare_stale_region(const char *directory)
{
    kt_prepare_store(directory);
    kt_make_stale(directory);
}

/* ---- set-ups ------------------------------------------------------------- */

void kt_set_up_charged(const char *directory)
{
    kt_store_open(directory);
    kt_store_charge("alice", 100);
}

void kt_set_up_lease(const char *directory)
{
    kt_set_up_charged(directory);
    kt_store_take("alice");
    kt_store_take("alice");
}

void kt_set_up_late(const char *directory)
{
    kt_set_up_lease(directory);
    KT_CHECK(ql_revoke(kt_store.ql, kt_store.lease) == QL_OK, "revoke");
}

static void take_timed(int64_t ttl_ms)
{
    struct ql_request request = QL_REQUEST_INIT;
    request.ttl_ms = ttl_ms;
    KT_CHECK(ql_admit(kt_store.ql, "alice", &request, &kt_store.lease, NULL) == QL_OK, "admit");
}

void kt_set_up_timed(const char *directory)
{
    kt_set_up_charged(directory);
    take_timed(KT_DAY_NS / 1000000);
}

/* A lease that is over, and that nobody has looked at since. */
void kt_set_up_over(const char *directory)
{
    kt_set_up_charged(directory);
    take_timed(1);
    int64_t over_ns = qli_clock_boot_ns() + 2000000;
    while (qli_clock_boot_ns() < over_ns)
        sched_yield();
}

/* No slot is left but those of kept leases. */
void kt_set_up_all_kept(const char *directory)
{
    kt_store_open(directory);
    for (int i = 0; i < KT_STORE_ROOM; i++) {
        kt_store_take("alice");
        KT_CHECK(ql_revoke(kt_store.ql, kt_store.lease) == QL_OK, "revoke");
    }
    KT_CHECK(ql_release(kt_store.ql, kt_store.lease) == QL_LATE, "release");
    kt_store_take("alice");
}

static void die_with_leases(const char *directory)
{
    (void)directory;
    kt_store_take("alice");
    kt_store_take("alice");
}

void kt_set_up_dead_leases(const char *directory)
{
    kt_set_up_charged(directory);
    fork_and_wait(die_with_leases, directory);
}

static void die_in_lock(const char *directory)
{
    kt_store_charge("alice", 1);
    struct kt_view view = kt_view_open(directory);
    enter_lock(&view);
}

void kt_set_up_dead_lock(const char *directory)
{
    kt_set_up_charged(directory);
    fork_and_wait(die_in_lock, directory);
}

/* Holds the lock until somebody has waited for it for a while. */
static _Noreturn void hold_lock(const char *directory, _Atomic int *ready)
{
    kt_store_charge("alice", 1);
    struct kt_view view = kt_view_open(directory);
    struct qli_guard *guard = enter_lock(&view);
    struct timespec nap = {.tv_nsec = 12000000};
    *ready = 1;
    while (!(__atomic_load_n(&guard->word, __ATOMIC_ACQUIRE) & QLI_WORD_WAITERS))
        sched_yield();
    nanosleep(&nap, NULL);
    KT_CHECK(qli_guard_rollback(&view.region, guard) == QL_OK, "rollback");
    qli_guard_leave(guard);
    for (;;)
        pause();
}

void kt_set_up_live_lock(const char *directory)
{
    kt_set_up_charged(directory);
    _Atomic int *ready = kt_shared(sizeof *ready);
    if (kt_fork() == 0)
        hold_lock(directory, ready);
    while (*ready == 0)
        sched_yield();
}

void kt_set_up_next_day(const char *directory)
{
    kt_set_up_charged(directory);
    *kt_store.clock_ns += KT_DAY_NS;
}

void kt_set_up_room_for_meters(const char *directory)
{
    struct ql_options options = kt_options(kt_store.clock_ns, KT_STORE_SLOTS, KT_STORE_ROOM);
    options.max_meters = 4;
    kt_store.ql = kt_open(directory, &options);
    kt_store_charge("alice", 100);
}

void kt_set_up_full(const char *directory)
{
    kt_store_open(directory);
    for (int i = 0; i < KT_STORE_ROOM; i++) {
        char subject[16];
        snprintf(subject, sizeof subject, "idle-%d", i);
        kt_store_take(subject);
        KT_CHECK(ql_release(kt_store.ql, kt_store.lease) == QL_OK, "release");
    }
}

void kt_set_up_flushed(const char *directory)
{
    kt_set_up_charged(directory);
    KT_CHECK(ql_charge(kt_store.ql, "alice", "statements", 3, NULL) == QL_OK, "charge");
    kt_copy(kt_store.ql);
    kt_clear(kt_store.ql);
}

/* One total was raised since it was copied, the other one not. */
void kt_set_up_raised(const char *directory)
{
    kt_set_up_lease(directory);
    KT_CHECK(ql_charge(kt_store.ql, "alice", "statements", 3, NULL) == QL_OK, "charge");
    kt_copy(kt_store.ql);
    kt_store_charge("alice", 7);
}

void kt_set_up_flushed_next_day(const char *directory)
{
    kt_set_up_flushed(directory);
    *kt_store.clock_ns += KT_DAY_NS;
}

/* Whoever is evicted has been charged, too long ago to be shown. */
void kt_set_up_full_of_charged(const char *directory)
{
    kt_store_open(directory);
    for (int i = 0; i < KT_STORE_ROOM; i++) {
        char subject[16];
        snprintf(subject, sizeof subject, "idle-%d", i);
        kt_store_charge(subject, 7);
    }
    *kt_store.clock_ns += 2 * KT_DAY_NS;
}

/* Somebody has removed the ledger since. */
void kt_set_up_no_ledger(const char *directory)
{
    kt_set_up_charged(directory);
    kt_flush(kt_store.ql);
    kt_store_charge("bob", 1);
    kt_remove_file(directory, "ledger.db");
}
