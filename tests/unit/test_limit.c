/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "rules/limit.h"

static void sums_saturate(void **state)
{
    (void)state;
    assert_true(qli_limit_add(0, 0) == 0);
    assert_true(qli_limit_add(1, 2) == 3);
    assert_true(qli_limit_add(INT64_MAX - 1, 1) == INT64_MAX);
    assert_true(qli_limit_add(INT64_MAX, 1) == INT64_MAX);
    assert_true(qli_limit_add(INT64_MAX, INT64_MAX) == INT64_MAX);
}

static void at_the_cap_counts_as_over(void **state)
{
    (void)state;
    const struct ql_limit limit = {"daily_bytes", "bytes", QL_WINDOW_DAY, 10};
    const struct ql_limit none = {"daily_bytes", "bytes", QL_WINDOW_DAY, 0};
    assert_false(qli_limit_refuses(&limit, 9));
    assert_true(qli_limit_refuses(&limit, 10));
    assert_true(qli_limit_refuses(&limit, INT64_MAX));
    assert_true(qli_limit_refuses(&none, 0));
}

static void what_remains_is_never_negative(void **state)
{
    (void)state;
    const struct ql_limit limit = {"daily_bytes", "bytes", QL_WINDOW_DAY, 10};
    assert_int_equal(qli_limit_state(&limit, 3, 99).remaining, 7);
    assert_int_equal(qli_limit_state(&limit, 10, 99).remaining, 0);
    assert_int_equal(qli_limit_state(&limit, INT64_MAX, 99).remaining, 0);
    assert_int_equal(qli_limit_state(&limit, 3, 99).resets_at, 99);
    assert_ptr_equal(qli_limit_state(&limit, 3, 99).meter, limit.meter);
}

/* The text names the limit at fault, by its place and name. */
static void a_bad_list_says_which_and_why(void **state)
{
    (void)state;
    static const struct {
        struct ql_limit limit;
        const char *text;
    } table[] = {
        {{"Daily", "bytes", QL_WINDOW_DAY, 1}, "limit 2 (Daily): its name"},
        {{"daily", "bytes", QL_WINDOW_DAY, -1}, "limit 2 (daily): its cap"},
        {{"daily", NULL, QL_WINDOW_DAY, 1}, "limit 2 (daily): its meter"},
        {{"daily", "bytes", QL_WINDOW_NONE, 1}, "limit 2 (daily): a concurrent limit"},
        {{"daily", "bytes", (enum ql_window)2, 1}, "limit 2 (daily): its window"},
        {{"slots", "bytes", QL_WINDOW_DAY, 1}, "limit 2 (slots): the name stands twice"},
        {{"more", NULL, QL_WINDOW_NONE, 1}, "limit 2 (more): there is a concurrent limit"},
        {{NULL, "bytes", QL_WINDOW_DAY, 1}, "limit 2 (NULL): its name"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct ql_error error;
        const struct ql_limit list[] = {{"slots", NULL, QL_WINDOW_NONE, 5}, table[i].limit};
        assert_int_equal(qli_limit_validate(list, 2, &error), QL_E_INVALID);
        if (strstr(error.text, table[i].text) == NULL)
            fail_msg("'%s', not '%s'", error.text, table[i].text);
    }
}

static void one_meter_may_have_several_limits(void **state)
{
    (void)state;
    const struct ql_limit list[] = {
        {"soft", "bytes", QL_WINDOW_DAY, 5},
        {"hard", "bytes", QL_WINDOW_DAY, INT64_MAX},
        {"none", "tokens", QL_WINDOW_DAY, 0},
    };
    assert_int_equal(qli_limit_validate(list, 3, NULL), QL_OK);
    assert_int_equal(qli_limit_validate(NULL, 0, NULL), QL_OK);
    assert_int_equal(qli_limit_validate(NULL, 1, NULL), QL_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_saturate),
        cmocka_unit_test(at_the_cap_counts_as_over),
        cmocka_unit_test(what_remains_is_never_negative),
        cmocka_unit_test(a_bad_list_says_which_and_why),
        cmocka_unit_test(one_meter_may_have_several_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
