/* SPDX-License-Identifier: Apache-2.0
 *
 * Several processes on one store, each case by its name.
 *
 *   processes CASE
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "api/handle.h"
#include "engine/operation.h"
#include "harness.h"
#include "region/lockfile.h"

#define DEADLINE_NS INT64_C(30000000000)

static char directory[KT_PATH];
static int64_t *clock_ns;
static _Atomic int *flags; /* FLAGS of them, zero */
#define FLAGS 8

static struct ql *open_for(uint32_t holders)
{
    struct ql_options options = kt_options(clock_ns, 5, 16);
    options.max_holders = holders;
    return kt_open(directory, &options);
}

static struct ql *open_store(void)
{
    return open_for(16);
}

static void await(_Atomic int *flag)
{
    int64_t deadline_ns = kt_now_ns() + DEADLINE_NS;
    while (*flag == 0) {
        KT_CHECK(kt_now_ns() < deadline_ns, "nothing happened");
        sched_yield();
    }
}

static void charge(struct ql *ql, int64_t amount)
{
    enum ql_status status = ql_charge(ql, "alice", "bytes", amount, NULL);
    KT_CHECK(status == QL_OK, "charge: %s", ql_status_name(status));
}

static int64_t total(struct ql *ql)
{
    struct ql_usage usage;
    enum ql_status status = ql_usage(ql, "alice", &usage);
    KT_CHECK(status == QL_OK, "usage: %s", ql_status_name(status));
    return usage.meters[0].total;
}

static int64_t held(struct ql *ql)
{
    struct ql_usage usage;
    enum ql_status status = ql_usage(ql, "alice", &usage);
    KT_CHECK(status == QL_OK, "usage: %s", ql_status_name(status));
    return usage.leases;
}

static struct ql_lease take(struct ql *ql)
{
    struct ql_lease lease;
    enum ql_status status = ql_acquire(ql, "alice", &lease, NULL);
    KT_CHECK(status == QL_OK, "acquire: %s", ql_status_name(status));
    return lease;
}

static void verify(struct ql *ql)
{
    struct ql_error error;
    enum ql_status status = ql_verify(ql, NULL, &error);
    KT_CHECK(status == QL_OK, "verify: %s: %s", ql_status_name(status), error.text);
}

static void end_process(pid_t pid)
{
    KT_CHECK(kill(pid, SIGKILL) == 0, "kill: %s", strerror(errno));
    kt_wait(pid);
}

/* ---- races of attaching and exiting -------------------------------------- */

#define RACERS 4
#define RACES 1000

/* Makes the store's region one of an earlier boot. */
static void make_stale(void)
{
    char path[KT_PATH + 8];
    struct qli_lock_record record;
    bool empty;
    snprintf(path, sizeof path, "%s/lock", directory);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    KT_CHECK(fd >= 0 && qli_lockfile_read(fd, &record, &empty, NULL) == QL_OK && !empty,
             "the lock record cannot be read");
    record.boot_id[0] = record.boot_id[0] == 'x' ? 'y' : 'x';
    KT_CHECK(qli_lockfile_write(fd, &record, NULL) == QL_OK, "the lock record");
    close(fd);
}

static void race(_Atomic int *start)
{
    await(start);
    struct ql *ql = open_store();
    charge(ql, 1);
    flags[1]++;
    while (flags[1] < RACERS)
        sched_yield();
    KT_CHECK(total(ql) == RACERS, "%lld were charged: two regions", (long long)total(ql));
    ql_close(ql);
    _exit(0);
}

static void test_stale_region(void)
{
    ql_close(open_store());
    for (int i = 0; i < RACES; i++) {
        pid_t pids[RACERS];
        make_stale();
        flags[0] = 0;
        flags[1] = 0;
        for (int r = 0; r < RACERS; r++) {
            pids[r] = kt_fork();
            if (pids[r] == 0)
                race(&flags[0]);
        }
        flags[0] = 1;
        for (int r = 0; r < RACERS; r++)
            kt_wait_success(pids[r]);
    }
}

static void attach_and_exit(int how)
{
    struct ql *ql = open_store();
    charge(ql, 1);
    take(ql);
    if (how % 2 == 0)
        ql_close(ql);
    _exit(0);
}

static void test_attach_exit(void)
{
    struct ql *ql = open_store();
    for (int i = 0; i < RACES; i++) {
        pid_t pids[RACERS];
        for (int r = 0; r < RACERS; r++) {
            pids[r] = kt_fork();
            if (pids[r] == 0)
                attach_and_exit(i + r);
        }
        for (int r = 0; r < RACERS; r++)
            kt_wait_success(pids[r]);
    }
    KT_CHECK(total(ql) == (int64_t)RACES * RACERS, "counted %lld", (long long)total(ql));
    verify(ql);
    ql_close(ql);
}

/* ---- a table of 4 holders ------------------------------------------------ */

static void test_four_holders(void)
{
    struct ql *ql = open_for(4);
    for (int i = 0; i < 200; i++) {
        pid_t pids[3];
        flags[0] = 0;
        for (int r = 0; r < 3; r++) {
            pids[r] = kt_fork();
            if (pids[r] == 0) {
                take(ql);
                flags[0]++;
                for (;;)
                    pause();
            }
        }
        int64_t deadline_ns = kt_now_ns() + DEADLINE_NS;
        while (flags[0] < 3 && kt_now_ns() < deadline_ns)
            sched_yield();
        KT_CHECK(held(ql) == 3, "%lld leases", (long long)held(ql));
        pid_t fifth = kt_fork();
        if (fifth == 0) {
            struct ql_usage usage;
            _exit(ql_usage(ql, "alice", &usage) == QL_E_FULL ? 0 : 1);
        }
        kt_wait_success(fifth);
        for (int r = 0; r < 3; r++)
            end_process(pids[r]);
    }
    int64_t deadline_ns = kt_now_ns() + DEADLINE_NS;
    while (held(ql) != 0)
        KT_CHECK(kt_now_ns() < deadline_ns, "%lld leases stay", (long long)held(ql));
    verify(ql);
    ql_close(ql);
}

/* A reaper that is late: it noticed the death of the slot's former owner, and
 * comes when the slot has a new one. */
static void test_late_reaper(void)
{
    struct ql *ql = open_for(2);
    struct kt_view view = kt_view_open(directory);
    uint64_t slots[2];
    uint64_t generation = 0;
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        flags[0] = 0;
        pids[i] = kt_fork();
        if (pids[i] == 0) {
            take(ql);
            flags[0] = 1;
            for (;;)
                pause();
        }
        await(&flags[0]);
        slots[i] = kt_view_slot(&view, pids[i]);
        if (i == 1)
            break;
        generation = view.region.holders[slots[0]].generation;
        end_process(pids[0]);
    }
    KT_CHECK(slots[0] == slots[1], "the slot was not used again");
    struct qli_engine *engine = &ql->store->engine;
    struct qli_call call = {.engine = engine, .self = qli_holder_self(&engine->region)};
    KT_CHECK(qli_operation_reap(&call, slots[0], generation) == QL_OK, "reap");
    KT_CHECK(held(ql) == 1, "the new owner's lease was reaped: %lld are held", (long long)held(ql));
    end_process(pids[1]);
    ql_close(ql);
    kt_view_close(&view);
}

/* ---- fork, and the parent is killed -------------------------------------- */

static void be_parent(struct ql *ql, _Atomic int *child_pid)
{
    take(ql);
    take(ql);
    pid_t child = fork();
    if (child == 0) {
        charge(ql, 1);
        flags[1] = 1;
        await(&flags[2]);
        struct ql_lease lease = take(ql);
        KT_CHECK(ql_release(ql, lease) == QL_OK, "release");
        charge(ql, 1);
        flags[3] = 1;
        _exit(0);
    }
    *child_pid = child;
    for (;;)
        pause();
}

static void test_fork_parent_killed(void)
{
    struct ql *ql = open_store();
    pid_t parent = kt_fork();
    if (parent == 0)
        be_parent(ql, &flags[0]);
    await(&flags[1]);
    KT_CHECK(held(ql) == 2, "%lld leases", (long long)held(ql));
    end_process(parent);
    int64_t deadline_ns = kt_now_ns() + DEADLINE_NS;
    while (held(ql) != 0)
        KT_CHECK(kt_now_ns() < deadline_ns, "the parent's leases stay");
    flags[2] = 1;
    await(&flags[3]);
    KT_CHECK(total(ql) == 2, "counted %lld", (long long)total(ql));
    verify(ql);
    ql_close(ql);
}

/* ---- descriptors closed, region removed ---------------------------------- */

static enum ql_status wait_for_failure(struct ql *ql)
{
    int64_t deadline_ns = kt_now_ns() + DEADLINE_NS;
    enum ql_status status;
    do
        status = ql_charge(ql, "alice", "bytes", 1, NULL);
    while (status == QL_OK && kt_now_ns() < deadline_ns);
    return status;
}

static void test_closefrom(void)
{
    struct ql *ql = open_store();
    pid_t pid = kt_fork();
    if (pid == 0) {
        take(ql);
        closefrom(3);
        _exit(wait_for_failure(ql) == QL_E_DETACHED ? 0 : 1);
    }
    kt_wait_success(pid);
    int64_t deadline_ns = kt_now_ns() + DEADLINE_NS;
    while (held(ql) != 0)
        KT_CHECK(kt_now_ns() < deadline_ns, "its leases stay");
    verify(ql);
    ql_close(ql);
}

static void test_removed(void)
{
    struct ql *ql = open_store();
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        pids[i] = kt_fork();
        if (pids[i] == 0)
            _exit(wait_for_failure(ql) == QL_E_GONE ? 0 : 1);
    }
    charge(ql, 1);
    kt_directory_remove(directory);
    KT_CHECK(wait_for_failure(ql) == QL_E_GONE, "not gone");
    for (int i = 0; i < 2; i++)
        kt_wait_success(pids[i]);
    ql_close(ql);
    ql = open_store();
    KT_CHECK(total(ql) == 0, "the new store is not new");
    ql_close(ql);
}

/* ---- row 13: the slot of a process that dies ----------------------------- */

static void test_dead_slot_free(void)
{
    struct ql *ql = open_store();
    int64_t longest_ns = 0;
    for (int i = 0; i < 100; i++) {
        flags[0] = 0;
        pid_t pid = kt_fork();
        if (pid == 0) {
            for (int n = 0; n < 5; n++)
                take(ql);
            flags[0] = 1;
            for (;;)
                pause();
        }
        await(&flags[0]);
        struct ql_lease lease;
        KT_CHECK(ql_acquire(ql, "alice", &lease, NULL) == QL_REFUSED, "the cap does not hold");
        end_process(pid);
        int64_t start_ns = kt_now_ns();
        enum ql_status status;
        do
            status = ql_acquire(ql, "alice", &lease, NULL);
        while (status == QL_REFUSED && kt_now_ns() < start_ns + DEADLINE_NS);
        KT_CHECK(status == QL_OK, "acquire: %s", ql_status_name(status));
        int64_t took_ns = kt_now_ns() - start_ns;
        longest_ns = took_ns > longest_ns ? took_ns : longest_ns;
        KT_CHECK(ql_release(ql, lease) == QL_OK, "release");
    }
    printf("a dead process's slot was free again within %.3f ms of its end, 100 times\n",
           (double)longest_ns / 1e6);
    verify(ql);
    ql_close(ql);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"stale_region", test_stale_region},
    {"attach_exit", test_attach_exit},
    {"four_holders", test_four_holders},
    {"late_reaper", test_late_reaper},
    {"fork_parent_killed", test_fork_parent_killed},
    {"closefrom", test_closefrom},
    {"removed", test_removed},
    {"row_13_dead_slot_free", test_dead_slot_free},
};

int main(int argc, char **argv)
{
    clock_ns = kt_shared(sizeof *clock_ns);
    *clock_ns = KT_START_NS;
    flags = kt_shared(FLAGS * sizeof *flags);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (argc != 2 || strcmp(argv[1], cases[i].name) != 0)
            continue;
        kt_directory_make(directory, NULL);
        cases[i].run();
        kt_directory_remove(directory);
        return 0;
    }
    fprintf(stderr, "processes CASE\n");
    return 2;
}
