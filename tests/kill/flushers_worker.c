/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker of `flushers`: it charges and settles, and flushes in the way that its
 * seed chooses.
 */
#include <stdatomic.h>
#include <unistd.h>

#include "flushers.h"

struct job {
    struct ql *ql;
    struct kt_worker *worker;
    int number;
    uint64_t random;
    int flush_every; /* charges; 0: its thread flushes, or its charges do */
};

void kt_flushers_name(int worker, int subject, char name[64])
{
    if (subject == KT_SHARED)
        snprintf(name, 64, "round-%lld/shared", (long long)kt_page->round);
    else
        snprintf(name, 64, "round-%lld/own-%d-%d", (long long)kt_page->round, worker, subject);
}

/* The supervisor tells of it; it sees the worker exit. */
static void expect(struct job *job, enum ql_status status, const char *what)
{
    if (status == QL_OK)
        return;
    snprintf(job->worker->error, sizeof job->worker->error, "%s gave %s", what,
             ql_status_name(status));
    _exit(3);
}

static int64_t unit_of(const struct job *job, int subject)
{
    return subject == KT_SHARED ? INT64_C(1) << KT_FIELD_BITS * job->number : 1;
}

static void pend(struct job *job, int subject, int meters)
{
    struct kt_tally *tallies = job->worker->tallies[subject];
    for (int m = 0; m < meters; m++)
        tallies[m].pending = tallies[m].done + 1;
}

static void acknowledge(struct job *job, int subject, int meters)
{
    struct kt_tally *tallies = job->worker->tallies[subject];
    for (int m = 0; m < meters; m++)
        tallies[m].acknowledged = tallies[m].done = tallies[m].pending;
    job->worker->charges++;
}

static void charge(struct job *job, int subject, const char *name)
{
    pend(job, subject, 1);
    expect(job, ql_charge(job->ql, name, "bytes", unit_of(job, subject), NULL), "charge");
    acknowledge(job, subject, 1);
}

static void settle(struct job *job, int subject, const char *name)
{
    struct ql_lease lease;
    int64_t unit = unit_of(job, subject);
    const struct ql_charge charges[KT_METERS] = {{"bytes", unit}, {"statements", unit}};
    expect(job, ql_admit(job->ql, name, NULL, &lease, NULL), "admit");
    pend(job, subject, KT_METERS);
    expect(job, ql_settle(job->ql, lease, charges, KT_METERS), "settle");
    acknowledge(job, subject, KT_METERS);
}

static bool field_full(const struct job *job)
{
    return job->worker->tallies[KT_SHARED][KT_BYTES].done >= KT_FIELD_MASK - 2;
}

static void step(struct job *job)
{
    char name[64];
    uint64_t dice = kt_random(&job->random);
    int subject = (int)(dice % KT_SUBJECTS);
    if (subject == KT_SHARED && field_full(job))
        subject = KT_OWN;
    kt_flushers_name(job->number, subject, name);
    if (dice >> 32 & 1)
        charge(job, subject, name);
    else
        settle(job, subject, name);
    if (job->flush_every != 0 && job->worker->charges % job->flush_every == 0)
        expect(job, ql_flush(job->ql, NULL), "flush");
}

/* Half of the workers have a thread that flushes, the others do it in their calls. */
_Noreturn void kt_flushers_work(int number, uint64_t seed)
{
    struct ql_options options =
        kt_ledger_options(&kt_page->clock_ns, kt_flushers.durability, 20000);
    options.flush_interval_ms = 1 + (int64_t)(seed >> 8 & 3);
    options.no_thread = (seed & 2) != 0;
    struct job job = {.worker = &kt_page->workers[number],
                      .number = number,
                      .random = seed,
                      .flush_every = options.no_thread ? 1 + (int)(seed >> 16 & 15) : 0};
    job.ql = kt_open(kt_flushers.store, &options);
    for (;;)
        step(&job);
}
