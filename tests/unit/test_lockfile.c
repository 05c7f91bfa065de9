/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes that are locked through one descriptor and seen through another, and
 * the record: whole, or known not to be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "region/lockfile.h"

struct files {
    int fds[2]; /* two descriptions of one file */
};

static int set_up(void **state)
{
    static struct files files;
    char path[40];
    files.fds[0] = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    snprintf(path, sizeof path, "/proc/self/fd/%d", files.fds[0]);
    files.fds[1] = open(path, O_RDWR | O_CLOEXEC);
    *state = &files;
    return files.fds[0] < 0 || files.fds[1] < 0;
}

static int tear_down(void **state)
{
    struct files *files = *state;
    close(files->fds[1]);
    return close(files->fds[0]);
}

static void a_byte_belongs_to_one_description(void **state)
{
    struct files *files = *state;
    assert_true(qli_lockfile_take(files->fds[0], QLI_BYTE_HOLDERS + 3));
    assert_true(qli_lockfile_take(files->fds[0], QLI_BYTE_HOLDERS + 3));
    assert_false(qli_lockfile_take(files->fds[1], QLI_BYTE_HOLDERS + 3));
    assert_true(qli_lockfile_take(files->fds[1], QLI_BYTE_HOLDERS + 4));
    qli_lockfile_give(files->fds[0], QLI_BYTE_HOLDERS + 3);
    assert_true(qli_lockfile_take(files->fds[1], QLI_BYTE_HOLDERS + 3));
}

static void ranges_are_looked_at_whole(void **state)
{
    struct files *files = *state;
    assert_true(qli_lockfile_take(files->fds[0], QLI_BYTE_HOLDERS + 100));
    assert_true(qli_lockfile_locked(files->fds[1], QLI_BYTE_HOLDERS, QLI_HOLDERS_MAX));
    assert_true(qli_lockfile_locked(files->fds[1], QLI_BYTE_HOLDERS + 100, 1));
    assert_false(qli_lockfile_locked(files->fds[1], QLI_BYTE_HOLDERS, 100));
    assert_false(qli_lockfile_locked(files->fds[1], QLI_BYTE_HOLDERS + 101, 1));
    assert_false(qli_lockfile_locked(files->fds[0], QLI_BYTE_HOLDERS + 100, 1)); /* its own */
    assert_false(qli_lockfile_locked(files->fds[1], QLI_BYTE_ATTACH, 1));
}

static void closing_a_description_gives_its_bytes_up(void **state)
{
    struct files *files = *state;
    int copy = dup(files->fds[0]);
    int other = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_true(qli_lockfile_take(files->fds[0], QLI_BYTE_ATTACH));
    assert_int_equal(dup2(other, files->fds[0]), files->fds[0]);
    assert_true(qli_lockfile_locked(files->fds[1], QLI_BYTE_ATTACH, 1)); /* copy keeps it open */
    close(copy);
    assert_false(qli_lockfile_locked(files->fds[1], QLI_BYTE_ATTACH, 1));
    close(other);
}

static void a_shared_byte_is_locked_until_the_last_lets_go(void **state)
{
    struct files *files = *state;
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", files->fds[0]);
    int reader = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(qli_lockfile_share(reader, QLI_BYTE_KEPT + 3));
    assert_true(qli_lockfile_share(files->fds[1], QLI_BYTE_KEPT + 3));
    assert_false(qli_lockfile_take(files->fds[0], QLI_BYTE_KEPT + 3));
    close(reader);
    assert_true(qli_lockfile_locked(files->fds[0], QLI_BYTE_KEPT + 3, 1));
    qli_lockfile_give(files->fds[1], QLI_BYTE_KEPT + 3);
    assert_false(qli_lockfile_locked(files->fds[0], QLI_BYTE_KEPT + 3, 1));
}

static void a_descriptor_that_is_gone_proves_nothing(void **state)
{
    (void)state;
    assert_false(qli_lockfile_take(-1, QLI_BYTE_ATTACH));
    assert_true(qli_lockfile_locked(-1, QLI_BYTE_ATTACH, 1));
}

static void a_record_comes_back(void **state)
{
    struct files *files = *state;
    struct qli_lock_record record = {.region_inode = 42};
    struct qli_lock_record read;
    bool empty;
    assert_int_equal(qli_lockfile_read(files->fds[0], &read, &empty, NULL), QL_OK);
    assert_true(empty);
    memset(record.store_uuid, 7, sizeof record.store_uuid);
    assert_int_equal(qli_lockfile_write(files->fds[0], &record, NULL), QL_OK);
    assert_int_equal(qli_lockfile_read(files->fds[1], &read, &empty, NULL), QL_OK);
    assert_false(empty);
    assert_memory_equal(&read, &record, sizeof read);
}

static void every_length_but_the_whole_is_damage(void **state)
{
    struct files *files = *state;
    struct qli_lock_record record = {.region_inode = 42};
    struct ql_error error;
    bool empty;
    assert_int_equal(qli_lockfile_write(files->fds[0], &record, NULL), QL_OK);
    for (size_t length = sizeof record - 1; length > 0; length--) {
        assert_int_equal(ftruncate(files->fds[0], (off_t)length), 0);
        assert_int_equal(qli_lockfile_read(files->fds[0], &record, &empty, &error), QL_E_CORRUPT);
        assert_non_null(strstr(error.text, "lock"));
    }
}

static void another_format_is_another_version(void **state)
{
    struct files *files = *state;
    struct qli_lock_record record = {.region_inode = 42};
    struct ql_error error;
    bool empty;
    assert_int_equal(qli_lockfile_write(files->fds[0], &record, NULL), QL_OK);
    record.version++;
    assert_int_equal(pwrite(files->fds[0], &record, sizeof record, 0), sizeof record);
    assert_int_equal(qli_lockfile_read(files->fds[0], &record, &empty, &error), QL_E_VERSION);
    for (unsigned version = QLI_STORE_VERSION; version <= QLI_STORE_VERSION + 1; version++) {
        char text[32];
        snprintf(text, sizeof text, "format %u", version);
        assert_non_null(strstr(error.text, text));
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_byte_belongs_to_one_description),
        CASE(ranges_are_looked_at_whole),
        CASE(closing_a_description_gives_its_bytes_up),
        CASE(a_shared_byte_is_locked_until_the_last_lets_go),
        CASE(a_descriptor_that_is_gone_proves_nothing),
        CASE(a_record_comes_back),
        CASE(every_length_but_the_whole_is_damage),
        CASE(another_format_is_another_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
