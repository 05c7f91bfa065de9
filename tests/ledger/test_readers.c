/* SPDX-License-Identifier: Apache-2.0
 *
 * A host that reads the ledger with SQLite itself, in the process that has the store
 * open: also at the very moment at which the library opens it, which the tests meet
 * by coming before it into sqlite3_open_v2().
 */
#include "care.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define READERS_MAX 16
#define RESTLESS "threads of this program open and close the ledger"

int __wrap_sqlite3_open_v2(const char *path, sqlite3 **db, int flags, const char *vfs);
int __real_sqlite3_open_v2(const char *path, sqlite3 **db, int flags, const char *vfs);

static struct {
    sqlite3 *open[READERS_MAX]; /* the first came first */
    int count;
    int come; /* how many of the library's openings a reader comes into */
    int go;   /* how many of them the first reader goes in, after that */
} readers;

static void reader_comes(void)
{
    char path[CARE_PATH];
    sqlite3 **db = &readers.open[readers.count++];
    care_path(path, "ledger.db");
    assert_int_equal(__real_sqlite3_open_v2(path, db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(*db, "SELECT * FROM totals", NULL, NULL, NULL), SQLITE_OK);
}

static void first_reader_goes(void)
{
    assert_int_equal(sqlite3_close(readers.open[0]), SQLITE_OK);
    readers.count--;
    for (int i = 0; i < readers.count; i++)
        readers.open[i] = readers.open[i + 1];
}

int __wrap_sqlite3_open_v2(const char *path, sqlite3 **db, int flags, const char *vfs)
{
    if (readers.come > 0) {
        readers.come--;
        reader_comes();
    }
    if (readers.go > 0) {
        readers.go--;
        first_reader_goes();
    }
    return __real_sqlite3_open_v2(path, db, flags, vfs);
}

/* A store with a ledger that it has not opened yet, and readers that have. */
static struct ql *open_beside(int count)
{
    memset(&readers, 0, sizeof readers);
    struct ql *ql = care_open();
    care_charge(ql, "alice", 1);
    care_flush(ql);
    ql_close(ql);
    struct ql_options options = care_options();
    options.charge_wait_ms = 100;
    ql = care_open_with(care.directory, &options);
    care_charge(ql, "alice", 1);
    for (int i = 0; i < count; i++)
        reader_comes();
    return ql;
}

static void expect_lasting_use(struct ql *ql)
{
    care_flush(ql);
    while (readers.count > 0)
        first_reader_goes();
    care_charge(ql, "alice", 1);
    care_flush(ql);
    ql_close(ql);
    assert_int_equal(care_in_ledger("alice"), 3);
}

static void test_readers_go_later(void **state)
{
    (void)state;
    for (int count = 0; count <= READERS_MAX; count += 4) {
        expect_lasting_use(open_beside(count));
        care_tear_down(NULL);
        care_set_up(NULL);
    }
}

static void test_reader_comes_meanwhile(void **state)
{
    (void)state;
    struct ql *ql = open_beside(0);
    readers.come = 3;
    expect_lasting_use(ql);
    assert_int_equal(readers.come, 0);
}

/* The library gets the numbers that the reader's descriptors had. */
static void test_reader_goes_meanwhile(void **state)
{
    (void)state;
    struct ql *ql = open_beside(1);
    readers.go = 1;
    expect_lasting_use(ql);
}

static void test_readers_come_and_go_all_the_time(void **state)
{
    (void)state;
    struct ql *ql = open_beside(1);
    readers.come = 1000000;
    readers.go = 1000000;
    struct ql_error error;
    assert_int_equal(ql_flush(ql, &error), QL_E_LEDGER);
    assert_non_null(strstr(error.text, RESTLESS));
    readers.come = 0;
    readers.go = 0;
    expect_lasting_use(ql);
}

static void test_readers_come_and_go_while_it_is_restored(void **state)
{
    (void)state;
    struct ql *ql = open_beside(1);
    ql_close(ql);
    care_reboot();
    readers.come = 1000000;
    readers.go = 1000000;
    struct ql_options options = care_options();
    struct ql_error error;
    assert_int_equal(ql_open(care.directory, &options, &ql, &error), QL_E_LEDGER);
    assert_non_null(strstr(error.text, RESTLESS));
    readers.come = 0;
    readers.go = 0;
    ql = care_open();
    care_charge(ql, "bob", 1);
    assert_int_equal(care_used(ql, "alice"), 2);
    first_reader_goes();
    care_flush(ql);
    ql_close(ql);
}

/* sqlite3_enable_shared_cache() is for all connections of a process that do not say no. */
static void test_host_shares_its_cache(void **state)
{
    (void)state;
    struct ql *ql = open_beside(0);
    sqlite3_enable_shared_cache(1);
    reader_comes();
    care_flush(ql);
    sqlite3_enable_shared_cache(0);
    expect_lasting_use(ql);
}

/* Such a descriptor cannot be marked. */
static void test_path_descriptor_is_in_no_way(void **state)
{
    (void)state;
    char path[CARE_PATH];
    struct ql *ql = open_beside(0);
    care_path(path, "ledger.db");
    int fd = open(path, O_PATH | O_CLOEXEC);
    assert_true(fd >= 0);
    care_flush(ql);
    close(fd);
    expect_lasting_use(ql);
}

/* Gives the numbers of all descriptors of the ledger to another file. */
static void be_a_bad_host(int other)
{
    for (int fd = 3; fd < 256; fd++) {
        char name[64];
        char target[2 * KT_PATH];
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(name, target, sizeof target - 1);
        target[length > 0 ? length : 0] = '\0';
        if (strstr(target, "/ledger.db") != NULL)
            KT_CHECK(dup2(other, fd) == fd, "dup2");
    }
}

/* What a host does to its own descriptors is not to be done to the test's. */
static void in_child(void (*use)(void))
{
    pid_t child = kt_fork();
    if (child == 0) {
        use();
        _exit(0);
    }
    kt_wait_success(child);
}

static void use_beside_bad_host(void)
{
    struct ql *ql = open_beside(1);
    FILE *other = tmpfile();
    readers.go = 1;
    KT_CHECK(ql_flush(ql, NULL) == QL_OK, "before");
    be_a_bad_host(fileno(other));
    KT_CHECK(ql_charge(ql, "alice", "bytes", 1, NULL) == QL_OK, "charge");
    enum ql_status status = ql_flush(ql, NULL);
    KT_CHECK(status == QL_E_DETACHED, "%s", ql_status_name(status));
    ql_close(ql);
    KT_CHECK(fseek(other, 0, SEEK_END) == 0 && ftell(other) == 0, "it was written to");
}

static void test_closed_descriptors_are_noticed(void **state)
{
    (void)state;
    in_child(use_beside_bad_host);
}

/* A process that had a connection and lost it, and opens the store again. As long as
 * the file is in use no other one gets its inode. */
static void use_after_loss(void)
{
    char path[CARE_PATH];
    struct ql *ql = open_beside(0);
    FILE *other = tmpfile();
    care_path(path, "ledger.db");
    KT_CHECK(ql_flush(ql, NULL) == QL_OK, "before");
    be_a_bad_host(fileno(other));
    int in_use = open(path, O_PATH | O_CLOEXEC);
    KT_CHECK(in_use >= 0, "open");
    ql_close(ql);
    ql = care_open();
    care_charge(ql, "alice", 1);
    enum ql_status status = ql_flush(ql, NULL);
    KT_CHECK(status == QL_E_LEDGER, "%s", ql_status_name(status));
    care_remove("ledger.db");
    care_remove("ledger.db-wal");
    care_remove("ledger.db-shm");
    KT_CHECK(ql_flush(ql, NULL) == QL_OK, "a new file");
    close(in_use);
    ql_close(ql);
    KT_CHECK(fseek(other, 0, SEEK_END) == 0 && ftell(other) == 0, "it was written to");
}

static void test_ledger_of_lost_connection_is_left_alone(void **state)
{
    (void)state;
    in_child(use_after_loss);
    assert_int_equal(care_in_ledger("alice"), 3);
}

static void expect_forked_to_leave_ledger(struct ql *ql, enum ql_status expected)
{
    pid_t child = kt_fork();
    if (child == 0) {
        care_charge(ql, "bob", 1);
        enum ql_status status = ql_flush(ql, NULL);
        KT_CHECK(status == expected, "%s", ql_status_name(status));
        ql_close(ql);
        _exit(0);
    }
    kt_wait_success(child);
}

/* SQLite believes in the child that it has the locks that are its parent's. */
static void test_child_of_a_host_that_reads(void **state)
{
    (void)state;
    struct ql *ql = open_beside(0);
    care_flush(ql);
    expect_forked_to_leave_ledger(ql, QL_OK);
    reader_comes();
    expect_forked_to_leave_ledger(ql, QL_E_LEDGER);
    care_flush(ql);
    assert_int_equal(care_in_ledger("bob"), 2);
    first_reader_goes();
    expect_forked_to_leave_ledger(ql, QL_OK);
    expect_lasting_use(ql);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CARE_TEST(test_readers_go_later),
        CARE_TEST(test_reader_comes_meanwhile),
        CARE_TEST(test_reader_goes_meanwhile),
        CARE_TEST(test_readers_come_and_go_all_the_time),
        CARE_TEST(test_readers_come_and_go_while_it_is_restored),
        CARE_TEST(test_host_shares_its_cache),
        CARE_TEST(test_path_descriptor_is_in_no_way),
        CARE_TEST(test_closed_descriptors_are_noticed),
        CARE_TEST(test_ledger_of_lost_connection_is_left_alone),
        CARE_TEST(test_child_of_a_host_that_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
