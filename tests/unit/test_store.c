/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening: limits, clocks, and store directories that are not as they should
 * be. Each failure says what to do and leaves what was there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "quotalite.h"
#include "region/lockfile.h"

static char base[64];

static const struct ql_limit two_limits[] = {
    {"concurrent_scans", NULL, QL_WINDOW_NONE, 5},
    {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
};

static struct ql_options small_options(void)
{
    struct ql_options options = QL_OPTIONS_INIT;
    options.limits = two_limits;
    options.limit_count = 2;
    options.max_subjects = 16;
    options.max_holders = 4;
    return options;
}

static enum ql_status open_at(const char *path, struct ql_options options, struct ql **ql)
{
    struct ql_error error;
    enum ql_status status = ql_open(path, &options, ql, &error);
    assert_int_equal(status, error.status);
    assert_true(status == QL_OK ? error.text[0] == '\0' : error.text[0] != '\0');
    assert_true((status == QL_OK) == (*ql != NULL));
    return status;
}

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", base, name);
    return path;
}

static void make_store(const char *path)
{
    struct ql *ql;
    assert_int_equal(open_at(path, small_options(), &ql), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 41, NULL), QL_OK);
    ql_close(ql);
}

static void write_file(const char *directory, const char *name, off_t offset, const void *data,
                       size_t length)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, length, offset), length);
    close(fd);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(base, sizeof base, "/tmp/quotalite-test-XXXXXX");
    return mkdtemp(base) == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", base);
    return system(command);
}

static void the_day_survives_closing(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_usage usage;
    struct ql_options adopt = QL_OPTIONS_INIT;
    make_store(path_of("store"));
    assert_int_equal(open_at(path_of("store"), adopt, &ql), QL_OK);
    assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.meters[0].total, 41);
    assert_int_equal(usage.limit_count, 2);
    ql_close(ql);
}

static void two_handles_share_one_store(void **state)
{
    (void)state;
    struct ql *one;
    struct ql *two;
    struct ql_lease lease;
    struct ql_usage usage;
    assert_int_equal(open_at(path_of("store"), small_options(), &one), QL_OK);
    assert_int_equal(open_at(path_of("store"), small_options(), &two), QL_OK);
    assert_int_equal(ql_acquire(one, "alice", &lease, NULL), QL_OK);
    ql_close(one);
    assert_int_equal(ql_usage(two, "alice", &usage), QL_OK);
    assert_int_equal(usage.leases, 1);
    assert_int_equal(ql_release(two, lease), QL_OK);
    assert_int_equal(ql_acquire(two, "alice", &lease, NULL), QL_OK);
    ql_close(two); /* the last close releases */
    assert_int_equal(open_at(path_of("store"), small_options(), &one), QL_OK);
    assert_int_equal(ql_usage(one, "alice", &usage), QL_OK);
    assert_int_equal(usage.leases, 0);
    ql_close(one);
}

static void other_limits_are_refused_unless_they_replace(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql *other;
    struct ql_limit limits[QL_LIMITS_MAX];
    size_t count;
    struct ql_options options = small_options();
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    struct ql_limit changed[] = {two_limits[0], two_limits[1]};
    changed[1].cap = 7;
    options.limits = changed;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_E_LIMITS);
    options.replace_limits = true;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_OK);
    assert_int_equal(ql_limits(ql, limits, &count), QL_OK);
    assert_int_equal(count, 2);
    assert_int_equal(limits[1].cap, 7);
    ql_close(other);
    ql_close(ql);
}

/* A list of limits that does not fit leaves no meter behind. */
static void meters_that_do_not_fit_change_nothing(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql *other;
    struct ql_error error;
    struct ql_options options = small_options();
    options.max_meters = 2;
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    struct ql_limit limits[] = {two_limits[1],
                                {"daily_scans", "scans", QL_WINDOW_DAY, 1},
                                {"daily_tokens", "tokens", QL_WINDOW_DAY, 1}};
    options.limits = limits;
    options.limit_count = 3;
    options.replace_limits = true;
    assert_int_equal(ql_open(path_of("store"), &options, &other, &error), QL_E_FULL);
    assert_non_null(strstr(error.text, "tokens"));
    assert_non_null(strstr(error.text, "at least 3"));
    assert_int_equal(ql_charge(ql, "alice", "scans", 1, NULL), QL_E_METER);
    limits[1] = limits[2];
    options.limit_count = 2;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "tokens", 1, NULL), QL_OK);
    ql_close(other);
    ql_close(ql);
}

/* The names of the meters m1 to m<count>, one limit each. */
static size_t name_meters(struct ql_limit limits[QL_LIMITS_MAX], size_t count)
{
    static char names[QL_LIMITS_MAX][24];
    for (size_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "m%zu", i + 1);
        limits[i] = (struct ql_limit){names[i], names[i], QL_WINDOW_DAY, 1};
    }
    return count;
}

/* A later release may count more than the one that made the store. */
static void a_store_has_room_for_more_meters(void **state)
{
    (void)state;
    static const size_t room[QL_METERS_MAX + 1] = {4, 4, 4, 5, 6, 7, 8, 8, 8};
    for (size_t named = 0; named <= QL_METERS_MAX; named++) {
        struct ql *ql;
        struct ql *other;
        struct ql_limit limits[QL_LIMITS_MAX];
        struct ql_options options = small_options();
        char name[16];
        snprintf(name, sizeof name, "store-%zu", named);
        options.limits = limits;
        options.limit_count = name_meters(limits, named);
        options.replace_limits = true;
        assert_int_equal(open_at(path_of(name), options, &ql), QL_OK);
        options.limit_count = name_meters(limits, room[named]);
        assert_int_equal(open_at(path_of(name), options, &other), QL_OK);
        ql_close(other);
        if (room[named] < QL_METERS_MAX) {
            options.limit_count = name_meters(limits, room[named] + 1);
            assert_int_equal(open_at(path_of(name), options, &other), QL_E_FULL);
        }
        ql_close(ql);
    }
}

static void bad_limits_are_named(void **state)
{
    (void)state;
    struct ql *ql;
    const struct ql_limit table[][2] = {
        {{"Bad", "bytes", QL_WINDOW_DAY, 1}, two_limits[0]},
        {{NULL, "bytes", QL_WINDOW_DAY, 1}, two_limits[0]},
        {{"a", "bytes", QL_WINDOW_DAY, -1}, two_limits[0]},
        {{"a", NULL, QL_WINDOW_DAY, 1}, two_limits[0]},
        {{"a", "bytes", QL_WINDOW_NONE, 1}, two_limits[0]},
        {{"a", NULL, QL_WINDOW_NONE, 1}, two_limits[0]},
        {{"a", "bytes", (enum ql_window)9, 1}, two_limits[0]},
        {two_limits[0], two_limits[0]},
    };
    struct ql_options options = small_options();
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        options.limits = table[i];
        assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    }
    options.limit_count = QL_LIMITS_MAX + 1;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
}

static int64_t noon(void *context)
{
    (void)context;
    return INT64_C(1700000000000000000);
}

static void a_store_has_one_kind_of_clock(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_options options = small_options();
    make_store(path_of("store"));
    options.clock = noon;
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_E_CLOCK);
}

/* Of either kind, and beside an open handle of the right one. */
static void a_store_of_another_clock_can_be_verified(void **state)
{
    (void)state;
    for (int injected = 0; injected < 2; injected++) {
        struct ql *ql;
        struct ql *other;
        const char *name = injected != 0 ? "injected" : "system";
        struct ql_options options = small_options();
        options.clock = injected != 0 ? noon : NULL;
        for (int open = 0; open < 2; open++) {
            assert_int_equal(open_at(path_of(name), options, &ql), QL_OK);
            assert_int_equal(ql_charge(ql, "alice", "bytes", 1, NULL), QL_OK);
            if (open == 0)
                ql_close(ql);
            struct ql_options tool = small_options();
            tool.clock = injected != 0 ? NULL : noon;
            tool.any_clock = true;
            assert_int_equal(open_at(path_of(name), tool, &other), QL_OK);
            assert_int_equal(ql_verify(other, NULL, NULL), QL_OK);
            assert_int_equal(ql_charge(other, "alice", "bytes", 1, NULL), QL_E_CLOCK);
            assert_int_equal(ql_check(other, "alice", NULL, NULL), QL_E_CLOCK);
            assert_int_equal(ql_verify(other, NULL, NULL), QL_OK);
            ql_close(other);
            if (open == 1)
                ql_close(ql);
        }
    }
}

/* A handle that is refused takes nothing from the one that there is. */
static void another_clock_is_refused_beside_an_open_handle(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql *other;
    struct ql_options options = small_options();
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    options.clock = noon;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_E_CLOCK);
    options.clock = NULL;
    assert_int_equal(open_at(path_of("store"), options, &other), QL_OK);
    ql_close(other);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 1, NULL), QL_OK);
    ql_close(ql);
}

static void places_that_cannot_be_a_store(void **state)
{
    (void)state;
    struct ql *ql;
    write_file(base, "file", 0, "x", 1);
    assert_int_equal(open_at(path_of("file"), small_options(), &ql), QL_E_STORE);
    assert_int_equal(open_at(path_of("no/such"), small_options(), &ql), QL_E_STORE);
    assert_int_equal(open_at("/proc", small_options(), &ql), QL_E_STORE);
    assert_int_equal(open_at("", small_options(), &ql), QL_E_INVALID);
    assert_int_equal(open_at("valkey://x", small_options(), &ql), QL_E_STORE);
}

/* Without root's powers a foreign directory is refused, with its owner named. */
static void a_directory_of_another_owner(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path_of("theirs"), 0700), 0);
    if (geteuid() != 0) {
        assert_int_equal(chmod(path_of("theirs"), 0), 0);
    }
    pid_t child = fork();
    if (child == 0) {
        struct ql *ql;
        struct ql_error error;
        struct ql_options options = small_options();
        if (geteuid() == 0 && (chmod(base, 0755) != 0 || setuid(65534) != 0))
            _exit(2);
        enum ql_status status = ql_open(path_of("theirs"), &options, &ql, &error);
        _exit(status == QL_E_STORE && strstr(error.text, "belongs to uid") != NULL ? 0 : 1);
    }
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(result, 0);
    chmod(path_of("theirs"), 0700);
}

static void a_lock_file_with_garbage(void **state)
{
    (void)state;
    struct ql *ql;
    char garbage[300];
    memset(garbage, 0xa5, sizeof garbage);
    assert_int_equal(mkdir(path_of("garbage"), 0700), 0);
    write_file(path_of("garbage"), "lock", 0, garbage, sizeof garbage);
    assert_int_equal(open_at(path_of("garbage"), small_options(), &ql), QL_E_CORRUPT);
}

/* Every byte of the lock record and of the region's header matters. */
static void flipped_bits_are_found(void **state)
{
    (void)state;
    struct ql *ql;
    static const char *const files[] = {"lock", "region"};
    static const off_t sizes[] = {sizeof(struct qli_lock_record),
                                  offsetof(struct qli_region_header, corrupt)};
    char path[160];
    for (size_t f = 0; f < 2; f++) {
        make_store(path_of("store"));
        snprintf(path, sizeof path, "%s/%s", path_of("store"), files[f]);
        int fd = open(path, O_RDWR);
        for (off_t i = 0; i < sizes[f]; i++) {
            unsigned char byte;
            assert_int_equal(pread(fd, &byte, 1, i), 1);
            byte ^= 0x10;
            assert_int_equal(pwrite(fd, &byte, 1, i), 1);
            enum ql_status status = open_at(path_of("store"), small_options(), &ql);
            assert_true(status == QL_E_CORRUPT || status == QL_E_VERSION);
            byte ^= 0x10;
            assert_int_equal(pwrite(fd, &byte, 1, i), 1);
        }
        close(fd);
        assert_int_equal(open_at(path_of("store"), small_options(), &ql), QL_OK);
        ql_close(ql);
    }
}

static void truncated_regions_are_found(void **state)
{
    (void)state;
    struct ql *ql;
    char path[160];
    struct stat info;
    make_store(path_of("store"));
    snprintf(path, sizeof path, "%s/region", path_of("store"));
    assert_int_equal(stat(path, &info), 0);
    for (off_t size = info.st_size - 64; size >= 0; size -= size > 4096 ? 4096 : 64) {
        assert_int_equal(truncate(path, size), 0);
        assert_int_equal(open_at(path_of("store"), small_options(), &ql), QL_E_CORRUPT);
    }
}

static void a_removed_region_is_noticed(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql *fresh;
    char path[160];
    enum ql_status status;
    assert_int_equal(open_at(path_of("store"), small_options(), &ql), QL_OK);
    snprintf(path, sizeof path, "%s/region", path_of("store"));
    assert_int_equal(unlink(path), 0);
    do {
        status = ql_charge(ql, "alice", "bytes", 1, NULL);
    } while (status == QL_OK);
    assert_int_equal(status, QL_E_GONE);
    assert_int_equal(open_at(path_of("store"), small_options(), &fresh), QL_OK);
    ql_close(fresh);
    ql_close(ql);
}

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
    int result;
    assert_int_equal(waitpid(visit.child, &result, 0), visit.child);
    assert_int_equal(result, 0);
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
    return noon(context);
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
    int result;
    assert_int_equal(waitpid(clock_child, &result, 0), clock_child);
    assert_int_equal(result, 0);
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
    char path[PATH_MAX];
    options.admit_wait_ms = 10;
    assert_int_equal(open_at(path_of("store"), options, &ql), QL_OK);
    snprintf(path, sizeof path, "%s/lock", path_of("store"));
    int fd = open(path, O_RDWR | O_CLOEXEC);
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
    int result;
    assert_int_equal(waitpid(pid, &result, 0), pid);
    assert_int_equal(result, 0);
    close(fd);
    ql_close(ql);
}

static void options_out_of_range(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_options options = small_options();
    options.size = 8;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    options = small_options();
    options.max_subjects = UINT32_MAX;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    options = small_options();
    options.max_holders = 40000;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    options = small_options();
    options.max_meters = 9;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
    options = small_options();
    options.lease_max_age_ms = -1;
    assert_int_equal(open_at("memory:", options, &ql), QL_E_INVALID);
}

/* ---- interrupted system calls --------------------------------------------- */

/* Every other call of those below is interrupted while this is set. */
static bool interrupting;
static unsigned interrupted;

static bool interrupt_now(void)
{
    static bool odd;
    odd = !odd;
    interrupted += interrupting && odd;
    return interrupting && odd;
}

static int interruptible(long number, long a, long b, long c, long d)
{
    if (!interrupt_now())
        return (int)syscall(number, a, b, c, d);
    errno = EINTR;
    return -1;
}

int fsync(int fd)
{
    return interruptible(SYS_fsync, fd, 0, 0, 0);
}

static long argument_of(va_list *arguments)
{
    long argument = va_arg(*arguments, long);
    va_end(*arguments);
    return argument;
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    return interruptible(SYS_openat, AT_FDCWD, (long)path, flags, argument_of(&arguments));
}

int openat(int directory, const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    return interruptible(SYS_openat, directory, (long)path, flags, argument_of(&arguments));
}

int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    return interruptible(SYS_fcntl, fd, command, argument_of(&arguments), 0);
}

int posix_fallocate(int fd, off_t offset, off_t length)
{
    return interruptible(SYS_fallocate, fd, 0, offset, length) == 0 ? 0 : errno;
}

static void interrupted_calls_are_made_again(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_lease lease;
    interrupting = true;
    for (int i = 0; i < 2; i++) {
        interrupted = 0;
        assert_int_equal(open_at(path_of("store"), small_options(), &ql), QL_OK);
        assert_int_equal(ql_acquire(ql, "alice", &lease, NULL), QL_OK);
        ql_close(ql);
        assert_true(interrupted > 5);
    }
    interrupting = false;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_day_survives_closing),
        CASE(two_handles_share_one_store),
        CASE(other_limits_are_refused_unless_they_replace),
        CASE(meters_that_do_not_fit_change_nothing),
        CASE(a_store_has_room_for_more_meters),
        CASE(bad_limits_are_named),
        CASE(a_store_has_one_kind_of_clock),
        CASE(a_store_of_another_clock_can_be_verified),
        CASE(another_clock_is_refused_beside_an_open_handle),
        CASE(places_that_cannot_be_a_store),
        CASE(a_directory_of_another_owner),
        CASE(a_lock_file_with_garbage),
        CASE(flipped_bits_are_found),
        CASE(truncated_regions_are_found),
        CASE(a_removed_region_is_noticed),
        CASE(a_visit_that_forks),
        CASE(a_clock_that_forks),
        CASE(a_childs_first_call_keeps_its_deadline),
        CASE(options_out_of_range),
        CASE(interrupted_calls_are_made_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
