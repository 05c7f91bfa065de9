/* SPDX-License-Identifier: Apache-2.0
 *
 * A region that is made out of the ledger: after a reboot, or where somebody
 * removed it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "stage.h"

/* As a program that knows nothing of the store. */
static struct ql *open_as_it_is(void)
{
    struct ql_options options = stage_options(0);
    options.limits = NULL;
    options.limit_count = 0;
    options.max_meters = 0;
    options.durability = QL_DURABILITY_STORE;
    return kt_open(stage.store, &options);
}

/* Every second time it is the region's file that is gone. */
static void reboot(struct ql *ql)
{
    static int times;
    ql_close(ql);
    if (times++ % 2 == 0)
        kt_make_stale(stage.store);
    else
        kt_remove_file(stage.store, "region");
}

static bool may_not_grow;

void __real_qli_engine_raise(struct ql_options *options, uint64_t subjects, uint64_t meters);
void __wrap_qli_engine_raise(struct ql_options *options, uint64_t subjects, uint64_t meters);

/* As where the store is as large already as one may be. */
void __wrap_qli_engine_raise(struct ql_options *options, uint64_t subjects, uint64_t meters)
{
    if (!may_not_grow)
        __real_qli_engine_raise(options, subjects, meters);
}

static void subject_of(int number, char subject[QL_SUBJECT_MAX + 1])
{
    /* Every other one has a name that takes two slots. */
    snprintf(subject, QL_SUBJECT_MAX + 1, "subject-%d/%0*d", number, number % 2 ? 200 : 1, 0);
}

static void two_days_come_back_and_leases_do_not(void **state)
{
    (void)state;
    struct ql_lease lease;
    struct ql_usage usage;
    for (int i = 0; i < 2; i++) {
        struct ql *ql = stage_open();
        stage_charge(ql, "alice", "bytes", 1);
        *stage.clock_ns += KT_DAY_NS;
        stage_charge(ql, "alice", "bytes", 2);
        *stage.clock_ns += KT_DAY_NS;
        stage_charge(ql, "alice", "bytes", 4);
        stage_charge(ql, "bob", "statements", INT64_MAX);
        assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_OK);
        reboot(ql);
        ql = stage_open();
        assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
        assert_int_equal(usage.leases, 0);
        assert_int_equal(stage_total(ql, "alice", "bytes"), 4);
        assert_int_equal(stage_yesterday(ql, "alice", "bytes"), 2);
        assert_int_equal(stage_total(ql, "bob", "statements"), INT64_MAX);
        stage_charge(ql, "alice", "bytes", 8);
        assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
        ql_close(ql);
        stage_renew();
    }
}

static void expect_settings(int64_t cap, int64_t durability, int64_t history_days)
{
    struct ql_limit limits[QL_LIMITS_MAX];
    size_t count;
    struct ql *ql = open_as_it_is();
    assert_int_equal(ql_limits(ql, limits, &count), QL_OK);
    assert_int_equal(count, 3);
    assert_string_equal(limits[0].name, "slots");
    assert_null(limits[0].meter);
    assert_int_equal(limits[0].window, QL_WINDOW_NONE);
    assert_int_equal(limits[0].cap, 2);
    assert_string_equal(limits[1].name, "daily_bytes");
    assert_string_equal(limits[1].meter, "bytes");
    assert_int_equal(limits[1].window, QL_WINDOW_DAY);
    assert_int_equal(limits[1].cap, cap);
    assert_string_equal(limits[2].meter, "statements");
    stage_charge(ql, "alice", "bytes", 1);
    ql_close(ql);
    assert_int_equal(stage_number("SELECT durability FROM meta"), durability);
    assert_int_equal(stage_number("SELECT history_days FROM meta"), history_days);
}

static void limits_and_settings_come_back(void **state)
{
    (void)state;
    struct ql_options options = stage_options(STAGE_ROOM);
    struct ql *ql = kt_open(stage.store, &options);
    reboot(ql);
    expect_settings(INT64_MAX, QL_DURABILITY_ASYNC, 400);

    struct ql_limit limits[3];
    memcpy(limits, options.limits, sizeof limits);
    limits[1].cap = 12345;
    options.limits = limits;
    options.replace_limits = true;
    options.durability = QL_DURABILITY_SYNC;
    options.history_days = UINT32_MAX;
    reboot(kt_open(stage.store, &options));
    expect_settings(12345, QL_DURABILITY_SYNC, 0);
    reboot(open_as_it_is());
    expect_settings(12345, QL_DURABILITY_SYNC, 0);
}

/* Of a store that is in use already, and of which nothing else is to be written. */
static void settings_that_change_alone_come_back(void **state)
{
    (void)state;
    struct ql *ql = stage_open();
    stage_charge(ql, "alice", "bytes", 1);
    assert_int_equal(ql_flush(ql, NULL), QL_OK);
    struct ql_options options = stage_options(STAGE_ROOM);
    options.durability = QL_DURABILITY_SYNC;
    options.history_days = 7;
    struct ql *other = kt_open(stage.store, &options);
    ql_close(other);
    reboot(ql);
    expect_settings(INT64_MAX, QL_DURABILITY_SYNC, 7);
}

static void options_win_over_what_comes_back(void **state)
{
    (void)state;
    struct ql_options options = stage_options(STAGE_ROOM);
    options.durability = QL_DURABILITY_SYNC;
    reboot(kt_open(stage.store, &options));
    options.durability = QL_DURABILITY_ASYNC;
    struct ql_limit limit = {"scans", "scans", QL_WINDOW_DAY, 7};
    options.limits = &limit;
    options.limit_count = 1;
    struct ql *ql;
    struct ql_error error;
    assert_int_equal(ql_open(stage.store, &options, &ql, &error), QL_E_LIMITS);
    options.replace_limits = true;
    ql = kt_open(stage.store, &options);
    stage_charge(ql, "alice", "scans", 1);
    ql_close(ql);
    assert_int_equal(stage_number("SELECT durability FROM meta"), QL_DURABILITY_ASYNC);
    assert_int_equal(stage_number("SELECT count(*) FROM limits"), 1);
}

/* ---- meters -------------------------------------------------------------- */

static struct ql *open_with_meters(int first, int count, uint32_t max_meters)
{
    static char names[QL_METERS_MAX][8];
    struct ql_limit limits[QL_METERS_MAX];
    struct ql_options options = stage_options(STAGE_ROOM);
    for (int i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "m%d", first + i);
        limits[i] = (struct ql_limit){names[i], names[i], QL_WINDOW_DAY, INT64_MAX};
    }
    options.limits = limits;
    options.limit_count = (size_t)count;
    options.replace_limits = true;
    options.max_meters = max_meters;
    return kt_open(stage.store, &options);
}

/* m0 to m7 were counted today; the limits name m0 alone by now, and the program asks
 * for room for one. */
static void meters_that_no_limit_names_come_back(void **state)
{
    (void)state;
    char name[8];
    struct ql *ql = open_with_meters(0, QL_METERS_MAX, 0);
    for (int i = 0; i < QL_METERS_MAX; i++) {
        snprintf(name, sizeof name, "m%d", i);
        stage_charge(ql, "alice", name, i + 1);
    }
    struct ql *other = open_with_meters(0, 1, 0);
    ql_close(other);
    reboot(ql);
    ql = open_with_meters(0, 1, 1);
    for (int i = 0; i < QL_METERS_MAX; i++) {
        snprintf(name, sizeof name, "m%d", i);
        assert_int_equal(stage_total(ql, "alice", name), i + 1);
    }
    other = open_with_meters(4, 4, 0); /* named again: it goes on from there */
    stage_charge(ql, "alice", "m7", 100);
    assert_int_equal(stage_total(ql, "alice", "m7"), 108);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(other);
    ql_close(ql);
}

/* What was counted takes no room from the meters that the program names now. */
static void a_program_with_other_meters_can_open_the_store(void **state)
{
    (void)state;
    struct ql *ql = open_with_meters(0, 4, 4);
    stage_charge(ql, "alice", "m1", 1);
    stage_charge(ql, "alice", "m2", 2);
    stage_charge(ql, "alice", "m3", 3);
    reboot(ql);
    ql = open_with_meters(4, 4, 4);
    stage_charge(ql, "alice", "m7", 7);
    assert_int_equal(stage_total(ql, "alice", "m7"), 7);
    assert_int_equal(stage_total(ql, "alice", "m3"), 3);
    ql_close(ql);
}

/* ---- room ---------------------------------------------------------------- */

static void charge_many(struct ql *ql, int first, int count)
{
    char subject[QL_SUBJECT_MAX + 1];
    for (int i = first; i < first + count; i++) {
        subject_of(i, subject);
        stage_charge(ql, subject, "bytes", i + 1);
    }
}

static void expect_many(struct ql *ql, int first, int count)
{
    char subject[QL_SUBJECT_MAX + 1];
    for (int i = first; i < first + count; i++) {
        subject_of(i, subject);
        if (stage_total(ql, subject, "bytes") != i + 1)
            fail_msg("subject %d is not there", i);
    }
}

static void a_smaller_store_is_made_as_large_as_it_must_be(void **state)
{
    (void)state;
    struct ql_verify_report report;
    struct ql_options options = stage_options(512);
    struct ql *ql = kt_open(stage.store, &options);
    charge_many(ql, 0, 200); /* 300 slots */
    reboot(ql);
    options = stage_options(16);
    ql = kt_open(stage.store, &options);
    expect_many(ql, 0, 200);
    assert_int_equal(ql_verify(ql, &report, NULL), QL_OK);
    assert_true(report.max_subjects > 300 && report.max_subjects < 512);
    charge_many(ql, 200, 4); /* there is room for others */
    expect_many(ql, 0, 204);
    ql_close(ql);
}

static void a_store_that_has_no_room_for_today_is_not_opened(void **state)
{
    (void)state;
    struct ql_options options = stage_options(8);
    struct ql_error error;
    struct ql *ql = kt_open(stage.store, &options);
    charge_many(ql, 0, 3);
    reboot(ql);
    options.max_subjects = 2;
    may_not_grow = true;
    enum ql_status status = ql_open(stage.store, &options, &ql, &error);
    may_not_grow = false;
    assert_int_equal(status, QL_E_FULL);
    assert_null(ql);
    assert_int_equal(error.status, QL_E_FULL);
    assert_non_null(strstr(error.text, "cannot be made out of its ledger: "));
    assert_non_null(strstr(error.text, ql_status_text(QL_E_FULL)));
    ql = kt_open(stage.store, &options);
    expect_many(ql, 0, 3);
    ql_close(ql);
}

/* Yesterday's subjects are in nobody's way; they stay in the ledger. */
static void yesterday_is_restored_as_far_as_there_is_room(void **state)
{
    (void)state;
    struct ql_options options = stage_options(512);
    struct ql *ql = kt_open(stage.store, &options);
    charge_many(ql, 0, 100);
    *stage.clock_ns += KT_DAY_NS;
    charge_many(ql, 100, 8);
    reboot(ql);
    options = stage_options(16);
    ql = kt_open(stage.store, &options);
    expect_many(ql, 100, 8);
    charge_many(ql, 300, 2);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(ql);
    assert_int_equal(stage_number("SELECT count(*) FROM totals"), 110);
}

/* ---- what others wrote --------------------------------------------------- */

static void foreign_rows_are_passed_over(void **state)
{
    (void)state;
    char sql[512];
    const long long start = (long long)(KT_START_NS / KT_DAY_NS * STAGE_DAY);
    struct ql *ql = stage_open();
    stage_charge(ql, "alice", "bytes", 5);
    reboot(ql);
    stage_sql("ALTER TABLE totals RENAME TO old; "
              "CREATE TABLE totals (window, start, subject, meter, amount, "
              "UNIQUE (window, start, subject, meter)); "
              "INSERT INTO totals SELECT * FROM old; DROP TABLE old;");
    static const char *const rows[] = {
        "'a//b', 'bytes', 1",
        "'', 'bytes', 1",
        "NULL, 'bytes', 1",
        "7, 'bytes', 'much'",
        "'carol', 'bytes', -1",
        "'carol', NULL, 1",
        "'carol', 'Bytes!', 1",
        "'carol', 'statements', 1.5",
        "'carol', 'bytes' || char(0) || 'x', 1",
        "'alice' || char(0) || 'x', 'bytes', 1000",
        "x'ff', 'bytes', 1",
        "printf('%.300c', 'x'), 'bytes', 1",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        snprintf(sql, sizeof sql, "INSERT INTO totals VALUES ('day', %lld, %s)", start, rows[i]);
        stage_sql(sql);
    }
    snprintf(sql, sizeof sql,
             "INSERT INTO totals VALUES ('day', %lld, 'alice', 'bytes', 1000), "
             "('week', %lld, 'alice', 'bytes', 1000), ('day', 'soon', 'alice', 'bytes', 1000)",
             start + 1, start);
    stage_sql(sql);
    ql = stage_open();
    assert_int_equal(stage_total(ql, "alice", "bytes"), 5);
    assert_int_equal(stage_total(ql, "carol", "bytes"), 0);
    assert_int_equal(stage_total(ql, "carol", "statements"), 0);
    stage_charge(ql, "alice", "bytes", 1);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(ql);
}

/* No limits would be enforced, if they were passed over. */
static void foreign_limits_are_refused(void **state)
{
    (void)state;
    static const char *const edits[] = {
        "INSERT INTO limits VALUES (50, 'A name!', 'bytes', 'day', 5)",
        "PRAGMA ignore_check_constraints = 1; UPDATE limits SET cap = -1",
        "UPDATE limits SET name = 'same'",
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        struct ql_error error;
        struct ql_options options = stage_options(16);
        struct ql *ql = stage_open();
        stage_charge(ql, "alice", "bytes", 5);
        reboot(ql);
        stage_sql(edits[i]);
        assert_int_equal(ql_open(stage.store, &options, &ql, &error), QL_E_LEDGER);
        assert_non_null(strstr(error.text, "limits"));
        stage_sql("DELETE FROM limits");
        ql = stage_open();
        assert_int_equal(stage_total(ql, "alice", "bytes"), 5);
        ql_close(ql);
        stage_renew();
    }
}

static void foreign_settings_are_passed_over(void **state)
{
    (void)state;
    struct ql *ql = stage_open();
    stage_charge(ql, "alice", "bytes", 5);
    reboot(ql);
    stage_sql("UPDATE meta SET durability = 99, history_days = -5");
    ql = stage_open();
    assert_int_equal(stage_total(ql, "alice", "bytes"), 5);
    stage_charge(ql, "alice", "bytes", 1);
    ql_close(ql);
    assert_int_equal(stage_number("SELECT durability FROM meta"), QL_DURABILITY_ASYNC);
    assert_true(stage_number("SELECT history_days FROM meta") == 400);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, stage_set_up, stage_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(two_days_come_back_and_leases_do_not),
        CASE(limits_and_settings_come_back),
        CASE(settings_that_change_alone_come_back),
        CASE(options_win_over_what_comes_back),
        CASE(meters_that_no_limit_names_come_back),
        CASE(a_program_with_other_meters_can_open_the_store),
        CASE(a_smaller_store_is_made_as_large_as_it_must_be),
        CASE(a_store_that_has_no_room_for_today_is_not_opened),
        CASE(yesterday_is_restored_as_far_as_there_is_room),
        CASE(foreign_rows_are_passed_over),
        CASE(foreign_limits_are_refused),
        CASE(foreign_settings_are_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
