/* SPDX-License-Identifier: Apache-2.0
 *
 * The lock and its undo log: threads exclude each other, what is not committed
 * is taken back, and a dead owner's lock is taken over, also by calls that do
 * not wait; a live owner's never.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "api/handle.h"
#include "harness.h"

#define THREADS 4
#define TURNS 200000

static char directory[KT_PATH];
static int64_t clock_ns = KT_START_NS;

struct scene {
    struct ql *ql;
    struct qli_region *region;
    struct qli_guard *guard; /* of the only shard */
    uint64_t *word;          /* in the body, that nothing else writes */
    uint64_t self;
    pthread_barrier_t start;
};

static int set_up(void **state)
{
    static struct scene scene;
    struct ql_options options = kt_options(&clock_ns, 2, 8);
    options.admit_wait_ms = -1;
    options.charge_wait_ms = -1;
    kt_directory_make(directory, NULL);
    scene.ql = kt_open(directory, &options);
    scene.region = &scene.ql->store->engine.region;
    scene.guard = &scene.region->guards[1];
    scene.word = &scene.ql->store->engine.page->omissions;
    scene.self = qli_holder_self(scene.region);
    *state = &scene;
    return 0;
}

static int tear_down(void **state)
{
    ql_close(((struct scene *)*state)->ql);
    kt_directory_remove(directory);
    return 0;
}

/* ---- exclusion ----------------------------------------------------------- */

static void *add(void *context)
{
    struct scene *s = context;
    pthread_barrier_wait(&s->start);
    for (int i = 0; i < TURNS; i++) {
        enum ql_status status = qli_guard_enter(s->region, s->guard, s->self, 60000);
        KT_CHECK(status == QL_OK, "enter: %s", ql_status_name(status));
        struct qli_log log = qli_log_of(s->region, s->guard);
        qli_log_store(&log, s->word, *s->word + 1);
        if (i % 3 == 0)
            KT_CHECK(qli_guard_rollback(s->region, s->guard) == QL_OK, "rollback");
        else
            qli_log_commit(&log);
        qli_guard_leave(s->guard);
    }
    return NULL;
}

static void threads_exclude_each_other(void **state)
{
    struct scene *s = *state;
    pthread_t threads[THREADS];
    const uint64_t taken_back = (TURNS + 2) / 3;
    assert_int_equal(pthread_barrier_init(&s->start, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add, s), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(*s->word, THREADS * (TURNS - taken_back));
    assert_int_equal(s->guard->word, 0);
    assert_int_equal(s->guard->undo_count, 0);
}

static void whoever_does_not_wait_is_busy(void **state)
{
    struct scene *s = *state;
    assert_int_equal(qli_guard_enter(s->region, s->guard, s->self, -1), QL_OK);
    assert_int_equal(qli_guard_enter(s->region, s->guard, s->self, -1), QL_E_BUSY);
    assert_int_equal(qli_guard_enter(s->region, s->guard, s->self, 0), QL_E_BUSY);
    assert_int_equal(qli_guard_enter(s->region, s->guard, s->self, 20), QL_E_BUSY);
    qli_guard_leave(s->guard);
    assert_int_equal(qli_guard_enter(s->region, s->guard, s->self, -1), QL_OK);
    qli_guard_leave(s->guard);
    assert_int_equal(s->guard->word, 0);
}

/* ---- undo ---------------------------------------------------------------- */

static void a_rollback_puts_back_the_first_values(void **state)
{
    struct scene *s = *state;
    assert_int_equal(qli_guard_enter(s->region, s->guard, s->self, -1), QL_OK);
    struct qli_log log = qli_log_of(s->region, s->guard);
    for (uint64_t i = 0; i < QLI_UNDO_MAX; i++)
        qli_log_store(&log, s->word, 100 + i);
    assert_int_equal(*s->word, 100 + QLI_UNDO_MAX - 1);
    assert_int_equal(qli_guard_rollback(s->region, s->guard), QL_OK);
    assert_int_equal(*s->word, 0);
    log = qli_log_of(s->region, s->guard);
    qli_log_store(&log, s->word, 7);
    qli_log_commit(&log);
    assert_int_equal(qli_guard_rollback(s->region, s->guard), QL_OK);
    assert_int_equal(*s->word, 7);
    qli_guard_leave(s->guard);
}

/* ---- owners -------------------------------------------------------------- */

/* A process that enters the lock, begins a change, and stays there. */
static pid_t start_inside(struct scene *s)
{
    _Atomic int *inside = kt_shared(sizeof *inside);
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql_usage usage;
        KT_CHECK(ql_usage(s->ql, "nobody", &usage) == QL_OK, "usage");
        uint64_t self = qli_holder_self(s->region);
        KT_CHECK(qli_guard_enter(s->region, s->guard, self, -1) == QL_OK, "enter");
        struct qli_log log = qli_log_of(s->region, s->guard);
        qli_log_store(&log, s->word, 1000);
        *inside = 1;
        for (;;)
            pause();
    }
    while (*inside == 0)
        sched_yield();
    return pid;
}

static void a_live_owner_is_not_robbed(void **state)
{
    struct scene *s = *state;
    struct ql_lease lease;
    pid_t owner = start_inside(s);
    uint64_t word = s->guard->word;
    assert_int_equal(ql_charge(s->ql, "alice", "bytes", 1, NULL), QL_E_BUSY);
    assert_int_equal(ql_acquire(s->ql, "alice", &lease, NULL), QL_E_BUSY);
    assert_int_equal(qli_guard_enter(s->region, s->guard, s->self, 50), QL_E_BUSY);
    assert_int_equal(s->guard->word & ~QLI_WORD_WAITERS, word);
    assert_int_equal(*s->word, 1000);
    kt_kill(owner);
}

static void charge(struct scene *s)
{
    assert_int_equal(ql_charge(s->ql, "alice", "bytes", 1, NULL), QL_OK);
}

static void acquire(struct scene *s)
{
    struct ql_lease lease;
    assert_int_equal(ql_acquire(s->ql, "alice", &lease, NULL), QL_OK);
}

static void check(struct scene *s)
{
    assert_int_equal(ql_check(s->ql, "alice", NULL, NULL), QL_OK);
}

static void verify(struct scene *s)
{
    assert_int_equal(ql_verify(s->ql, NULL, NULL), QL_OK);
}

/* The handle never waits: admit_wait_ms and charge_wait_ms are -1. */
static void calls_that_do_not_wait_take_over_from_the_dead(void **state)
{
    static void (*const calls[])(struct scene *) = {charge, acquire, check, verify};
    struct scene *s = *state;
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        kt_kill(start_inside(s));
        assert_int_equal(*s->word, 1000);
        calls[i](s);
        assert_int_equal(*s->word, 0);
        assert_int_equal(s->guard->word, 0);
    }
}

static void whoever_waits_takes_over_from_the_dead(void **state)
{
    struct scene *s = *state;
    kt_kill(start_inside(s));
    assert_int_equal(qli_guard_enter(s->region, s->guard, s->self, 60000), QL_OK);
    assert_int_equal(*s->word, 0);
    assert_int_equal(s->guard->undo_count, 0);
    qli_guard_leave(s->guard);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(threads_exclude_each_other),
        CASE(whoever_does_not_wait_is_busy),
        CASE(a_rollback_puts_back_the_first_values),
        CASE(a_live_owner_is_not_robbed),
        CASE(calls_that_do_not_wait_take_over_from_the_dead),
        CASE(whoever_waits_takes_over_from_the_dead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
