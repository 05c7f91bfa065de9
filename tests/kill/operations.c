/* SPDX-License-Identifier: Apache-2.0 */
#include "operations.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "books.h"
#include "engine/lease.h"
#include "flushing.h"

#define ROOM 8
#define SLOTS 2

static int64_t *clock_ns;
static struct ql *ql;
static struct ql_lease lease;
static enum ql_durability durability;

void kt_operations_begin(void)
{
    clock_ns = kt_shared(sizeof *clock_ns);
}

void kt_operations_reset_clock(void)
{
    *clock_ns = KT_START_NS;
}

static bool has_ledger(void)
{
    return durability != QL_DURABILITY_NONE;
}

/* ---- pieces -------------------------------------------------------------- */

static void open_store_for(const char *directory, uint32_t holders)
{
    struct ql_options options = kt_options(clock_ns, SLOTS, ROOM);
    options.max_holders = holders;
    options.durability = durability;
    options.no_thread = true;
    options.flush_interval_ms = KT_DAY_NS / 1000000;
    options.replace_limits = true; /* whoever comes after a change of limits takes it back */
    ql = kt_open(directory, &options);
}

static void open_store(const char *directory)
{
    open_store_for(directory, ROOM);
}

static void charge(const char *subject, int64_t amount)
{
    enum ql_status status = ql_charge(ql, subject, "bytes", amount, NULL);
    KT_CHECK(status == QL_OK, "charge: %s", ql_status_name(status));
}

static void take(const char *subject)
{
    enum ql_status status = ql_acquire(ql, subject, &lease, NULL);
    KT_CHECK(status == QL_OK, "acquire: %s", ql_status_name(status));
}

static struct qli_engine look_inside(const char *directory)
{
    struct qli_engine engine = {.region = kt_view_open(directory).region};
    KT_CHECK(qli_engine_bind(&engine, NULL) == QL_OK, "the geometry is damaged");
    return engine;
}

/* Takes the lock of the only shard and leaves changes that are not committed. */
static struct qli_guard *enter_lock(struct qli_engine *engine)
{
    struct qli_region *region = &engine->region;
    struct kt_view view = {.region = *region};
    uint64_t slot = kt_view_slot(&view, getpid());
    struct qli_guard *guard = &region->guards[1];
    KT_CHECK(guard->word == 0, "the lock is taken");
    guard->word = qli_word_make(slot, region->holders[slot].generation);
    struct qli_shard *shard = qli_engine_shard(engine, 0);
    struct qli_log log = qli_log_of(region, guard);
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

static void prepare_store(const char *directory)
{
    open_store(directory);
    charge("alice", 100);
    ql_close(ql);
}

static void die_with_all(const char *directory, uint32_t holders)
{
    open_store_for(directory, holders);
    charge("alice", 100);
    take("alice");
    take("alice");
    struct qli_engine engine = look_inside(directory);
    enter_lock(&engine);
}

/* The next one can have no other slot. */
static void prepare_dead_owner(const char *directory)
{
    die_with_all(directory, 1);
}

static void prepare_dead_neighbour(const char *directory)
{
    die_with_all(directory, ROOM);
}

/* ---- set-ups ------------------------------------------------------------- */

static void set_up_charged(const char *directory)
{
    open_store(directory);
    charge("alice", 100);
}

static void set_up_lease(const char *directory)
{
    set_up_charged(directory);
    take("alice");
    take("alice");
}

static void set_up_late(const char *directory)
{
    set_up_lease(directory);
    KT_CHECK(ql_revoke(ql, lease) == QL_OK, "revoke");
}

static void take_timed(int64_t ttl_ms)
{
    struct ql_request request = QL_REQUEST_INIT;
    request.ttl_ms = ttl_ms;
    KT_CHECK(ql_admit(ql, "alice", &request, &lease, NULL) == QL_OK, "admit");
}

static void set_up_timed(const char *directory)
{
    set_up_charged(directory);
    take_timed(KT_DAY_NS / 1000000);
}

/* A lease that is over, and that nobody has looked at since. */
static void set_up_over(const char *directory)
{
    set_up_charged(directory);
    take_timed(1);
    int64_t over_ns = qli_clock_boot_ns() + 2000000;
    while (qli_clock_boot_ns() < over_ns)
        sched_yield();
}

/* No slot is left but those of kept leases. */
static void set_up_all_kept(const char *directory)
{
    open_store(directory);
    for (int i = 0; i < ROOM; i++) {
        take("alice");
        KT_CHECK(ql_revoke(ql, lease) == QL_OK, "revoke");
    }
    KT_CHECK(ql_release(ql, lease) == QL_LATE, "release");
    take("alice");
}

static void die_with_leases(const char *directory)
{
    (void)directory;
    take("alice");
    take("alice");
}

static void set_up_dead_leases(const char *directory)
{
    set_up_charged(directory);
    fork_and_wait(die_with_leases, directory);
}

static void die_in_lock(const char *directory)
{
    charge("alice", 1);
    struct qli_engine engine = look_inside(directory);
    enter_lock(&engine);
}

static void set_up_dead_lock(const char *directory)
{
    set_up_charged(directory);
    fork_and_wait(die_in_lock, directory);
}

/* Holds the lock until somebody has waited for it for a while. */
static _Noreturn void hold_lock(const char *directory, _Atomic int *ready)
{
    charge("alice", 1);
    struct qli_engine engine = look_inside(directory);
    struct qli_guard *guard = enter_lock(&engine);
    struct timespec nap = {.tv_nsec = 12000000};
    *ready = 1;
    while (!(__atomic_load_n(&guard->word, __ATOMIC_ACQUIRE) & QLI_WORD_WAITERS))
        sched_yield();
    nanosleep(&nap, NULL);
    KT_CHECK(qli_guard_rollback(&engine.region, guard) == QL_OK, "rollback");
    qli_guard_leave(guard);
    for (;;)
        pause();
}

static void set_up_live_lock(const char *directory)
{
    set_up_charged(directory);
    _Atomic int *ready = kt_shared(sizeof *ready);
    if (kt_fork() == 0)
        hold_lock(directory, ready);
    while (*ready == 0)
        sched_yield();
}

static void set_up_next_day(const char *directory)
{
    set_up_charged(directory);
    *clock_ns += KT_DAY_NS;
}

static void set_up_room_for_meters(const char *directory)
{
    struct ql_options options = kt_options(clock_ns, SLOTS, ROOM);
    options.max_meters = 4;
    ql = kt_open(directory, &options);
    charge("alice", 100);
}

static void set_up_full(const char *directory)
{
    open_store(directory);
    for (int i = 0; i < ROOM; i++) {
        char subject[16];
        snprintf(subject, sizeof subject, "idle-%d", i);
        take(subject);
        KT_CHECK(ql_release(ql, lease) == QL_OK, "release");
    }
}

static void set_up_flushed(const char *directory)
{
    set_up_charged(directory);
    KT_CHECK(ql_charge(ql, "alice", "statements", 3, NULL) == QL_OK, "charge");
    kt_copy(ql);
    kt_clear(ql);
}

/* One total was raised since it was copied, the other one not. */
static void set_up_raised(const char *directory)
{
    set_up_lease(directory);
    KT_CHECK(ql_charge(ql, "alice", "statements", 3, NULL) == QL_OK, "charge");
    kt_copy(ql);
    charge("alice", 7);
}

static void set_up_flushed_next_day(const char *directory)
{
    set_up_flushed(directory);
    *clock_ns += KT_DAY_NS;
}

/* Whoever is evicted has been charged, too long ago to be shown. */
static void set_up_full_of_charged(const char *directory)
{
    open_store(directory);
    for (int i = 0; i < ROOM; i++) {
        char subject[16];
        snprintf(subject, sizeof subject, "idle-%d", i);
        charge(subject, 7);
    }
    *clock_ns += 2 * KT_DAY_NS;
}

/* Somebody has removed the ledger since. */
static void set_up_no_ledger(const char *directory)
{
    char path[KT_PATH + 16];
    set_up_charged(directory);
    kt_flush(ql);
    charge("bob", 1);
    snprintf(path, sizeof path, "%s/ledger.db", directory);
    KT_CHECK(unlink(path) == 0, "unlink %s", path);
}

/* ---- runs ---------------------------------------------------------------- */

/* A store whose region somebody removed. */
static void prepare_removed_region(const char *directory)
{
    char path[KT_PATH];
    prepare_store(directory);
    snprintf(path, sizeof path, "%s/region", directory);
    KT_CHECK(unlink(path) == 0, "unlink %s", path);
}

static void prepare_stale_region(const char *directory)
{
    prepare_store(directory);
    kt_make_stale(directory);
}

static void run_open(const char *directory)
{
    open_store(directory);
}

static void run_check(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_check(ql, "alice", NULL, NULL) == QL_OK, "check");
}

static void run_acquire(const char *directory)
{
    (void)directory;
    take("bob");
}

static void run_acquire_alice(const char *directory)
{
    (void)directory;
    take("alice");
}

static void run_admit(const char *directory)
{
    (void)directory;
    struct ql_verdict verdict;
    KT_CHECK(ql_admit(ql, "bob", NULL, &lease, &verdict) == QL_OK, "admit");
}

static void run_charge(const char *directory)
{
    (void)directory;
    charge("alice", 7);
}

static void run_charge_new(const char *directory)
{
    (void)directory;
    charge("bob", 7);
}

static void run_settle(const char *directory)
{
    (void)directory;
    struct ql_charge charges[] = {{"bytes", 7}, {"statements", 3}};
    KT_CHECK(ql_settle(ql, lease, charges, 2) == QL_OK, "settle");
}

static void run_release(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_release(ql, lease) == QL_OK, "release");
}

static void run_revoke(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_revoke(ql, lease) == QL_OK, "revoke");
}

static void run_settle_late(const char *directory)
{
    (void)directory;
    struct ql_charge charges[] = {{"bytes", 7}, {"statements", 3}};
    KT_CHECK(ql_settle(ql, lease, charges, 2) == QL_LATE, "settle");
}

static void run_renew(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_renew(ql, lease) == QL_OK, "renew");
}

static void run_renew_over(const char *directory)
{
    (void)directory;
    KT_CHECK(ql_renew(ql, lease) == QL_E_EXPIRED, "renew");
}

static void run_usage(const char *directory)
{
    (void)directory;
    struct ql_usage usage;
    KT_CHECK(ql_usage(ql, "alice", &usage) == QL_OK && usage.leases == 0, "usage");
}

static void run_flush(const char *directory)
{
    (void)directory;
    kt_copy(ql);
    kt_clear(ql);
}

static void run_clear(const char *directory)
{
    (void)directory;
    kt_clear(ql);
}

static void run_mark_all(const char *directory)
{
    (void)directory;
    kt_mark_all(ql);
}

static void run_restore(const char *directory)
{
    (void)directory;
    kt_restore(ql, "bob", 0, 5);
}

static void run_reopen(const char *directory)
{
    (void)directory;
    kt_reopen(ql, "alice", 9, 101);
}

static void run_reopen_new(const char *directory)
{
    (void)directory;
    kt_reopen(ql, "bob", 9, 101);
}

static void run_change_limits(const char *directory)
{
    const struct ql_limit limits[] = {
        {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
        {"daily_tokens", "tokens", QL_WINDOW_DAY, 1000},
        {"daily_exports", "exports", QL_WINDOW_DAY, 1000},
    };
    struct ql_options options = kt_options(clock_ns, SLOTS, ROOM);
    options.limits = limits;
    options.limit_count = 3;
    options.replace_limits = true;
    kt_open(directory, &options);
}

static void run_ledger_flush(const char *directory)
{
    (void)directory;
    kt_flush(ql);
}

static void run_close(const char *directory)
{
    (void)directory;
    ql_close(ql);
}

#define ALICE_100 "alice leases=0 bytes=100/0 statements=0/0"
#define ALICE_107 "alice leases=0 bytes=107/0 statements=0/0"

const struct kt_operation kt_operations[] = {
    {"create", NULL, {NULL, run_open, false}, NULL, NULL},
    {"create-again", prepare_removed_region, {NULL, run_open, false}, NULL, NULL},
    {"create-over-stale", prepare_stale_region, {NULL, run_open, false}, NULL, NULL},
    {"attach", prepare_store, {NULL, run_open, false}, NULL, NULL},
    {"attach-over-dead", prepare_dead_owner, {NULL, run_open, false}, NULL, NULL},
    {"attach-beside-dead", prepare_dead_neighbour, {NULL, run_open, false}, NULL, NULL},
    {"fork-child", NULL, {set_up_charged, run_charge, true}, ALICE_100, ALICE_107},
    {"check", NULL, {set_up_charged, run_check, false}, NULL, NULL},
    {"acquire", NULL, {set_up_charged, run_acquire, false}, NULL, "lease 1 generation=1"},
    {"admit", NULL, {set_up_charged, run_admit, false}, NULL, "lease 1 generation=1"},
    {"charge", NULL, {set_up_charged, run_charge, false}, ALICE_100, ALICE_107},
    {"charge-new", NULL, {set_up_charged, run_charge_new, false}, NULL, "bob leases=0 bytes=7/0"},
    {"settle",
     NULL,
     {set_up_lease, run_settle, false},
     ALICE_100,
     "alice leases=0 bytes=107/0 statements=3/0"},
    {"release", NULL, {set_up_lease, run_release, false}, NULL, "lease 2 generation=1 state=2"},
    {"settle-late",
     NULL,
     {set_up_late, run_settle_late, false},
     ALICE_100,
     "alice leases=0 bytes=107/0 statements=3/0"},
    {"renew", NULL, {set_up_timed, run_renew, false}, NULL, NULL},
    {"renew-over", NULL, {set_up_over, run_renew_over, false}, NULL, NULL},
    {"expire", NULL, {set_up_over, run_usage, false}, NULL, NULL},
    {"forget", NULL, {set_up_all_kept, run_acquire, false}, NULL, "lease 1 generation=2"},
    {"revoke", NULL, {set_up_lease, run_revoke, false}, NULL, "lease 2 generation=1 state=3"},
    {"reap", NULL, {set_up_dead_leases, run_acquire_alice, false}, NULL, "lease 3 generation=1"},
    {"contended", NULL, {set_up_live_lock, run_charge, false}, "bytes=101/0", "bytes=108/0"},
    {"steal", NULL, {set_up_dead_lock, run_charge, false}, "bytes=101/0", "bytes=108/0"},
    {"roll-over",
     NULL,
     {set_up_next_day, run_charge, false},
     "bytes=0/100",
     "bytes=7/100 statements=0/0\ndirty alice meter=0 day=-1 100"},
    {"limits", NULL, {set_up_room_for_meters, run_change_limits, false}, NULL, "and more meters"},
    {"evict", NULL, {set_up_full, run_charge_new, false}, NULL, "bob leases=0 bytes=7/0"},
    {"evict-charged",
     NULL,
     {set_up_full_of_charged, run_charge_new, false},
     NULL,
     "dirty bob meter=0 day=0 7"},
    {"charge-clean",
     NULL,
     {set_up_flushed, run_charge, false},
     NULL,
     "dirty alice meter=0 day=0 107"},
    {"roll-over-clean",
     NULL,
     {set_up_flushed_next_day, run_charge, false},
     NULL,
     "dirty alice meter=0 day=0 7"},
    {"flush-clear", NULL, {set_up_charged, run_flush, false}, "dirty alice", NULL},
    {"clear-raised",
     NULL,
     {set_up_raised, run_clear, false},
     "dirty alice meter=1 day=0 3",
     "dirty alice meter=0 day=0 107\nlease 1"},
    {"mark-all", NULL, {set_up_flushed, run_mark_all, false}, NULL, "dirty alice meter=1 day=0 3"},
    {"restore", NULL, {set_up_flushed, run_restore, false}, NULL, "bob leases=0 bytes=0/5"},
    {"reopen", NULL, {set_up_flushed_next_day, run_reopen, false}, "bytes=0/100", "bytes=9/101"},
    {"reopen-new", NULL, {set_up_flushed, run_reopen_new, false}, NULL, "bob leases=0 bytes=9/101"},
    {"detach", NULL, {set_up_lease, run_close, false}, NULL, NULL},
    {"charge-durable", NULL, {set_up_charged, run_charge, false}, ALICE_100, ALICE_107},
    {"settle-durable",
     NULL,
     {set_up_lease, run_settle, false},
     ALICE_100,
     "alice leases=0 bytes=107/0 statements=3/0"},
    {"flush", NULL, {set_up_charged, run_ledger_flush, false}, NULL, NULL},
    {"flush-adopt", NULL, {set_up_no_ledger, run_ledger_flush, false}, NULL, NULL},
    {"restore-region", prepare_stale_region, {NULL, run_open, false}, NULL, NULL},
};
const size_t kt_operation_count = sizeof kt_operations / sizeof kt_operations[0];

static const struct {
    const char *operation;
    enum ql_durability durability;
} durabilities[] = {
    {"charge-durable", QL_DURABILITY_SYNC},  {"settle-durable", QL_DURABILITY_SYNC},
    {"flush", QL_DURABILITY_ASYNC},          {"flush-adopt", QL_DURABILITY_ASYNC},
    {"restore-region", QL_DURABILITY_ASYNC},
};

bool kt_operations_choose(const struct kt_operation *operation)
{
    durability = QL_DURABILITY_NONE;
    for (size_t i = 0; i < sizeof durabilities / sizeof durabilities[0]; i++) {
        if (strcmp(durabilities[i].operation, operation->name) == 0)
            durability = durabilities[i].durability;
    }
    return has_ledger();
}

/* ---- recovery ------------------------------------------------------------ */

void kt_recover(const char *directory)
{
    struct ql_usage usage;
    open_store(directory);
    KT_CHECK(ql_usage(ql, "nobody", &usage) == QL_OK, "usage");
    if (has_ledger())
        kt_flush(ql);
}

struct lines {
    char text[ROOM * 2][128];
    size_t count;
};

static int add_subject(void *context, const struct ql_subject_info *info)
{
    struct lines *lines = context;
    const struct ql_usage *u = &info->usage;
    KT_CHECK(u->meter_count >= 2 && lines->count < ROOM * 2, "%u meters", u->meter_count);
    const struct ql_meter_state *b = &u->meters[0];
    const struct ql_meter_state *s = &u->meters[1];
    if (u->leases == 0 && b->total == 0 && b->yesterday == 0 && s->total == 0 && s->yesterday == 0)
        return 0;
    snprintf(lines->text[lines->count++], sizeof lines->text[0],
             "%s leases=%lld bytes=%lld/%lld statements=%lld/%lld%s\n", info->subject,
             (long long)u->leases, (long long)b->total, (long long)b->yesterday,
             (long long)s->total, (long long)s->yesterday,
             u->meter_count > 2 ? " and more meters" : "");
    return 0;
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int count_held(void *context, const struct ql_lease_info *info)
{
    *(int *)context += !info->timed;
    return 0;
}

/* Timed leases stay. */
static void wait_for_reaping(void)
{
    int held;
    struct ql_error error;
    int64_t deadline_ns = kt_now_ns() + INT64_C(20000000000);
    do {
        struct ql_usage usage;
        KT_CHECK(ql_usage(ql, "nobody", &usage) == QL_OK, "usage");
        enum ql_status status = ql_verify(ql, NULL, &error);
        KT_CHECK(status == QL_OK, "verify: %s: %s", ql_status_name(status), error.text);
        KT_CHECK(kt_now_ns() < deadline_ns, "leases of the dead stay");
        held = 0;
        KT_CHECK(ql_each_lease(ql, count_held, &held, NULL) == QL_OK, "each lease");
    } while (held != 0);
}

/* Forgetting is a commit of its own, before that of the operation that needed the
 * room: a lease that is forgotten is shown as the kept one that it was. */
static enum qli_lease_state shown_state(const struct qli_lease *slot)
{
    enum qli_lease_state state = qli_lease_state(slot);
    return state == QLI_LEASE_NONE ? QLI_LEASE_REVOKED : state;
}

/* A kept lease that has lost the subject that its settle would charge. */
static bool is_astray(const struct qli_section *section, const struct qli_lease *slot)
{
    const struct qli_subject *subject = qli_subject_at(section, slot->subject);
    return qli_lease_is_kept(slot) &&
           (subject == NULL || qli_subject_kind(subject) != QLI_SUBJECT_USED ||
            subject->hash != slot->subject_hash);
}

static size_t add_leases(const char *directory, char *dump, size_t size)
{
    struct qli_engine engine = look_inside(directory);
    struct qli_section section = {.engine = &engine, .shard = qli_engine_shard(&engine, 0)};
    size_t used = 0;
    for (uint64_t i = 1; i <= section.shard->lease_top; i++) {
        const struct qli_lease *slot = qli_lease_at(&section, i);
        if (slot->life != 0)
            used += (size_t)snprintf(
                dump + used, size - used, "lease %llu generation=%llu state=%d%s\n",
                (unsigned long long)i, (unsigned long long)qli_lease_generation(slot),
                (int)shown_state(slot), is_astray(&section, slot) ? " astray" : "");
    }
    return used;
}

void kt_recover_dump(const char *directory, char *dump, size_t size)
{
    struct lines lines = {.count = 0};
    kt_recover(directory);
    wait_for_reaping();
    KT_CHECK(ql_each_subject(ql, add_subject, &lines, NULL) == QL_OK, "each subject");
    qsort(lines.text, lines.count, sizeof lines.text[0], compare_lines);
    size_t used = 0;
    for (size_t i = 0; i < lines.count; i++)
        used += (size_t)snprintf(dump + used, size - used, "%s", lines.text[i]);
    used += kt_dump_dirty(ql, dump + used, size - used);
    add_leases(directory, dump + used, size - used);
    if (has_ledger())
        kt_ledger_expect_equal(directory, ql, "after the recovery");
    charge("carol", 5);
    ql_close(ql);
}
