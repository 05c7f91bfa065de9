/* SPDX-License-Identifier: Apache-2.0
 *
 * The first try of a call whose host is told before it sleeps: what it could not look
 * at, as a lock was taken meanwhile, is no answer. The test takes that lock where the
 * library asks whether a holder is alive, and gives it up once it was in the way.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/handle.h"
#include "stage.h"

#define ROOM 2

static struct ql *ql;
static struct ql_lease *lease; /* shared with children */
static struct qli_section section;
static bool takes_lock; /* at the next question */
static bool has_lock;
static int told;

enum ql_status __wrap_qli_store_tick(struct qli_store *store, uint64_t self, int64_t system_ns);
enum ql_status __real_qli_store_tick(struct qli_store *store, uint64_t self, int64_t system_ns);

/* A tick, if one is due, would find the dead before the call does. */
enum ql_status __wrap_qli_store_tick(struct qli_store *store, uint64_t self, int64_t system_ns)
{
    return takes_lock ? QL_OK : __real_qli_store_tick(store, self, system_ns);
}

bool __wrap_qli_holder_alive(const struct qli_region *region, uint64_t self, uint64_t word);
bool __real_qli_holder_alive(const struct qli_region *region, uint64_t self, uint64_t word);

bool __wrap_qli_holder_alive(const struct qli_region *region, uint64_t self, uint64_t word)
{
    struct qli_call call = qli_engine_bare_call(&ql->store->engine, self, -1);
    if (takes_lock) {
        takes_lock = false;
        has_lock = true;
        assert_int_equal(qli_section_enter(&call, 0, &section), QL_OK);
    }
    return __real_qli_holder_alive(region, self, word);
}

enum ql_status __wrap_qli_guard_enter_slow(struct qli_region *region, struct qli_guard *guard,
                                           uint64_t self, int64_t wait_ms);

enum ql_status __wrap_qli_guard_enter_slow(struct qli_region *region, struct qli_guard *guard,
                                           uint64_t self, int64_t wait_ms)
{
    (void)region;
    assert_true(has_lock && guard == section.log.guard);
    has_lock = false;
    qli_section_leave(&section);
    return wait_ms < 0 ? QL_E_BUSY : qli_guard_enter(region, guard, self, wait_ms);
}

static void *begin_wait(void *context)
{
    (void)context;
    told++;
    return NULL;
}

static void end_wait(void *context, void *token)
{
    (void)context;
    (void)token;
}

static void open_store(uint32_t holders)
{
    struct ql_options options = stage_options(ROOM);
    options.durability = QL_DURABILITY_NONE;
    options.max_holders = holders;
    options.when_full = QL_FULL_ADMIT;
    options.wait_begin = begin_wait;
    options.wait_end = end_wait;
    ql = kt_open(stage.store, &options);
}

static int set_up(void **state)
{
    stage_set_up(state);
    lease = kt_shared(sizeof *lease);
    told = 0;
    open_store(8);
    return 0;
}

static int tear_down(void **state)
{
    ql_close(ql);
    return stage_tear_down(state);
}

/* Somebody takes slots and dies; then the lock is taken while it is looked for. */
static void let_die(const char *first, const char *second)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        bool taken = ql_acquire(ql, first, lease, NULL) == QL_OK &&
                     (second == NULL || ql_acquire(ql, second, lease, NULL) == QL_OK);
        _exit(!taken);
    }
    kt_wait_success(pid);
    takes_lock = true;
}

static void expect_told(void)
{
    assert_false(takes_lock);
    assert_false(has_lock);
    assert_int_equal(told, 1);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
}

static void slots_of_the_dead_refuse_nobody(void **state)
{
    (void)state;
    let_die("alice", "alice");
    assert_int_equal(ql_acquire(ql, "alice", lease, NULL), QL_OK);
    expect_told();
}

static void a_settle_for_the_dead_is_late(void **state)
{
    (void)state;
    const struct ql_charge bytes = {"bytes", 5};
    let_die("alice", NULL);
    assert_int_equal(ql_settle(ql, *lease, &bytes, 1), QL_LATE);
    expect_told();
    assert_int_equal(stage_total(ql, "alice", "bytes"), 5);
}

static void the_room_of_the_dead_is_used_again(void **state)
{
    (void)state;
    struct ql_verify_report report;
    let_die("alice", "bob");
    assert_int_equal(ql_acquire(ql, "alice", lease, NULL), QL_OK);
    expect_told();
    assert_int_equal(ql_verify(ql, &report, NULL), QL_OK);
    assert_int_equal(report.omissions, 0);
}

static void usage_shows_no_slots_of_the_dead(void **state)
{
    (void)state;
    struct ql_usage usage;
    let_die("alice", NULL);
    assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.leases, 0);
    expect_told();
}

/* QL_E_FULL of the holders is not that of the leases. */
static void a_child_without_a_slot_is_not_admitted(void **state)
{
    (void)state;
    ql_close(ql);
    stage_renew();
    open_store(1);
    pid_t pid = kt_fork();
    if (pid == 0)
        _exit(!(ql_acquire(ql, "alice", lease, NULL) == QL_E_FULL &&
                ql_admit(ql, "alice", NULL, lease, NULL) == QL_E_FULL && lease->epoch == 0));
    kt_wait_success(pid);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(slots_of_the_dead_refuse_nobody),        CASE(a_settle_for_the_dead_is_late),
        CASE(the_room_of_the_dead_is_used_again),     CASE(usage_shows_no_slots_of_the_dead),
        CASE(a_child_without_a_slot_is_not_admitted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
