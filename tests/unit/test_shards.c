/* SPDX-License-Identifier: Apache-2.0
 *
 * A store with as many shards as one may have: a flush writes each of them, and leaves
 * out none but that in whose lock somebody stays.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "api/handle.h"
#include "stage.h"

#define ROOM 16384 /* for all shards */
#define SHORT_MS 50

static struct ql *ql;
static struct qli_engine *engine;
static int64_t subjects;
static int64_t in_shard[QLI_SHARDS_MAX];

static uint64_t subject_of(int64_t number, char subject[32])
{
    struct qli_name name;
    snprintf(subject, 32, "subject-%lld", (long long)number);
    assert_int_equal(qli_subject_name(engine, subject, &name), QL_OK);
    return qli_engine_shard_of(engine, name.hash);
}

/* Subjects until each shard has one; nobody has been charged anything yet. */
static void count_subjects(void)
{
    char subject[32];
    uint64_t met = 0;
    memset(in_shard, 0, sizeof in_shard);
    for (subjects = 0; met < QLI_SHARDS_MAX; subjects++)
        met += in_shard[subject_of(subjects, subject)]++ == 0;
}

static int set_up(void **state)
{
    stage_set_up(state);
    struct ql_options options = stage_options(ROOM);
    options.charge_wait_ms = SHORT_MS;
    ql = kt_open(stage.store, &options);
    engine = &ql->store->engine;
    assert_int_equal(engine->geometry.shard_count, QLI_SHARDS_MAX);
    count_subjects();
    return 0;
}

static int tear_down(void **state)
{
    ql_close(ql);
    return stage_tear_down(state);
}

static void charge_all(void)
{
    char subject[32];
    for (int64_t i = 0; i < subjects; i++) {
        subject_of(i, subject);
        stage_charge(ql, subject, "bytes", 1);
    }
}

/* Of how many subjects the ledger has that amount. */
static int64_t written(int64_t amount)
{
    char sql[80];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM totals WHERE amount = %lld", (long long)amount);
    return stage_number(sql);
}

/* Whether the last flush said of the shard that it is written. */
static bool is_flushed(uint64_t shard)
{
    return qli_engine_shard(engine, shard)->flushed == engine->ledger_page->begun;
}

static void expect_all_flushed(int64_t amount)
{
    assert_int_equal(ql_flush(ql, NULL), QL_OK);
    assert_int_equal(written(amount), subjects);
    for (uint64_t shard = 0; shard < QLI_SHARDS_MAX; shard++) {
        assert_true(is_flushed(shard));
        assert_int_equal(qli_engine_shard(engine, shard)->dirty_count, 0);
    }
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
}

static void a_flush_writes_every_shard(void **state)
{
    (void)state;
    charge_all();
    expect_all_flushed(1);
}

static void flush_without(uint64_t busy)
{
    struct qli_call call;
    struct qli_section section;
    assert_int_equal(qli_handle_begin(ql, 0, &call), QL_OK);
    assert_int_equal(qli_section_enter(&call, busy, &section), QL_OK);
    assert_int_equal(ql_flush(ql, NULL), QL_E_BUSY);
    qli_section_leave(&section);
}

static void a_flush_leaves_out_the_busy_shard_alone(void **state)
{
    (void)state;
    static const uint64_t busy[] = {0, 31, 32, QLI_SHARDS_MAX - 1};
    for (int64_t round = 0; round < 4; round++) {
        charge_all();
        flush_without(busy[round]);
        assert_int_equal(written(round + 1), subjects - in_shard[busy[round]]);
        for (uint64_t shard = 0; shard < QLI_SHARDS_MAX; shard++)
            assert_int_equal(is_flushed(shard), shard != busy[round]);
        expect_all_flushed(round + 1);
    }
}

/* As of a build that makes more of them: a flush has no bit for the last ones. */
static void a_region_with_more_shards_is_refused(void **state)
{
    (void)state;
    struct qli_region_header header = *engine->region.header;
    struct qli_engine other = {.region = engine->region};
    other.region.header = &header;
    other.region.size = INT64_MAX;
    assert_int_equal(qli_engine_bind(&other, NULL), QL_OK);
    assert_int_equal(header.params[0], QLI_SHARDS_MAX);
    header.params[0] = 2 * QLI_SHARDS_MAX;
    other.region.guard_count = 1 + 2 * QLI_SHARDS_MAX;
    assert_int_equal(qli_engine_bind(&other, NULL), QL_E_CORRUPT);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_flush_writes_every_shard),
        CASE(a_flush_leaves_out_the_busy_shard_alone),
        CASE(a_region_with_more_shards_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
