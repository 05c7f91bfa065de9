/* SPDX-License-Identifier: Apache-2.0
 *
 * Timed leases, renewing, and leases that end before they are settled.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/handle.h"
#include "engine/lease.h"
#include "semantics.h"

#define HOUR_MS INT64_C(3600000)

static const struct ql_charge seven = {"bytes", 7};

static struct ql_lease take_timed(struct ql *ql, const char *subject, int64_t ttl_ms)
{
    struct ql_request request = QL_REQUEST_INIT;
    struct ql_lease lease;
    request.ttl_ms = ttl_ms;
    assert_int_equal(ql_admit(ql, subject, &request, &lease, NULL), QL_OK);
    return lease;
}

static int64_t held(struct ql *ql, const char *subject)
{
    struct ql_usage usage;
    assert_int_equal(ql_usage(ql, subject, &usage), QL_OK);
    return usage.leases;
}

/* A store without a limit on leases. */
static struct ql *open_room(struct fixture *fixture, uint32_t subjects, uint32_t leases)
{
    const struct ql_limit limits[] = {{"daily_bytes", "bytes", QL_WINDOW_DAY, 1000}};
    struct ql_options options = QL_OPTIONS_INIT;
    options.max_subjects = subjects;
    options.max_leases = leases;
    return fixture_open(fixture, "memory:", options, limits, 1);
}

/* Its time passes by itself. */
static void await_end(struct ql *ql, const char *subject)
{
    time_t deadline = seconds_now() + DEADLINE_S;
    while (held(ql, subject) != 0)
        assert_true(seconds_now() < deadline);
}

static void late_settle_charges_once(struct ql *ql, struct ql_lease lease)
{
    assert_int_equal(held(ql, "alice"), 0);
    assert_int_equal(ql_settle(ql, lease, &seven, 1), QL_LATE);
    assert_int_equal(used_bytes(ql, "alice"), 7);
    assert_int_equal(ql_settle(ql, lease, &seven, 1), QL_E_SETTLED);
    assert_int_equal(used_bytes(ql, "alice"), 7);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
}

static void row_15_a_settle_after_the_maximum_age_charges_once(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_request request = QL_REQUEST_INIT;
    struct ql_lease lease;
    request.max_age_ms = 1;
    assert_int_equal(ql_admit(ql, "alice", &request, &lease, NULL), QL_OK);
    await_end(ql, "alice");
    late_settle_charges_once(ql, lease);
}

static void row_15_a_settle_after_the_deadline_charges_once(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease = take_timed(ql, "alice", 1);
    await_end(ql, "alice");
    late_settle_charges_once(ql, lease);
}

static void row_15_a_settle_of_a_lease_that_nobody_missed_yet_is_late_too(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease = take_timed(ql, "alice", 1);
    struct ql_lease other = take_timed(ql, "bob", 1);
    await_end(ql, "bob"); /* the same time has passed for alice, and nobody has looked */
    assert_int_equal(ql_settle(ql, lease, &seven, 1), QL_LATE);
    assert_int_equal(used_bytes(ql, "alice"), 7);
    assert_int_equal(held(ql, "alice"), 0);
    assert_int_equal(ql_release(ql, other), QL_LATE);
}

static void row_15_a_settle_after_a_revoke_charges_once(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease;
    assert_int_equal(ql_admit(ql, "alice", NULL, &lease, NULL), QL_OK);
    assert_int_equal(ql_revoke(ql, lease), QL_OK);
    assert_int_equal(ql_revoke(ql, lease), QL_E_EXPIRED);
    late_settle_charges_once(ql, lease);
}

/* The lease of a child, which tells the parent of it and dies. */
static struct ql_lease admit_and_die(struct ql *ql, const struct ql_request *request)
{
    struct ql_lease lease;
    int told[2];
    assert_int_equal(pipe(told), 0);
    pid_t pid = fork();
    if (pid == 0) {
        enum ql_status status = ql_admit(ql, "alice", request, &lease, NULL);
        _exit(status == QL_OK && write(told[1], &lease, sizeof lease) == sizeof lease ? 0 : 1);
    }
    assert_int_equal(read(told[0], &lease, sizeof lease), sizeof lease);
    waitpid(pid, NULL, 0);
    close(told[0]);
    close(told[1]);
    return lease;
}

static void row_15_a_settle_for_a_dead_holder_charges_once(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease = admit_and_die(ql, NULL);
    await_end(ql, "alice");
    late_settle_charges_once(ql, lease);
}

static void what_is_kept_longest_goes_first(void **state)
{
    (void)state;
    struct fixture fixture;
    struct ql_lease leases[4];
    struct ql *ql = open_room(&fixture, 16, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(ql_acquire(ql, "alice", &leases[i], NULL), QL_OK);
    const int order[] = {2, 0, 3};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(ql_revoke(ql, leases[order[i]]), QL_OK);
    struct ql_lease more;
    for (int i = 0; i < 2; i++)
        assert_int_equal(ql_acquire(ql, "bob", &more, NULL), QL_OK);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    assert_int_equal(ql_settle(ql, leases[2], &seven, 1), QL_E_EXPIRED);
    assert_int_equal(ql_settle(ql, leases[0], &seven, 1), QL_E_EXPIRED);
    assert_int_equal(ql_settle(ql, leases[3], &seven, 1), QL_LATE);
    assert_int_equal(ql_settle(ql, leases[1], &seven, 1), QL_OK);
    assert_int_equal(used_bytes(ql, "alice"), 14);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(ql);
}

/* From the middle, from both ends, and the last of the queue. */
static void kept_leases_are_settled_in_any_order(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    const int order[] = {1, 3, 0, 2};
    struct ql_lease leases[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(ql_acquire(ql, "alice", &leases[i], NULL), QL_OK);
        assert_int_equal(ql_revoke(ql, leases[i]), QL_OK);
    }
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(ql_settle(ql, leases[order[i]], &seven, 1), QL_LATE);
        assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    }
    assert_int_equal(used_bytes(ql, "alice"), 28);
}

static void a_late_settle_of_an_evicted_subject_charges_nobody_else(void **state)
{
    (void)state;
    struct fixture fixture;
    struct ql_lease lease;
    struct ql *ql = open_room(&fixture, 1, 4);
    assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_OK);
    assert_int_equal(ql_revoke(ql, lease), QL_OK);
    assert_int_equal(ql_charge(ql, "bob", "bytes", 1, NULL), QL_OK); /* alice is evicted */
    assert_int_equal(ql_settle(ql, lease, &seven, 1), QL_E_EXPIRED);
    assert_int_equal(used_bytes(ql, "bob"), 1);
    ql_close(ql);
}

static void a_timed_lease_counts_until_it_is_settled(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease = take_timed(ql, "alice", HOUR_MS);
    struct ql_lease other = take_timed(ql, "alice", HOUR_MS);
    struct ql_lease third;
    assert_int_equal(ql_admit(ql, "alice", NULL, &third, NULL), QL_REFUSED);
    assert_int_equal(ql_settle(ql, lease, &seven, 1), QL_OK);
    assert_int_equal(ql_settle(ql, lease, &seven, 1), QL_E_SETTLED);
    assert_int_equal(ql_renew(ql, lease), QL_E_SETTLED);
    assert_int_equal(ql_admit(ql, "alice", NULL, &third, NULL), QL_OK);
    assert_int_equal(ql_renew(ql, third), QL_E_INVALID); /* a held one */
    assert_int_equal(ql_renew(ql, (struct ql_lease){0}), QL_E_INVALID);
    assert_int_equal(ql_renew(ql, other), QL_OK);
    assert_int_equal(used_bytes(ql, "alice"), 7);
}

static void a_timed_lease_outlives_its_process_and_belongs_to_nobody(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_request request = QL_REQUEST_INIT;
    request.ttl_ms = HOUR_MS;
    struct ql_lease lease = admit_and_die(ql, &request);
    assert_int_equal(held(ql, "alice"), 1);
    assert_int_equal(ql_renew(ql, lease), QL_OK);
    assert_int_equal(ql_settle(ql, lease, &seven, 1), QL_OK);
    assert_int_equal(used_bytes(ql, "alice"), 7);
}

static int read_expiry(void *context, const struct ql_lease_info *info)
{
    assert_true(info->timed);
    assert_false(info->own);
    assert_int_equal(info->pid, 0);
    *(int64_t *)context = info->expires_in_ms;
    return 0;
}

static void renewing_moves_the_deadline_by_the_ttl_from_now(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease lease = take_timed(ql, "alice", HOUR_MS);
    int64_t first;
    int64_t later;
    int64_t renewed;
    time_t deadline = seconds_now() + DEADLINE_S;
    assert_int_equal(ql_each_lease(ql, read_expiry, &first, NULL), QL_OK);
    assert_in_range(first, HOUR_MS - DEADLINE_S * 1000, HOUR_MS);
    do {
        assert_true(seconds_now() < deadline);
        assert_int_equal(ql_each_lease(ql, read_expiry, &later, NULL), QL_OK);
    } while (later > first - 50);
    assert_int_equal(ql_renew(ql, lease), QL_OK);
    assert_int_equal(ql_each_lease(ql, read_expiry, &renewed, NULL), QL_OK);
    assert_true(renewed > later);
    assert_in_range(renewed, HOUR_MS - DEADLINE_S * 1000, HOUR_MS);
}

static int find_least_left(void *context, const struct ql_lease_info *info)
{
    int64_t *least = context;
    if (info->expires_in_ms < *least)
        *least = info->expires_in_ms;
    return 0;
}

/* 0 says that a lease has no deadline. One of these ends in each of the next milliseconds,
 * so that whenever they are looked at one is in its last. */
static void the_last_millisecond_is_not_0(void **state)
{
    (void)state;
    struct fixture fixture;
    const uint64_t leases = DEADLINE_S * 1000;
    struct ql *ql = open_room(&fixture, 16, leases);
    struct qli_engine *engine = &ql->store->engine;
    int64_t begun_ns = qli_clock_boot_ns();
    for (uint64_t i = 0; i < leases; i++) {
        struct ql_lease lease = take_timed(ql, "alice", HOUR_MS);
        struct qli_section section = {
            .engine = engine,
            .shard = qli_engine_shard(engine, qli_lease_number_shard(lease.index)),
        };
        struct qli_lease *slot = qli_lease_at(&section, qli_lease_number_index(lease.index));
        slot->deadline_ns = (uint64_t)begun_ns + i * QLI_NS_PER_MS;
    }
    int64_t least = INT64_MAX;
    assert_int_equal(ql_each_lease(ql, find_least_left, &least, NULL), QL_OK);
    assert_int_equal(least, 1);
    ql_close(ql);
}

/* A walk that began before the store had a deadline sees the first one. */
static void the_first_deadline_is_told_to_a_call_that_knew_of_none(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    uint64_t *deadlines = &ql->store->engine.page->deadlines;
    int64_t left;
    take_timed(ql, "alice", HOUR_MS);
    assert_int_equal(*deadlines, 1);
    *deadlines = 0;
    assert_int_equal(ql_each_lease(ql, read_expiry, &left, NULL), QL_OK);
    assert_in_range(left, HOUR_MS - DEADLINE_S * 1000, HOUR_MS);
}

static void renewing_does_not_bring_back_what_is_over(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_lease unseen = take_timed(ql, "bob", 1);
    struct ql_lease seen = take_timed(ql, "alice", 1);
    await_end(ql, "alice");
    assert_int_equal(ql_renew(ql, seen), QL_E_EXPIRED);
    assert_int_equal(ql_renew(ql, unseen), QL_E_EXPIRED);
    assert_int_equal(held(ql, "bob"), 0);
    assert_int_equal(ql_release(ql, unseen), QL_LATE);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
}

static void bad_requests_are_refused(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    const struct ql_request requests[] = {
        {.size = sizeof(struct ql_request), .ttl_ms = -1},
        {.size = sizeof(struct ql_request), .ttl_ms = INT64_MAX},
        {.size = sizeof(struct ql_request), .ttl_ms = 1, .max_age_ms = 1},
        {.size = 8, .ttl_ms = 1},
    };
    struct ql_lease lease;
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++)
        assert_int_equal(ql_admit(ql, "alice", &requests[i], &lease, NULL), QL_E_INVALID);
    assert_int_equal(held(ql, "alice"), 0);
}

static void assert_no_lease(struct ql_lease *lease)
{
    const struct ql_lease none = {0};
    assert_memory_equal(lease, &none, sizeof none);
    memset(lease, 0xff, sizeof *lease);
}

static void whatever_fails_gives_no_lease(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    const struct ql_request bad = {.size = sizeof bad, .ttl_ms = -1};
    struct ql_lease lease;
    memset(&lease, 0xff, sizeof lease);
    assert_int_equal(ql_admit(ql, "alice", &bad, &lease, NULL), QL_E_INVALID);
    assert_no_lease(&lease);
    assert_int_equal(ql_admit(NULL, "alice", NULL, &lease, NULL), QL_E_INVALID);
    assert_no_lease(&lease);
    assert_int_equal(ql_acquire(NULL, "alice", &lease, NULL), QL_E_INVALID);
    assert_no_lease(&lease);
    assert_int_equal(ql_acquire(ql, "alice//", &lease, NULL), QL_E_SUBJECT);
    assert_no_lease(&lease);
    assert_int_equal(ql_acquire(ql, "alice", NULL, NULL), QL_E_INVALID);
    assert_int_equal(held(ql, "alice"), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(row_15_a_settle_after_the_maximum_age_charges_once),
        CASE(row_15_a_settle_after_the_deadline_charges_once),
        CASE(row_15_a_settle_of_a_lease_that_nobody_missed_yet_is_late_too),
        CASE(row_15_a_settle_after_a_revoke_charges_once),
        CASE(row_15_a_settle_for_a_dead_holder_charges_once),
        cmocka_unit_test(what_is_kept_longest_goes_first),
        CASE(kept_leases_are_settled_in_any_order),
        cmocka_unit_test(a_late_settle_of_an_evicted_subject_charges_nobody_else),
        CASE(a_timed_lease_counts_until_it_is_settled),
        CASE(a_timed_lease_outlives_its_process_and_belongs_to_nobody),
        CASE(renewing_moves_the_deadline_by_the_ttl_from_now),
        cmocka_unit_test(the_last_millisecond_is_not_0),
        CASE(the_first_deadline_is_told_to_a_call_that_knew_of_none),
        CASE(renewing_does_not_bring_back_what_is_over),
        CASE(bad_requests_are_refused),
        CASE(whatever_fails_gives_no_lease),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
