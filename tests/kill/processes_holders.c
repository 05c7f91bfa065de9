/* SPDX-License-Identifier: Apache-2.0
 *
 * Holders that die, whose slot is used again, or that find no room.
 */
#include <unistd.h>

#include "engine/operation.h"
#include "processes.h"

static _Noreturn void take_and_wait(struct ql *ql, int leases)
{
    for (int i = 0; i < leases; i++)
        kt_take(ql);
    kt_flags[0]++;
    for (;;)
        pause();
}

/* ---- a table of 4 holders ------------------------------------------------ */

int kt_process_four_holders(void)
{
    struct ql *ql = kt_open_room(4, 20000);
    for (int i = 0; i < 200; i++) {
        pid_t pids[3];
        kt_flags[0] = 0;
        for (int r = 0; r < 3; r++) {
            pids[r] = kt_fork();
            if (pids[r] == 0)
                take_and_wait(ql, 1);
        }
        kt_await(&kt_flags[0], 3);
        KT_CHECK(kt_held(ql) == 3, "%lld leases", (long long)kt_held(ql));
        pid_t fifth = kt_fork();
        if (fifth == 0) {
            struct ql_usage usage;
            kt_expect(ql_usage(ql, "alice", &usage), QL_E_FULL, "usage of the fifth holder");
            _exit(0);
        }
        kt_wait_success(fifth);
        for (int r = 0; r < 3; r++)
            kt_kill(pids[r]);
    }
    kt_await_held(ql, 0);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* A reaper that is late: it noticed the death of the slot's former owner, and
 * comes when the slot has a new one. */
int kt_process_late_reaper(void)
{
    struct ql *ql = kt_open_room(2, 20000); /* ql's slot, and one for the others */
    struct kt_view view = kt_view_open(kt_directory);
    uint64_t slots[2];
    uint64_t generation = 0;
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        kt_flags[0] = 0;
        pids[i] = kt_fork();
        if (pids[i] == 0)
            take_and_wait(ql, 1);
        kt_await(&kt_flags[0], 1);
        slots[i] = kt_view_slot(&view, pids[i]);
        if (i == 1)
            break;
        generation = view.region.holders[slots[0]].generation;
        kt_kill(pids[0]);
    }
    KT_CHECK(slots[0] == slots[1], "the slot was not used again");
    KT_CHECK(kt_leases_counted(ql) == 1, "the former owner's lease was not reaped first");
    struct qli_engine *engine = &ql->store->engine;
    struct qli_call call = qli_engine_bare_call(engine, qli_holder_self(&engine->region), 0);
    kt_expect(qli_operation_reap(&call, slots[0], generation, NULL), QL_OK, "reap");
    KT_CHECK(kt_held(ql) == 1, "the new owner's lease was reaped");
    kt_kill(pids[1]);
    ql_close(ql);
    kt_view_close(&view);
    return 0;
}

/* ---- the slot of a process that dies -------------------------------------- */

int kt_process_dead_slot_free(void)
{
    struct ql *ql = kt_open_store();
    int64_t longest_ns = 0;
    for (int i = 0; i < 100; i++) {
        kt_flags[0] = 0;
        pid_t pid = kt_fork();
        if (pid == 0)
            take_and_wait(ql, KT_SLOTS);
        kt_await(&kt_flags[0], 1);
        struct ql_lease lease;
        kt_expect(ql_acquire(ql, "alice", &lease, NULL), QL_REFUSED, "acquire over the cap");
        kt_kill(pid);
        int64_t start_ns = kt_now_ns();
        enum ql_status status;
        do
            status = ql_acquire(ql, "alice", &lease, NULL);
        while (status == QL_REFUSED && kt_now_ns() < start_ns + kt_deadline_ns);
        kt_expect(status, QL_OK, "acquire");
        int64_t took_ns = kt_now_ns() - start_ns;
        longest_ns = took_ns > longest_ns ? took_ns : longest_ns;
        kt_expect(ql_release(ql, lease), QL_OK, "release");
    }
    printf("a dead process's slot was free again within %.3f ms of its end, 100 times\n",
           (double)longest_ns / 1e6);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- no room for subjects ------------------------------------------------- */

#define ROOM 8
#define FILLERS 3
#define SUBJECTS 100

static void fill(struct ql *ql, int number, const char *when, _Atomic int64_t *made)
{
    char subject[32];
    for (int i = 0; i < SUBJECTS; i++) {
        snprintf(subject, sizeof subject, "%s-%d-%d", when, number, i);
        enum ql_status status = ql_charge(ql, subject, "bytes", 1, NULL);
        KT_CHECK(status == QL_OK || status == QL_E_FULL, "charge: %s", ql_status_name(status));
        *made += status == QL_OK;
    }
}

static void fill_at_once(struct ql *ql, const char *when, _Atomic int64_t *made)
{
    pid_t pids[FILLERS];
    for (int r = 0; r < FILLERS; r++) {
        pids[r] = kt_fork();
        if (pids[r] == 0) {
            fill(ql, r, when, made);
            _exit(0);
        }
    }
    for (int r = 0; r < FILLERS; r++)
        kt_wait_success(pids[r]);
    KT_CHECK(*made == ROOM, "%s: %lld of %d subjects", when, (long long)*made, ROOM);
    kt_verify(ql);
}

/* Exactly as many as there is room for; the next day they make room. */
int kt_process_full(void)
{
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, ROOM);
    options.max_holders = 16;
    struct ql *ql = kt_open(kt_directory, &options);
    fill_at_once(ql, "today", &kt_flags[0]);
    __atomic_fetch_add(kt_clock_ns, KT_DAY_NS, __ATOMIC_RELAXED);
    fill_at_once(ql, "tomorrow", &kt_flags[1]);
    ql_close(ql);
    return 0;
}
