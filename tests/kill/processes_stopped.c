/* SPDX-License-Identifier: Apache-2.0
 *
 * A process that is stopped inside a lock is not dead: nobody takes its lock,
 * and nobody waits for it longer than its own deadline.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/subject.h"
#include "processes.h"

#define LONG_MS 20000
#define SHORT_MS 50

/* ---- a lock holder that is stopped --------------------------------------- */

static _Noreturn void charge_for_ever(void)
{
    struct ql *ql = kt_open_store();
    for (;;)
        kt_charge(ql, 1);
}

/* Stops itself in the lock, and gives it up when it goes on. One that is stopped from
 * outside may have just looked for waiters, and owes those that come later no wake. */
static _Noreturn void stop_inside(void)
{
    struct qli_section section;
    struct ql *ql = kt_open_store();
    kt_charge(ql, 0);
    kt_expect(kt_enter(ql, &section), QL_OK, "enter");
    raise(SIGSTOP);
    qli_section_leave(&section);
    for (;;)
        pause();
}

/* Stops the victim until it is stopped inside the lock of the only shard. */
static void stop_in_lock(pid_t victim, const uint64_t *word)
{
    int64_t deadline_ns = kt_now_ns() + 2 * kt_deadline_ns;
    for (;;) {
        kt_stop(victim);
        if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != 0)
            return;
        KT_CHECK(kt_now_ns() < deadline_ns, "it was never stopped inside the lock");
        kill(victim, SIGCONT);
        sched_yield();
    }
}

/* Nothing is stolen. The calls that gave up have left the waiters bit set. */
static void check_busy(struct ql *ql, const uint64_t *word)
{
    struct ql_lease lease;
    uint64_t holder = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    KT_CHECK(holder != 0, "nobody is in the lock");
    for (int i = 0; i < 3; i++) {
        kt_expect(ql_charge(ql, "alice", "bytes", 1000000, NULL), QL_E_BUSY, "charge");
        kt_expect(ql_acquire(ql, "alice", &lease, NULL), QL_E_BUSY, "acquire");
        KT_CHECK(lease.epoch == 0 && lease.generation == 0, "a lease was given");
        uint64_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        KT_CHECK((seen | QLI_WORD_WAITERS) == (holder | QLI_WORD_WAITERS), "the lock was stolen");
    }
}

static void await_sleep(pid_t pid)
{
    char path[32];
    char text[256];
    const char *state;
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    do {
        KT_CHECK(kt_now_ns() < deadline_ns, "it does not sleep");
        sched_yield();
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t length = read(fd, text, sizeof text - 1);
        close(fd);
        text[length > 0 ? length : 0] = '\0';
        state = strrchr(text, ')');
    } while (state == NULL || strncmp(state, ") S", 3) != 0);
}

/* Sleeps as a waiter does, but for longer: only whoever gives the lock up ends
 * it. The victim is let go once we sleep. */
static void check_wake(pid_t victim, const uint64_t *word)
{
    struct timespec long_ns = {.tv_sec = kt_deadline_ns / 1000000000};
    uint32_t seen = (uint32_t)__atomic_load_n(word, __ATOMIC_ACQUIRE);
    KT_CHECK(seen & QLI_WORD_WAITERS, "nobody waits");
    pid_t helper = kt_fork();
    if (helper == 0) {
        await_sleep(getppid());
        _exit(kill(victim, SIGCONT));
    }
    long result = syscall(SYS_futex, word, FUTEX_WAIT, seen, &long_ns, NULL, 0);
    KT_CHECK(result == 0 || errno == EAGAIN, "nobody woke the waiter: %s", strerror(errno));
    kt_wait_success(helper);
}

int kt_process_stopped_holder(void)
{
    struct ql *ql = kt_open_room(16, 50);
    struct ql *patient = kt_open_store();
    struct kt_view view = kt_view_open(kt_directory);
    const uint64_t *word = &view.region.guards[1].word;
    pid_t victim = kt_fork();
    if (victim == 0)
        stop_inside();
    kt_await_stop(victim);
    check_busy(ql, word);
    check_wake(victim, word);
    kt_expect(ql_charge(patient, "bob", "bytes", 1, NULL), QL_OK, "charge");
    kt_kill(victim);
    kt_verify(patient);
    KT_CHECK(kt_held(patient) == 0, "leases were left");
    ql_close(patient);
    ql_close(ql);
    kt_view_close(&view);
    return 0;
}

/* A stopped process keeps its lease, and loses it when it dies. */
int kt_process_stopped_lease(void)
{
    struct ql *ql = kt_open_store();
    struct ql_lease lease;
    pid_t pid = kt_fork();
    if (pid == 0) {
        kt_take(ql);
        raise(SIGSTOP);
        _exit(1);
    }
    kt_await_stop(pid);
    for (int i = 1; i < KT_SLOTS; i++)
        kt_take(ql);
    for (int i = 0; i < 1000; i++)
        kt_expect(ql_acquire(ql, "alice", &lease, NULL), QL_REFUSED, "acquire");
    KT_CHECK(kt_held(ql) == KT_SLOTS, "%lld leases", (long long)kt_held(ql));
    kt_kill(pid);
    kt_await_held(ql, KT_SLOTS - 1);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* A process with a lease, that can be killed. */
static pid_t start_lease_holder(struct ql *ql, const char *subject)
{
    kt_flags[0] = 0;
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql_lease lease;
        kt_expect(ql_acquire(ql, subject, &lease, NULL), QL_OK, "acquire");
        kt_flags[0] = 1;
        for (;;)
            pause();
    }
    kt_await(&kt_flags[0], 1);
    return pid;
}

/* A process that is in the lock of that guard for as long as it lives. */
static pid_t hold_guard(struct ql *ql, int guard)
{
    struct kt_view view = kt_view_open(kt_directory);
    kt_flags[0] = 0;
    pid_t pid = kt_fork();
    if (pid == 0) {
        kt_charge(ql, 0);
        uint64_t slot = kt_view_slot(&view, getpid());
        view.region.guards[guard].word = qli_word_make(slot, view.region.holders[slot].generation);
        kt_flags[0] = 1;
        for (;;)
            pause();
    }
    kt_await(&kt_flags[0], 1);
    kt_view_close(&view);
    return pid;
}

/* ---- opening ------------------------------------------------------------- */

/* Opens the store in a process that had nothing of it before. */
static enum ql_status open_elsewhere(uint32_t holders)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql *ql;
        struct ql_error error;
        struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, holders);
        enum ql_status status = ql_open(kt_directory, &options, &ql, &error);
        _exit(status == QL_OK ? 0 : -(int)status);
    }
    int result = kt_wait(pid);
    KT_CHECK(WIFEXITED(result), "it ended with %#x", (unsigned)result);
    return (enum ql_status) - WEXITSTATUS(result);
}

/* In a process of its own, so that who calls it is no holder: gives a store
 * with a victim, and a slot whose former owner left a lease. */
static void open_past_stopped(uint32_t holders, enum ql_status expected)
{
    pid_t user = kt_fork();
    if (user == 0) {
        struct ql *ql = kt_open_room(holders, LONG_MS);
        kt_charge(ql, 0);
        pid_t dead = start_lease_holder(ql, "alice");
        kt_flags[1] = dead;
        kt_await(&kt_flags[2], 1);
        kt_kill(dead);
        kt_flags[3] = 1;
        kt_await(&kt_flags[4], 1);
        kt_await_held(ql, 0);
        kt_verify(ql);
        ql_close(ql);
        _exit(0);
    }
    kt_await(&kt_flags[1], 1);
    struct kt_view view = kt_view_open(kt_directory);
    pid_t victim = kt_fork();
    if (victim == 0)
        charge_for_ever();
    stop_in_lock(victim, &view.region.guards[1].word);
    kt_flags[2] = 1;
    kt_await(&kt_flags[3], 1);
    enum ql_status status = open_elsewhere(holders);
    KT_CHECK(status == expected, "%s", ql_status_name(status));
    kill(victim, SIGCONT);
    status = open_elsewhere(holders);
    KT_CHECK(status == QL_OK, "after it went on: %s", ql_status_name(status));
    kt_kill(victim);
    kt_flags[4] = 1;
    kt_wait_success(user);
    kt_view_close(&view);
}

int kt_process_stopped_open(void)
{
    open_past_stopped(16, QL_OK);
    return 0;
}

/* The user, the victim and the dead have all slots. */
int kt_process_no_clean_slot(void)
{
    open_past_stopped(3, QL_E_BUSY);
    return 0;
}

/* ---- reaping ------------------------------------------------------------- */

#define DEAD 3

/* The subject's shard is the second one. */
static void name_in_second_shard(struct ql *ql, char subject[32])
{
    struct qli_engine *engine = &ql->store->engine;
    struct qli_name name = {0};
    for (int i = 0; name.text == NULL || qli_engine_shard_of(engine, name.hash) != 1; i++) {
        snprintf(subject, 32, "subject-%d", i);
        KT_CHECK(qli_subject_name(engine, subject, &name) == QL_OK, "%s", subject);
    }
}

/* Calls on one shard reap the dead, and wait for no other shard's lock. */
int kt_process_other_shard(void)
{
    char subject[32];
    struct ql_lease lease;
    struct ql_usage usage;
    pid_t dead[DEAD];
    struct ql_options options = kt_options(kt_clock_ns, DEAD, 1024);
    struct ql *ql = kt_open(kt_directory, &options);
    KT_CHECK(options.admit_wait_ms >= LONG_MS, "one wait is shorter than the test allows for");
    name_in_second_shard(ql, subject);
    for (int i = 0; i < DEAD; i++)
        dead[i] = start_lease_holder(ql, subject);
    pid_t holder = hold_guard(ql, 1);
    for (int i = 0; i < DEAD; i++)
        kt_kill(dead[i]);
    int64_t start_ns = kt_now_ns();
    /* No tick, which never waits, is to reap them first. */
    __atomic_store_n(&ql->store->last_tick_ns, qli_clock_calendar_ns(), __ATOMIC_RELAXED);
    KT_CHECK(ql_acquire(ql, subject, &lease, NULL) == QL_OK, "acquire");
    KT_CHECK(ql_usage(ql, subject, &usage) == QL_OK && usage.leases == 1, "usage");
    int64_t took_ms = (kt_now_ns() - start_ns) / 1000000;
    KT_CHECK(took_ms < LONG_MS, "it took %lld ms", (long long)took_ms);
    kt_kill(holder);
    kt_await_held(ql, 0);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- limits -------------------------------------------------------------- */

static void *charge_patiently(void *context)
{
    kt_charge(context, 1);
    kt_flags[1] = 1;
    return NULL;
}

/* A thread that waits long for the limits does not make another one wait. */
int kt_process_limits_lock(void)
{
    struct ql *patient = kt_open_room(16, LONG_MS);
    struct ql *hasty = kt_open_room(16, SHORT_MS);
    struct kt_view view = kt_view_open(kt_directory);
    pid_t holder = hold_guard(patient, 0);
    pthread_t thread;
    KT_CHECK(pthread_create(&thread, NULL, charge_patiently, patient) == 0, "pthread_create");
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    while (!(__atomic_load_n(&view.region.guards[0].word, __ATOMIC_ACQUIRE) & QLI_WORD_WAITERS)) {
        KT_CHECK(kt_now_ns() < deadline_ns, "nobody waits");
        sched_yield();
    }
    kt_expect(ql_charge(hasty, "alice", "bytes", 1, NULL), QL_E_BUSY, "charge");
    KT_CHECK(kt_flags[1] == 0, "the hasty one waited as long as the patient one");
    kt_kill(holder);
    pthread_join(thread, NULL);
    KT_CHECK(kt_flags[1] == 1, "the patient one gave up");
    kt_await_held(hasty, 0);
    kt_verify(hasty);
    ql_close(patient);
    ql_close(hasty);
    kt_view_close(&view);
    return 0;
}

/* ---- telling the host ------------------------------------------------------ */

static int64_t told_ns;
static int64_t told_of_the_end_ns;

static void *begin_wait(void *context)
{
    (void)context;
    told_ns = kt_now_ns();
    kt_flags[5]++;
    return (void *)&kt_flags[6];
}

static void end_wait(void *context, void *token)
{
    (void)context;
    KT_CHECK(token == &kt_flags[6], "another token came back");
    told_of_the_end_ns = kt_now_ns();
    kt_flags[6]++;
}

static void expect_told(enum ql_status status, const char *what)
{
    kt_expect(status, QL_E_BUSY, what);
    KT_CHECK(kt_flags[5] == 1 && kt_flags[6] == 1, "%s: the host was told %lld and %lld times",
             what, (long long)kt_flags[5], (long long)kt_flags[6]);
    int64_t waited_ns = told_of_the_end_ns - told_ns;
    KT_CHECK(waited_ns >= SHORT_MS * 1000000, "%s: the host was told of %lld ns", what,
             (long long)waited_ns);
    kt_flags[5] = kt_flags[6] = 0;
}

static int visit_subject(void *context, const struct ql_subject_info *info)
{
    (void)context;
    (void)info;
    return 0;
}

static int visit_lease(void *context, const struct ql_lease_info *info)
{
    (void)context;
    (void)info;
    return 0;
}

static int visit_entry(void *context, const struct ql_history_entry *entry)
{
    (void)context;
    (void)entry;
    return 0;
}

static void call_all(struct ql *ql, struct ql_lease lease)
{
    struct ql_lease taken;
    struct ql_usage usage;
    expect_told(ql_check(ql, "alice", NULL, NULL), "check");
    expect_told(ql_acquire(ql, "alice", &taken, NULL), "acquire");
    expect_told(ql_admit(ql, "alice", NULL, &taken, NULL), "admit");
    expect_told(ql_charge(ql, "alice", "bytes", 1, NULL), "charge");
    expect_told(ql_usage(ql, "alice", &usage), "usage");
    expect_told(ql_settle(ql, lease, NULL, 0), "settle");
    expect_told(ql_renew(ql, lease), "renew");
    expect_told(ql_revoke(ql, lease), "revoke");
    expect_told(ql_each_subject(ql, visit_subject, NULL, NULL), "each_subject");
    expect_told(ql_each_lease(ql, visit_lease, NULL, NULL), "each_lease");
    expect_told(ql_history(ql, "alice", NULL, 0, INT64_MAX, visit_entry, NULL, NULL), "windows");
    expect_told(ql_verify(ql, NULL, NULL), "verify");
}

/* Each call that sleeps for a lock tells the host before and after. */
int kt_process_host_told(void)
{
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, 16);
    struct ql_limit limits[QL_LIMITS_MAX];
    struct ql_lease lease;
    size_t count;
    int64_t lag_ms;
    options.admit_wait_ms = SHORT_MS;
    options.charge_wait_ms = SHORT_MS;
    options.wait_begin = begin_wait;
    options.wait_end = end_wait;
    struct ql *ql = kt_open(kt_directory, &options);
    pid_t holder = hold_guard(ql, 0);
    expect_told(ql_limits(ql, limits, &count), "limits");
    expect_told(ql_each_subject(ql, visit_subject, NULL, NULL), "each_subject");
    expect_told(ql_flush(ql, NULL), "flush");
    expect_told(ql_flush_lag(ql, &lag_ms), "flush_lag");
    expect_told(ql_history(ql, "alice", NULL, 0, 1, visit_entry, NULL, NULL), "history");
    kt_kill(holder);
    KT_CHECK(ql_limits(ql, limits, &count) == QL_OK, "limits");
    KT_CHECK(ql_acquire(ql, "alice", &lease, NULL) == QL_OK, "acquire");
    kt_flags[5] = kt_flags[6] = 0;
    holder = hold_guard(ql, 1);
    call_all(ql, lease);
    kt_kill(holder);
    KT_CHECK(ql_release(ql, lease) == QL_OK, "release");
    kt_await_held(ql, 0);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}
