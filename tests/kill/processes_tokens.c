/* SPDX-License-Identifier: Apache-2.0
 *
 * A process hands its token to those who do its work, and dies.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/operation.h"
#include "processes.h"

enum { EPOCH, GENERATION, INDEX, WORKER, READY, GO };

static void tell_lease(struct ql_lease lease)
{
    kt_flags[EPOCH] = (int64_t)lease.epoch;
    kt_flags[GENERATION] = (int64_t)lease.generation;
    kt_flags[INDEX] = (int64_t)lease.index;
}

static struct ql_lease told_lease(void)
{
    return (struct ql_lease){.epoch = (uint64_t)kt_flags[EPOCH],
                             .generation = (uint64_t)kt_flags[GENERATION],
                             .index = (uint64_t)kt_flags[INDEX]};
}

static int token_of(struct ql *ql)
{
    int fd;
    kt_expect(ql_token_fd(ql, &fd), QL_OK, "token");
    KT_CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC, "the token is no descriptor of its own");
    return fd;
}

/* Forks a worker, which has the token, and does not keep it here. Waits until the worker
 * is out of fork(), and has no more than the token. */
static void hand_over(struct ql *ql)
{
    int fd = token_of(ql);
    kt_flags[WORKER] = 0;
    pid_t worker = fork(); /* not kt_fork: it lives on */
    KT_CHECK(worker >= 0, "fork: %s", strerror(errno));
    if (worker == 0)
        kt_flags[WORKER] = getpid();
    while (worker == 0)
        pause();
    close(fd);
    kt_await(&kt_flags[WORKER], 1);
}

/* One lease that was there before the token, and one that came after it. */
static _Noreturn void hand_over_and_wait(struct ql *ql)
{
    tell_lease(kt_take(ql));
    hand_over(ql);
    kt_take(ql);
    kt_flags[READY] = 1;
    for (;;)
        pause();
}

static void kill_one_who_handed_over(struct ql *ql)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t pid = kt_fork();
    if (pid == 0)
        hand_over_and_wait(ql);
    kt_await(&kt_flags[READY], 1);
    kt_kill(pid);
}

/* What every process does now and then. */
static void reap_dead(struct ql *ql)
{
    struct qli_engine *engine = &ql->store->engine;
    struct qli_call call =
        qli_engine_bare_call(engine, qli_holder_self(&engine->region), kt_deadline_ns / 1000000);
    kt_expect(qli_operation_reap_dead(&call, 0), QL_OK, "reap");
}

static void expect_kept(struct ql *ql, int64_t leases)
{
    reap_dead(ql);
    KT_CHECK(kt_leases_counted(ql) == leases, "%lld leases", (long long)kt_leases_counted(ql));
}

static void live_and_die(struct ql *ql)
{
    struct ql_lease lease;
    kill_one_who_handed_over(ql);
    expect_kept(ql, 2);
    for (int i = 2; i < KT_SLOTS; i++)
        kt_take(ql);
    kt_expect(ql_acquire(ql, "alice", &lease, NULL), QL_REFUSED, "acquire over the cap");
    kt_expect(ql_release(ql, told_lease()), QL_E_NOT_OWNER, "release of a kept lease");
    kt_verify(ql);
    kt_kill((pid_t)kt_flags[WORKER]);
    expect_kept(ql, KT_SLOTS - 2);
    kt_expect(ql_release(ql, told_lease()), QL_LATE, "release of the dead process's lease");
    kt_verify(ql);
    ql_close(ql);
}

int kt_process_token_inherited(void)
{
    live_and_die(kt_open_store());
    return 0;
}

int kt_process_token_memory(void)
{
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, 16);
    live_and_die(kt_open("memory:", &options));
    return 0;
}

/* ---- what it does not keep ----------------------------------------------- */

/* A lock in which the process died, though somebody keeps its leases. */
int kt_process_token_in_lock(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    struct ql *ql = kt_open_store();
    pid_t pid = kt_fork();
    if (pid == 0) {
        kt_take(ql);
        hand_over(ql);
        kt_die_in_lock(ql);
    }
    kt_wait_success(pid);
    kt_charge(ql, 1);
    expect_kept(ql, 1);
    kt_verify(ql);
    kt_kill((pid_t)kt_flags[WORKER]);
    expect_kept(ql, 0);
    ql_close(ql);
    return 0;
}

/* The leases of one that closes the store, or of the child for its parent's. */
int kt_process_token_closed(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    struct ql *ql = kt_open_store();
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql *own = kt_open_store();
        kt_take(own);
        hand_over(own);
        ql_close(own);
        ql_close(ql);
        ql = kt_open_store();
        kt_take(ql);
        kt_flags[READY] = 1;
        for (;;)
            pause();
    }
    kt_await(&kt_flags[READY], 1);
    KT_CHECK(kt_leases_counted(ql) == 1, "%lld leases", (long long)kt_leases_counted(ql));
    kt_kill(pid);
    expect_kept(ql, 0);
    kt_kill((pid_t)kt_flags[WORKER]);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- the slot ------------------------------------------------------------ */

static enum ql_status usage_of_another(struct ql *ql)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql_usage usage;
        kt_flags[GO] = ql_usage(ql, "alice", &usage);
        _exit(0);
    }
    kt_wait_success(pid);
    return (enum ql_status)kt_flags[GO];
}

/* Room for two: nobody gets the second place while its leases are kept. */
int kt_process_token_slot(void)
{
    struct ql *ql = kt_open_room(2, 1000);
    kill_one_who_handed_over(ql);
    kt_expect(usage_of_another(ql), QL_E_FULL, "usage of a third holder");
    expect_kept(ql, 2);
    kt_kill((pid_t)kt_flags[WORKER]);
    kt_expect(usage_of_another(ql), QL_OK, "usage of the next holder");
    expect_kept(ql, 0);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* A store whose region was removed is in use as long as leases of it are kept. */
int kt_process_token_removed(void)
{
    struct ql *ql = kt_open_store();
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, 16);
    kill_one_who_handed_over(ql);
    ql_close(ql);
    kt_remove_file(kt_directory, "region");
    kt_expect(ql_open(kt_directory, &options, &ql, NULL), QL_E_BUSY, "open");
    kt_kill((pid_t)kt_flags[WORKER]);
    ql = kt_open_store();
    expect_kept(ql, 0);
    ql_close(ql);
    return 0;
}

/* ---- over an exec -------------------------------------------------------- */

static _Noreturn void execute_with_token(struct ql *ql, bool inherit)
{
    kt_take(ql);
    int fd = token_of(ql);
    if (inherit)
        fcntl(fd, F_SETFD, 0);
    kt_flags[READY] = 1;
    kt_await(&kt_flags[GO], 1);
    execlp("sleep", "sleep", "600", (char *)NULL);
    _exit(127);
}

/* A program keeps the leases of the process that it took over if it has the
 * token, and otherwise not. */
int kt_process_token_exec(void)
{
    struct ql *ql = kt_open_store();
    pid_t pids[2];
    for (int inherit = 0; inherit < 2; inherit++) {
        kt_flags[READY] = 0;
        pids[inherit] = kt_fork();
        if (pids[inherit] == 0)
            execute_with_token(ql, inherit != 0);
        kt_await(&kt_flags[READY], 1);
    }
    expect_kept(ql, 2);
    kt_flags[GO] = 1;
    kt_await_held(ql, 1);
    kt_kill(pids[0]);
    expect_kept(ql, 1);
    kt_kill(pids[1]);
    expect_kept(ql, 0);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- failures ------------------------------------------------------------ */

static void without_descriptors(struct ql *ql)
{
    struct rlimit limit;
    int fd = 77;
    int next = dup(0);
    getrlimit(RLIMIT_NOFILE, &limit);
    close(next);
    limit.rlim_cur = (rlim_t)next;
    KT_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit: %s", strerror(errno));
    kt_expect(ql_token_fd(ql, &fd), QL_E_SYSTEM, "token without a descriptor left");
    KT_CHECK(errno == EMFILE && fd == -1, "descriptor %d, errno %d", fd, errno);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    close(token_of(ql));
}

int kt_process_token_refused(void)
{
    struct ql *ql = kt_open_store();
    int fd = 77;
    kt_expect(ql_token_fd(NULL, &fd), QL_E_INVALID, "token of nothing");
    KT_CHECK(fd == -1, "descriptor %d", fd);
    kt_expect(ql_token_fd(ql, NULL), QL_E_INVALID, "token to nowhere");
    without_descriptors(ql);
    closefrom(3);
    kt_expect(ql_token_fd(ql, &fd), QL_E_DETACHED, "token of a lost store");
    KT_CHECK(fd == -1, "descriptor %d", fd);
    ql_close(ql);
    return 0;
}
