/* SPDX-License-Identifier: Apache-2.0
 *
 * The supervisor of the random kills.
 *
 * A round ends with all workers dead and everything counted; the next one has
 * new subjects. In the middle of a round the day changes: a subject's count is
 * today's total and yesterday's. The supervisor holds a lease on each counted
 * subject, so that none is evicted.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "random_kills.h"
#include "supervising.h"

#define ROUND_KILLS 500

struct counts {
    int kills;
    int inside_call;
    int inside_lock;
    int pending_done;
    int pending_undone;
    int64_t calls;
};

struct supervisor {
    struct ql *ql;
    struct kt_view view;
    pid_t pids[KT_WORKERS_MAX];
    struct ql_lease leases[KT_WORKERS_MAX * KT_SUBJECTS];
    int lease_count;
    uint64_t random;
    struct counts counts;
    int self_namespace;
};

/* Each worker in a pid namespace of its own, where it is pid 1. */
static void enter_new_namespace(const struct supervisor *s)
{
    KT_CHECK(setns(s->self_namespace, CLONE_NEWPID) == 0, "setns: %s", strerror(errno));
    KT_CHECK(unshare(CLONE_NEWPID) == 0, "unshare: %s", strerror(errno));
}

/* Every other worker inherits the handle, the others open the store anew. */
static void spawn(struct supervisor *s, int number)
{
    uint64_t seed = kt_random(&s->random);
    kt_page->workers[number].calls = 0;
    kt_page->workers[number].in_call = 0;
    if (kt_kills.pid_namespaces)
        enter_new_namespace(s);
    s->pids[number] = kt_fork();
    if (s->pids[number] != 0)
        return;
    if (kt_kills.pid_namespaces && getpid() != 1)
        _exit(6);
    if (seed & 1)
        kt_kills_work(number, s->ql, seed);
    kt_order_execute(&(struct kt_order){
        .number = number,
        .seed = seed,
        .page_fd = kt_kills.page_fd,
        .setting = kt_kills.workers,
        .store = kt_kills.store,
    });
}

/* How many charges of this worker the subject holds, which is the sequence
 * number of the last. */
static int64_t counted(struct supervisor *s, const char *subject, bool shared, int number,
                       int meter)
{
    struct ql_usage usage;
    KT_CHECK(ql_usage(s->ql, subject, &usage) == QL_OK, "usage of %s", subject);
    KT_CHECK(usage.meter_count == KT_METERS, "%u meters", usage.meter_count);
    int64_t total = usage.meters[meter].total + usage.meters[meter].yesterday;
    return shared ? total >> KT_FIELD_BITS * (number % KT_FIELDS) & KT_FIELD_MASK : total;
}

/* What became of a worker's last charge of a meter. */
enum fate { NONE_PENDING, MADE, NOT_MADE };

static enum fate compare_meter(struct supervisor *s, const char *subject, bool shared, int number,
                               int meter)
{
    struct kt_tally *tally = &kt_page->workers[number].tallies[shared ? KT_SHARED : KT_OWN][meter];
    int64_t count = counted(s, subject, shared, number, meter);
    int64_t done = tally->done;
    int64_t pending = tally->pending;
    KT_CHECK(count == done || count == pending,
             "kill %d: %s, worker %d, meter %d: counted %lld, acknowledged %lld, pending %lld",
             s->counts.kills, subject, number, meter, (long long)count, (long long)done,
             (long long)pending);
    tally->done = count;
    tally->pending = count;
    if (pending == done)
        return NONE_PENDING;
    s->counts.pending_done += count == pending;
    s->counts.pending_undone += count == done;
    return count == pending ? MADE : NOT_MADE;
}

/* The worker is dead. Both meters of a settle share their fate. */
static void compare(struct supervisor *s, int number, bool was_inside)
{
    char names[KT_SUBJECTS][64];
    kt_kills_name(number, names);
    for (int i = 0; i < KT_SUBJECTS; i++) {
        enum fate bytes = compare_meter(s, names[i], i == KT_SHARED, number, KT_BYTES);
        enum fate statements = compare_meter(s, names[i], i == KT_SHARED, number, KT_STATEMENTS);
        KT_CHECK(!was_inside || bytes == NONE_PENDING || statements == NONE_PENDING ||
                     bytes == statements,
                 "kill %d: %s, worker %d: half of a settle", s->counts.kills, names[i], number);
    }
}

static void bury(struct supervisor *s, int number)
{
    struct kt_worker *worker = &kt_page->workers[number];
    kt_bury(s->pids[number], number, worker->error);
    unsigned dead_words = kt_view_dead_words(&s->view);
    bool was_inside = worker->in_call != 0;
    s->counts.kills++;
    s->counts.inside_call += was_inside;
    s->counts.inside_lock += dead_words > 0;
    s->counts.calls += worker->calls;
    compare(s, number, was_inside);
    kt_watch();
}

/* One kill in eight falls anywhere, also into attaching; the others wait for a
 * worker that is at work, and then for a call to begin. */
static void aim(struct supervisor *s, int number)
{
    struct kt_worker *worker = &kt_page->workers[number];
    uint64_t dice = kt_random(&s->random);
    if (dice % 8 == 0) {
        kt_spin(dice >> 8 & 0xfffff);
        return;
    }
    int64_t wanted = 1 + (int64_t)(dice >> 8 & 0x3f);
    while (worker->calls < wanted && worker->error[0] == '\0')
        sched_yield();
    for (int i = 0; i < 100000 && worker->in_call == 0; i++)
        continue;
    kt_spin(dice >> 16 & 0x7f);
}

static void begin_round(struct supervisor *s)
{
    kt_page->round++;
    s->lease_count = 0;
    for (int w = 0; w < kt_kills.workers; w++) {
        char names[KT_SUBJECTS][64];
        kt_kills_name(w, names);
        memset(kt_page->workers[w].tallies, 0, sizeof kt_page->workers[w].tallies);
        for (int subject = 0; subject < KT_SUBJECTS; subject++) {
            if (subject == KT_SHARED && w % KT_FIELDS != 0)
                continue;
            enum ql_status status =
                ql_acquire(s->ql, names[subject], &s->leases[s->lease_count++], NULL);
            KT_CHECK(status == QL_OK, "acquire: %s", ql_status_name(status));
        }
    }
    for (int w = 0; w < kt_kills.workers; w++)
        spawn(s, w);
}

/* The dead workers' leases end without our doing, then everything adds up. */
static void wait_for_reaping(struct supervisor *s)
{
    struct ql_verify_report report;
    struct ql_error error;
    int64_t deadline_ns = kt_now_ns() + INT64_C(30000000000);
    do {
        struct ql_usage usage;
        enum ql_status status = ql_usage(s->ql, "anybody", &usage);
        KT_CHECK(status == QL_OK, "usage: %s", ql_status_name(status));
        status = ql_verify(s->ql, &report, &error);
        KT_CHECK(status == QL_OK, "verify: %s: %s", ql_status_name(status), error.text);
        KT_CHECK(kt_now_ns() < deadline_ns, "%llu leases are held, %d are ours",
                 (unsigned long long)report.leases, s->lease_count);
    } while (report.leases != (uint64_t)s->lease_count);
}

static void end_round(struct supervisor *s)
{
    for (int w = 0; w < kt_kills.workers; w++)
        bury(s, w);
    wait_for_reaping(s);
    /* Once more, when nobody can change anything: no repair took back what was counted. */
    for (int w = 0; w < kt_kills.workers; w++)
        compare(s, w, false);
    for (int i = 0; i < s->lease_count; i++)
        KT_CHECK(ql_release(s->ql, s->leases[i]) == QL_OK, "release of lease %d", i);
    kt_page->clock_ns += KT_DAY_NS;
}

static void run_round(struct supervisor *s, int kills)
{
    begin_round(s);
    for (int i = 0; i < kills; i++) {
        if (i == kills / 2)
            __atomic_fetch_add(&kt_page->clock_ns, KT_DAY_NS, __ATOMIC_RELAXED);
        int number = (int)(kt_random(&s->random) % (uint64_t)kt_kills.workers);
        aim(s, number);
        bury(s, number);
        spawn(s, number);
    }
    end_round(s);
}

static int report(const struct counts *counts, double seconds)
{
    int64_t longest_ns = 0;
    for (int w = 0; w < kt_kills.workers; w++)
        longest_ns = kt_page->workers[w].longest_wait_ns > longest_ns
                         ? kt_page->workers[w].longest_wait_ns
                         : longest_ns;
    printf(
        "kills %d in %.1f s, calls %lld, inside a call %d (%.1f %%), inside a lock %d (%.1f %%), "
        "charge pending and made %d, pending and not made %d, longest wait for a lock %.2f ms\n",
        counts->kills, seconds, (long long)counts->calls, counts->inside_call,
        100.0 * counts->inside_call / counts->kills, counts->inside_lock,
        100.0 * counts->inside_lock / counts->kills, counts->pending_done, counts->pending_undone,
        (double)longest_ns / 1e6);
    if (counts->inside_call * 20 >= counts->kills)
        return 0;
    fprintf(stderr, "FAIL: fewer than 5 %% of the kills fell inside an operation\n");
    return 1;
}

int kt_kills_supervise(void)
{
    static struct supervisor s;
    s.random = kt_kills.seed;
    s.self_namespace = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    KT_CHECK(s.self_namespace >= 0, "/proc/self/ns/pid: %s", strerror(errno));
    kt_watch();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    s.ql = kt_kills_open();
    s.view = kt_view_open(kt_kills.store);
    int64_t start_ns = kt_now_ns();
    while (s.counts.kills < kt_kills.kills) {
        int left = kt_kills.kills - s.counts.kills - kt_kills.workers;
        run_round(&s, left < 1 ? 1 : left < ROUND_KILLS ? left : ROUND_KILLS);
    }
    while (waitpid(-1, NULL, 0) > 0)
        continue;
    wait_for_reaping(&(struct supervisor){.ql = s.ql});
    int result = report(&s.counts, (double)(kt_now_ns() - start_ns) / 1e9);
    ql_close(s.ql);
    kt_view_close(&s.view);
    return result;
}
