/* SPDX-License-Identifier: Apache-2.0 */
#include "ledgered.h"

#include <stdlib.h>
#include <string.h>

#include "api/handle.h"
#include "engine/verify.h"

struct scene scene;

void go_to(int64_t day)
{
    __atomic_store_n(&scene.engine->page->day, (uint64_t)day, __ATOMIC_RELAXED);
    scene.call.day = day;
}

static void open_scene(const struct ql_limit *limits, size_t count, uint32_t subjects)
{
    struct ql_options options = QL_OPTIONS_INIT;
    options.max_subjects = subjects;
    options.max_meters = QL_METERS_MAX;
    scene.ql = fixture_open(&scene.fixture, "memory:", options, limits, count);
    scene.engine = &scene.ql->store->engine;
    assert_int_equal(used_bytes(scene.ql, "nobody"), 0); /* the first call reads the limits */
    scene.engine->ledger_page->durability = QL_DURABILITY_ASYNC;
    scene.engine->page->ask_until = 0;
    scene.call = (struct qli_call){
        .engine = scene.engine,
        .limits = qli_limits_current(scene.engine),
        .self = qli_holder_self(&scene.engine->region),
        .now_ns = scene.fixture.now_ns,
        .wait_ms = 1000,
    };
    go_to(TODAY);
}

static int set_up_room(uint32_t subjects)
{
    const struct ql_limit limits[] = {
        {"slots", NULL, QL_WINDOW_NONE, 3},
        {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
        {"daily_statements", "statements", QL_WINDOW_DAY, 1000},
    };
    open_scene(limits, 3, subjects);
    return 0;
}

int set_up(void **state)
{
    (void)state;
    return set_up_room(8);
}

int set_up_two(void **state)
{
    (void)state;
    return set_up_room(2);
}

int set_up_many(void **state)
{
    (void)state;
    return set_up_room(MANY);
}

int set_up_all_meters(void **state)
{
    struct ql_limit limits[QL_METERS_MAX];
    static const char *const names[QL_METERS_MAX] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    for (size_t i = 0; i < QL_METERS_MAX; i++)
        limits[i] = (struct ql_limit){names[i], names[i], QL_WINDOW_DAY, 1000};
    (void)state;
    open_scene(limits, QL_METERS_MAX, 8);
    return 0;
}

void expect_sound(void)
{
    struct ql_verify_report report;
    struct ql_error error = {0};
    if (qli_verify(&scene.call, &report, &error) != QL_OK)
        fail_msg("%s", error.text);
}

int tear_down(void **state)
{
    (void)state;
    expect_sound();
    ql_close(scene.ql);
    return 0;
}

/* ---- calls --------------------------------------------------------------- */

struct qli_name name_of(const char *subject)
{
    struct qli_name name;
    assert_int_equal(qli_subject_name(scene.engine, subject, &name), QL_OK);
    return name;
}

enum ql_status charge(const char *subject, uint32_t meter, int64_t amount)
{
    struct qli_name name = name_of(subject);
    return qli_operation_charge(&scene.call, &name, (struct qli_amount){meter, amount});
}

void charged(const char *subject, uint32_t meter, int64_t amount)
{
    assert_int_equal(charge(subject, meter, amount), QL_OK);
}

enum ql_status admit(const char *subject, bool budgets, bool slot, struct ql_lease *lease)
{
    struct qli_name name = name_of(subject);
    struct ql_verdict verdict;
    const struct qli_limits *limits = scene.call.limits;
    const struct qli_admission admission = {
        .limits = (budgets ? limits->windowed : 0) | (slot ? limits->concurrent : 0),
        .slot = slot,
    };
    return qli_operation_admit(&scene.call, &name, &admission, lease, &verdict);
}

enum ql_status check(const char *subject)
{
    return admit(subject, true, false, NULL);
}

struct ql_lease take(const char *subject)
{
    struct ql_lease lease;
    assert_int_equal(admit(subject, false, true, &lease), QL_OK);
    return lease;
}

enum ql_status usage_of(const char *subject, struct ql_usage *usage)
{
    struct qli_name name = name_of(subject);
    return qli_operation_usage(&scene.call, &name, usage);
}

void expect_usage(const char *subject, uint32_t meter, int64_t total, int64_t yesterday)
{
    struct ql_usage usage;
    assert_int_equal(usage_of(subject, &usage), QL_OK);
    assert_int_equal(usage.meters[meter].total, total);
    assert_int_equal(usage.meters[meter].yesterday, yesterday);
}

/* The next dirty subjects of the only shard. */
static size_t copy(uint64_t *cursor, struct qli_dirty_subject *found, size_t max)
{
    size_t count;
    assert_int_equal(qli_dirty_copy(&scene.call, 0, cursor, found, max, &count), QL_OK);
    return count;
}

size_t copy_all(struct qli_dirty_subject found[8])
{
    uint64_t cursor = 0;
    return copy(&cursor, found, 8);
}

void clear(const struct qli_dirty_subject *written, size_t count)
{
    assert_int_equal(qli_dirty_clear(&scene.call, 0, written, count), QL_OK);
}

size_t flush(void)
{
    struct qli_dirty_subject found[8];
    size_t count = copy_all(found);
    clear(found, count);
    return count;
}

void expect_total(const struct qli_dirty_subject *found, size_t i, uint32_t meter, int64_t day,
                  int64_t amount)
{
    assert_true(i < found->count);
    assert_int_equal(found->totals[i].meter, meter);
    assert_int_equal(found->totals[i].day, day);
    assert_int_equal(found->totals[i].amount, amount);
}

void expect_dirty(const char *subject, uint32_t meter, int64_t day, int64_t amount)
{
    struct qli_dirty_subject found[8];
    assert_int_equal(copy_all(found), 1);
    assert_string_equal(found[0].key, subject);
    assert_int_equal(found[0].count, 1);
    expect_total(&found[0], 0, meter, day, amount);
}

enum ql_status restore(const char *subject, uint32_t meter, int64_t day, int64_t amount)
{
    struct qli_name name = name_of(subject);
    const struct qli_total total = {meter, day, amount, false};
    return qli_dirty_restore(&scene.call, &name, &total);
}

enum ql_status reopen(const char *subject, const struct qli_total *totals, size_t count)
{
    struct qli_name name = name_of(subject);
    return qli_dirty_reopen(&scene.call, &name, totals, count);
}

/* ---- the only shard as it is --------------------------------------------- */

struct snapshot look(void)
{
    struct snapshot snapshot = {.size = scene.engine->geometry.shard_size};
    snapshot.bytes = malloc(snapshot.size);
    assert_non_null(snapshot.bytes);
    assert_int_equal(scene.engine->geometry.shard_count, 1);
    memcpy(snapshot.bytes, qli_engine_shard(scene.engine, 0), snapshot.size);
    return snapshot;
}

void expect_unchanged(struct snapshot snapshot)
{
    assert_memory_equal(qli_engine_shard(scene.engine, 0), snapshot.bytes, snapshot.size);
    free(snapshot.bytes);
    for (uint64_t i = 0; i < scene.engine->region.guard_count; i++) {
        assert_int_equal(scene.engine->region.guards[i].word, 0);
        assert_int_equal(scene.engine->region.guards[i].undo_count, 0);
    }
}
