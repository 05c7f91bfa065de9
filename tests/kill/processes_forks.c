/* SPDX-License-Identifier: Apache-2.0
 *
 * Fork, exec and raw clone, and a host that closes descriptors which it did
 * not open.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "processes.h"

/* Which flag says what. */
enum { GO = 1, DONE, CHILD, SILENT, STARTED, ACKNOWLEDGED };

static void clear_flags(void)
{
    for (int i = 0; i < KT_FLAGS; i++)
        kt_flags[i] = 0;
}

/* ---- fork, and the parent is killed -------------------------------------- */

static _Noreturn void be_child(struct ql *ql, struct ql_lease parents)
{
    kt_charge(ql, 1);
    kt_expect(ql_release(ql, parents), QL_E_NOT_OWNER, "release of the parent's lease");
    kt_flags[CHILD] = getpid();
    kt_await(&kt_flags[GO], 1);
    kt_expect(ql_release(ql, kt_take(ql)), QL_OK, "release");
    kt_charge(ql, 1);
    kt_flags[DONE] = 1;
    for (;;)
        pause();
}

static _Noreturn void be_parent(struct ql *ql)
{
    kt_take(ql);
    struct ql_lease lease = kt_take(ql);
    if (fork() == 0)
        be_child(ql, lease);
    pid_t silent = fork();
    while (silent == 0)
        pause();
    kt_flags[SILENT] = silent;
    for (;;)
        pause();
}

/* One child calls, one never does: neither keeps the parent's leases. */
int kt_process_fork_parent_killed(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    struct ql *ql = kt_open_store();
    pid_t parent = kt_fork();
    if (parent == 0)
        be_parent(ql);
    kt_await(&kt_flags[CHILD], 1);
    kt_await(&kt_flags[SILENT], 1);
    KT_CHECK(kt_held(ql) == 2, "%lld leases", (long long)kt_held(ql));
    kt_kill(parent);
    kt_await_held(ql, 0);
    kt_flags[GO] = 1;
    kt_await(&kt_flags[DONE], 1);
    kt_kill((pid_t)kt_flags[SILENT]);
    KT_CHECK(kt_total(ql) == 2, "counted %lld", (long long)kt_total(ql));
    kt_kill((pid_t)kt_flags[CHILD]);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- fork in a process whose threads are calling -------------------------- */

static void charge_counted(struct ql *ql)
{
    kt_flags[STARTED]++;
    kt_charge(ql, 1);
    kt_flags[ACKNOWLEDGED]++;
}

static void *call_for_ever(void *ql)
{
    for (;;) {
        kt_expect(ql_release(ql, kt_take(ql)), QL_OK, "release");
        charge_counted(ql);
    }
    return NULL;
}

/* Two threads call and the first one forks children, which call too. */
static _Noreturn void fork_for_ever(struct ql *ql)
{
    pthread_t thread;
    for (int i = 0; i < 2; i++)
        KT_CHECK(pthread_create(&thread, NULL, call_for_ever, ql) == 0, "pthread_create");
    for (;;) {
        pid_t pid = fork();
        KT_CHECK(pid >= 0, "fork: %s", strerror(errno));
        if (pid == 0) {
            alarm(60);
            charge_counted(ql);
            kt_expect(ql_release(ql, kt_take(ql)), QL_OK, "release");
            _exit(0);
        }
        kt_wait_success(pid);
        kt_flags[DONE]++;
    }
}

int kt_process_fork_threaded(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    struct ql *ql = kt_open_store();
    for (int i = 1; i <= 20; i++) {
        int status;
        pid_t parent = kt_fork();
        if (parent == 0)
            fork_for_ever(ql);
        kt_await(&kt_flags[DONE], 10 * i);
        kt_kill(parent);
        while (wait(&status) > 0)
            KT_CHECK(status == 0, "a forked child ended with %#x", (unsigned)status);
        kt_await_held(ql, 0);
        int64_t total = kt_total(ql);
        KT_CHECK(total >= kt_flags[ACKNOWLEDGED] && total <= kt_flags[STARTED],
                 "counted %lld, acknowledged %lld, begun %lld", (long long)total,
                 (long long)kt_flags[ACKNOWLEDGED], (long long)kt_flags[STARTED]);
        kt_verify(ql);
    }
    ql_close(ql);
    return 0;
}

/* ---- exec and raw clone ---------------------------------------------------- */

static _Noreturn void execute_sleep(void)
{
    execlp("sleep", "sleep", "600", (char *)NULL);
    _exit(127);
}

/* The program that takes a process over holds nothing of its leases. */
int kt_process_exec(void)
{
    struct ql *ql = kt_open_store();
    pid_t pid = kt_fork();
    if (pid == 0) {
        kt_take(ql);
        kt_flags[DONE] = 1;
        kt_await(&kt_flags[GO], 1);
        execute_sleep();
    }
    kt_await(&kt_flags[DONE], 1);
    KT_CHECK(kt_held(ql) == 1, "%lld leases", (long long)kt_held(ql));
    kt_flags[GO] = 1;
    kt_await_held(ql, 0);
    KT_CHECK(kill(pid, 0) == 0 && waitpid(pid, NULL, WNOHANG) == 0, "the program ended");
    kt_kill(pid);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

enum clone_ends { CLONE_CALLS, CLONE_EXECUTES, CLONE_DIES, CLONE_ENDS };

/* Not fork(): nobody closes our token here, so our parent lives on in it. */
static _Noreturn void be_clone(struct ql *ql, enum clone_ends end)
{
    kt_flags[CHILD] = (int64_t)syscall(SYS_getpid);
    kt_await(&kt_flags[GO], 1);
    if (end == CLONE_EXECUTES)
        execute_sleep();
    if (end == CLONE_CALLS)
        kt_charge(ql, 1);
    kt_flags[DONE] = 1;
    while (end == CLONE_CALLS)
        pause();
    _exit(0);
}

static _Noreturn void clone_and_wait(struct ql *ql, enum clone_ends end)
{
    kt_take(ql);
    kt_take(ql);
    if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0)
        be_clone(ql, end);
    for (;;)
        pause();
}

int kt_process_raw_clone(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    struct ql *ql = kt_open_store();
    for (int end = CLONE_CALLS; end < CLONE_ENDS; end++) {
        clear_flags();
        pid_t parent = kt_fork();
        if (parent == 0)
            clone_and_wait(ql, (enum clone_ends)end);
        kt_await(&kt_flags[CHILD], 1);
        kt_kill(parent);
        KT_CHECK(kt_held(ql) == 2, "%lld leases", (long long)kt_held(ql));
        kt_flags[GO] = 1;
        kt_await_held(ql, 0);
        kt_await(&kt_flags[DONE], end != CLONE_EXECUTES);
        kt_kill((pid_t)kt_flags[CHILD]);
    }
    KT_CHECK(kt_total(ql) == 1, "counted %lld", (long long)kt_total(ql));
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- descriptors closed --------------------------------------------------- */

int kt_process_closefrom(void)
{
    struct ql *ql = kt_open_store();
    pid_t pid = kt_fork();
    if (pid == 0) {
        kt_take(ql);
        closefrom(3);
        kt_expect(kt_wait_for_failure(ql), QL_E_DETACHED, "charge");
        _exit(0);
    }
    kt_wait_success(pid);
    kt_await_held(ql, 0);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

#define DESCRIPTORS 64

/* Its descriptors now are other files, the lock is held by one who lives: it
 * robs nobody and, when it ends, closes nothing that is not its own. */
static _Noreturn void reuse_descriptors(struct ql *ql)
{
    kt_take(ql);
    kt_flags[DONE] = 1;
    kt_await(&kt_flags[GO], 1);
    closefrom(3);
    for (int fd = 3; fd < DESCRIPTORS; fd++)
        KT_CHECK(open("/dev/null", O_RDWR | O_CLOEXEC) == fd, "descriptor %d", fd);
    enum ql_status status;
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    do
        status = ql_charge(ql, "alice", "bytes", 1000000, NULL);
    while (status == QL_E_BUSY && kt_now_ns() < deadline_ns);
    kt_expect(status, QL_E_DETACHED, "charge");
    ql_close(ql);
    for (int fd = 3; fd < DESCRIPTORS; fd++)
        KT_CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC, "descriptor %d was closed", fd);
    _exit(0);
}

int kt_process_descriptors_reused(void)
{
    struct qli_section section;
    struct ql *ql = kt_open_store();
    struct ql *impatient = kt_open_room(16, 10);
    pid_t pid = kt_fork();
    if (pid == 0)
        reuse_descriptors(impatient);
    kt_await(&kt_flags[DONE], 1);
    kt_expect(kt_enter(ql, &section), QL_OK, "enter");
    uint64_t word = section.log.guard->word;
    kt_flags[GO] = 1;
    kt_wait_success(pid);
    KT_CHECK((section.log.guard->word | QLI_WORD_WAITERS) == (word | QLI_WORD_WAITERS),
             "the lock was stolen");
    qli_section_leave(&section);
    kt_await_held(ql, 0);
    kt_verify(ql);
    ql_close(impatient);
    ql_close(ql);
    return 0;
}

/* After closefrom a new store gets numbers that the lost one's descriptors had,
 * for the same lock file: all of them, or the token's for another use. Neither
 * a fork nor a close of the lost one takes them away. */
static _Noreturn void reopen_and_close(int others)
{
    struct ql *lost = kt_open_store();
    kt_take(lost);
    closefrom(3);
    kt_expect(kt_wait_for_failure(lost), QL_E_DETACHED, "charge");
    for (int i = 0; i < others; i++)
        KT_CHECK(open("/dev/null", O_RDWR | O_CLOEXEC) == 3 + i, "descriptor %d", 3 + i);
    struct ql *fresh = kt_open_store();
    kt_take(fresh);
    pid_t child = kt_fork();
    if (child == 0) {
        kt_charge(fresh, 1);
        _exit(0);
    }
    kt_wait_success(child);
    ql_close(lost);
    KT_CHECK(qli_holder_token_held(&fresh->store->engine.region), "a descriptor was closed");
    kt_charge(fresh, 1);
    kt_flags[DONE] = 1;
    for (;;)
        pause();
}

int kt_process_descriptors_reopened(void)
{
    for (int others = 0; others < 3; others++) {
        clear_flags();
        pid_t pid = kt_fork();
        if (pid == 0)
            reopen_and_close(others);
        kt_await(&kt_flags[DONE], 1);
        struct ql *ql = kt_open_store();
        kt_await_held(ql, 1);
        kt_kill(pid);
        kt_await_held(ql, 0);
        kt_verify(ql);
        ql_close(ql);
    }
    return 0;
}
