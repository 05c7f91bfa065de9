/* SPDX-License-Identifier: Apache-2.0
 *
 * Stores on a disk that is full: a small tmpfs, mounted in a mount namespace of
 * this program's own, so that it is gone when the program is. tmpfs has no
 * reserve for root.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

#define DISK_PAGES 128
#define PAGE_BYTES 4096
#define SUBJECTS 64

static char disk[KT_PATH];
static char store[KT_PATH + 8];
static char ballast[KT_PATH + 8];
static int64_t *clock_ns;

/* ---- the disk ------------------------------------------------------------ */

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    close(fd);
}

/* As root, or as root of a user namespace. */
static int enter_namespace(void **state)
{
    (void)state;
    char map[32];
    snprintf(map, sizeof map, "0 %u 1", (unsigned)geteuid());
    if (unshare(CLONE_NEWNS) != 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
            fprintf(stderr,
                    "no mount namespace (%s): run this test as root, or where users may make "
                    "user namespaces\n",
                    strerror(errno));
            return 1;
        }
        write_text("/proc/self/setgroups", "deny");
        write_text("/proc/self/uid_map", map);
        write_text("/proc/self/gid_map", map);
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
        return 0;
    fprintf(stderr, "cannot make / private (%s): is it a chroot that is no mount?\n",
            strerror(errno));
    return 1;
}

static int mount_disk(void **state)
{
    (void)state;
    char options[64];
    snprintf(options, sizeof options, "size=%d,nr_inodes=16,mode=0700", DISK_PAGES * PAGE_BYTES);
    kt_directory_make(disk, NULL);
    snprintf(store, sizeof store, "%s/store", disk);
    snprintf(ballast, sizeof ballast, "%s/ballast", disk);
    if (mount("none", disk, "tmpfs", 0, options) == 0)
        return 0;
    fprintf(stderr, "cannot mount a tmpfs: %s\n", strerror(errno));
    return 1;
}

static int unmount_disk(void **state)
{
    (void)state;
    int result = umount2(disk, MNT_DETACH);
    rmdir(disk);
    return result;
}

/* Fills the disk up to that many pages. */
static void leave_free(int pages)
{
    static const char page[PAGE_BYTES];
    int fd = open(ballast, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    while (write(fd, page, sizeof page) == (ssize_t)sizeof page)
        continue;
    assert_int_equal(errno, ENOSPC);
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(ftruncate(fd, info.st_size - pages * PAGE_BYTES), 0);
    close(fd);
}

static void use_up_inodes(void)
{
    char path[KT_PATH + 32];
    int made = 0;
    do
        snprintf(path, sizeof path, "%s/file-%d", disk, made++);
    while (mknod(path, S_IFREG | 0600, 0) == 0);
    assert_int_equal(errno, ENOSPC);
}

static bool exists(const char *name)
{
    char path[KT_PATH + 32];
    snprintf(path, sizeof path, "%s/%s", store, name);
    return access(path, F_OK) == 0;
}

/* ---- the store ----------------------------------------------------------- */

static enum ql_status try_open(struct ql **ql, struct ql_error *error)
{
    struct ql_options options = kt_options(clock_ns, 2, SUBJECTS);
    return ql_open(store, &options, ql, error);
}

static struct ql *open_store(void)
{
    struct ql *ql;
    struct ql_error error;
    if (try_open(&ql, &error) != QL_OK)
        fail_msg("%s", error.text);
    return ql;
}

static void subject_of(int number, char subject[16])
{
    snprintf(subject, 16, "subject-%d", number);
}

/* Each subject and half of the leases: every page of the region is written. */
static void use_all(struct ql *ql)
{
    for (int i = 0; i < SUBJECTS; i++) {
        char subject[16];
        struct ql_lease lease;
        subject_of(i, subject);
        assert_int_equal(ql_charge(ql, subject, "bytes", 1, NULL), QL_OK);
        assert_int_equal(ql_acquire(ql, subject, &lease, NULL), QL_OK);
        if (i % 2 == 0)
            assert_int_equal(ql_release(ql, lease), QL_OK);
    }
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
}

static void expect_totals(struct ql *ql, int64_t total)
{
    for (int i = 0; i < SUBJECTS; i++) {
        char subject[16];
        struct ql_usage usage;
        subject_of(i, subject);
        assert_int_equal(ql_usage(ql, subject, &usage), QL_OK);
        assert_int_equal(usage.meters[0].total, total);
    }
}

static void expect_no_space(void)
{
    struct ql *ql;
    struct ql_error error;
    assert_int_equal(try_open(&ql, &error), QL_E_SYSTEM);
    assert_null(ql);
    assert_int_equal(error.system_errno, ENOSPC);
    if (strstr(error.text, "free some space") == NULL)
        fail_msg("it does not say what to do: %s", error.text);
}

/* ---- the cases ----------------------------------------------------------- */

/* Page by page, until there is room. */
static void a_new_store_needs_room(void **state)
{
    (void)state;
    struct ql *ql;
    struct ql_error error;
    int pages = 0;
    for (;; pages++) {
        leave_free(pages);
        if (try_open(&ql, &error) == QL_OK)
            break;
        expect_no_space();
        assert_false(exists("region"));
        assert_false(exists("region.new"));
    }
    printf("there was room in %d pages\n", pages);
    assert_true(pages > 2 && pages < DISK_PAGES);
    use_all(ql);
    ql_close(ql);
}

static void a_new_store_works_once_space_is_freed(void **state)
{
    (void)state;
    leave_free(0);
    expect_no_space();
    assert_int_equal(unlink(ballast), 0);
    struct ql *ql = open_store();
    use_all(ql);
    ql_close(ql);
}

static void a_new_store_needs_inodes(void **state)
{
    (void)state;
    char path[KT_PATH + 32];
    use_up_inodes();
    expect_no_space(); /* for the directory */
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/file-%d", disk, i);
        assert_int_equal(unlink(path), 0);
        if (i < 2)
            expect_no_space(); /* for 'lock', then for 'region' */
    }
    ql_close(open_store());
}

static void an_open_store_goes_on_when_the_disk_fills(void **state)
{
    (void)state;
    struct ql *ql = open_store();
    leave_free(0);
    use_all(ql);
    pid_t child = kt_fork();
    if (child == 0) {
        KT_CHECK(ql_charge(ql, "subject-0", "bytes", 0, NULL) == QL_OK, "the forked child");
        for (int i = 0; i < SUBJECTS; i++) {
            char subject[16];
            subject_of(i, subject);
            KT_CHECK(ql_charge(ql, subject, "bytes", 1, NULL) == QL_OK, "the forked child");
        }
        _exit(0);
    }
    kt_wait_success(child);
    expect_totals(ql, 2);
    ql_close(ql);
    ql = open_store();
    expect_totals(ql, 2);
    ql_close(ql);
}

/* The old region stays in its place until there is room for a new one. */
static void a_store_of_an_earlier_boot_on_a_full_disk(void **state)
{
    (void)state;
    ql_close(open_store());
    kt_make_lock_stale(store);
    leave_free(0);
    expect_no_space();
    expect_no_space();
    assert_false(exists("region.new"));
    assert_int_equal(unlink(ballast), 0);
    struct ql *ql = open_store();
    use_all(ql);
    ql_close(ql);
}

/* ---- with a ledger -------------------------------------------------------- */

#define HOLDERS 8

static enum ql_status try_open_ledger(struct ql **ql, struct ql_error *error)
{
    struct ql_options options = kt_options(clock_ns, 2, SUBJECTS);
    options.max_holders = HOLDERS;
    options.durability = QL_DURABILITY_ASYNC;
    options.flush_interval_ms = KT_DAY_NS / 1000000;
    options.no_thread = true;
    return ql_open(store, &options, ql, error);
}

static struct ql *open_ledger(void)
{
    struct ql *ql;
    struct ql_error error;
    if (try_open_ledger(&ql, &error) != QL_OK)
        fail_msg("%s", error.text);
    return ql;
}

static void expect_no_space_for(enum ql_status status, const struct ql_error *error,
                                const char *text)
{
    assert_int_equal(status, QL_E_LEDGER);
    assert_int_equal(error->status, QL_E_LEDGER);
    if (error->system_errno != ENOSPC || strstr(error->text, text) == NULL)
        fail_msg("errno %d: %s", error->system_errno, error->text);
}

/* Days go into room that the ledger's files have already, until there is none left. */
static enum ql_status flush_days(struct ql *ql, struct ql_error *error)
{
    enum ql_status status = QL_OK;
    for (int day = 0; day < 1000 && status == QL_OK; day++) {
        for (int i = 0; i < SUBJECTS; i++) {
            char subject[16];
            subject_of(i, subject);
            assert_int_equal(ql_charge(ql, subject, "bytes", 1, NULL), QL_OK);
        }
        status = ql_flush(ql, error);
        *clock_ns += status == QL_OK ? KT_DAY_NS : 0;
    }
    return status;
}

/* What was charged is written once there is room again. */
static void a_flush_tells_of_a_full_disk(void **state)
{
    (void)state;
    struct ql_error error;
    struct ql *ql = open_ledger();
    leave_free(0);
    expect_no_space_for(flush_days(ql, &error), &error, "free some space");
    expect_no_space_for(ql_verify(ql, NULL, &error), &error, "free some space");
    assert_int_equal(unlink(ballast), 0);
    assert_int_equal(ql_flush(ql, &error), QL_OK);
    assert_int_equal(ql_verify(ql, NULL, &error), QL_OK);
    ql_close(ql);
}

static void a_backup_tells_of_a_full_disk(void **state)
{
    (void)state;
    char path[KT_PATH + 32];
    struct ql_error error;
    struct ql *ql = open_ledger();
    use_all(ql);
    assert_int_equal(ql_flush(ql, &error), QL_OK);
    snprintf(path, sizeof path, "%s/backup.db", disk);
    leave_free(0);
    expect_no_space_for(ql_backup(ql, path, &error), &error, "cannot copy the ledger into ");
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(unlink(ballast), 0);
    assert_int_equal(ql_backup(ql, path, &error), QL_OK);
    ql_close(ql);
}

static void remove_log(void)
{
    static const char *const names[] = {"ledger.db-wal", "ledger.db-shm"};
    for (size_t i = 0; i < 2; i++) {
        char path[KT_PATH + 32];
        snprintf(path, sizeof path, "%s/%s", store, names[i]);
        assert_true(unlink(path) == 0 || errno == ENOENT);
    }
}

/* After a reboot: for the ledger's log, and for the file of it. */
static void a_restore_tells_of_a_full_disk(void **state)
{
    (void)state;
    char path[KT_PATH + 32];
    struct ql_error error;
    struct ql *ql = open_ledger();
    use_all(ql);
    ql_close(ql);
    kt_make_stale(store);
    remove_log();
    leave_free(0);
    expect_no_space_for(try_open_ledger(&ql, &error), &error, "opened without its budgets");
    assert_int_equal(unlink(ballast), 0);
    remove_log();
    use_up_inodes();
    expect_no_space_for(try_open_ledger(&ql, &error), &error, "cannot make the ledger");
    snprintf(path, sizeof path, "%s/file-0", disk);
    for (int i = 1; unlink(path) == 0; i++)
        snprintf(path, sizeof path, "%s/file-%d", disk, i);
    ql = open_ledger();
    expect_totals(ql, 1);
    ql_close(ql);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, mount_disk, unmount_disk)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_new_store_needs_room),
        CASE(a_new_store_works_once_space_is_freed),
        CASE(a_new_store_needs_inodes),
        CASE(an_open_store_goes_on_when_the_disk_fills),
        CASE(a_store_of_an_earlier_boot_on_a_full_disk),
        CASE(a_flush_tells_of_a_full_disk),
        CASE(a_backup_tells_of_a_full_disk),
        CASE(a_restore_tells_of_a_full_disk),
    };
    clock_ns = kt_shared(sizeof *clock_ns);
    *clock_ns = KT_START_NS;
    return cmocka_run_group_tests(tests, enter_namespace, NULL);
}
