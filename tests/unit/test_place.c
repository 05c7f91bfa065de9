/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a store's files are: a region that is elsewhere, and opens that may make
 * nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

#define PATH 320

static char base[64];
static char store[PATH];
static char regions[PATH];
static char other[PATH];
static struct ql_error error;

static const struct ql_limit limits[] = {{"daily_bytes", "bytes", QL_WINDOW_DAY, 1000}};

static int set_up(void **state)
{
    (void)state;
    snprintf(base, sizeof base, "/tmp/quotalite-test-XXXXXX");
    if (mkdtemp(base) == NULL)
        return -1;
    snprintf(store, sizeof store, "%s/store", base);
    snprintf(regions, sizeof regions, "%s/regions", base);
    snprintf(other, sizeof other, "%s/other", base);
    return mkdir(regions, 0700) != 0 || mkdir(other, 0700) != 0;
}

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void shell(const char *format, ...)
{
    char command[4 * PATH];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    assert_int_equal(system(command), 0);
}

static int tear_down(void **state)
{
    (void)state;
    shell("rm -rf %s", base);
    return 0;
}

static struct ql_options options_with(const char *region_directory)
{
    struct ql_options options = QL_OPTIONS_INIT;
    options.limits = limits;
    options.limit_count = 1;
    options.max_subjects = 16;
    options.max_holders = 4;
    options.region_directory = region_directory;
    options.clock = kt_noon;                 /* so no midnight comes between a charge and a look */
    options.durability = QL_DURABILITY_NONE; /* a removed region forgets what was counted */
    return options;
}

static enum ql_status open_with(const char *path, const char *region_directory, struct ql **ql)
{
    struct ql_options options = options_with(region_directory);
    return ql_open(path, &options, ql, &error);
}

static void make(const char *path, const char *region_directory)
{
    struct ql *ql;
    assert_int_equal(open_with(path, region_directory, &ql), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 41, NULL), QL_OK);
    ql_close(ql);
}

static void expect_total(const char *path, const char *region_directory, int64_t total)
{
    struct ql *ql;
    struct ql_usage usage;
    assert_int_equal(open_with(path, region_directory, &ql), QL_OK);
    assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.meters[0].total, total);
    ql_close(ql);
}

static void expect_refusal(const char *path, const char *region_directory, const char *text)
{
    struct ql *ql;
    assert_int_equal(open_with(path, region_directory, &ql), QL_E_STORE);
    if (strstr(error.text, text) == NULL)
        fail_msg("no '%s' in: %s", text, error.text);
}

/* How many files a directory has; path is that of the last one. */
static int files_in(const char *directory, char path[2 * PATH])
{
    DIR *stream = opendir(directory);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        count++;
        snprintf(path, (size_t)2 * PATH, "%s/%s", directory, entry->d_name);
    }
    closedir(stream);
    return count;
}

/* ---- a region elsewhere --------------------------------------------------- */

static void the_region_is_where_the_store_was_made_to_keep_it(void **state)
{
    (void)state;
    char path[2 * PATH];
    char crooked[2 * PATH];
    struct stat info;
    make(store, regions);
    assert_int_equal(files_in(store, path), 1);
    assert_int_equal(files_in(regions, path), 1);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    expect_total(store, NULL, 41);
    expect_total(store, regions, 41);
    snprintf(crooked, sizeof crooked, "%s/../regions/.", other);
    expect_total(store, crooked, 41);
}

static void another_directory_is_refused_with_both_named(void **state)
{
    (void)state;
    struct ql *ql;
    char path[2 * PATH];
    make(store, regions);
    expect_refusal(store, other, regions);
    expect_refusal(store, other, other);
    expect_refusal(store, store, regions);
    assert_int_equal(open_with(store, NULL, &ql), QL_OK);
    expect_refusal(store, other, regions);
    expect_total(store, regions, 41);
    ql_close(ql);
    assert_int_equal(files_in(other, path), 0);
}

static void a_region_beside_stays_there(void **state)
{
    (void)state;
    make(store, NULL);
    expect_refusal(store, regions, regions);
    expect_refusal(store, regions, store);
    expect_total(store, store, 41);
}

static void a_region_directory_that_is_none(void **state)
{
    (void)state;
    char missing[2 * PATH];
    snprintf(missing, sizeof missing, "%s/missing", base);
    expect_refusal(store, missing, "make it first");
    expect_refusal(store, "/proc", "/proc is not on");
    make(store, regions); /* nothing was decided */
    assert_int_equal(rmdir(other), 0);
    assert_int_equal(rename(regions, other), 0);
    expect_refusal(store, NULL, regions);
    assert_int_equal(rename(other, regions), 0);
    expect_total(store, NULL, 41);
}

static void the_mode_follows_the_directory(void **state)
{
    (void)state;
    char path[2 * PATH];
    struct stat info;
    assert_int_equal(mkdir(store, 0700), 0);
    assert_int_equal(chmod(store, 0770), 0);
    make(store, regions);
    assert_int_equal(files_in(regions, path), 1);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0660);
}

/* What a death while it was made left, and a region that somebody removed. */
static void a_removed_region_is_made_anew(void **state)
{
    (void)state;
    char path[2 * PATH];
    make(store, regions);
    assert_int_equal(files_in(regions, path), 1);
    shell("mv %s %s.new", path, path);
    expect_total(store, NULL, 0);
    assert_int_equal(files_in(regions, path), 1);
}

/* A copy has no region of its own and must not meet the original's holders. */
static void a_copy_is_refused(void **state)
{
    (void)state;
    struct ql *ql;
    make(store, regions);
    assert_int_equal(rmdir(other), 0);
    shell("cp -a %s %s", store, other);
    expect_refusal(other, NULL, "copy");
    assert_int_equal(open_with(store, NULL, &ql), QL_OK);
    expect_refusal(other, NULL, "copy");
    ql_close(ql);
    expect_total(store, NULL, 41);
    shell("rm %s/lock", other);
    make(other, regions);
    expect_total(store, NULL, 41);
}

/* After a boot neither region is there, and each store begins one of its own. */
static void a_copy_begins_anew_in_another_boot(void **state)
{
    (void)state;
    make(store, regions);
    assert_int_equal(rmdir(other), 0);
    shell("cp -a %s %s", store, other);
    kt_make_lock_stale(store);
    kt_make_lock_stale(other);
    make(store, NULL);
    expect_total(other, NULL, 0);
    expect_total(store, NULL, 41);
}

/* As another mount namespace with a directory of its own in that place. */
static void another_region_of_the_name(void **state)
{
    (void)state;
    struct ql *ql;
    char path[2 * PATH];
    char foreign[2 * PATH];
    make(store, regions);
    assert_int_equal(files_in(regions, path), 1);
    make(other, NULL);
    snprintf(foreign, sizeof foreign, "%s/region", other);
    shell("cp %s %s", foreign, path);
    assert_int_equal(open_with(store, NULL, &ql), QL_E_CORRUPT);
    assert_non_null(strstr(error.text, "mount namespace"));
    assert_non_null(strstr(error.text, regions));
}

static void the_store_is_gone_with_its_lock_file(void **state)
{
    (void)state;
    struct ql *ql;
    enum ql_status status;
    assert_int_equal(open_with(store, regions, &ql), QL_OK);
    shell("rm -r %s", store);
    int64_t deadline_ns = kt_now_ns() + 60 * INT64_C(1000000000);
    do {
        status = ql_charge(ql, "alice", "bytes", 1, NULL);
    } while (status == QL_OK && kt_now_ns() < deadline_ns);
    assert_int_equal(status, QL_E_GONE);
    expect_total(store, regions, 0);
    ql_close(ql);
}

/* ---- must_exist ------------------------------------------------------------ */

static void expect_no_store(const char *path, const char *text)
{
    struct ql *ql;
    struct ql_options options = options_with(NULL);
    options.must_exist = true;
    assert_int_equal(ql_open(path, &options, &ql, &error), QL_E_STORE);
    if (strstr(error.text, text) == NULL)
        fail_msg("no '%s' in: %s", text, error.text);
}

static void nothing_is_made_where_a_store_must_exist(void **state)
{
    (void)state;
    char path[2 * PATH];
    expect_no_store(store, "no such directory");
    assert_int_equal(access(store, F_OK), -1);
    expect_no_store(other, "no file 'lock'");
    assert_int_equal(files_in(other, path), 0);
    shell("touch %s/lock", other);
    expect_no_store(other, "is empty");
    assert_int_equal(files_in(other, path), 1);
    expect_no_store("memory:", "private");
}

static void a_store_that_must_exist_and_does(void **state)
{
    (void)state;
    struct ql *ql;
    char path[2 * PATH];
    struct ql_options options = QL_OPTIONS_INIT;
    options.must_exist = true;
    options.clock = kt_noon;
    make(store, regions);
    assert_int_equal(ql_open(store, &options, &ql, &error), QL_OK);
    ql_close(ql);
    kt_make_lock_stale(store);
    expect_no_store(store, "last boot");
    make(store, NULL);
    assert_int_equal(ql_open(store, &options, &ql, &error), QL_OK);
    ql_close(ql);
    shell("rm %s/*", regions);
    expect_no_store(store, "was removed");
    assert_int_equal(files_in(regions, path), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_region_is_where_the_store_was_made_to_keep_it),
        CASE(another_directory_is_refused_with_both_named),
        CASE(a_region_beside_stays_there),
        CASE(a_region_directory_that_is_none),
        CASE(the_mode_follows_the_directory),
        CASE(a_removed_region_is_made_anew),
        CASE(a_copy_is_refused),
        CASE(a_copy_begins_anew_in_another_boot),
        CASE(another_region_of_the_name),
        CASE(the_store_is_gone_with_its_lock_file),
        CASE(nothing_is_made_where_a_store_must_exist),
        CASE(a_store_that_must_exist_and_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
