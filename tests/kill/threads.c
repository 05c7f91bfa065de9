/* SPDX-License-Identifier: Apache-2.0
 *
 * The scenarios of the kill tests with threads and without kills, for
 * ThreadSanitizer: it sees threads over one mapping and nothing across
 * processes.
 *
 *   threads [--turns N]
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define THREADS 4

struct job {
    struct ql *ql;
    int number;
    int turns;
    uint64_t random;
    int64_t own;
    int64_t shared;
};

static int64_t *clock_ns;
static char directory[KT_PATH];
static struct ql_options options;

static void expect(enum ql_status status, enum ql_status wanted, const char *what)
{
    KT_CHECK(status == wanted, "%s: %s", what, ql_status_name(status));
}

static struct ql *open_store(void)
{
    return kt_open(directory, &options);
}

static void settle_one(struct job *job, const char *subject)
{
    struct ql_lease lease;
    struct ql_verdict verdict;
    struct ql_charge charges[] = {{"bytes", 1}, {"statements", 1}};
    expect(ql_admit(job->ql, subject, NULL, &lease, &verdict), QL_OK, "admit");
    expect(ql_settle(job->ql, lease, charges, 2), QL_OK, "settle");
}

static void revoke_one(struct job *job, const char *subject)
{
    struct ql_lease lease;
    expect(ql_acquire(job->ql, subject, &lease, NULL), QL_OK, "acquire");
    expect(ql_revoke(job->ql, lease), QL_OK, "revoke");
    expect(ql_release(job->ql, lease), QL_E_EXPIRED, "release");
}

static void turn(struct job *job)
{
    char own[32];
    char crowd[32];
    struct ql_usage usage;
    uint64_t dice = kt_random(&job->random);
    snprintf(own, sizeof own, "own-%d", job->number);
    snprintf(crowd, sizeof crowd, "crowd-%d", (int)(dice >> 8 & 0x1ff));
    expect(ql_charge(job->ql, dice & 1 ? own : "shared", "bytes", 1, NULL), QL_OK, "charge");
    settle_one(job, dice & 2 ? own : "shared");
    job->own += (dice & 1) + (dice >> 1 & 1);
    job->shared += !(dice & 1) + !(dice >> 1 & 1);
    revoke_one(job, crowd);
    expect(ql_check(job->ql, own, NULL, NULL), QL_OK, "check");
    expect(ql_usage(job->ql, own, &usage), QL_OK, "usage");
    KT_CHECK(usage.meters[0].total + usage.meters[0].yesterday == job->own,
             "%s has %lld and %lld, not %lld", own, (long long)usage.meters[0].total,
             (long long)usage.meters[0].yesterday, (long long)job->own);
}

/* Every other thread has a handle of its own, which it closes and opens again. */
static void *work(void *context)
{
    struct job *job = context;
    struct ql *given = job->ql;
    for (int i = 0; i < job->turns; i++) {
        if (job->number % 2 == 1 && i % 16 == 0) {
            if (job->ql != given)
                ql_close(job->ql);
            job->ql = open_store();
        }
        turn(job);
    }
    if (job->ql != given)
        ql_close(job->ql);
    return NULL;
}

static void run_threads(struct ql *ql, int turns)
{
    pthread_t threads[THREADS];
    struct job jobs[THREADS];
    int64_t shared = 0;
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.ql = ql, .number = i, .turns = turns, .random = (uint64_t)i + 1};
        KT_CHECK(pthread_create(&threads[i], NULL, work, &jobs[i]) == 0, "pthread_create");
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        shared += jobs[i].shared;
    }
    struct ql_usage usage;
    struct ql_error error;
    expect(ql_usage(ql, "shared", &usage), QL_OK, "usage");
    KT_CHECK(usage.meters[0].total == shared && usage.leases == 0, "shared has %lld, not %lld",
             (long long)usage.meters[0].total, (long long)shared);
    expect(ql_verify(ql, NULL, &error), QL_OK, error.text);
}

int main(int argc, char **argv)
{
    int turns = argc == 3 && strcmp(argv[1], "--turns") == 0 ? atoi(argv[2]) : 2000;
    clock_ns = kt_shared(sizeof *clock_ns);
    *clock_ns = KT_START_NS;
    options = kt_options(clock_ns, THREADS + 1, 64);
    kt_directory_make(directory, NULL);
    struct ql *ql = open_store();
    run_threads(ql, turns);
    ql_close(ql);
    kt_directory_remove(directory);
    return 0;
}
