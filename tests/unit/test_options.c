/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening: limits, sizes and clocks. What a store cannot be given is refused, and
 * changes nothing of it.
 */
#include "small_store.h"

#include <string.h>

static void other_limits_are_refused_unless_they_replace(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql *other;
    struct ql_limit limits[QL_LIMITS_MAX];
    size_t count;
    struct ql_options options = small_options();
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    struct ql_limit changed[] = {two_limits[0], two_limits[1]};
    changed[1].cap = 7;
    options.limits = changed;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_E_LIMITS);
    options.replace_limits = true;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_OK);
    assert_int_equal(ql_limits(ql, limits, &count), QL_OK);
    assert_int_equal(count, 2);
    assert_int_equal(limits[1].cap, 7);
    ql_close(other);
    ql_close(ql);
}

/* A list of limits that does not fit leaves no meter behind. */
static void meters_that_do_not_fit_change_nothing(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql *other;
    struct ql_error error;
    struct ql_options options = small_options();
    options.max_meters = 2;
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    struct ql_limit limits[] = {two_limits[1],
                                {"daily_scans", "scans", QL_WINDOW_DAY, 1},
                                {"daily_tokens", "tokens", QL_WINDOW_DAY, 1}};
    options.limits = limits;
    options.limit_count = 3;
    options.replace_limits = true;
    assert_int_equal(ql_open(path_of("store"), &options, &other, &error), QL_E_FULL);
    assert_non_null(strstr(error.text, "tokens"));
    assert_non_null(strstr(error.text, "at least 3"));
    assert_int_equal(ql_charge(ql, "alice", "scans", 1, NULL), QL_E_METER);
    limits[1] = limits[2];
    options.limit_count = 2;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "tokens", 1, NULL), QL_OK);
    ql_close(other);
    ql_close(ql);
}

/* The names of the meters m1 to m<count>, one limit each. */
static size_t name_meters(struct ql_limit limits[QL_LIMITS_MAX], size_t count)
{
    static char names[QL_LIMITS_MAX][24];
    for (size_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "m%zu", i + 1);
        limits[i] = (struct ql_limit){names[i], names[i], QL_WINDOW_DAY, 1};
    }
    return count;
}

/* A later release may count more than the one that made the store. */
static void a_store_has_room_for_more_meters(void **state)
{
    (void)state;
    static const size_t room[QL_METERS_MAX + 1] = {4, 4, 4, 5, 6, 7, 8, 8, 8};
    for (size_t named = 0; named <= QL_METERS_MAX; named++) {
        struct ql *ql;
        struct ql *other;
        struct ql_limit limits[QL_LIMITS_MAX];
        struct ql_options options = small_options();
        char name[16];
        snprintf(name, sizeof name, "store-%zu", named);
        options.limits = limits;
        options.limit_count = name_meters(limits, named);
        options.replace_limits = true;
        assert_int_equal(open_at(path_of(name), options, &ql), QL_OK);
        options.limit_count = name_meters(limits, room[named]);
        assert_int_equal(open_at(path_of(name), options, &other), QL_OK);
        ql_close(other);
        if (room[named] < QL_METERS_MAX) {
            options.limit_count = name_meters(limits, room[named] + 1);
            assert_int_equal(open_at(path_of(name), options, &other), QL_E_FULL);
        }
        ql_close(ql);
    }
}

static void bad_limits_are_named(void **state)
{
    (void)state;
    struct ql *ql;
    const struct ql_limit table[][2] = {
        {{"Bad", "bytes", QL_WINDOW_DAY, 1}, two_limits[0]},
        {{NULL, "bytes", QL_WINDOW_DAY, 1}, two_limits[0]},
        {{"a", "bytes", QL_WINDOW_DAY, -1}, two_limits[0]},
        {{"a", NULL, QL_WINDOW_DAY, 1}, two_limits[0]},
        {{"a", "bytes", QL_WINDOW_NONE, 1}, two_limits[0]},
        {{"a", NULL, QL_WINDOW_NONE, 1}, two_limits[0]},
        {{"a", "bytes", (enum ql_window)9, 1}, two_limits[0]},
        {two_limits[0], two_limits[0]},
    };
    struct ql_options options = small_options();
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        options.limits = table[i];
        assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    }
    options.limit_count = QL_LIMITS_MAX + 1;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
}

static void options_out_of_range(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_options options = small_options();
    options.size = 8;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    options = small_options();
    options.max_subjects = UINT32_MAX;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    options = small_options();
    options.max_holders = 40000;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    options = small_options();
    options.max_meters = 9;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    options = small_options();
    options.lease_max_age_ms = -1;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
}

static void a_store_has_one_kind_of_clock(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_options options = small_options();
    make_store(path_of("store"), small_options());
    options.clock = kt_noon;
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_E_CLOCK);
}

/* Of either kind, and beside an open handle of the right one. */
static void a_store_of_another_clock_can_be_verified(void **state)
{
    (void)state;
    for (int injected = 0; injected < 2; injected++) {
        struct ql *ql;
        struct ql *other;
        const char *name = injected != 0 ? "injected" : "system";
        struct ql_options options = small_options();
        options.clock = injected != 0 ? kt_noon : NULL;
        for (int open = 0; open < 2; open++) {
            assert_int_equal(open_at(path_of(name), options, &ql), QL_OK);
            assert_int_equal(ql_charge(ql, "alice", "bytes", 1, NULL), QL_OK);
            if (open == 0)
                ql_close(ql);
            struct ql_options tool = small_options();
            tool.clock = injected != 0 ? NULL : kt_noon;
            tool.any_clock = true;
            assert_int_equal(open_at(path_of(name), tool, &other), QL_OK);
            assert_int_equal(ql_verify(other, NULL, NULL), QL_OK);
            assert_int_equal(ql_charge(other, "alice", "bytes", 1, NULL), QL_E_CLOCK);
            assert_int_equal(ql_check(other, "alice", NULL, NULL), QL_E_CLOCK);
            assert_int_equal(ql_verify(other, NULL, NULL), QL_OK);
            ql_close(other);
            if (open == 1)
                ql_close(ql);
        }
    }
}

/* A handle that is refused takes nothing from the one that there is. */
static void another_clock_is_refused_beside_an_open_handle(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql *other;
    struct ql_options options = small_options();
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    options.clock = kt_noon;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_E_CLOCK);
    options.clock = NULL;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_OK);
    ql_close(other);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 1, NULL), QL_OK);
    ql_close(ql);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(other_limits_are_refused_unless_they_replace),
        CASE(meters_that_do_not_fit_change_nothing),
        CASE(a_store_has_room_for_more_meters),
        CASE(bad_limits_are_named),
        CASE(options_out_of_range),
        CASE(a_store_has_one_kind_of_clock),
        CASE(a_store_of_another_clock_can_be_verified),
        CASE(another_clock_is_refused_beside_an_open_handle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
