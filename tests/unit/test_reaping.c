/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases that nobody gives back: over their maximum age, or of the dead.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "semantics.h"

#define CHILDREN 70

static void take(struct ql *ql, const char *subject, int64_t max_age_ms)
{
    struct ql_request request = QL_REQUEST_INIT;
    struct ql_lease lease;
    request.max_age_ms = max_age_ms;
    assert_int_equal(ql_admit(ql, subject, &request, &lease, NULL), QL_OK);
}

static int sum_leases(void *context, const struct ql_subject_info *info)
{
    *(int64_t *)context += info->usage.leases;
    return 0;
}

static void a_lease_over_its_age_counts_nowhere(void **state)
{
    struct ql *ql = ((struct fixture *)*state)->ql;
    struct ql_usage usage;
    int64_t leases;
    take(ql, "alice", 1);
    take(ql, "bob", 1);
    time_t deadline = seconds_now() + DEADLINE_S;
    do {
        assert_true(seconds_now() < deadline);
        assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
        leases = 0;
        assert_int_equal(ql_each_subject(ql, sum_leases, &leases, NULL), QL_OK);
    } while (usage.leases != 0 || leases != 0);
    assert_int_equal(usage.limits[0].used, 0);
}

static struct ql *open_small(struct fixture *fixture, uint32_t subjects, uint32_t leases)
{
    const struct ql_limit limits[] = {
        {"concurrent_scans", NULL, QL_WINDOW_NONE, 2},
        {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
    };
    struct ql_options options = QL_OPTIONS_INIT;
    options.max_subjects = subjects;
    options.max_leases = leases;
    return fixture_open(fixture, "memory:", options, limits, 2);
}

static void a_full_store_is_cleared_of_leases_over_their_age(void **state)
{
    (void)state;
    struct fixture fixture;
    struct ql *ql = open_small(&fixture, 16, 2);
    struct ql_lease lease;
    enum ql_status status;
    take(ql, "alice", 1);
    take(ql, "bob", 1);
    time_t deadline = seconds_now() + DEADLINE_S;
    while ((status = ql_acquire(ql, "carol", &lease, NULL)) == QL_E_FULL)
        assert_true(seconds_now() < deadline);
    assert_int_equal(status, QL_OK);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(ql);
}

static void a_charge_evicts_subjects_whose_leases_are_over_their_age(void **state)
{
    (void)state;
    struct fixture fixture;
    struct ql *ql = open_small(&fixture, 2, 16);
    enum ql_status status;
    take(ql, "alice", 1);
    take(ql, "bob", 1);
    time_t deadline = seconds_now() + DEADLINE_S;
    while ((status = ql_charge(ql, "carol", "bytes", 5, NULL)) == QL_E_FULL)
        assert_true(seconds_now() < deadline);
    assert_int_equal(status, QL_OK);
    assert_int_equal(used_bytes(ql, "carol"), 5);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(ql);
}

/* Takes a slot, says so, and holds it until it is killed. */
static pid_t fork_holder(struct ql *ql, int said)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    struct ql_lease lease;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char done = ql_acquire(ql, "alice", &lease, NULL) == QL_OK;
    if (write(said, &done, 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

static void of_many_holders_the_dead_one_is_found(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct ql_limit limit = {"concurrent_scans", NULL, QL_WINDOW_NONE, CHILDREN};
    struct ql *ql =
        fixture_open(&fixture, "memory:", (struct ql_options)QL_OPTIONS_INIT, &limit, 1);
    struct ql_lease lease;
    pid_t children[CHILDREN];
    int said[2];
    assert_int_equal(pipe(said), 0);
    for (int i = 0; i < CHILDREN; i++) {
        char done = 0;
        children[i] = fork_holder(ql, said[1]);
        assert_true(children[i] > 0);
        assert_int_equal(read(said[0], &done, 1), 1);
        assert_int_equal(done, 1);
    }
    assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_REFUSED);
    kill(children[0], SIGKILL); /* the first that came is the last on the subject's list */
    waitpid(children[0], NULL, 0);
    enum ql_status status = ql_acquire(ql, "alice", &lease, NULL);
    for (int i = 1; i < CHILDREN; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    assert_int_equal(status, QL_OK);
    close(said[0]);
    close(said[1]);
    ql_close(ql);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_lease_over_its_age_counts_nowhere),
        cmocka_unit_test(a_full_store_is_cleared_of_leases_over_their_age),
        cmocka_unit_test(a_charge_evicts_subjects_whose_leases_are_over_their_age),
        cmocka_unit_test(of_many_holders_the_dead_one_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
