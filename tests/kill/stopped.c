/* SPDX-License-Identifier: Apache-2.0
 *
 * A process that is stopped inside a lock is not dead: nobody takes its lock,
 * and nobody waits for it longer than its own deadline. Each case by its name.
 *
 *   stopped CASE
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/handle.h"
#include "engine/subject.h"
#include "harness.h"

#define DEADLINE_NS INT64_C(30000000000)
#define LONG_MS 20000
#define SHORT_MS 50

static char directory[KT_PATH];
static int64_t *clock_ns;
static _Atomic int *flags; /* FLAGS of them, zero */
#define FLAGS 8

static struct ql_options options_of(uint32_t holders, int64_t wait_ms)
{
    struct ql_options options = kt_options(clock_ns, 5, 16);
    options.max_holders = holders;
    options.admit_wait_ms = wait_ms;
    options.charge_wait_ms = wait_ms;
    return options;
}

static struct ql *open_store(uint32_t holders, int64_t wait_ms)
{
    struct ql_options options = options_of(holders, wait_ms);
    return kt_open(directory, &options);
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

static void end_process(pid_t pid)
{
    KT_CHECK(kill(pid, SIGKILL) == 0, "kill: %s", strerror(errno));
    kt_wait(pid);
}

/* The leases of the dead are reaped, and all is sound. */
static void check_sound(struct ql *ql)
{
    struct ql_error error;
    struct ql_usage usage;
    int64_t deadline_ns = kt_now_ns() + DEADLINE_NS;
    do {
        enum ql_status status = ql_usage(ql, "alice", &usage);
        KT_CHECK(status == QL_OK, "usage: %s", ql_status_name(status));
        KT_CHECK(kt_now_ns() < deadline_ns, "leases stay");
    } while (usage.leases != 0);
    KT_CHECK(ql_verify(ql, NULL, &error) == QL_OK, "verify: %s", error.text);
}

/* ---- who is stopped, and who is dead ------------------------------------- */

static pid_t start_victim(void)
{
    pid_t pid = kt_fork();
    if (pid != 0)
        return pid;
    struct ql *ql = open_store(16, LONG_MS);
    for (;;)
        charge(ql, 1);
}

/* Stops the victim until it is stopped inside the lock of the only shard. */
static uint64_t stop_in_lock(pid_t victim, const struct kt_view *view)
{
    int64_t deadline_ns = kt_now_ns() + 2 * DEADLINE_NS;
    const uint64_t *word = &view->region.guards[1].word;
    for (;;) {
        int status;
        kill(victim, SIGSTOP);
        KT_CHECK(waitpid(victim, &status, WUNTRACED) == victim && WIFSTOPPED(status),
                 "the victim ended: %#x", (unsigned)status);
        uint64_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        if (seen != 0)
            return seen;
        KT_CHECK(kt_now_ns() < deadline_ns, "it was never stopped inside the lock");
        kill(victim, SIGCONT);
        sched_yield();
    }
}

/* A process with a lease, that can be killed. */
static pid_t start_lease_holder(struct ql *ql, const char *subject)
{
    flags[0] = 0;
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql_lease lease;
        enum ql_status status = ql_acquire(ql, subject, &lease, NULL);
        KT_CHECK(status == QL_OK, "acquire: %s", ql_status_name(status));
        flags[0] = 1;
        for (;;)
            pause();
    }
    await(&flags[0]);
    return pid;
}

/* A process that is in the lock of that guard for as long as it lives. */
static pid_t hold_guard(struct ql *ql, int guard)
{
    struct kt_view view = kt_view_open(directory);
    pid_t pid = kt_fork();
    if (pid == 0) {
        charge(ql, 0);
        uint64_t slot = kt_view_slot(&view, getpid());
        view.region.guards[guard].word = qli_word_make(slot, view.region.holders[slot].generation);
        flags[0] = 1;
        for (;;)
            pause();
    }
    await(&flags[0]);
    kt_view_close(&view);
    return pid;
}

/* ---- calls --------------------------------------------------------------- */

static void test_calls(void)
{
    struct ql *ql = open_store(16, SHORT_MS);
    struct kt_view view = kt_view_open(directory);
    charge(ql, 0);
    pid_t victim = start_victim();
    uint64_t word = stop_in_lock(victim, &view);
    struct ql_lease lease;
    for (int i = 0; i < 3; i++) {
        KT_CHECK(ql_charge(ql, "alice", "bytes", 1000000, NULL) == QL_E_BUSY, "charge");
        KT_CHECK(ql_acquire(ql, "alice", &lease, NULL) == QL_E_BUSY, "acquire");
        KT_CHECK(lease.epoch == 0 && lease.generation == 0, "a lease was given");
        uint64_t seen = __atomic_load_n(&view.region.guards[1].word, __ATOMIC_ACQUIRE);
        KT_CHECK((seen & ~QLI_WORD_WAITERS) == (word & ~QLI_WORD_WAITERS), "the lock was stolen");
    }
    kill(victim, SIGCONT);
    int64_t deadline_ns = kt_now_ns() + DEADLINE_NS;
    enum ql_status status;
    do
        status = ql_charge(ql, "bob", "bytes", 1, NULL);
    while (status == QL_E_BUSY && kt_now_ns() < deadline_ns);
    KT_CHECK(status == QL_OK, "charge: %s", ql_status_name(status));
    end_process(victim);
    check_sound(ql);
    ql_close(ql);
    kt_view_close(&view);
}

/* ---- opening ------------------------------------------------------------- */

/* Opens the store in a process that had nothing of it before. */
static enum ql_status open_elsewhere(uint32_t holders)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql *ql;
        struct ql_error error;
        struct ql_options options = options_of(holders, LONG_MS);
        enum ql_status status = ql_open(directory, &options, &ql, &error);
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
        struct ql *ql = open_store(holders, LONG_MS);
        charge(ql, 0);
        pid_t dead = start_lease_holder(ql, "alice");
        flags[1] = dead;
        await(&flags[2]);
        end_process(dead);
        flags[3] = 1;
        await(&flags[4]);
        check_sound(ql);
        ql_close(ql);
        _exit(0);
    }
    await(&flags[1]);
    struct kt_view view = kt_view_open(directory);
    pid_t victim = start_victim();
    stop_in_lock(victim, &view);
    flags[2] = 1;
    await(&flags[3]);
    enum ql_status status = open_elsewhere(holders);
    KT_CHECK(status == expected, "%s", ql_status_name(status));
    kill(victim, SIGCONT);
    status = open_elsewhere(holders);
    KT_CHECK(status == QL_OK, "after it went on: %s", ql_status_name(status));
    end_process(victim);
    flags[4] = 1;
    kt_wait_success(user);
    kt_view_close(&view);
}

static void test_open(void)
{
    open_past_stopped(16, QL_OK);
}

/* The user, the victim and the dead have all slots. */
static void test_no_clean_slot(void)
{
    open_past_stopped(3, QL_E_BUSY);
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
static void test_other_shard(void)
{
    char subject[32];
    struct ql_lease lease;
    struct ql_usage usage;
    pid_t dead[DEAD];
    struct ql_options options = kt_options(clock_ns, DEAD, 1024);
    struct ql *ql = kt_open(directory, &options);
    KT_CHECK(options.admit_wait_ms >= LONG_MS, "one wait is shorter than the test allows for");
    name_in_second_shard(ql, subject);
    for (int i = 0; i < DEAD; i++)
        dead[i] = start_lease_holder(ql, subject);
    pid_t holder = hold_guard(ql, 1);
    for (int i = 0; i < DEAD; i++)
        end_process(dead[i]);
    int64_t start_ns = kt_now_ns();
    KT_CHECK(ql_acquire(ql, subject, &lease, NULL) == QL_OK, "acquire");
    KT_CHECK(ql_usage(ql, subject, &usage) == QL_OK && usage.leases == 1, "usage");
    int64_t took_ms = (kt_now_ns() - start_ns) / 1000000;
    KT_CHECK(took_ms < LONG_MS, "it took %lld ms", (long long)took_ms);
    end_process(holder);
    check_sound(ql);
    ql_close(ql);
}

/* ---- limits -------------------------------------------------------------- */

static void *charge_patiently(void *context)
{
    charge(context, 1);
    flags[1] = 1;
    return NULL;
}

/* A thread that waits long for the limits does not make another one wait. */
static void test_limits(void)
{
    struct ql *patient = open_store(16, LONG_MS);
    struct ql *hasty = open_store(16, SHORT_MS);
    struct kt_view view = kt_view_open(directory);
    pid_t holder = hold_guard(patient, 0);
    pthread_t thread;
    KT_CHECK(pthread_create(&thread, NULL, charge_patiently, patient) == 0, "pthread_create");
    int64_t deadline_ns = kt_now_ns() + DEADLINE_NS;
    while (!(__atomic_load_n(&view.region.guards[0].word, __ATOMIC_ACQUIRE) & QLI_WORD_WAITERS)) {
        KT_CHECK(kt_now_ns() < deadline_ns, "nobody waits");
        sched_yield();
    }
    enum ql_status status = ql_charge(hasty, "alice", "bytes", 1, NULL);
    KT_CHECK(status == QL_E_BUSY, "charge: %s", ql_status_name(status));
    KT_CHECK(flags[1] == 0, "the hasty one waited as long as the patient one");
    end_process(holder);
    pthread_join(thread, NULL);
    KT_CHECK(flags[1] == 1, "the patient one gave up");
    check_sound(hasty);
    ql_close(patient);
    ql_close(hasty);
    kt_view_close(&view);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"calls", test_calls},
    {"open", test_open},
    {"no_clean_slot", test_no_clean_slot},
    {"other_shard", test_other_shard},
    {"limits", test_limits},
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
    fprintf(stderr, "stopped CASE\n");
    return 2;
}
