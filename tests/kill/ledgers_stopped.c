/* SPDX-License-Identifier: Apache-2.0
 *
 * A flusher that is stopped in its transaction is in nobody's way but of those who
 * want the ledger, and these wait to their own deadline.
 */
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "ledgers.h"

#define SHORT_MS 50
#define CHARGES 100

static void stop_myself(struct ql *ql)
{
    (void)ql;
    raise(SIGSTOP);
}

/* A child that charged 1 and is stopped in the flush of it, at that statement. */
static pid_t start_stopped(enum ql_durability durability, const char *text)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql *ql = kt_open_ledger(durability, KT_LONG_MS);
        kt_expect(ql_charge(ql, "bob", "bytes", 1, NULL), QL_OK, "charge of bob");
        kt_flush(ql);
        kt_before_statement(ql, text, stop_myself);
        kt_charge(ql, 1);
        kt_flush(ql);
        _exit(0);
    }
    kt_await_stop(pid);
    KT_CHECK(kt_flusher_of(&pid, 1) == 0, "it is not in a flush");
    return pid;
}

static void kill_at(enum ql_durability durability, struct ql *ql, const char *text, int64_t charged)
{
    pid_t victim = start_stopped(durability, text);
    kt_kill(victim);
    kt_ledger_expect_equal(kt_directory, ql, text);
    KT_CHECK(kt_alice_in_ledger() == charged && kt_total(ql) == charged,
             "%s: the ledger has %lld, the region %lld, charged were %lld", text,
             (long long)kt_alice_in_ledger(), (long long)kt_total(ql), (long long)charged);
}

/* At each step of a flush: nothing that is only in the region is taken for written. */
int kt_ledger_killed(void)
{
    static const char *const texts[] = {"BEGIN IMMEDIATE", "SELECT ledger", "INSERT INTO totals",
                                        "UPDATE meta", "COMMIT"};
    const size_t count = sizeof texts / sizeof texts[0];
    for (size_t i = 0; i < 2 * count; i++) {
        enum ql_durability durability = i < count ? QL_DURABILITY_ASYNC : QL_DURABILITY_SYNC;
        struct ql *ql = kt_open_ledger(durability, KT_LONG_MS);
        kill_at(durability, ql, texts[i % count], 1 + (int64_t)i);
        kt_verify(ql);
        ql_close(ql);
    }
    return 0;
}

static int64_t lag_of(struct ql *ql)
{
    int64_t lag_ms;
    kt_expect(ql_flush_lag(ql, &lag_ms), QL_OK, "lag");
    return lag_ms;
}

static void await_lag(struct ql *ql, int64_t at_least_ms)
{
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    while (lag_of(ql) < at_least_ms)
        KT_CHECK(kt_now_ns() < deadline_ns, "the lag stays %lld ms", (long long)lag_of(ql));
}

/* Another process, which has nothing of the store yet, enters it when it is told. */
static pid_t start_opener(enum ql_durability durability)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        kt_await(&kt_flags[0], 1);
        struct ql *ql = kt_open_ledger(durability, SHORT_MS);
        enum ql_status status = ql_charge(ql, "alice", "bytes", 1, NULL);
        kt_expect(status, durability == QL_DURABILITY_SYNC ? QL_E_NOT_DURABLE : QL_OK, "charge");
        ql_close(ql);
        _exit(0);
    }
    return pid;
}

static void open_elsewhere(pid_t opener)
{
    kt_flags[0] = 1;
    kt_wait_success(opener);
}

static void go_on(pid_t victim, struct ql *ql, int64_t charged)
{
    kill(victim, SIGCONT);
    kt_wait_success(victim);
    kt_ledger_expect_equal(kt_directory, ql, "after it went on");
    KT_CHECK(kt_alice_in_ledger() == charged && kt_total(ql) == charged,
             "the ledger has %lld, the region %lld, charged were %lld",
             (long long)kt_alice_in_ledger(), (long long)kt_total(ql), (long long)charged);
    kt_verify(ql);
    ql_close(ql);
}

int kt_ledger_stopped_async(void)
{
    pid_t opener = start_opener(QL_DURABILITY_ASYNC);
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, SHORT_MS);
    pid_t victim = start_stopped(QL_DURABILITY_ASYNC, "COMMIT");
    for (int i = 0; i < CHARGES; i++)
        kt_charge(ql, 1);
    kt_expect(ql_flush(ql, NULL), QL_E_BUSY, "flush");
    await_lag(ql, lag_of(ql) + SHORT_MS);
    KT_CHECK(kt_alice_in_ledger() == 0, "the ledger has %lld", (long long)kt_alice_in_ledger());
    open_elsewhere(opener);
    go_on(victim, ql, CHARGES + 2);
    return 0;
}

/* Each charge is made, once, and says that it is not durable. */
int kt_ledger_stopped_sync(void)
{
    pid_t opener = start_opener(QL_DURABILITY_SYNC);
    struct ql *ql = kt_open_ledger(QL_DURABILITY_SYNC, SHORT_MS);
    const struct ql_charge amount = {"bytes", 10};
    pid_t victim = start_stopped(QL_DURABILITY_SYNC, "COMMIT");
    struct ql_lease lease = kt_take(ql);
    kt_expect(ql_charge(ql, "alice", "bytes", 100, NULL), QL_E_NOT_DURABLE, "charge");
    kt_expect(ql_settle(ql, lease, &amount, 1), QL_E_NOT_DURABLE, "settle");
    kt_expect(ql_settle(ql, lease, &amount, 1), QL_E_SETTLED, "the same again");
    kt_expect(ql_release(ql, kt_take(ql)), QL_OK, "release, which charges nothing");
    KT_CHECK(kt_total(ql) == 111, "the region has %lld", (long long)kt_total(ql));
    open_elsewhere(opener);
    go_on(victim, ql, 112);
    return 0;
}

/* Stays in the lock of the only shard until so many flushes have found it there. */
static _Noreturn void hold_shard(struct ql *ql, uint64_t flushes)
{
    struct qli_section section;
    const struct qli_ledger_page *page = ql->store->engine.ledger_page;
    kt_charge(ql, 1);
    kt_expect(kt_enter(ql, &section), QL_OK, "enter");
    flushes += __atomic_load_n(&page->begun, __ATOMIC_ACQUIRE);
    kt_flags[1] = 1;
    while (__atomic_load_n(&page->begun, __ATOMIC_ACQUIRE) < flushes)
        sched_yield();
    qli_section_leave(&section);
    _exit(0);
}

/* Whoever may wait long for a flush does so for a shard too. */
int kt_ledger_busy_shard(void)
{
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    struct ql *hasty = kt_open_ledger(QL_DURABILITY_ASYNC, SHORT_MS);
    pid_t holder = kt_fork();
    if (holder == 0)
        hold_shard(ql, 10);
    kt_await(&kt_flags[1], 1);
    kt_expect(ql_flush(hasty, NULL), QL_E_BUSY, "a flush that may not wait long");
    kt_flush(ql);
    kt_wait_success(holder);
    kt_ledger_expect_equal(kt_directory, ql, "after a busy shard");
    ql_close(hasty);
    ql_close(ql);
    return 0;
}
