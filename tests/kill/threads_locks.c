/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads at locks that are held, and at what the dead left behind.
 */
#include <sched.h>
#include <unistd.h>

#include "engine/operation.h"
#include "threads.h"

/* ---- a lock that is held -------------------------------------------------- */

static void find_busy(void *context, int number)
{
    struct ql *ql = context;
    struct ql_lease lease;
    (void)number;
    kt_expect(ql_charge(ql, "alice", "bytes", 1000000, NULL), QL_E_BUSY, "charge");
    kt_expect(ql_acquire(ql, "alice", &lease, NULL), QL_E_BUSY, "acquire");
    KT_CHECK(lease.epoch == 0 && lease.generation == 0, "a lease was given");
}

static void charge_one(void *context, int number)
{
    (void)number;
    kt_charge(context, 1);
}

int kt_thread_held_lock(void)
{
    struct qli_section section;
    struct ql *ql = kt_open_room(16, 50);
    kt_expect(kt_enter(ql, &section), QL_OK, "enter");
    kt_threads(find_busy, ql);
    qli_section_leave(&section);
    struct ql *patient = kt_open_store();
    kt_threads(charge_one, patient);
    KT_CHECK(kt_total(ql) == KT_THREADS && kt_held(ql) == 0, "counted %lld",
             (long long)kt_total(ql));
    kt_verify(ql);
    ql_close(patient);
    ql_close(ql);
    return 0;
}

#define HANDOVERS 200

/* Thread 0 keeps the lock until somebody waits for it. */
static void wait_or_hold(void *context, int number)
{
    struct ql *ql = context;
    for (int i = 0; i < HANDOVERS; i++) {
        struct qli_section section;
        if (number == 0)
            kt_expect(kt_enter(ql, &section), QL_OK, "enter");
        kt_meet();
        if (number != 0) {
            kt_charge(ql, 1);
        } else {
            while (
                !(__atomic_load_n(&section.log.guard->word, __ATOMIC_ACQUIRE) & QLI_WORD_WAITERS))
                sched_yield();
            qli_section_leave(&section);
        }
        kt_meet();
    }
}

int kt_thread_contended(void)
{
    struct ql *ql = kt_open_store();
    kt_threads(wait_or_hold, ql);
    KT_CHECK(kt_total(ql) == (int64_t)HANDOVERS * (KT_THREADS - 1), "counted %lld",
             (long long)kt_total(ql));
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- what the dead left --------------------------------------------------- */

#define DEATHS 100

static void run_to_death(struct ql *ql, void (*body)(struct ql *))
{
    pid_t pid = kt_fork();
    if (pid == 0)
        body(ql);
    kt_wait_success(pid);
}

static void die_in_lock_with_leases(struct ql *ql)
{
    kt_take(ql);
    kt_take(ql);
    kt_die_in_lock(ql);
}

static void open_and_charge(void *context, int number)
{
    (void)context;
    (void)number;
    struct ql *ql = kt_open_store();
    kt_charge(ql, 1);
    ql_close(ql);
}

/* In every other race the threads attach over the dead, too. */
int kt_thread_steal(void)
{
    struct ql *ql = kt_open_store();
    for (int i = 0; i < DEATHS; i++) {
        run_to_death(ql, die_in_lock_with_leases);
        if (i % 2 == 0) {
            kt_threads(charge_one, ql);
        } else {
            ql_close(ql);
            kt_threads(open_and_charge, NULL);
            ql = kt_open_store();
        }
        kt_await_held(ql, 0);
        kt_verify(ql);
    }
    KT_CHECK(kt_total(ql) == (int64_t)DEATHS * KT_THREADS, "counted %lld", (long long)kt_total(ql));
    ql_close(ql);
    return 0;
}

static void die_with_all_slots(struct ql *ql)
{
    for (int i = 0; i < KT_SLOTS; i++)
        kt_take(ql);
    _exit(0);
}

static void take_from_dead(void *context, int number)
{
    struct ql *ql = context;
    struct ql_lease lease;
    enum ql_status status;
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    (void)number;
    do
        status = ql_acquire(ql, "alice", &lease, NULL);
    while (status == QL_REFUSED && kt_now_ns() < deadline_ns);
    kt_expect(status, QL_OK, "acquire");
    kt_meet();
    kt_expect(ql_release(ql, lease), QL_OK, "release");
}

int kt_thread_dead_slots(void)
{
    struct ql *ql = kt_open_store();
    for (int i = 0; i < DEATHS; i++) {
        run_to_death(ql, die_with_all_slots);
        kt_threads(take_from_dead, ql);
        KT_CHECK(kt_held(ql) == 0, "%lld leases", (long long)kt_held(ql));
    }
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

#define LATE_TURNS 500

/* Thread 0 reaps the former owner of our slot, again and again. */
static void reap_or_settle(void *context, int number)
{
    struct ql *ql = context;
    struct qli_engine *engine = &ql->store->engine;
    uint64_t self = qli_holder_self(&engine->region);
    const struct qli_call call = qli_engine_bare_call(engine, self, 20000);
    for (int i = 0; i < LATE_TURNS; i++) {
        if (number == 0) {
            kt_expect(
                qli_operation_reap(&call, qli_word_slot(self), qli_word_generation(self) - 1, NULL),
                QL_OK, "reap");
            kt_expect(qli_operation_reap_dead(&call, 0), QL_OK, "reap");
            continue;
        }
        struct ql_charge charge = {"bytes", 1};
        kt_expect(ql_settle(ql, kt_take(ql), &charge, 1), QL_OK, "settle");
    }
}

int kt_thread_late_reaper(void)
{
    ql_close(kt_open_store());
    struct ql *ql = kt_open_store();
    kt_threads(reap_or_settle, ql);
    KT_CHECK(kt_total(ql) == (int64_t)LATE_TURNS * (KT_THREADS - 1), "counted %lld",
             (long long)kt_total(ql));
    kt_verify(ql);
    ql_close(ql);
    return 0;
}
