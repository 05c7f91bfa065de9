/* SPDX-License-Identifier: Apache-2.0 */
#include "small_store.h"

char base[KT_PATH];

const struct ql_limit two_limits[2] = {
    {"concurrent_scans", NULL, QL_WINDOW_NONE, 5},
    {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
};

int set_up(void **state)
{
    (void)state;
    kt_directory_make(base, "/tmp");
    return 0;
}

int tear_down(void **state)
{
    (void)state;
    kt_directory_remove(base);
    return 0;
}

const char *path_of(const char *name)
{
    static char path[KT_PATH + 32];
    snprintf(path, sizeof path, "%s/%s", base, name);
    return path;
}

struct ql_options small_options(void)
{
    struct ql_options options = QL_OPTIONS_INIT;
    options.limits = two_limits;
    options.limit_count = 2;
    options.max_subjects = 16;
    options.max_holders = 4;
    return options;
}

enum ql_status open_at(const char *path, struct ql_options options, struct ql **ql)
{
    struct ql_error error;
    enum ql_status status = ql_open(path, &options, ql, &error);
    assert_int_equal(status, error.status);
    assert_true(status == QL_OK ? error.text[0] == '\0' : error.text[0] != '\0');
    assert_true((status == QL_OK) == (*ql != NULL));
    return status;
}

void make_store(const char *path, struct ql_options options)
{
    struct ql *ql;
    assert_int_equal(open_at(path, options, &ql), QL_OK);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 41, NULL), QL_OK);
    ql_close(ql);
}
