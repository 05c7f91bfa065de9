/* SPDX-License-Identifier: Apache-2.0
 *
 * The rows of the contract that a C caller sees, each in a test of its name.
 */
#include "semantics.h"

#include <pthread.h>
#include <string.h>

static void row_01_acquire_holds_until_released(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease leases[3];
    struct ql_verdict verdict;
    assert_int_equal(ql_acquire(ql, "alice", &leases[0], &verdict), QL_OK);
    assert_null(verdict.kind);
    assert_int_equal(ql_acquire(ql, "alice", &leases[1], NULL), QL_OK);
    assert_int_equal(ql_acquire(ql, "alice", &leases[2], &verdict), QL_REFUSED);
    assert_string_equal(verdict.kind, "concurrent_scans");
    assert_int_equal(verdict.current, 2);
    assert_int_equal(verdict.limit, 2);
    assert_int_equal(verdict.retry_after_seconds, 0);
    assert_int_equal(leases[2].epoch, 0);
    assert_int_equal(ql_release(ql, leases[0]), QL_OK);
    assert_int_equal(ql_acquire(ql, "alice", &leases[2], NULL), QL_OK);
}

static void row_01_releasing_twice_frees_one_slot(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease first;
    struct ql_lease second;
    struct ql_usage usage;
    assert_int_equal(ql_acquire(ql, "alice", &first, NULL), QL_OK);
    assert_int_equal(ql_acquire(ql, "alice", &second, NULL), QL_OK);
    assert_int_equal(ql_release(ql, first), QL_OK);
    assert_int_equal(ql_release(ql, first), QL_E_SETTLED);
    assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.leases, 1);
    assert_int_equal(ql_release(ql, (struct ql_lease){0}), QL_E_INVALID);
}

static void row_02_check_refuses_at_the_cap(void **state)
{
    struct fixture *fixture = *state;
    struct ql_verdict verdict;
    assert_int_equal(ql_charge(fixture->ql, "alice", "bytes", 999, NULL), QL_OK);
    assert_int_equal(ql_check(fixture->ql, "alice", "daily_bytes", &verdict), QL_OK);
    assert_int_equal(verdict.limits[0].remaining, 1);
    assert_int_equal(verdict.limits[0].resets_at, NOON + DAY / 2);
    assert_int_equal(ql_charge(fixture->ql, "alice", "bytes", 1, NULL), QL_OK);
    fixture->now_ns += 1; /* not quite half a day is left: truncated */
    assert_int_equal(ql_check(fixture->ql, "alice", "daily_bytes", &verdict), QL_REFUSED);
    assert_string_equal(verdict.kind, "daily_bytes");
    assert_int_equal(verdict.current, 1000);
    assert_int_equal(verdict.limit, 1000);
    assert_int_equal(verdict.retry_after_seconds, DAY / 2 - 1);
    assert_int_equal(ql_check(fixture->ql, "alice", NULL, NULL), QL_REFUSED);
    assert_int_equal(ql_check(fixture->ql, "alice", "concurrent_scans", NULL), QL_E_LIMIT);
}

static void row_02_check_does_not_look_at_slots(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease;
    assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_OK);
    assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_OK);
    assert_int_equal(ql_check(ql, "alice", NULL, NULL), QL_OK);
}

static void row_03_charge_goes_past_the_cap(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    assert_int_equal(ql_charge(ql, "alice", "bytes", 5000, NULL), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 7, NULL), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 0, NULL), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "bytes", -1, NULL), QL_E_INVALID);
    assert_int_equal(ql_charge(ql, "alice", "tokens", 1, NULL), QL_E_METER);
    assert_int_equal(used_bytes(ql, "alice"), 5007);
}

static void row_04_usage_is_what_was_charged_today(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(used_bytes(fixture->ql, "alice"), 0);
    assert_int_equal(ql_charge(fixture->ql, "alice", "bytes", 40, NULL), QL_OK);
    assert_int_equal(ql_charge(fixture->ql, "alice", "bytes", 2, NULL), QL_OK);
    assert_int_equal(used_bytes(fixture->ql, "alice"), 42);
    fixture->now_ns += DAY * SECOND_NS;
    assert_int_equal(used_bytes(fixture->ql, "alice"), 0);
}

static void row_05_a_new_day_zeroes_budgets_and_keeps_slots(void **state)
{
    struct fixture *fixture = *state;
    struct ql_usage usage;
    struct ql_lease lease;
    assert_int_equal(ql_acquire(fixture->ql, "alice", &lease, NULL), QL_OK);
    assert_int_equal(ql_charge(fixture->ql, "alice", "bytes", 1000, NULL), QL_OK);
    fixture->now_ns += DAY / 2 * SECOND_NS - 1;
    assert_int_equal(ql_check(fixture->ql, "alice", NULL, NULL), QL_REFUSED);
    fixture->now_ns += 1;
    assert_int_equal(ql_check(fixture->ql, "alice", NULL, NULL), QL_OK);
    assert_int_equal(ql_charge(fixture->ql, "alice", "bytes", 3, NULL), QL_OK);
    assert_int_equal(ql_usage(fixture->ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.meters[0].total, 3);
    assert_int_equal(usage.meters[0].yesterday, 1000);
    assert_int_equal(usage.leases, 1);
}

static void row_06_subjects_are_independent(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    assert_int_equal(ql_charge(ql, "alice", "bytes", 1000, NULL), QL_OK);
    assert_int_equal(ql_check(ql, "bob", NULL, NULL), QL_OK);
    assert_int_equal(used_bytes(ql, "bob"), 0);
}

#define THREADS 4
#define TURNS 500

/* Each thread charges all subjects and takes and gives back a slot of its own. */
static void *charge_everybody(void *context)
{
    struct ql *ql = context;
    for (int i = 0; i < TURNS; i++) {
        struct ql_lease lease;
        if (ql_charge(ql, i % 2 == 0 ? "alice" : "bob", "bytes", 1, NULL) != QL_OK)
            return ql; /* anything but NULL */
        if (ql_acquire(ql, "alice", &lease, NULL) == QL_OK && ql_release(ql, lease) != QL_OK)
            return ql;
    }
    return NULL;
}

static void row_06_all_calls_are_safe_from_any_thread(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    pthread_t threads[THREADS];
    struct ql_usage usage;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, charge_everybody, ql), 0);
    for (int i = 0; i < THREADS; i++) {
        void *failure;
        assert_int_equal(pthread_join(threads[i], &failure), 0);
        assert_null(failure);
    }
    assert_int_equal(used_bytes(ql, "alice"), THREADS * TURNS / 2);
    assert_int_equal(used_bytes(ql, "bob"), THREADS * TURNS / 2);
    assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.leases, 0);
}

static void row_08_the_clock_can_be_replaced(void **state)
{
    struct fixture *fixture = *state;
    struct ql_usage usage;
    fixture->now_ns = -1; /* no time, in the first call of all */
    assert_int_equal(ql_usage(fixture->ql, "alice", &usage), QL_E_CLOCK);
    fixture->now_ns = 12345 * DAY * SECOND_NS;
    assert_int_equal(ql_usage(fixture->ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.limits[1].resets_at, 12346 * DAY);
    fixture->now_ns = -1;
    assert_int_equal(ql_usage(fixture->ql, "alice", &usage), QL_E_CLOCK);
    assert_int_equal(ql_charge(fixture->ql, "alice", "bytes", 1, NULL), QL_E_CLOCK);
    fixture->now_ns = 12345 * DAY * SECOND_NS;
    assert_int_equal(used_bytes(fixture->ql, "alice"), 0);
}

static void row_10_any_number_of_meters(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct ql_limit limits[] = {
        {"daily_bytes", "bytes", QL_WINDOW_DAY, 10},
        {"daily_estimates", "statements", QL_WINDOW_DAY, 2},
    };
    struct ql_verdict verdict;
    struct ql *ql =
        fixture_open(&fixture, "memory:", (struct ql_options)QL_OPTIONS_INIT, limits, 2);
    assert_int_equal(ql_charge(ql, "alice", "statements", 2, NULL), QL_OK);
    assert_int_equal(ql_check(ql, "alice", "daily_bytes", NULL), QL_OK);
    assert_int_equal(ql_check(ql, "alice", NULL, &verdict), QL_REFUSED);
    assert_string_equal(verdict.kind, "daily_estimates");
    ql_close(ql);
}

static void row_10_a_cap_of_zero_refuses_everything(void **state)
{
    (void)state;
    struct fixture fixture;
    struct ql_lease lease;
    const struct ql_limit limits[] = {
        {"concurrent", NULL, QL_WINDOW_NONE, 0},
        {"daily", "bytes", QL_WINDOW_DAY, 0},
    };
    struct ql *ql =
        fixture_open(&fixture, "memory:", (struct ql_options)QL_OPTIONS_INIT, limits, 2);
    assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_REFUSED);
    assert_int_equal(ql_check(ql, "alice", NULL, NULL), QL_REFUSED);
    ql_close(ql);
}

static void row_17_amounts_saturate(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    assert_int_equal(ql_charge(ql, "alice", "bytes", INT64_MAX, NULL), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "bytes", INT64_MAX, NULL), QL_OK);
    assert_true(used_bytes(ql, "alice") == INT64_MAX);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
}

static void row_17_checking_creates_nothing(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_verify_report report;
    assert_int_equal(ql_check(ql, "nobody", NULL, NULL), QL_OK);
    assert_int_equal(used_bytes(ql, "nobody"), 0);
    assert_int_equal(ql_verify(ql, &report, NULL), QL_OK);
    assert_int_equal(report.subjects, 0);
}

static void row_17_one_concurrent_limit(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_options options = QL_OPTIONS_INIT;
    const struct ql_limit two[] = {
        {"scans", NULL, QL_WINDOW_NONE, 2},
        {"exports", NULL, QL_WINDOW_NONE, 2},
    };
    options.limits = two;
    options.limit_count = 2;
    assert_int_equal(ql_open("memory:", &options, &ql, NULL), QL_E_INVALID);
}

static void admit_checks_and_takes_in_one_step(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease;
    struct ql_verdict verdict;
    const struct ql_charge charge = {"bytes", 1000};
    assert_int_equal(ql_admit(ql, "alice", NULL, &lease, &verdict), QL_OK);
    assert_int_equal(verdict.limit_count, 2);
    assert_int_equal(ql_settle(ql, lease, &charge, 1), QL_OK);
    assert_int_equal(ql_settle(ql, lease, &charge, 1), QL_E_SETTLED);
    assert_int_equal(used_bytes(ql, "alice"), 1000);
    assert_int_equal(ql_admit(ql, "alice", NULL, &lease, &verdict), QL_REFUSED);
    assert_string_equal(verdict.kind, "daily_bytes");
}

static void a_settle_that_fails_keeps_the_lease(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease;
    const struct ql_charge wrong[] = {{"bytes", 1}, {"tokens", 1}};
    const struct ql_charge negative = {"bytes", -1};
    assert_int_equal(ql_admit(ql, "alice", NULL, &lease, NULL), QL_OK);
    assert_int_equal(ql_settle(ql, lease, wrong, 2), QL_E_METER);
    assert_int_equal(ql_settle(ql, lease, &negative, 1), QL_E_INVALID);
    assert_int_equal(used_bytes(ql, "alice"), 0);
    assert_int_equal(ql_release(ql, lease), QL_OK);
}

static void a_revoked_lease_frees_its_slot(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease;
    struct ql_lease parsed;
    struct ql_usage usage;
    char text[QL_LEASE_TEXT_MAX];
    assert_int_equal(ql_admit(ql, "alice", NULL, &lease, NULL), QL_OK);
    ql_lease_format(lease, text);
    assert_int_equal(ql_lease_parse(text, &parsed), QL_OK);
    assert_int_equal(ql_revoke(ql, parsed), QL_OK);
    assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.leases, 0);
    assert_int_equal(ql_release(ql, lease), QL_LATE);
    assert_int_equal(ql_lease_parse("1.2", &parsed), QL_E_INVALID);
    assert_int_equal(ql_lease_parse("1.2.3x", &parsed), QL_E_INVALID);
}

/* One millisecond of CLOCK_BOOTTIME passes by itself: the loop waits for it. */
static void a_lease_over_its_maximum_age_gives_way(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_request request = QL_REQUEST_INIT;
    struct ql_lease old;
    struct ql_lease lease;
    request.max_age_ms = 1;
    assert_int_equal(ql_admit(ql, "alice", &request, &old, NULL), QL_OK);
    assert_int_equal(ql_admit(ql, "alice", NULL, &lease, NULL), QL_OK);
    while (ql_admit(ql, "alice", NULL, &lease, NULL) == QL_REFUSED)
        continue;
    assert_int_equal(ql_release(ql, old), QL_LATE);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
}

static void a_full_store_evicts_the_idle_then_refuses(void **state)
{
    (void)state;
    struct fixture fixture;
    struct ql_lease lease;
    struct ql_options options = QL_OPTIONS_INIT;
    const struct ql_limit limit = {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000};
    options.max_subjects = 2;
    struct ql *ql = fixture_open(&fixture, "memory:", options, &limit, 1);
    assert_int_equal(ql_charge(ql, "a", "bytes", 1, NULL), QL_OK);
    assert_int_equal(ql_acquire(ql, "b", &lease, NULL), QL_OK);
    assert_int_equal(ql_charge(ql, "c", "bytes", 1, NULL), QL_E_FULL);
    fixture.now_ns += DAY * SECOND_NS;
    assert_int_equal(ql_charge(ql, "c", "bytes", 1, NULL), QL_OK);
    assert_int_equal(used_bytes(ql, "a"), 0);
    assert_int_equal(ql_charge(ql, "a", "bytes", 1, NULL), QL_E_FULL);
    assert_int_equal(ql_release(ql, lease), QL_OK);
    assert_int_equal(ql_charge(ql, "a", "bytes", 1, NULL), QL_OK);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(ql);
}

static void a_full_store_may_admit_and_count_the_omission(void **state)
{
    (void)state;
    struct fixture fixture;
    struct ql_lease lease;
    struct ql_verify_report report;
    struct ql_options options = QL_OPTIONS_INIT;
    const struct ql_limit limit = {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000};
    const struct ql_charge charge = {"bytes", 1};
    options.max_subjects = 1;
    options.when_full = QL_FULL_ADMIT;
    struct ql *ql = fixture_open(&fixture, "memory:", options, &limit, 1);
    assert_int_equal(ql_charge(ql, "a", "bytes", 1, NULL), QL_OK);
    assert_int_equal(ql_admit(ql, "b", NULL, &lease, NULL), QL_OK);
    assert_int_equal(ql_settle(ql, lease, &charge, 1), QL_E_FULL);
    assert_int_equal(ql_release(ql, lease), QL_OK);
    assert_int_equal(ql_verify(ql, &report, NULL), QL_OK);
    assert_int_equal(report.omissions, 1);
    ql_close(ql);
}

static int count_subject(void *context, const struct ql_subject_info *subject)
{
    (void)subject;
    ++*(int *)context;
    return 0;
}

static int stop_at_once(void *context, const struct ql_lease_info *lease)
{
    ++*(int *)context;
    return lease->own ? 7 : 8;
}

static void visits_see_everything_once_and_stop(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease;
    char subject[256];
    int seen = 0;
    int stopped = 0;
    for (int i = 0; i < 40; i++) {
        memset(subject, 'a', sizeof subject);
        subject[i * 6 + 1] = '\0'; /* lengths 1 to 235: keys with and without an extension */
        assert_int_equal(ql_charge(ql, subject, "bytes", 1, NULL), QL_OK);
    }
    assert_int_equal(ql_each_subject(ql, count_subject, &seen, NULL), QL_OK);
    assert_int_equal(seen, 40);
    seen = 0;
    assert_int_equal(ql_acquire(ql, "a", &lease, NULL), QL_OK);
    assert_int_equal(ql_acquire(ql, "b", &lease, NULL), QL_OK);
    assert_int_equal(ql_each_lease(ql, stop_at_once, &seen, &stopped), QL_OK);
    assert_int_equal(seen, 1);
    assert_int_equal(stopped, 7);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
}

struct days {
    int count;
    int64_t starts[4];
    int64_t amounts[4];
};

static int note_day(void *context, const struct ql_history_entry *entry)
{
    struct days *days = context;
    assert_true(days->count < 4);
    assert_int_equal(entry->end, entry->start + DAY);
    assert_string_equal(entry->meter, "bytes");
    days->starts[days->count] = entry->start;
    days->amounts[days->count++] = entry->amount;
    return 0;
}

static struct days days_between(struct ql *ql, const char *meter, int64_t from, int64_t to)
{
    struct days days = {0};
    assert_int_equal(ql_history(ql, "alice", meter, from, to, note_day, &days, NULL), QL_OK);
    return days;
}

static void expect_day(struct days days, int64_t start, int64_t amount)
{
    assert_int_equal(days.count, 1);
    assert_int_equal(days.starts[0], start);
    assert_int_equal(days.amounts[0], amount);
}

static void the_history_without_a_ledger_has_two_days(void **state)
{
    struct fixture *fixture = *state;
    struct ql *ql = fixture->ql;
    for (int i = 0; i < 3; i++) {
        fixture->now_ns += i > 0 ? DAY * SECOND_NS : 0;
        assert_int_equal(ql_charge(ql, "alice", "bytes", 1 << i, NULL), QL_OK);
        assert_int_equal(ql_charge(ql, "bob", "bytes", 100, NULL), QL_OK);
    }
    const int64_t today = NOON - DAY / 2 + 2 * DAY;
    struct days both = days_between(ql, NULL, 0, INT64_MAX);
    assert_int_equal(both.count, 2);
    assert_int_equal(both.starts[0], today - DAY);
    assert_int_equal(both.amounts[0], 2);
    assert_int_equal(both.starts[1], today);
    assert_int_equal(both.amounts[1], 4);
    expect_day(days_between(ql, "bytes", 0, today), today - DAY, 2);
    expect_day(days_between(ql, "bytes", today, INT64_MAX), today, 4);
    assert_int_equal(days_between(ql, NULL, 0, today - DAY).count, 0);
    assert_int_equal(days_between(ql, NULL, today + DAY, INT64_MAX).count, 0);
    assert_int_equal(days_between(ql, "tokens", 0, INT64_MAX).count, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(row_01_acquire_holds_until_released),
        CASE(row_01_releasing_twice_frees_one_slot),
        CASE(row_02_check_refuses_at_the_cap),
        CASE(row_02_check_does_not_look_at_slots),
        CASE(row_03_charge_goes_past_the_cap),
        CASE(row_04_usage_is_what_was_charged_today),
        CASE(row_05_a_new_day_zeroes_budgets_and_keeps_slots),
        CASE(row_06_subjects_are_independent),
        CASE(row_06_all_calls_are_safe_from_any_thread),
        CASE(row_08_the_clock_can_be_replaced),
        CASE(row_10_any_number_of_meters),
        CASE(row_10_a_cap_of_zero_refuses_everything),
        CASE(row_17_amounts_saturate),
        CASE(row_17_checking_creates_nothing),
        CASE(row_17_one_concurrent_limit),
        CASE(admit_checks_and_takes_in_one_step),
        CASE(a_settle_that_fails_keeps_the_lease),
        CASE(a_revoked_lease_frees_its_slot),
        CASE(a_lease_over_its_maximum_age_gives_way),
        CASE(a_full_store_evicts_the_idle_then_refuses),
        CASE(a_full_store_may_admit_and_count_the_omission),
        CASE(visits_see_everything_once_and_stop),
        CASE(the_history_without_a_ledger_has_two_days),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
