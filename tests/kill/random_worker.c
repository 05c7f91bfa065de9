/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker of the random kills: all operations, in an order that its seed
 * fixes, on a subject of its own, on a shared one and on a crowd of idle ones.
 */
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "random_kills.h"

struct job {
    struct ql *ql;
    struct kt_worker *worker;
    int number;
    uint64_t random;
    char names[KT_SUBJECTS][64];
};

void kt_kills_name(int number, char names[KT_SUBJECTS][64])
{
    snprintf(names[KT_OWN], 64, "round-%lld/own-%d", (long long)kt_page->round, number);
    snprintf(names[KT_SHARED], 64, "round-%lld/shared-%d", (long long)kt_page->round,
             number / KT_FIELDS);
}

static int64_t unit_of(int subject, int number)
{
    return subject == KT_OWN ? 1 : INT64_C(1) << KT_FIELD_BITS * (number % KT_FIELDS);
}

static void enter(struct job *job)
{
    atomic_store(&job->worker->in_call, 1);
}

static enum ql_status leave(struct job *job, enum ql_status status)
{
    atomic_store(&job->worker->in_call, 0);
    atomic_fetch_add(&job->worker->calls, 1);
    return status;
}

/* A worker's failure is told by the supervisor, which sees it exit. */
static void expect(struct job *job, enum ql_status status, enum ql_status wanted, const char *what)
{
    if (status == wanted)
        return;
    snprintf(job->worker->error, sizeof job->worker->error, "%s gave %s, not %s", what,
             ql_status_name(status), ql_status_name(wanted));
    _exit(3);
}

static void *wait_begin(void *context)
{
    (void)context;
    static int64_t since_ns;
    since_ns = kt_now_ns();
    return &since_ns;
}

static struct kt_worker *waiting_worker;

static void wait_end(void *context, void *token)
{
    (void)context;
    int64_t waited_ns = kt_now_ns() - *(int64_t *)token;
    if (waiting_worker != NULL && waited_ns > waiting_worker->longest_wait_ns)
        waiting_worker->longest_wait_ns = waited_ns;
}

static bool field_full(const struct kt_tally *tally)
{
    return tally->done >= KT_FIELD_MASK - 2;
}

static void pend(struct job *job, int subject, int meters)
{
    for (int m = 0; m < meters; m++)
        job->worker->tallies[subject][m].pending = job->worker->tallies[subject][m].done + 1;
}

static void acknowledge(struct job *job, int subject, int meters)
{
    for (int m = 0; m < meters; m++)
        job->worker->tallies[subject][m].done = job->worker->tallies[subject][m].pending;
}

static void do_charge(struct job *job, int subject)
{
    pend(job, subject, 1);
    enter(job);
    enum ql_status status = leave(
        job, ql_charge(job->ql, job->names[subject], "bytes", unit_of(subject, job->number), NULL));
    expect(job, status, QL_OK, "charge");
    acknowledge(job, subject, 1);
}

static void do_admit_settle(struct job *job, int subject)
{
    struct ql_lease lease;
    struct ql_verdict verdict;
    enter(job);
    enum ql_status status =
        leave(job, ql_admit(job->ql, job->names[subject], NULL, &lease, &verdict));
    expect(job, status, QL_OK, "admit");
    int64_t unit = unit_of(subject, job->number);
    struct ql_charge charges[KT_METERS] = {{"bytes", unit}, {"statements", unit}};
    pend(job, subject, KT_METERS);
    enter(job);
    status = leave(job, ql_settle(job->ql, lease, charges, KT_METERS));
    expect(job, status, QL_OK, "settle");
    acknowledge(job, subject, KT_METERS);
}

static struct ql_lease take(struct job *job, const char *subject)
{
    struct ql_lease lease;
    enter(job);
    enum ql_status status = leave(job, ql_acquire(job->ql, subject, &lease, NULL));
    expect(job, status, QL_OK, "acquire");
    return lease;
}

static void do_acquire_release(struct job *job, const char *subject)
{
    struct ql_lease lease = take(job, subject);
    enter(job);
    expect(job, leave(job, ql_release(job->ql, lease)), QL_OK, "release");
}

static void do_revoke(struct job *job, int subject)
{
    struct ql_lease lease = take(job, job->names[subject]);
    enter(job);
    expect(job, leave(job, ql_revoke(job->ql, lease)), QL_OK, "revoke");
    enter(job);
    expect(job, leave(job, ql_release(job->ql, lease)), QL_LATE, "release after revoke");
}

static void do_read(struct job *job, int subject)
{
    struct ql_usage usage;
    enter(job);
    expect(job, leave(job, ql_check(job->ql, job->names[subject], NULL, NULL)), QL_OK, "check");
    enter(job);
    expect(job, leave(job, ql_usage(job->ql, job->names[subject], &usage)), QL_OK, "usage");
    expect(job, usage.leases <= usage.limits[0].cap ? QL_OK : QL_REFUSED, QL_OK, "leases <= cap");
}

/* Makes an idle subject, of which there are more than there is room. */
static void do_crowd(struct job *job)
{
    char subject[64];
    snprintf(subject, sizeof subject, "crowd-%d", (int)(kt_random(&job->random) % 500));
    do_acquire_release(job, subject);
}

/* A subject of its own: orphans of killed workers may still be at work, and all
 * together could be more than a subject has slots. */
static void do_fork(struct job *job)
{
    char subject[64];
    snprintf(subject, sizeof subject, "forked-%d", (int)(kt_random(&job->random) % 500));
    pid_t pid = fork();
    if (pid == 0) {
        struct ql_lease lease;
        enum ql_status status = ql_acquire(job->ql, subject, &lease, NULL);
        if (status == QL_OK)
            status = ql_release(job->ql, lease);
        _exit(status == QL_OK ? 0 : 100 - (int)status);
    }
    int status = 0;
    if (pid > 0)
        waitpid(pid, &status, 0);
    if (pid < 0 || status != 0) {
        snprintf(job->worker->error, sizeof job->worker->error, "a forked child failed: %#x",
                 (unsigned)status);
        _exit(3);
    }
}

static void step(struct job *job)
{
    uint64_t dice = kt_random(&job->random) % 256;
    int subject =
        dice & 1 && !field_full(&job->worker->tallies[KT_SHARED][KT_BYTES]) ? KT_SHARED : KT_OWN;
    if (dice < 100)
        do_charge(job, subject);
    else if (dice < 180)
        do_admit_settle(job, subject);
    else if (dice < 200)
        do_acquire_release(job, job->names[subject]);
    else if (dice < 215)
        do_revoke(job, subject);
    else if (dice < 230)
        do_read(job, subject);
    else if (dice < 255)
        do_crowd(job);
    else if (kt_random(&job->random) % 16 == 0)
        do_fork(job);
}

struct ql *kt_kills_open(void)
{
    struct ql_options options = kt_options(&kt_page->clock_ns, kt_kills.workers + 1, 64);
    options.wait_begin = wait_begin;
    options.wait_end = wait_end;
    return kt_open(kt_kills.store, &options);
}

_Noreturn void kt_kills_work(int number, struct ql *ql, uint64_t seed)
{
    struct job job = {
        .ql = ql, .worker = &kt_page->workers[number], .number = number, .random = seed};
    waiting_worker = job.worker;
    kt_kills_name(number, job.names);
    if (job.ql == NULL)
        job.ql = kt_kills_open();
    for (;;)
        step(&job);
}
