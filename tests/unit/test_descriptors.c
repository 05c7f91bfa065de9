/* SPDX-License-Identifier: Apache-2.0
 *
 * The descriptors of a ledger: a forked child keeps none, and a host that has closed
 * them finds nothing written to what got their numbers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stage.h"

/* Descriptors of this process that lead to a file of the ledger. */
static int ledger_descriptors(void)
{
    int found = 0;
    DIR *directory = opendir("/proc/self/fd");
    KT_CHECK(directory != NULL, "/proc/self/fd");
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        char target[2 * KT_PATH];
        ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
        target[length > 0 ? length : 0] = '\0';
        found += strstr(target, "/ledger.db") != NULL;
    }
    closedir(directory);
    return found;
}

static void a_forked_child_has_no_descriptor_of_the_ledger(void **state)
{
    (void)state;
    struct ql *ql = stage_open();
    stage_charge(ql, "alice", "bytes", 1);
    stage_flush(ql);
    assert_true(ledger_descriptors() > 0);
    pid_t child = kt_fork();
    if (child == 0) {
        KT_CHECK(ledger_descriptors() == 0, "before its first call");
        KT_CHECK(ql_charge(ql, "alice", "bytes", 2, NULL) == QL_OK, "the child");
        KT_CHECK(ql_flush(ql, NULL) == QL_OK, "the child");
        ql_close(ql);
        KT_CHECK(ledger_descriptors() == 0, "after the close");
        _exit(0);
    }
    kt_wait_success(child);
    stage_charge(ql, "alice", "bytes", 4);
    stage_flush(ql);
    ql_close(ql);
    assert_int_equal(ledger_descriptors(), 0);
    assert_int_equal(stage_number("SELECT amount FROM totals"), 7);
}

#define FOREIGN_FILES 24
#define DEADLINE_SECONDS 60

static void foreign_path(char path[KT_PATH + 32], int number)
{
    snprintf(path, KT_PATH + 32, "%s/foreign-%d", stage.base, number);
}

/* Closes all that the process has, and gets the numbers for files of its own. */
static void be_a_bad_host(struct ql *ql)
{
    enum ql_status charged = QL_OK;
    enum ql_status flushed = QL_OK;
    char path[KT_PATH + 32];
    KT_CHECK(close_range(3, ~0U, 0) == 0, "close_range");
    for (int i = 0; i < FOREIGN_FILES; i++) {
        foreign_path(path, i);
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        KT_CHECK(fd >= 3 && write(fd, "mine", 4) == 4, "%s", path);
    }
    int64_t deadline_ns = kt_now_ns() + DEADLINE_SECONDS * INT64_C(1000000000);
    do {
        charged = ql_charge(ql, "alice", "bytes", 1, NULL);
        flushed = ql_flush(ql, NULL);
    } while (charged == QL_OK && kt_now_ns() < deadline_ns);
    KT_CHECK(charged == QL_E_DETACHED && flushed == QL_E_DETACHED, "%s, %s",
             ql_status_name(charged), ql_status_name(flushed));
    ql_close(ql);
}

static void what_a_host_got_for_a_closed_descriptor_is_not_written_to(void **state)
{
    (void)state;
    char path[KT_PATH + 32];
    char text[8];
    struct stat info;
    pid_t child = kt_fork();
    if (child == 0) {
        struct ql *ql = stage_open();
        KT_CHECK(ql_charge(ql, "alice", "bytes", 5, NULL) == QL_OK, "charge");
        KT_CHECK(ql_flush(ql, NULL) == QL_OK, "flush");
        be_a_bad_host(ql);
        _exit(0);
    }
    kt_wait_success(child);
    for (int i = 0; i < FOREIGN_FILES; i++) {
        foreign_path(path, i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(fstat(fd, &info), 0);
        if (info.st_size != 4 || read(fd, text, sizeof text) != 4 || memcmp(text, "mine", 4) != 0)
            fail_msg("%s was written to", path);
        close(fd);
        assert_int_equal(unlink(path), 0);
    }
    struct ql *ql = stage_open();
    assert_true(stage_total(ql, "alice", "bytes") >= 5);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(ql);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, stage_set_up, stage_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_forked_child_has_no_descriptor_of_the_ledger),
        CASE(what_a_host_got_for_a_closed_descriptor_is_not_written_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
