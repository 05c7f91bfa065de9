/* SPDX-License-Identifier: Apache-2.0
 *
 * A machine that refuses: each system call and each allocation of opening a
 * store fails once, as do the calls after it for want of descriptors or file
 * size. Each time there has to be a code and a text, nothing may leak, and the
 * next open has to work. Each trial is a process of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "inject.h"

#define DEADLINE_SECONDS 120

static char directory[KT_PATH];
static int64_t *clock_ns;

struct attempt {
    const char *store;
    enum ql_status status;
    struct ql_error error;
    struct ql *ql;
};

static int set_up(void **state)
{
    (void)state;
    kt_directory_make(directory, NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kt_directory_remove(directory);
    return 0;
}

static void try_open(void *context)
{
    struct attempt *attempt = context;
    struct ql_options options = kt_options(clock_ns, 2, 8);
    attempt->status = ql_open(attempt->store, &options, &attempt->ql, &attempt->error);
}

/* As try_open, while nothing fails. */
static struct ql *open_store(const char *store)
{
    struct ql_options options = kt_options(clock_ns, 2, 8);
    return kt_open(store, &options);
}

static int count_descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    KT_CHECK(folder != NULL, "/proc/self/fd: %s", strerror(errno));
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static void use(struct ql *ql, const char *subject)
{
    struct ql_lease lease;
    struct ql_error error;
    const struct ql_charge charge = {"bytes", 1};
    enum ql_status status = ql_admit(ql, subject, NULL, &lease, NULL);
    if (status == QL_OK)
        status = ql_settle(ql, lease, &charge, 1);
    if (status == QL_OK)
        status = ql_verify(ql, NULL, &error);
    KT_CHECK(status == QL_OK, "%s", ql_status_name(status));
}

static void check_attempt(const struct attempt *attempt)
{
    const struct ql_error *error = &attempt->error;
    KT_CHECK((attempt->status == QL_OK) == (attempt->ql != NULL), "a failed open gave a handle");
    if (attempt->status == QL_OK)
        return;
    switch (attempt->status) {
    case QL_E_SYSTEM:
    case QL_E_STORE:
    case QL_E_NOMEM:
    case QL_E_BUSY:     /* a lock that cannot be looked at counts as taken */
    case QL_E_DETACHED: /* nor is a descriptor that cannot be looked at ours */
        break;
    default:
        KT_CHECK(false, "%s: %s", ql_status_name(attempt->status), error->text);
    }
    KT_CHECK(error->status == attempt->status && error->text[0] != '\0', "no text");
}

/* The machine is well again: the store opens, here and in the same process. */
static void check_recovery(const char *store, int descriptors)
{
    KT_CHECK(count_descriptors() == descriptors, "%d descriptors were open, now %d", descriptors,
             count_descriptors());
    struct ql *ql = open_store(store);
    use(ql, "alice");
    ql_close(ql);
    KT_CHECK(count_descriptors() == descriptors, "closing left descriptors");
    char path[KT_PATH + 16];
    snprintf(path, sizeof path, "%s/region.new", directory);
    KT_CHECK(access(path, F_OK) != 0, "a half region was left");
}

/* ---- system calls -------------------------------------------------------- */

struct trial {
    const char *store;
    bool exists; /* the store is there already, with a charge in it */
    int error;
    size_t nth;
    size_t *calls; /* shared: how many there were */
    long *failed_call;
};

/* Without random numbers two stores might be taken for one. */
static void check_random(const struct attempt *attempt, const struct trial *trial)
{
    bool refused = attempt->status == QL_E_SYSTEM && attempt->error.system_errno == trial->error;
    if (*trial->failed_call == SYS_getrandom)
        KT_CHECK(refused && strstr(attempt->error.text, "random numbers") != NULL, "%s: %s",
                 ql_status_name(attempt->status), attempt->error.text);
}

static _Noreturn void run_trial(const struct trial *trial)
{
    struct attempt attempt = {.store = trial->store};
    alarm(DEADLINE_SECONDS);
    fcntl(dup(0), F_GETFD); /* whatever libc does once is done */
    int descriptors = count_descriptors();
    *trial->calls = inject_system_call(trial->nth, trial->error, try_open, &attempt);
    *trial->failed_call = inject_failed_call();
    check_attempt(&attempt);
    check_random(&attempt, trial);
    if (attempt.status == QL_OK)
        use(attempt.ql, "bob");
    ql_close(attempt.ql);
    check_recovery(trial->store, descriptors);
    _exit(0);
}

static void make_store(void)
{
    struct ql *ql = open_store(directory);
    use(ql, "alice");
    ql_close(ql);
}

static int64_t total_of(const char *subject)
{
    struct ql_usage usage;
    struct ql *ql = open_store(directory);
    KT_CHECK(ql_usage(ql, subject, &usage) == QL_OK, "usage");
    ql_close(ql);
    return usage.meters[0].total;
}

static void run_in_child(const struct trial *trial)
{
    pid_t pid = kt_fork();
    if (pid == 0)
        run_trial(trial);
    int status = kt_wait(pid);
    if (status != 0)
        fail_msg("%s, %s, call %zu fails with %s: the process ended with %#x",
                 trial->store[0] == '/' ? "a directory" : trial->store,
                 trial->exists ? "made before" : "new", trial->nth, strerrorname_np(trial->error),
                 (unsigned)status);
}

/* Fails call 1, 2, ... until a run has no such call. */
static void fail_each_call(struct trial trial)
{
    static const int errors[] = {ENOSPC, EIO, EMFILE, ENOMEM, EINTR, EACCES};
    trial.calls = kt_shared(sizeof *trial.calls);
    trial.failed_call = kt_shared(sizeof *trial.failed_call);
    bool met_random = false;
    for (size_t e = 0; e < sizeof errors / sizeof errors[0]; e++) {
        trial.error = errors[e];
        trial.nth = 0;
        do {
            trial.nth++;
            if (trial.store == directory) {
                kt_directory_remove(directory);
                kt_directory_make(directory, NULL);
            }
            if (trial.exists)
                make_store();
            run_in_child(&trial);
            met_random |= *trial.failed_call == SYS_getrandom;
            if (trial.exists)
                assert_true(total_of("alice") >= 2);
        } while (trial.nth <= *trial.calls);
        printf("%s: %zu calls failed\n", strerrorname_np(trial.error), trial.nth - 1);
        assert_true(trial.nth > 15);
    }
    assert_true(trial.exists || met_random);
}

static void each_call_of_making_a_store_fails(void **state)
{
    (void)state;
    fail_each_call((struct trial){.store = directory});
}

static void each_call_of_attaching_fails(void **state)
{
    (void)state;
    fail_each_call((struct trial){.store = directory, .exists = true});
}

static void each_call_of_making_a_store_in_memory_fails(void **state)
{
    (void)state;
    fail_each_call((struct trial){.store = "memory:"});
}

/* ---- memory -------------------------------------------------------------- */

static void expect_done_or_no_memory(enum ql_status status)
{
    KT_CHECK(status == QL_OK || status == QL_E_NOMEM, "%s", ql_status_name(status));
}

static void use_without_memory(struct ql *ql)
{
    struct ql_lease lease;
    struct ql_verify_report report;
    struct ql_error error;
    enum ql_status status = ql_admit(ql, "bob", NULL, &lease, NULL);
    expect_done_or_no_memory(status);
    if (status == QL_OK)
        expect_done_or_no_memory(ql_release(ql, lease));
    expect_done_or_no_memory(ql_charge(ql, "bob", "bytes", 1, NULL));
    status = ql_verify(ql, &report, &error);
    expect_done_or_no_memory(status);
    KT_CHECK(status == QL_OK || error.text[0] != '\0', "no text");
}

static _Noreturn void run_without_memory(size_t nth, size_t *allocations)
{
    struct attempt attempt = {.store = directory};
    int descriptors = count_descriptors();
    inject_allocation(nth);
    try_open(&attempt);
    check_attempt(&attempt);
    KT_CHECK(attempt.status == QL_OK || attempt.status == QL_E_NOMEM, "%s", attempt.error.text);
    if (attempt.status == QL_OK)
        use_without_memory(attempt.ql);
    *allocations = inject_allocations();
    inject_allocation(0);
    if (attempt.status == QL_OK)
        use(attempt.ql, "bob");
    ql_close(attempt.ql);
    check_recovery(directory, descriptors);
    _exit(0);
}

static void each_allocation_fails(void **state)
{
    (void)state;
    size_t *allocations = kt_shared(sizeof *allocations);
    size_t nth = 0;
    do {
        nth++;
        kt_directory_remove(directory);
        kt_directory_make(directory, NULL);
        pid_t pid = kt_fork();
        if (pid == 0)
            run_without_memory(nth, allocations);
        kt_wait_success(pid);
    } while (nth <= *allocations);
    printf("%zu allocations failed\n", nth - 1);
    assert_true(nth > 5);
}

/* ---- resource limits ----------------------------------------------------- */

static void limit(int resource, rlim_t soft)
{
    struct rlimit bounds;
    KT_CHECK(getrlimit(resource, &bounds) == 0, "getrlimit: %s", strerror(errno));
    bounds.rlim_cur = soft < bounds.rlim_max ? soft : bounds.rlim_max;
    KT_CHECK(setrlimit(resource, &bounds) == 0, "setrlimit: %s", strerror(errno));
}

/* Opens under the limit, then without it. *status is shared. */
static _Noreturn void run_limited(int resource, rlim_t soft, enum ql_status *status)
{
    struct attempt attempt = {.store = directory};
    int descriptors = count_descriptors();
    signal(SIGXFSZ, SIG_IGN);
    limit(resource, soft);
    try_open(&attempt);
    limit(resource, RLIM_INFINITY);
    check_attempt(&attempt);
    *status = attempt.status;
    ql_close(attempt.ql);
    check_recovery(directory, descriptors);
    _exit(0);
}

static enum ql_status open_limited(int resource, rlim_t soft)
{
    static enum ql_status *status;
    if (status == NULL)
        status = kt_shared(sizeof *status);
    kt_directory_remove(directory);
    kt_directory_make(directory, NULL);
    pid_t pid = kt_fork();
    if (pid == 0)
        run_limited(resource, soft, status);
    int ended = kt_wait(pid);
    if (ended != 0)
        fail_msg("limit %llu: the process ended with %#x", (unsigned long long)soft,
                 (unsigned)ended);
    return *status;
}

static void too_few_descriptors(void **state)
{
    (void)state;
    rlim_t most = 0;
    while (open_limited(RLIMIT_NOFILE, most) != QL_OK)
        most++;
    printf("a store opens with at most %d descriptors\n", (int)most);
    assert_true(most >= 6 && most < 100);
}

/* 168 bytes are a record that is written in part. */
static void files_that_may_not_grow(void **state)
{
    (void)state;
    static const rlim_t sizes[] = {0, 1, 8, 100, 167, 168, 4096};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        assert_int_equal(open_limited(RLIMIT_FSIZE, sizes[i]), QL_E_SYSTEM);
    assert_int_equal(open_limited(RLIMIT_FSIZE, 1 << 30), QL_OK);
}

/* ---- filters of system calls --------------------------------------------- */

static _Noreturn void run_refused(int error)
{
    struct attempt attempt = {.store = directory};
    struct ql_lease lease;
    inject_refusal(SYS_statx, error);
    try_open(&attempt);
    check_attempt(&attempt);
    KT_CHECK(attempt.status == QL_OK, "%s", ql_status_name(attempt.status));
    KT_CHECK(ql_acquire(attempt.ql, "alice", &lease, NULL) == QL_OK, "acquire");
    KT_CHECK(ql_flush(attempt.ql, NULL) == QL_OK, "flush");
    KT_CHECK(ql_release(attempt.ql, lease) == QL_OK, "release");
    ql_close(attempt.ql);
    _exit(0);
}

/* One that was written before a call that the library makes answers EPERM. */
static void a_filter_that_does_not_know_statx(void **state)
{
    (void)state;
    static const int errors[] = {EPERM, ENOSYS};
    for (size_t i = 0; i < 2; i++) {
        pid_t pid = kt_fork();
        if (pid == 0)
            run_refused(errors[i]);
        kt_wait_success(pid);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(each_call_of_making_a_store_fails),
        CASE(each_call_of_attaching_fails),
        CASE(each_call_of_making_a_store_in_memory_fails),
        CASE(each_allocation_fails),
        CASE(too_few_descriptors),
        CASE(files_that_may_not_grow),
        CASE(a_filter_that_does_not_know_statx),
    };
    clock_ns = kt_shared(sizeof *clock_ns);
    *clock_ns = KT_START_NS;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
