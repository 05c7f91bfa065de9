/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls that need the ledger first: whose lock they need for it, how they wait for their
 * turn in it, and that the host is told that they wait for the disk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>

#include "api/handle.h"
#include "engine/dirty.h"
#include "stage.h"

#define ROOM 4096 /* several shards */
#define ADMIT_WAIT_MS 20000
#define CHARGE_WAIT_MS 20000
#define SHORT_MS 50

static struct ql *ql;
static struct ql_lease lease; /* of alice */
static _Atomic int told;
static _Atomic int told_of_the_end;

static void *begin_wait(void *context)
{
    (void)context;
    told++;
    return &lease;
}

static void end_wait(void *context, void *token)
{
    (void)context;
    assert_ptr_equal(token, &lease);
    told_of_the_end++;
}

static void charge(const char *subject, int64_t amount)
{
    assert_int_equal(ql_charge(ql, subject, "bytes", amount, NULL), QL_OK);
}

/* Two days of which the ledger knows nothing, and a third one has begun. */
static int set_up(void **state)
{
    stage_set_up(state);
    struct ql_options options = stage_options(ROOM);
    options.admit_wait_ms = ADMIT_WAIT_MS;
    options.charge_wait_ms = CHARGE_WAIT_MS;
    options.wait_begin = begin_wait;
    options.wait_end = end_wait;
    ql = kt_open(stage.store, &options);
    for (int day = 0; day < 2; day++) {
        charge("alice", 1);
        *stage.clock_ns += STAGE_DAY * QLI_NS_PER_SECOND;
    }
    assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_OK);
    told = told_of_the_end = 0;
    return 0;
}

static int tear_down(void **state)
{
    ql_close(ql);
    return stage_tear_down(state);
}

static uint64_t shard_of(const char *subject)
{
    struct qli_name name;
    assert_int_equal(qli_subject_name(&ql->store->engine, subject, &name), QL_OK);
    return qli_engine_shard_of(&ql->store->engine, name.hash);
}

/* Stays in the lock of a shard. */
static struct qli_section enter_shard(uint64_t shard)
{
    struct qli_call call;
    struct qli_section section;
    assert_int_equal(qli_handle_begin(ql, 0, &call), QL_OK);
    assert_true(shard < call.engine->geometry.shard_count);
    assert_int_equal(qli_section_enter(&call, shard, &section), QL_OK);
    return section;
}

/* ---- whose lock ---------------------------------------------------------- */

static void a_charge_waits_for_no_other_shard(void **state)
{
    (void)state;
    struct qli_section section = enter_shard(shard_of("alice") ^ 1);
    charge("alice", 1);
    qli_section_leave(&section);
    assert_int_equal(stage_total(ql, "alice", "bytes"), 1);
    assert_int_equal(stage_number("SELECT count(*) FROM totals"), 2);
}

static void a_settle_waits_for_no_other_shard(void **state)
{
    (void)state;
    const struct ql_charge bytes = {"bytes", 5};
    struct qli_section section = enter_shard(shard_of("alice") ^ 1);
    assert_int_equal(ql_settle(ql, lease, &bytes, 1), QL_OK);
    qli_section_leave(&section);
    assert_int_equal(stage_total(ql, "alice", "bytes"), 5);
}

static void *check_bob(void *context)
{
    *(enum ql_status *)context = ql_check(ql, "bob", NULL, NULL);
    return NULL;
}

/* The clock has gone back, so it has to read bob's windows; then it cannot open them. */
static void a_look_into_the_ledger_keeps_nobody_out(void **state)
{
    (void)state;
    pthread_t thread;
    enum ql_status checked;
    struct qli_flusher *flusher = &ql->store->flusher;
    charge("alice", 1);
    *stage.clock_ns -= STAGE_DAY * QLI_NS_PER_SECOND;
    told = 0;
    assert_true(qli_flusher_enter(flusher, 0));
    assert_int_equal(pthread_create(&thread, NULL, check_bob, &checked), 0);
    while (told == 0)
        sched_yield();
    struct qli_section section = enter_shard(shard_of("bob"));
    qli_flusher_leave(flusher);
    while (qli_flusher_enter(flusher, 0)) /* until it has */
        qli_flusher_leave(flusher);
    assert_true(qli_flusher_enter(flusher, ADMIT_WAIT_MS / 2));
    qli_flusher_leave(flusher);
    qli_section_leave(&section);
    pthread_join(thread, NULL);
    assert_int_equal(checked, QL_OK);
}

static int visit_entry(void *context, const struct ql_history_entry *entry)
{
    *(int64_t *)context += entry->amount;
    return 0;
}

struct reading {
    _Atomic bool over;
    enum ql_status status;
    int64_t amount;
};

static void *read_history(void *context)
{
    struct reading *reading = context;
    reading->status =
        ql_history(ql, "alice", NULL, 0, INT64_MAX, visit_entry, &reading->amount, NULL);
    reading->over = true;
    return NULL;
}

/* Until somebody has flushed so often, or it is over. */
static void await_flushes(uint64_t flushes, const _Atomic bool *over)
{
    const uint64_t *begun = &ql->store->engine.ledger_page->begun;
    flushes += __atomic_load_n(begun, __ATOMIC_ACQUIRE);
    while (__atomic_load_n(begun, __ATOMIC_ACQUIRE) < flushes && !*over)
        sched_yield();
}

static void a_history_is_patient_with_its_shard(void **state)
{
    (void)state;
    pthread_t thread;
    struct reading reading = {0};
    struct qli_section section = enter_shard(shard_of("alice"));
    assert_int_equal(pthread_create(&thread, NULL, read_history, &reading), 0);
    await_flushes(2, &reading.over);
    qli_section_leave(&section);
    pthread_join(thread, NULL);
    assert_int_equal(reading.status, QL_OK);
    assert_int_equal(reading.amount, 2);
}

/* ---- their turn ---------------------------------------------------------- */

static bool stands_in_the_way; /* of verify: in alice's shard, until it has met that */
static struct qli_section in_the_way;

enum ql_status __real_qli_ledger_check(struct qli_ledger *ledger);
enum ql_status __wrap_qli_ledger_check(struct qli_ledger *ledger);
enum ql_status __real_qli_dirty_survey(const struct qli_call *call, uint64_t shard,
                                       uint64_t *cursor, struct qli_dirty_subject *found,
                                       size_t max, size_t *count);
enum ql_status __wrap_qli_dirty_survey(const struct qli_call *call, uint64_t shard,
                                       uint64_t *cursor, struct qli_dirty_subject *found,
                                       size_t max, size_t *count);

/* The last thing that verify does before it compares the shards. */
enum ql_status __wrap_qli_ledger_check(struct qli_ledger *ledger)
{
    if (stands_in_the_way)
        in_the_way = enter_shard(shard_of("alice"));
    return __real_qli_ledger_check(ledger);
}

enum ql_status __wrap_qli_dirty_survey(const struct qli_call *call, uint64_t shard,
                                       uint64_t *cursor, struct qli_dirty_subject *found,
                                       size_t max, size_t *count)
{
    enum ql_status status = __real_qli_dirty_survey(call, shard, cursor, found, max, count);
    if (status == QL_E_BUSY && stands_in_the_way) {
        stands_in_the_way = false;
        qli_section_leave(&in_the_way);
    }
    return status;
}

static void a_verify_is_patient_with_a_shard(void **state)
{
    (void)state;
    stands_in_the_way = true;
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    assert_false(stands_in_the_way);
}

static struct ql *open_hasty(void)
{
    struct ql_options options = stage_options(ROOM);
    options.charge_wait_ms = SHORT_MS;
    return kt_open(stage.store, &options);
}

static void expect_waited(int64_t since_ns)
{
    assert_true(qli_clock_boot_ns() - since_ns >= SHORT_MS * QLI_NS_PER_MS);
}

static void a_verify_gives_up_after_its_wait_and_not_before(void **state)
{
    (void)state;
    struct ql *hasty = open_hasty();
    struct qli_flusher *flusher = &hasty->store->flusher;
    assert_true(qli_flusher_enter(flusher, 0));
    int64_t begun_ns = qli_clock_boot_ns();
    assert_int_equal(ql_verify(hasty, NULL, NULL), QL_E_BUSY);
    expect_waited(begun_ns);
    qli_flusher_leave(flusher);
    assert_int_equal(ql_verify(hasty, NULL, NULL), QL_OK);
    ql_close(hasty);
}

struct verifying {
    struct ql *ql;
    enum ql_status status;
};

static void *verify(void *context)
{
    struct verifying *verifying = context;
    verifying->status = ql_verify(verifying->ql, NULL, NULL);
    return NULL;
}

/* Once it has flushed, its turn to open the file comes when that of another reader is
 * over; and then somebody else is in the ledger. */
static void a_verify_waits_for_the_turn_of_its_reader_too(void **state)
{
    (void)state;
    pthread_t thread;
    struct verifying verifying = {.ql = open_hasty()};
    struct qli_flusher *flusher = &ql->store->flusher;
    const uint64_t *begun = &ql->store->engine.ledger_page->begun;
    uint64_t flushes = __atomic_load_n(begun, __ATOMIC_ACQUIRE);
    pthread_mutex_lock(&flusher->reader_mutex);
    assert_int_equal(pthread_create(&thread, NULL, verify, &verifying), 0);
    while (__atomic_load_n(begun, __ATOMIC_ACQUIRE) == flushes)
        sched_yield();
    assert_true(qli_flusher_enter(flusher, ADMIT_WAIT_MS));
    int64_t begun_ns = qli_clock_boot_ns();
    pthread_mutex_unlock(&flusher->reader_mutex);
    pthread_join(thread, NULL);
    expect_waited(begun_ns);
    qli_flusher_leave(flusher);
    assert_int_equal(verifying.status, QL_E_BUSY);
    ql_close(verifying.ql);
}

/* ---- room ---------------------------------------------------------------- */

/* All room is that of subjects whose leases are over, and an earlier day is open. */
static void room_is_made_for_a_window_too(void **state)
{
    (void)state;
    ql_close(ql);
    stage_renew();
    struct ql_options options = stage_options(2);
    options.lease_max_age_ms = 1;
    ql = kt_open(stage.store, &options);
    assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_OK);
    assert_int_equal(ql_acquire(ql, "bob", &lease, NULL), QL_OK);
    int64_t over_ns = qli_clock_boot_ns() + 2 * QLI_NS_PER_MS;
    while (qli_clock_boot_ns() < over_ns)
        sched_yield();
    *stage.clock_ns -= STAGE_DAY * QLI_NS_PER_SECOND;
    charge("carol", 3);
    assert_int_equal(stage_total(ql, "carol", "bytes"), 3);
}

/* ---- the host ------------------------------------------------------------ */

static void expect_told_once(void)
{
    assert_int_equal(told, 1);
    assert_int_equal(told_of_the_end, 1);
}

static void it_is_told_of_a_charge_that_flushes(void **state)
{
    (void)state;
    charge("alice", 1);
    expect_told_once();
    charge("alice", 1);
    expect_told_once();
}

static void it_is_told_of_a_settle_that_flushes(void **state)
{
    (void)state;
    const struct ql_charge bytes = {"bytes", 5};
    assert_int_equal(ql_settle(ql, lease, &bytes, 1), QL_OK);
    expect_told_once();
}

/* The clock has gone back: of whoever is unknown the ledger may know more. */
static void it_is_told_of_a_look_into_the_ledger(void **state)
{
    (void)state;
    charge("alice", 1);
    *stage.clock_ns -= STAGE_DAY * QLI_NS_PER_SECOND;
    told = told_of_the_end = 0;
    assert_int_equal(ql_check(ql, "bob", NULL, NULL), QL_OK);
    expect_told_once();
    assert_int_equal(stage_total(ql, "alice", "bytes"), 1);
}

static void it_is_told_of_an_end_without_success(void **state)
{
    (void)state;
    charge("alice", 1);
    *stage.clock_ns -= STAGE_DAY * QLI_NS_PER_SECOND;
    stage_sql("DROP TABLE totals");
    told = told_of_the_end = 0;
    assert_true(ql_check(ql, "bob", NULL, NULL) < QL_OK);
    expect_told_once();
}

/* For a lock, and then for the ledger. */
static void it_is_told_once_of_a_call_that_waits_twice(void **state)
{
    (void)state;
    pthread_t thread;
    enum ql_status checked;
    charge("alice", 1);
    *stage.clock_ns -= STAGE_DAY * QLI_NS_PER_SECOND;
    told = told_of_the_end = 0;
    struct qli_section section = enter_shard(shard_of("bob"));
    assert_int_equal(pthread_create(&thread, NULL, check_bob, &checked), 0);
    while (told == 0)
        sched_yield();
    qli_section_leave(&section);
    pthread_join(thread, NULL);
    assert_int_equal(checked, QL_OK);
    expect_told_once();
}

static void expect_told_anew(enum ql_status status)
{
    assert_int_equal(status, QL_OK);
    expect_told_once();
    told = told_of_the_end = 0;
}

static void it_is_told_of_the_calls_about_the_ledger(void **state)
{
    (void)state;
    char path[KT_PATH + 16];
    int64_t amount = 0;
    snprintf(path, sizeof path, "%s/backup.db", stage.base);
    expect_told_anew(ql_flush(ql, NULL));
    expect_told_anew(ql_verify(ql, NULL, NULL));
    expect_told_anew(ql_history(ql, "alice", NULL, 0, INT64_MAX, visit_entry, &amount, NULL));
    expect_told_anew(ql_backup(ql, path, NULL));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_charge_waits_for_no_other_shard),
        CASE(a_settle_waits_for_no_other_shard),
        CASE(a_look_into_the_ledger_keeps_nobody_out),
        CASE(a_history_is_patient_with_its_shard),
        CASE(room_is_made_for_a_window_too),
        CASE(it_is_told_of_a_charge_that_flushes),
        CASE(it_is_told_of_a_settle_that_flushes),
        CASE(it_is_told_of_a_look_into_the_ledger),
        CASE(it_is_told_of_an_end_without_success),
        CASE(it_is_told_once_of_a_call_that_waits_twice),
        CASE(it_is_told_of_the_calls_about_the_ledger),
        CASE(a_verify_is_patient_with_a_shard),
        CASE(a_verify_gives_up_after_its_wait_and_not_before),
        CASE(a_verify_waits_for_the_turn_of_its_reader_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
