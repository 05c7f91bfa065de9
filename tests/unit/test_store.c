/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening: store directories, and those that are not as they should be. Each failure
 * leaves what was there.
 */
#include "small_store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "region/lockfile.h"

static void write_file(const char *path, const void *data, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, length), length);
    close(fd);
}

static void the_day_survives_closing(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_usage usage;
    struct ql_options options = small_options();
    struct ql_options adopt = QL_OPTIONS_INIT;
    options.clock = adopt.clock = kt_noon;
    make_store(path_of("store"), options);
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

static void places_that_cannot_be_a_store(void **state)
{
    (void)state;
    struct ql *ql;
    write_file(path_of("file"), "x", 1);
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
    assert_int_equal(kt_wait(child), 0);
    chmod(path_of("theirs"), 0700);
}

static void a_lock_file_with_garbage(void **state)
{
    (void)state;
    struct ql *ql;
    char garbage[300];
    memset(garbage, 0xa5, sizeof garbage);
    assert_int_equal(mkdir(path_of("garbage"), 0700), 0);
    write_file(path_of("garbage/lock"), garbage, sizeof garbage);
    assert_int_equal(open_at(path_of("garbage"), small_options(), &ql), QL_E_CORRUPT);
}

/* Every byte of the lock record and of the region's header matters. */
static void flipped_bits_are_found(void **state)
{
    (void)state;
    struct ql *ql;
    static const char *const files[] = {"store/lock", "store/region"};
    static const off_t sizes[] = {sizeof(struct qli_lock_record),
                                  offsetof(struct qli_region_header, corrupt)};
    for (size_t f = 0; f < 2; f++) {
        make_store(path_of("store"), small_options());
        int fd = open(path_of(files[f]), O_RDWR);
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
    struct stat info;
    make_store(path_of("store"), small_options());
    assert_int_equal(stat(path_of("store/region"), &info), 0);
    for (off_t size = info.st_size - 64; size >= 0; size -= size > 4096 ? 4096 : 64) {
        assert_int_equal(truncate(path_of("store/region"), size), 0);
        assert_int_equal(open_at(path_of("store"), small_options(), &ql), QL_E_CORRUPT);
    }
}

static void a_removed_region_is_noticed(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql *fresh;
    enum ql_status status;
    assert_int_equal(open_at(path_of("store"), small_options(), &ql), QL_OK);
    kt_remove_file(path_of("store"), "region");
    do {
        status = ql_charge(ql, "alice", "bytes", 1, NULL);
    } while (status == QL_OK);
    assert_int_equal(status, QL_E_GONE);
    assert_int_equal(open_at(path_of("store"), small_options(), &fresh), QL_OK);
    ql_close(fresh);
    ql_close(ql);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_day_survives_closing),         CASE(two_handles_share_one_store),
        CASE(places_that_cannot_be_a_store),    CASE(a_directory_of_another_owner),
        CASE(a_lock_file_with_garbage),         CASE(flipped_bits_are_found),
        CASE(truncated_regions_are_found),      CASE(a_removed_region_is_noticed),
        CASE(interrupted_calls_are_made_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
