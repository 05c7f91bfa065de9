/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads that open and close, register, fork, and lose the store.
 */
#include <string.h>
#include <unistd.h>

#include "threads.h"

/* ---- opening and closing -------------------------------------------------- */

#define RACES 300

static void open_at_once(void *context, int number)
{
    (void)context;
    (void)number;
    struct ql *ql = kt_open_store();
    kt_charge(ql, 1);
    kt_meet();
    KT_CHECK(kt_total(ql) == KT_THREADS, "%lld were charged: two regions", (long long)kt_total(ql));
    struct ql_verify_report report;
    kt_expect(ql_verify(ql, &report, NULL), QL_OK, "verify");
    KT_CHECK(report.holders == 1, "%llu holders", (unsigned long long)report.holders);
    kt_meet();
    ql_close(ql);
}

/* A new store and a stale one in turn. */
int kt_thread_open_first(void)
{
    for (int i = 0; i < RACES; i++) {
        if (i % 2 == 0) {
            kt_directory_remove(kt_directory);
            kt_directory_make(kt_directory, NULL);
        } else {
            kt_make_stale(kt_directory);
        }
        kt_threads(open_at_once, NULL);
    }
    return 0;
}

static void open_and_close(void *context, int number)
{
    (void)context;
    (void)number;
    for (int i = 0; i < RACES; i++) {
        struct ql *ql = kt_open_store();
        struct ql_lease lease;
        kt_charge(ql, 1);
        enum ql_status status = ql_acquire(ql, "alice", &lease, NULL);
        KT_CHECK(status == QL_OK || status == QL_REFUSED, "acquire: %s", ql_status_name(status));
        ql_close(ql);
    }
}

/* The last handle is closed again and again, while another thread opens. */
int kt_thread_open_close(void)
{
    kt_threads(open_and_close, NULL);
    struct ql *ql = kt_open_store();
    KT_CHECK(kt_leases_counted(ql) == 0, "the last close left leases");
    KT_CHECK(kt_total(ql) == (int64_t)KT_THREADS * RACES, "counted %lld", (long long)kt_total(ql));
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- forking -------------------------------------------------------------- */

static void charge_one(void *context, int number)
{
    (void)number;
    kt_charge(context, 1);
}

/* The threads of a forked child race to make it a holder. */
int kt_thread_register_race(void)
{
    struct ql *ql = kt_open_store();
    for (int i = 0; i < RACES; i++) {
        pid_t pid = kt_fork();
        if (pid == 0) {
            struct ql_verify_report report;
            kt_threads(charge_one, ql);
            kt_expect(ql_verify(ql, &report, NULL), QL_OK, "verify");
            KT_CHECK(report.holders == 2, "%llu holders", (unsigned long long)report.holders);
            _exit(0);
        }
        kt_wait_success(pid);
    }
    KT_CHECK(kt_total(ql) == (int64_t)KT_THREADS * RACES, "counted %lld", (long long)kt_total(ql));
    ql_close(ql);
    return 0;
}

#define FORKS 40

struct forking {
    struct ql *ql;
    _Atomic int64_t done;
    _Atomic int64_t charged;
};

static _Noreturn void be_forked(struct ql *ql, struct ql_lease parents)
{
    alarm(60);
    kt_charge(ql, 1);
    kt_expect(ql_release(ql, parents), QL_E_NOT_OWNER, "release of the parent's lease");
    kt_expect(ql_release(ql, kt_take(ql)), QL_OK, "release");
    kt_take(ql);
    _exit(0);
}

static void call_or_fork(void *context, int number)
{
    struct forking *forking = context;
    if (number != 0) {
        while (forking->done == 0) {
            kt_charge(forking->ql, 1);
            forking->charged++;
        }
        return;
    }
    for (int i = 0; i < FORKS; i++) {
        struct ql_lease lease = kt_take(forking->ql);
        pid_t pid = kt_fork();
        if (pid == 0)
            be_forked(forking->ql, lease);
        kt_wait_success(pid);
        forking->charged++;
        kt_expect(ql_release(forking->ql, lease), QL_OK, "release");
    }
    forking->done = 1;
}

int kt_thread_fork_while_calling(void)
{
    struct forking forking = {.ql = kt_open_store()};
    kt_threads(call_or_fork, &forking);
    KT_CHECK(kt_total(forking.ql) == forking.charged, "%lld counted, %lld acknowledged",
             (long long)kt_total(forking.ql), (long long)forking.charged);
    kt_await_held(forking.ql, 0);
    kt_verify(forking.ql);
    ql_close(forking.ql);
    return 0;
}

/* ---- losing the store ----------------------------------------------------- */

#define LOSSES 100

struct loss {
    struct ql *ql;
    void (*cause)(void);
    enum ql_status expected;
    _Atomic int64_t callers;
};

/* Each call ticks, so that several threads find the loss at once. */
static enum ql_status charge_until_lost(struct ql *ql)
{
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    enum ql_status status;
    do {
        __atomic_store_n(&ql->store->last_tick_ns, 0, __ATOMIC_RELAXED);
        status = ql_charge(ql, "alice", "bytes", 1, NULL);
    } while (status == QL_OK && kt_now_ns() < deadline_ns);
    return status;
}

static void call_until_lost(void *context, int number)
{
    struct loss *loss = context;
    if (number == 0) {
        kt_await(&loss->callers, KT_THREADS - 1);
        loss->cause();
        return;
    }
    kt_take(loss->ql);
    loss->callers++;
    kt_expect(charge_until_lost(loss->ql), loss->expected, "charge");
    kt_expect(ql_charge(loss->ql, "alice", "bytes", 1, NULL), loss->expected, "charge");
}

static void close_descriptors(void)
{
    closefrom(3);
}

int kt_thread_closefrom(void)
{
    for (int i = 0; i < LOSSES; i++) {
        struct loss loss = {.ql = kt_open_store(), close_descriptors, QL_E_DETACHED, 0};
        kt_threads(call_until_lost, &loss);
        struct ql *again = kt_open_store();
        kt_await_held(again, 0);
        kt_verify(again);
        ql_close(loss.ql);
        kt_charge(again, 1);
        ql_close(again);
    }
    return 0;
}

static void remove_store(void)
{
    kt_directory_remove(kt_directory);
}

int kt_thread_removed(void)
{
    for (int i = 0; i < LOSSES; i++) {
        struct loss loss = {.ql = kt_open_store(), remove_store, QL_E_GONE, 0};
        kt_threads(call_until_lost, &loss);
        struct ql *again = kt_open_store();
        KT_CHECK(kt_total(again) == 0 && kt_held(again) == 0, "the new store is not new");
        ql_close(loss.ql);
        ql_close(again);
    }
    return 0;
}
