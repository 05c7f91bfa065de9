/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls in whose middle the process forks, and what a child's first call does: the
 * child is a holder of its own.
 */
#include "small_store.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "region/lockfile.h"

struct fork_visit {
    pid_t child;
    int seen;
    int own; /* in the later half */
};

static int fork_once(void *context, const struct ql_lease_info *lease)
{
    struct fork_visit *visit = context;
    if (visit->seen++ == 0)
        visit->child = fork();
    visit->own += visit->seen > 50 && lease->own;
    return 0;
}

/* A function that is called for each lease forks, and returns in the child too:
 * the visit goes on there as the child's own. */
static void a_visit_that_forks(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_lease lease;
    struct fork_visit visit = {0};
    struct ql_options options = small_options();
    options.max_subjects = 100;
    options.limits = NULL;
    options.limit_count = 0;
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    for (int i = 0; i < 100; i++)
        assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_OK);
    enum ql_status status = ql_each_lease(ql, fork_once, &visit, NULL);
    if (visit.child == 0)
        _exit(status == QL_OK && visit.seen == 100 && visit.own == 0 ? 0 : 1);
    assert_int_equal(kt_wait(visit.child), 0);
    assert_int_equal(status, QL_OK);
    assert_int_equal(visit.own, 50);
    ql_close(ql);
}

static bool clock_forks;
static pid_t clock_child;

static int64_t noon_after_a_fork(void *context)
{
    if (clock_forks)
        clock_child = fork();
    clock_forks = false;
    return kt_noon(context);
}

/* A clock may fork too, and return in the child: what the call then takes is
 * the child's own. */
static void a_clock_that_forks(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_lease lease;
    struct ql_usage usage;
    struct ql_options options = small_options();
    options.clock = noon_after_a_fork;
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 1, NULL), QL_OK);
    clock_forks = true;
    enum ql_status status = ql_acquire(ql, "alice", &lease, NULL);
    if (clock_child == 0)
        _exit(status == QL_OK && ql_release(ql, lease) == QL_OK ? 0 : 1);
    assert_int_equal(kt_wait(clock_child), 0);
    assert_int_equal(status, QL_OK);
    assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.leases, 1);
    ql_close(ql);
}

/* Somebody is opening the store, for as long as it takes. */
static void a_childs_first_call_keeps_its_deadline(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_options options = small_options();
    options.admit_wait_ms = 10;
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    int fd = open(path_of("store/lock"), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(qli_lockfile_take(fd, QLI_BYTE_ATTACH));
    pid_t pid = fork();
    if (pid == 0) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        enum ql_status status = ql_check(ql, "alice", NULL, NULL);
        clock_gettime(CLOCK_MONOTONIC, &end);
        _exit(status != QL_E_BUSY ? 1 : end.tv_sec - begin.tv_sec >= 4 ? 2 : 0);
    }
    assert_int_equal(kt_wait(pid), 0);
    close(fd);
    ql_close(ql);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_visit_that_forks),
        CASE(a_clock_that_forks),
        CASE(a_childs_first_call_keeps_its_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
