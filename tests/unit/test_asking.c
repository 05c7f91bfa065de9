/* SPDX-License-Identifier: Apache-2.0
 *
 * When the ledger is asked for a window, and how a subject is reopened with what
 * it answers.
 */
#include "ledgered.h"

/* ---- asking -------------------------------------------------------------- */

/* Whatever looks at a window of the subject asks, and changes nothing. */
static void expect_asked(const char *subject)
{
    struct ql_usage usage;
    struct ql_lease lease;
    struct snapshot before = look();
    assert_int_equal(check(subject), QLI_ASK_LEDGER);
    assert_int_equal(admit(subject, true, true, &lease), QLI_ASK_LEDGER);
    assert_int_equal(charge(subject, BYTES, 1), QLI_ASK_LEDGER);
    assert_int_equal(usage_of(subject, &usage), QLI_ASK_LEDGER);
    expect_unchanged(before);
}

static void an_unknown_subject_is_asked_for(void **state)
{
    (void)state;
    scene.call.asks = true;
    expect_asked("alice");
    take("alice"); /* looks at no window; that it is there now says nothing of them */
    expect_asked("alice");
    const struct qli_total totals[] = {{BYTES, TODAY, 990, false},
                                       {STATEMENTS, TODAY - 1, 4, false}};
    assert_int_equal(reopen("alice", totals, 2), QL_OK);
    expect_usage("alice", BYTES, 990, 0);
    expect_usage("alice", STATEMENTS, 0, 4);
    charged("alice", BYTES, 10);
    assert_int_equal(check("alice"), QL_REFUSED);
    expect_dirty("alice", BYTES, TODAY, 1000);
}

static void a_subject_that_the_ledger_does_not_know_is_made(void **state)
{
    (void)state;
    scene.call.asks = true;
    assert_int_equal(reopen(LONG_NAME, NULL, 0), QL_OK);
    assert_int_equal(flush(), 0);
    charged(LONG_NAME, BYTES, 1);
    expect_usage(LONG_NAME, BYTES, 1, 0);
}

static void a_day_that_is_not_open_is_asked_for(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    assert_int_equal(flush(), 1);
    go_to(TODAY + 1);
    scene.call.asks = true;
    expect_asked("alice");
    scene.call.asks = false;
    assert_int_equal(check("alice"), QL_OK);
    scene.engine->page->ask_until = TODAY + 1; /* since the call has begun */
    expect_asked("alice");
    expect_asked("nobody");
    scene.engine->page->ask_until = TODAY; /* the day before is opened too */
    expect_asked("alice");
    scene.engine->page->ask_until = TODAY - 1;
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 1, 7);
}

static void a_settle_asks_before_it_ends_its_lease(void **state)
{
    (void)state;
    char key[QL_SUBJECT_MAX + 1];
    const struct qli_amount amounts[] = {{BYTES, 1}, {STATEMENTS, 2}};
    struct ql_lease lease = take(LONG_NAME);
    charged(LONG_NAME, BYTES, 7);
    assert_int_equal(flush(), 1);
    scene.call.asks = true;
    struct snapshot before = look();
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QLI_ASK_LEDGER);
    expect_unchanged(before);
    assert_int_equal(qli_operation_lease_subject(&scene.call, &lease, key), QL_OK);
    assert_string_equal(key, LONG_NAME);
    assert_int_equal(reopen(key, NULL, 0), QL_OK);
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QL_OK);
    expect_usage(LONG_NAME, BYTES, 8, 0);
    expect_usage(LONG_NAME, STATEMENTS, 2, 0);
    assert_int_equal(qli_operation_lease_subject(&scene.call, &lease, key), QL_E_SETTLED);
}

static void a_call_that_is_just_behind_uses_the_day_of_the_cell(void **state)
{
    (void)state;
    go_to(TODAY + 1);
    charged("alice", BYTES, 7);
    scene.call.day = TODAY;
    charged("alice", BYTES, 1);
    assert_int_equal(check("alice"), QL_OK);
    expect_usage("alice", BYTES, 8, 0);
    expect_dirty("alice", BYTES, TODAY + 1, 8);
}

/* The subject may have been evicted after its day, which the ledger has. */
static void a_call_that_is_behind_opens_no_day_that_is_over(void **state)
{
    (void)state;
    take("bob");
    go_to(TODAY + 1);
    scene.call.day = TODAY;
    struct snapshot before = look();
    assert_int_equal(charge("alice", BYTES, 1), QLI_ASK_LEDGER);
    assert_int_equal(charge("bob", BYTES, 1), QLI_ASK_LEDGER);
    assert_int_equal(check("alice"), QL_OK);
    assert_int_equal(check("bob"), QL_OK);
    expect_unchanged(before);
}

static void after_a_step_back_a_window_is_asked_for(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
    assert_int_equal(flush(), 1);
    go_to(TODAY);
    expect_asked("alice");
    const struct qli_total totals[] = {{BYTES, TODAY, 7, false}, {BYTES, TODAY - 1, 3, false}};
    assert_int_equal(reopen("alice", totals, 2), QL_OK);
    expect_usage("alice", BYTES, 7, 3);
    charged("alice", BYTES, 1);
    expect_dirty("alice", BYTES, TODAY, 8);
    go_to(TODAY + 1);
    scene.call.asks = true;
    expect_asked("alice");
    assert_int_equal(flush(), 1);
    const struct qli_total later[] = {{BYTES, TODAY + 1, 2, false}, {BYTES, TODAY, 8, false}};
    assert_int_equal(reopen("alice", later, 2), QL_OK);
    expect_usage("alice", BYTES, 2, 8);
}

/* One that the store left again, with calls of it under way. */
static void a_call_that_is_ahead_opens_no_day_that_was_left(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    scene.call.day = TODAY + 1;
    struct snapshot before = look();
    assert_int_equal(charge("alice", BYTES, 1), QLI_ASK_LEDGER);
    assert_int_equal(charge("nobody", BYTES, 1), QLI_ASK_LEDGER);
    expect_unchanged(before);
    scene.engine->page->ask_until = TODAY + 1; /* as a step back leaves it */
    expect_asked("alice");
    expect_asked("nobody");
}

static void without_a_ledger_nobody_asks(void **state)
{
    (void)state;
    scene.engine->ledger_page->durability = QL_DURABILITY_NONE;
    charged("alice", BYTES, 7);
    scene.engine->page->day = TODAY - 1;
    scene.call.day = TODAY - 1;
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 8, 0);
    charged("bob", BYTES, 1);
}

static int64_t visited_total(const char *subject, int64_t *yesterday)
{
    struct qli_section section;
    struct ql_usage usage;
    uint64_t index;
    struct qli_name name = name_of(subject);
    assert_int_equal(qli_subject_enter(&scene.call, &name, &section, &index), QL_OK);
    struct qli_subject *alice = qli_subject_at(&section, index);
    assert_int_equal(qli_operation_report_locked(&section, &scene.call, alice, &usage), QL_OK);
    qli_section_leave(&section);
    *yesterday = usage.meters[BYTES].yesterday;
    return usage.meters[BYTES].total;
}

static void a_visit_shows_what_the_cells_know(void **state)
{
    (void)state;
    int64_t yesterday;
    charged("alice", BYTES, 7);
    go_to(TODAY + 1);
    scene.call.asks = true;
    assert_int_equal(visited_total("alice", &yesterday), 0);
    assert_int_equal(yesterday, 7);
    scene.call.asks = false;
    charged("alice", BYTES, 2);
    go_to(TODAY);
    assert_int_equal(visited_total("alice", &yesterday), 7);
    assert_int_equal(yesterday, 0);
    go_to(TODAY - 1);
    assert_int_equal(visited_total("alice", &yesterday), 0);
    assert_int_equal(yesterday, 0);
}

/* ---- reopening ----------------------------------------------------------- */

static void a_dirty_subject_is_not_reopened(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    struct snapshot before = look();
    assert_int_equal(reopen("alice", NULL, 0), QLI_MUST_FLUSH);
    expect_unchanged(before);
    assert_int_equal(flush(), 1);
    assert_int_equal(reopen("alice", NULL, 0), QL_OK);
    expect_usage("alice", BYTES, 7, 0);
}

static void reopening_keeps_the_larger_amounts(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    charged("alice", STATEMENTS, 7);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
    charged("alice", STATEMENTS, 2);
    assert_int_equal(flush(), 1);
    const struct qli_total totals[] = {{BYTES, TODAY, 9, false},
                                       {BYTES, TODAY + 1, 1, false},
                                       {STATEMENTS, TODAY, 6, false},
                                       {STATEMENTS, TODAY + 1, 3, false}};
    assert_int_equal(reopen("alice", totals, 4), QL_OK);
    expect_usage("alice", BYTES, 2, 9);
    expect_usage("alice", STATEMENTS, 3, 7);
    const struct qli_total other = {BYTES, TODAY + 2, 1, false};
    assert_int_equal(reopen("alice", &other, 1), QL_E_INVALID);
}

/* A later day, which the ledger is not asked for, would be lost. */
static void a_day_that_is_over_is_not_reopened(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    assert_int_equal(flush(), 1);
    scene.call.day = TODAY - 1;
    struct snapshot before = look();
    assert_int_equal(reopen("alice", NULL, 0), QL_OK);
    assert_int_equal(reopen("bob", NULL, 0), QL_OK);
    expect_unchanged(before);
}

/* The undo log has room for the largest changes that there are. */
static void all_meters_at_once(void **state)
{
    (void)state;
    struct qli_amount amounts[QL_METERS_MAX];
    struct qli_total totals[2 * QL_METERS_MAX];
    for (uint32_t m = 0; m < QL_METERS_MAX; m++) {
        amounts[m] = (struct qli_amount){m, m + 1};
        totals[2 * m] = (struct qli_total){m, TODAY, m + 1, false};
        totals[2 * m + 1] = (struct qli_total){m, TODAY - 1, m + 2, false};
    }
    assert_int_equal(reopen(LONG_NAME, totals, 2ul * QL_METERS_MAX), QL_OK);
    struct ql_lease first = take(LONG_NAME);
    struct ql_lease lease = take(LONG_NAME);
    struct ql_lease last = take(LONG_NAME);
    go_to(TODAY + 1);
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, QL_METERS_MAX), QL_OK);
    assert_int_equal(qli_operation_revoke(&scene.call, &first), QL_OK);
    struct ql_lease middle = take(LONG_NAME);
    assert_int_equal(qli_operation_revoke(&scene.call, &middle), QL_OK);
    assert_int_equal(qli_operation_revoke(&scene.call, &last), QL_OK);
    assert_int_equal(flush(), 1);
    go_to(TODAY + 2);
    assert_int_equal(qli_operation_settle(&scene.call, &middle, amounts, QL_METERS_MAX), QL_LATE);
    for (uint32_t m = 0; m < QL_METERS_MAX; m++)
        expect_usage(LONG_NAME, m, m + 1, m + 1);
    assert_int_equal(flush(), 1);
    assert_int_equal(flush(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_unknown_subject_is_asked_for),
        TEST(a_subject_that_the_ledger_does_not_know_is_made),
        TEST(a_day_that_is_not_open_is_asked_for),
        TEST(a_settle_asks_before_it_ends_its_lease),
        TEST(a_call_that_is_just_behind_uses_the_day_of_the_cell),
        TEST(a_call_that_is_behind_opens_no_day_that_is_over),
        TEST(after_a_step_back_a_window_is_asked_for),
        TEST(a_call_that_is_ahead_opens_no_day_that_was_left),
        TEST(without_a_ledger_nobody_asks),
        TEST(a_visit_shows_what_the_cells_know),
        TEST(a_dirty_subject_is_not_reopened),
        TEST(reopening_keeps_the_larger_amounts),
        TEST(a_day_that_is_over_is_not_reopened),
        TEST_IN(all_meters_at_once, set_up_all_meters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
