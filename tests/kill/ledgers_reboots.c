/* SPDX-License-Identifier: Apache-2.0
 *
 * All processes die at a random moment and the region is one of an earlier boot:
 * what was to survive does. What the system had not written yet survives here too.
 */
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ledgers.h"

#define CUTS 1000
#define WORKERS 3
#define FLUSHES_MAX 65536 /* of one cut; who gets so far waits for its end */
#define AWAITED_MAX 6     /* flushes that a cut waits for; for none of them now and then */
#define DEADLINE_NS (60 * INT64_C(1000000000))

/* done_by[f] is how many of its charges a worker had made before flush f began. A
 * number that was read before is too small, which asks for less. */
struct worker {
    _Atomic int64_t done;
    _Atomic int64_t pending;
    _Atomic uint64_t seen; /* flushes that have begun since it came */
    _Atomic int64_t done_by[FLUSHES_MAX];
};

static struct worker *workers;

static void name_of(int number, char name[32])
{
    snprintf(name, 32, "worker-%d", number);
}

static _Noreturn void work(enum ql_durability durability, int number)
{
    char name[32];
    struct worker *worker = &workers[number];
    struct ql *ql = kt_open_flushing(durability);
    const struct qli_ledger_page *page = ql->store->engine.ledger_page;
    uint64_t first = __atomic_load_n(&page->begun, __ATOMIC_ACQUIRE);
    name_of(number, name);
    for (;;) {
        worker->pending = worker->done + 1;
        kt_expect(ql_charge(ql, name, "bytes", 1, NULL), QL_OK, "charge");
        worker->done = worker->pending;
        uint64_t next = __atomic_load_n(&page->begun, __ATOMIC_ACQUIRE) + 1;
        worker->seen = next - 1 - first;
        while (next >= FLUSHES_MAX)
            pause();
        worker->done_by[next] = worker->done;
    }
}

static int64_t largest(const struct worker *worker, uint64_t flushes)
{
    int64_t done = 0;
    for (uint64_t f = 0; f <= flushes; f++)
        done = worker->done_by[f] > done ? worker->done_by[f] : done;
    return done;
}

/* What of each worker's charges has to be there after the cut. */
static uint64_t expect_of(enum ql_durability durability, int64_t least[WORKERS])
{
    struct kt_view view = kt_view_open(kt_directory);
    uint64_t flushes = kt_view_engine(&view).ledger_page->done;
    kt_view_close(&view);
    for (int w = 0; w < WORKERS; w++)
        least[w] =
            durability == QL_DURABILITY_SYNC ? workers[w].done : largest(&workers[w], flushes);
    return flushes;
}

/* Until one of the workers, which are slow on a busy machine, has seen so many. */
static void await_flushes(uint64_t wanted)
{
    int64_t end_ns = kt_now_ns() + DEADLINE_NS;
    uint64_t seen;
    do {
        KT_CHECK(kt_now_ns() < end_ns, "no worker has seen %llu flushes",
                 (unsigned long long)wanted);
        sched_yield();
        seen = 0;
        for (int w = 0; w < WORKERS; w++)
            seen = workers[w].seen > seen ? workers[w].seen : seen;
    } while (seen < wanted);
}

static void cut(enum ql_durability durability, uint64_t flushes, uint64_t spin)
{
    pid_t pids[WORKERS];
    for (int w = 0; w < WORKERS; w++) {
        memset((void *)workers[w].done_by, 0, sizeof workers[w].done_by);
        workers[w].done_by[0] = workers[w].done;
        workers[w].seen = 0;
        pids[w] = kt_fork();
        if (pids[w] == 0)
            work(durability, w);
    }
    await_flushes(flushes);
    kt_spin(spin);
    for (int w = 0; w < WORKERS; w++)
        kill(pids[w], SIGKILL);
    for (int w = 0; w < WORKERS; w++)
        KT_CHECK(WIFSIGNALED(kt_wait(pids[w])), "worker %d ended alone", w);
}

/* Returns how many charges the cut has lost. */
static int64_t compare(int number, const int64_t least[WORKERS])
{
    int64_t lost = 0;
    struct ql *ql = kt_open_ledger(QL_DURABILITY_STORE, KT_LONG_MS);
    for (int w = 0; w < WORKERS; w++) {
        char name[32];
        struct ql_usage usage;
        name_of(w, name);
        kt_expect(ql_usage(ql, name, &usage), QL_OK, "usage");
        int64_t total = usage.meters[0].total;
        KT_CHECK(total >= least[w] && total <= workers[w].pending,
                 "cut %d: %s has %lld; %lld to %lld were expected", number, name, (long long)total,
                 (long long)least[w], (long long)workers[w].pending);
        lost += total < workers[w].done ? workers[w].done - total : 0;
        workers[w].done = total;
        workers[w].pending = total;
    }
    kt_ledger_expect_equal(kt_directory, ql, "after a cut");
    kt_verify(ql);
    ql_close(ql);
    return lost;
}

static int cut_often(enum ql_durability durability, uint64_t seed)
{
    uint64_t random = seed;
    uint64_t awaited = 0;
    uint64_t flushes = 0;
    int64_t lost = 0;
    workers = kt_shared(WORKERS * sizeof *workers);
    ql_close(kt_open_ledger(durability, KT_LONG_MS));
    for (int i = 0; i < CUTS; i++) {
        int64_t least[WORKERS];
        uint64_t wanted = kt_random(&random) % (AWAITED_MAX + 1);
        cut(durability, wanted, kt_random(&random) % 3000000);
        awaited += wanted;
        flushes += expect_of(durability, least);
        kt_make_stale(kt_directory);
        lost += compare(i, least);
    }
    printf("seed %llu: %d cuts, %llu flushes, %llu of them awaited, %lld charges, and %lld that "
           "a cut has lost\n",
           (unsigned long long)seed, CUTS, (unsigned long long)flushes, (unsigned long long)awaited,
           (long long)(workers[0].done + workers[1].done + workers[2].done), (long long)lost);
    KT_CHECK(durability == QL_DURABILITY_ASYNC || lost == 0, "%lld were lost", (long long)lost);
    return 0;
}

int kt_ledger_reboot_async(void)
{
    return cut_often(QL_DURABILITY_ASYNC, 1);
}

int kt_ledger_reboot_sync(void)
{
    return cut_often(QL_DURABILITY_SYNC, 2);
}

/* Both windows, and a subject that has only the day before. */
int kt_ledger_reboot_flushed(void)
{
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    kt_charge(ql, 7);
    kt_expect(ql_charge(ql, "bob", "statements", 5, NULL), QL_OK, "charge");
    *kt_clock_ns += KT_DAY_NS;
    kt_charge(ql, 2);
    kt_flush(ql);
    ql_close(ql);
    for (int i = 0; i < 2; i++) {
        struct ql_usage usage;
        kt_make_stale(kt_directory);
        ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
        kt_expect(ql_usage(ql, "alice", &usage), QL_OK, "usage");
        KT_CHECK(usage.meters[0].total == 2 + i && usage.meters[0].yesterday == 7, "%lld, %lld",
                 (long long)usage.meters[0].total, (long long)usage.meters[0].yesterday);
        kt_expect(ql_usage(ql, "bob", &usage), QL_OK, "usage");
        KT_CHECK(usage.meters[1].total == 0 && usage.meters[1].yesterday == 5, "%lld, %lld",
                 (long long)usage.meters[1].total, (long long)usage.meters[1].yesterday);
        kt_charge(ql, 1);
        kt_ledger_expect_equal(kt_directory, ql, "after a reboot");
        ql_close(ql);
    }
    return 0;
}
