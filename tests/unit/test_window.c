/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rules/window.h"

#define SECOND_NS INT64_C(1000000000)

static void a_day_is_86400_seconds(void **state)
{
    (void)state;
    assert_int_equal(qli_window_day(0), 0);
    assert_int_equal(qli_window_day(86400 * SECOND_NS - 1), 0);
    assert_int_equal(qli_window_day(86400 * SECOND_NS), 1);
    assert_int_equal(qli_window_end(0), 86400);
    assert_int_equal(qli_window_day(INT64_C(2147483648) * SECOND_NS), 24855); /* 2038-01-19 */
    assert_int_equal(qli_window_day(INT64_C(1709164800) * SECOND_NS), 19782); /* 2024-02-29 */
}

static void what_is_left_is_truncated(void **state)
{
    (void)state;
    assert_int_equal(qli_window_seconds_left(0, 0), 86400);
    assert_int_equal(qli_window_seconds_left(0, 1), 86399);
    assert_int_equal(qli_window_seconds_left(0, SECOND_NS), 86399);
    assert_int_equal(qli_window_seconds_left(0, 86399 * SECOND_NS), 1);
    assert_int_equal(qli_window_seconds_left(0, 86399 * SECOND_NS + 1), 0);
    assert_int_equal(qli_window_seconds_left(0, 86400 * SECOND_NS), 0);
}

/* A reader whose clock is behind the window waits longer, one ahead not at all. */
static void clocks_that_are_off(void **state)
{
    (void)state;
    assert_int_equal(qli_window_seconds_left(10, 9 * 86400 * SECOND_NS), 2 * 86400);
    assert_int_equal(qli_window_seconds_left(10, 12 * 86400 * SECOND_NS), 0);
}

/* The last time of the clock is in 2262; days beyond it are damage. */
static void nothing_overflows(void **state)
{
    (void)state;
    int64_t last = qli_window_day(INT64_MAX);
    assert_true(qli_window_end(last) > INT64_MAX / SECOND_NS);
    assert_true(qli_window_end(INT64_MAX) == qli_window_end(last));
    assert_true(qli_window_seconds_left(last, INT64_MAX) < 86400);
    assert_true(qli_window_seconds_left(INT64_MAX, 0) == qli_window_end(last));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_day_is_86400_seconds),
        cmocka_unit_test(what_is_left_is_truncated),
        cmocka_unit_test(clocks_that_are_off),
        cmocka_unit_test(nothing_overflows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
