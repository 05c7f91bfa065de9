/* SPDX-License-Identifier: Apache-2.0
 *
 * Days that change while processes charge and flush. A worker that saw the store in
 * one day before and after a charge knows where the charge is; of the others it
 * knows the two days between which it fell.
 */
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ledgers.h"

#define WORKERS 4
#define DAYS 16
#define FIRST_DAY (KT_START_NS / KT_DAY_NS - 3)
#define SECOND_NS INT64_C(1000000000)

struct worker {
    int64_t clock_ns;
    _Atomic int64_t charges;
    _Atomic int64_t certain[DAYS];   /* charges that are of this day */
    _Atomic int64_t ambiguous[DAYS]; /* those that may be */
};

static struct worker *workers;
static bool share_clock; /* the first one's: no two of them ever disagree */
static _Atomic int *finish;

static int64_t store_day(const struct ql *ql)
{
    return (int64_t)__atomic_load_n(&ql->store->engine.page->day, __ATOMIC_SEQ_CST);
}

static void name_of(int number, char name[32])
{
    snprintf(name, 32, "worker-%d", number);
}

static void note(struct worker *worker, int64_t before, int64_t after)
{
    KT_CHECK(before >= FIRST_DAY && before < FIRST_DAY + DAYS, "day %lld", (long long)before);
    KT_CHECK(after >= FIRST_DAY && after < FIRST_DAY + DAYS, "day %lld", (long long)after);
    if (before == after)
        worker->certain[before - FIRST_DAY]++;
    int64_t day = before < after ? before : after;
    int64_t last = before < after ? after : before;
    for (; before != after && day <= last; day++)
        worker->ambiguous[day - FIRST_DAY]++;
    worker->charges++;
}

/* Charges its own subject, and one that all share. */
static _Noreturn void work(int number)
{
    char name[32];
    struct worker *worker = &workers[number];
    struct ql_options options = kt_ledger_options(&workers[share_clock ? 0 : number].clock_ns,
                                                  QL_DURABILITY_ASYNC, KT_LONG_MS);
    options.no_thread = number % 2 == 0;
    options.flush_interval_ms = 1;
    struct ql *ql = kt_open(kt_directory, &options);
    name_of(number, name);
    for (uint64_t i = 1; *finish == 0; i++) {
        int64_t before = store_day(ql);
        kt_expect(ql_charge(ql, name, "bytes", 1, NULL), QL_OK, "charge");
        note(worker, before, store_day(ql));
        kt_expect(ql_charge(ql, "shared", "bytes", 1, NULL), QL_OK, "charge of all");
        if (number == 0 && i % 8 == 0)
            kt_flush(ql);
    }
    ql_close(ql);
    _exit(0);
}

/* Until each worker has made so many charges more. */
static void await_charges(int64_t more)
{
    for (int w = 0; w < WORKERS; w++)
        kt_await(&workers[w].charges, workers[w].charges + more);
}

static int64_t ledger_day(const char *name, int64_t day)
{
    return kt_ledger_total(kt_directory, name, "bytes", day);
}

static int64_t compare_worker(int number)
{
    char name[32];
    int64_t sum = 0;
    const struct worker *worker = &workers[number];
    name_of(number, name);
    for (int d = 0; d < DAYS; d++) {
        int64_t total = ledger_day(name, FIRST_DAY + d);
        int64_t least = worker->certain[d];
        int64_t most = least + worker->ambiguous[d];
        KT_CHECK(total >= least && total <= most, "%s, day %d: %lld; %lld to %lld were charged",
                 name, d, (long long)total, (long long)least, (long long)most);
        sum += total;
    }
    KT_CHECK(sum == worker->charges, "%s: the ledger has %lld of %lld", name, (long long)sum,
             (long long)worker->charges);
    return sum;
}

static void begin(pid_t pids[WORKERS], const int64_t skews_ns[WORKERS], int64_t clock_ns)
{
    workers = kt_shared(WORKERS * sizeof *workers);
    finish = kt_shared(sizeof *finish);
    for (int w = 0; w < WORKERS; w++) {
        workers[w].clock_ns = clock_ns + skews_ns[w];
        pids[w] = kt_fork();
        if (pids[w] == 0)
            work(w);
    }
    await_charges(50);
}

static void end(const pid_t pids[WORKERS])
{
    int64_t sum = 0;
    *finish = 1;
    for (int w = 0; w < WORKERS; w++)
        kt_wait_success(pids[w]);
    *kt_clock_ns = workers[0].clock_ns;
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    kt_ledger_expect_equal(kt_directory, ql, "in the end");
    for (int w = 0; w < WORKERS; w++)
        sum += compare_worker(w);
    KT_CHECK(ledger_day("shared", -1) == sum, "all together: the ledger has %lld of %lld",
             (long long)ledger_day("shared", -1), (long long)sum);
    printf("%lld charges of each kind\n", (long long)sum);
    kt_verify(ql);
    ql_close(ql);
}

static void move_clocks(int64_t by_ns)
{
    for (int w = 0; w < WORKERS; w++)
        __atomic_fetch_add(&workers[w].clock_ns, by_ns, __ATOMIC_RELAXED);
}

#define MIDNIGHTS 5

/* What the ledger has of the day that is over. */
static int64_t shared_of(int64_t day)
{
    return ledger_day("shared", day);
}

/* Clocks that are 3 s slow to 3 s fast. */
int kt_ledger_midnight(void)
{
    pid_t pids[WORKERS];
    int64_t old[MIDNIGHTS];
    const int64_t skews_ns[WORKERS] = {-3 * SECOND_NS, -SECOND_NS, SECOND_NS, 3 * SECOND_NS};
    int64_t day = KT_START_NS / KT_DAY_NS;
    begin(pids, skews_ns, (day + 1) * KT_DAY_NS - 5 * SECOND_NS);
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    for (int i = 0; i < MIDNIGHTS; i++) {
        for (int fifth = 0; fifth < 50; fifth++) {
            move_clocks(SECOND_NS / 5);
            await_charges(2);
        }
        KT_CHECK(store_day(ql) == day + i + 1, "day %lld", (long long)store_day(ql));
        kt_flush(ql);
        old[i] = shared_of(day + i);
        KT_CHECK(old[i] > 0, "nothing was charged in day %d", i);
        move_clocks(KT_DAY_NS - 10 * SECOND_NS);
        await_charges(10);
    }
    for (int i = 0; i < MIDNIGHTS; i++)
        KT_CHECK(shared_of(day + i) == old[i], "day %d: %lld, and %lld when it was over", i,
                 (long long)shared_of(day + i), (long long)old[i]);
    ql_close(ql);
    end(pids);
    return 0;
}

#define STEPS 60

/* One clock, set back by a day or two, and forward again. */
int kt_ledger_stepped_back(void)
{
    static const int64_t no_skews[WORKERS];
    pid_t pids[WORKERS];
    int64_t day = 0;
    uint64_t random = 1;
    share_clock = true;
    begin(pids, no_skews, KT_START_NS);
    for (int i = 0; i < STEPS; i++) {
        int64_t next = (int64_t)(kt_random(&random) % 6) - 2;
        move_clocks((next - day) * KT_DAY_NS);
        day = next;
        await_charges(20);
    }
    printf("seed 1: %d steps, ", STEPS);
    end(pids);
    return 0;
}

/* Stops at the first question about a subject, which is about two days. There is no
 * second one. */
static int at_question(unsigned type, void *context, void *statement, void *text)
{
    int *reads = context;
    (void)type;
    (void)statement;
    if (strncmp(text, "SELECT start", strlen("SELECT start")) != 0)
        return 0;
    if (++*reads == 1)
        raise(SIGSTOP);
    KT_CHECK(*reads <= 2, "alice was opened in a day that was over");
    return 0;
}

/* Charges in a day, and in the one before it, for which it has to ask. */
static _Noreturn void charge_a_day_back(void)
{
    int reads = 0;
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    kt_charge(ql, 1);
    kt_flush(ql);
    sqlite3_trace_v2(ql->store->flusher.ledger.db, SQLITE_TRACE_STMT, at_question, &reads);
    *kt_clock_ns -= KT_DAY_NS;
    kt_charge(ql, 1);
    KT_CHECK(reads == 2, "it asked for %d days", reads);
    ql_close(ql);
    _exit(0);
}

/* The day in which a call began is over while it asks: it goes on in the other. */
int kt_ledger_day_over(void)
{
    struct ql_limit limits[QL_LIMITS_MAX];
    size_t count = QL_LIMITS_MAX;
    int64_t day = KT_START_NS / KT_DAY_NS;
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    pid_t pid = kt_fork();
    if (pid == 0)
        charge_a_day_back();
    kt_await_stop(pid);
    KT_CHECK(store_day(ql) == day - 1, "day %lld", (long long)store_day(ql));
    *kt_clock_ns += KT_DAY_NS;
    kt_expect(ql_limits(ql, limits, &count), QL_OK, "limits"); /* which needs no ledger */
    KT_CHECK(store_day(ql) == day, "day %lld", (long long)store_day(ql));
    kill(pid, SIGCONT);
    kt_wait_success(pid);
    kt_flush(ql);
    KT_CHECK(ledger_day("alice", day) == 2, "%lld", (long long)ledger_day("alice", day));
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* No flush but those that a roll-over needs. */
int kt_ledger_unflushed_days(void)
{
    int64_t day = KT_START_NS / KT_DAY_NS;
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    for (int i = 0; i < 6; i++) {
        kt_charge(ql, 1 + i);
        kt_charge(ql, 10);
        *kt_clock_ns += KT_DAY_NS;
    }
    kt_ledger_expect_equal(kt_directory, ql, "in the end");
    for (int i = 0; i < 6; i++)
        KT_CHECK(ledger_day("alice", day + i) == 11 + i, "day %d: the ledger has %lld", i,
                 (long long)ledger_day("alice", day + i));
    ql_close(ql);
    return 0;
}
