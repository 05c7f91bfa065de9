/* SPDX-License-Identifier: Apache-2.0
 *
 * What a store believes: clocks that leap, ledgers that were edited, limits and
 * settings of those who open it. And what its history and its backups hold up.
 */
#include "care.h"

#include <pthread.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

static void ledger_path(char path[CARE_PATH])
{
    care_path(path, "ledger.db");
}

static bool edit_ledger(const char *sql)
{
    char path[CARE_PATH];
    ledger_path(path);
    return care_edit(path, sql);
}

static int64_t meta(const char *column)
{
    char path[CARE_PATH];
    char sql[64];
    ledger_path(path);
    snprintf(sql, sizeof sql, "SELECT %s FROM meta", column);
    return care_number(path, sql);
}

/* ---- clocks --------------------------------------------------------------- */

#define DAYS 10
#define FAR_AHEAD (500 * KT_DAY_NS) /* further than the history goes back */

static void make_days(struct ql *ql)
{
    for (int day = 0; day < DAYS; day++) {
        care_charge(ql, "alice", 100);
        care_flush(ql);
        *care.clock_ns += KT_DAY_NS;
    }
    care_charge(ql, "bob", CARE_CAP);
    care_flush(ql);
}

/* Each flush may remove some. */
static void flush_often(struct ql *ql)
{
    care_charge(ql, "zoe", 1);
    for (int i = 0; i < 3; i++)
        care_flush(ql);
}

/* For as long as nobody sets the clock right. */
static void work_for_two_days(struct ql *ql)
{
    flush_often(ql);
    *care.clock_ns += KT_DAY_NS;
    flush_often(ql);
}

static void expect_days(struct ql *ql)
{
    assert_int_equal(ql_check(ql, "bob", NULL, NULL), QL_REFUSED);
    assert_int_equal(ql_check(ql, "alice", NULL, NULL), QL_OK);
    assert_int_equal(care_history(ql, "alice"), DAYS * 100);
}

static void test_leap_ahead_keeps_history(void **state)
{
    struct ql *ql = care_open();
    (void)state;
    make_days(ql);
    int64_t today_ns = *care.clock_ns;
    *care.clock_ns += FAR_AHEAD;
    work_for_two_days(ql);
    *care.clock_ns = today_ns;
    care_flush(ql);
    expect_days(ql);
    ql_close(ql);
    care_reboot();
    ql = care_open();
    expect_days(ql);
    ql_close(ql);
}

/* A machine boots with a wrong clock, and soon learns the time. */
static void test_wrong_clock_at_boot_keeps_history(void **state)
{
    struct ql *ql = care_open();
    (void)state;
    make_days(ql);
    ql_close(ql);
    int64_t today_ns = *care.clock_ns;
    *care.clock_ns += FAR_AHEAD;
    care_reboot();
    ql = care_open();
    work_for_two_days(ql);
    *care.clock_ns = today_ns + INT64_C(10000000000);
    expect_days(ql);
    ql_close(ql);
}

/* But a clock that goes on does remove what is older than it is to be kept. */
static void test_old_history_goes(void **state)
{
    struct ql_options options = care_options();
    options.history_days = 3;
    struct ql *ql = care_open_with(care.directory, &options);
    (void)state;
    make_days(ql);
    flush_often(ql);
    assert_in_range(care_history(ql, "alice"), 300, 400); /* today or yesterday counts */
    ql_close(ql);
}

/* ---- settings ------------------------------------------------------------- */

static void test_refused_open_changes_nothing(void **state)
{
    const struct ql_limit others[] = {{"other", "bytes", QL_WINDOW_DAY, 5}};
    struct ql_options options = care_options();
    struct ql *ql = care_open();
    struct ql *refused = NULL;
    (void)state;
    make_days(ql);
    options.limits = others;
    options.durability = QL_DURABILITY_SYNC;
    options.history_days = 1;
    assert_int_equal(ql_open(care.directory, &options, &refused, NULL), QL_E_LIMITS);
    for (int day = 0; day < 2; day++) {
        *care.clock_ns += KT_DAY_NS;
        care_charge(ql, "alice", 1);
        care_flush(ql);
    }
    assert_int_equal(meta("durability"), QL_DURABILITY_ASYNC);
    assert_int_equal(meta("history_days"), 400);
    assert_int_equal(care_history(ql, "alice"), DAYS * 100 + 2);
    ql_close(ql);
}

static void test_settings_are_flushed_alone(void **state)
{
    struct ql_options options = care_options();
    struct ql *ql = care_open();
    (void)state;
    care_charge(ql, "alice", 1);
    care_flush(ql);
    options.durability = QL_DURABILITY_SYNC;
    options.history_days = 7;
    struct ql *other = care_open_with(care.directory, &options);
    care_flush(ql);
    assert_int_equal(meta("durability"), QL_DURABILITY_SYNC);
    assert_int_equal(meta("history_days"), 7);
    options.durability = QL_DURABILITY_STORE;
    options.history_days = UINT32_MAX;
    ql_close(care_open_with(care.directory, &options));
    care_flush(ql);
    assert_int_equal(meta("durability"), QL_DURABILITY_SYNC);
    assert_int_equal(meta("history_days"), 0);
    ql_close(other);
    ql_close(ql);
}

/* ---- limits --------------------------------------------------------------- */

static struct ql *open_with_meters(const char *one, const char *two, uint32_t max_meters)
{
    const struct ql_limit limits[] = {
        {"one", one, QL_WINDOW_DAY, 10},
        {"two", two, QL_WINDOW_DAY, 10},
    };
    struct ql_options options = care_options();
    options.limits = limits;
    options.limit_count = 2;
    options.replace_limits = true;
    options.max_meters = max_meters;
    return care_open_with(care.directory, &options);
}

/* A program that counts other things with each release, and never says for how
 * many there is to be room. */
static void test_former_meters_leave_room(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};
    (void)state;
    for (int release = 0; release < 9; release++) {
        struct ql *ql = open_with_meters(names[release], names[release + 1], 0);
        assert_int_equal(ql_charge(ql, "alice", names[release], 5, NULL), QL_OK);
        assert_int_equal(ql_charge(ql, "alice", names[release + 1], 5, NULL), QL_OK);
        assert_int_equal(ql_check(ql, "alice", release == 0 ? NULL : "one", NULL),
                         release == 0 ? QL_OK : QL_REFUSED);
        ql_close(ql);
        care_reboot();
    }
}

/* Each is no limit that this build could have written: the table refuses it, or the
 * store does. */
static void test_edited_limits_are_refused(void **state)
{
    static const char *const edits[] = {
        "UPDATE limits SET name = 'Daily'",
        "UPDATE limits SET name = ''",
        "UPDATE limits SET name = 'daily' || char(0) || 'x'",
        "UPDATE limits SET name = 'a-name-that-is-longer-than-that-of-any-limit'",
        "UPDATE limits SET meter = 'a-meter-that-is-longer-than-that-of-any-limit'",
        "UPDATE limits SET window = NULL",
        "UPDATE limits SET cap = 'lots'",
        "UPDATE limits SET cap = -1",
        "UPDATE limits SET cap = 1.5",
        "UPDATE limits SET meter = NULL",
        "UPDATE limits SET meter = 'a meter'",
        "UPDATE limits SET window = 'hour'",
        "INSERT INTO limits SELECT position + 1, name, meter, window, cap FROM limits",
        "INSERT INTO limits SELECT position + 1, 'one', NULL, NULL, 1 FROM limits; "
        "INSERT INTO limits SELECT 7, 'two', NULL, NULL, 1",
        "WITH RECURSIVE more(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM more WHERE i < 8) "
        "INSERT INTO limits SELECT i, 'more-' || i, 'bytes', 'day', 1 FROM more",
    };
    int believed = 0;
    struct ql *ql = care_open();
    (void)state;
    care_charge(ql, "alice", 2 * CARE_CAP);
    ql_close(ql);
    edit_ledger("CREATE TABLE kept AS SELECT * FROM limits");
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        struct ql_options options = care_options();
        struct ql_error error;
        options.limits = NULL;
        options.limit_count = 0;
        if (!edit_ledger(edits[i]))
            continue;
        care_reboot();
        enum ql_status status = ql_open(care.directory, &options, &ql, &error);
        if (status == QL_OK)
            ql_close(ql);
        if (status != QL_E_LEDGER)
            printf("%s: %s\n", edits[i], ql_status_name(status));
        believed += status != QL_E_LEDGER;
        edit_ledger("DELETE FROM limits; INSERT INTO limits SELECT * FROM kept");
    }
    assert_int_equal(believed, 0);
    ql = care_open();
    assert_int_equal(ql_check(ql, "alice", NULL, NULL), QL_REFUSED);
    ql_close(ql);
}

/* ---- an older day, out of a ledger that was replaced ----------------------- */

/* The windows that are asked for are not in the backup: the region has them, and
 * writes them first. */
static void test_reopen_on_replaced_ledger(void **state)
{
    char backup[CARE_PATH];
    struct ql *ql = care_open();
    (void)state;
    care_path(backup, "backup.db");
    care_charge(ql, "bob", 1);
    assert_int_equal(ql_backup(ql, backup, NULL), QL_OK);
    care_charge(ql, "alice", CARE_CAP);
    care_flush(ql);
    *care.clock_ns += KT_DAY_NS;
    care_charge(ql, "alice", 900);
    care_flush(ql);
    *care.clock_ns += KT_DAY_NS;
    care_charge(ql, "alice", 5);
    care_flush(ql);
    care_move("backup.db", "ledger.db");
    *care.clock_ns -= KT_DAY_NS;
    assert_int_equal(ql_check(ql, "alice", NULL, NULL), QL_OK);
    care_flush(ql);
    assert_int_equal(care_used(ql, "alice"), 900);
    *care.clock_ns += KT_DAY_NS;
    assert_int_equal(care_used(ql, "alice"), 5);
    care_flush(ql);
    assert_int_equal(care_in_ledger("alice"), 905);
    ql_close(ql);
}

/* ---- history and backup --------------------------------------------------- */

#define SECONDS_ALLOWED 60

/* In a process of its own, which is ended when it goes on and on. */
static _Noreturn void ask_history(void)
{
    int64_t sum = 0;
    alarm(SECONDS_ALLOWED);
    struct ql_options options = care_options();
    struct ql *ql = kt_open(care.directory, &options);
    enum ql_status status = ql_history(ql, "alice", NULL, 0, INT64_MAX, care_add_up, &sum, NULL);
    KT_CHECK(status == QL_OK && (sum == 20 || sum == 21), "%s, %lld", ql_status_name(status),
             (long long)sum);
    _exit(0);
}

static void test_history_beside_a_day_far_away(void **state)
{
    struct ql *ql = care_open();
    (void)state;
    care_charge(ql, "alice", 20);
    ql_close(ql);
    assert_true(
        edit_ledger("INSERT INTO totals VALUES ('day', 9223372036854720000, 'zed', 'bytes', 1)"));
    assert_true(
        edit_ledger("INSERT INTO totals VALUES ('day', 9223372036854720000, 'alice', 'bytes', 1)"));
    pid_t pid = kt_fork();
    if (pid == 0)
        ask_history();
    assert_int_equal(kt_wait(pid), 0);
}

/* What SQLite writes into a directory of its own waits there. */
static struct {
    sqlite3_vfs vfs;
    sqlite3_vfs *real;
    sqlite3_io_methods methods;
    const sqlite3_io_methods *real_methods;
    char directory[KT_PATH];
    sem_t reached;
    sem_t go_on;
    bool passed;
} gate;

static int write_at_gate(sqlite3_file *file, const void *data, int length, sqlite3_int64 offset)
{
    if (!gate.passed) {
        gate.passed = true;
        sem_post(&gate.reached);
        sem_wait(&gate.go_on);
    }
    return gate.real_methods->xWrite(file, data, length, offset);
}

static int open_at_gate(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags,
                        int *out_flags)
{
    int rc = gate.real->xOpen(vfs, name, file, flags, out_flags);
    bool watched = name != NULL && strstr(name, gate.directory) != NULL;
    if (rc == SQLITE_OK && watched && (flags & SQLITE_OPEN_MAIN_DB) != 0) {
        gate.real_methods = file->pMethods;
        gate.methods = *file->pMethods;
        gate.methods.xWrite = write_at_gate;
        file->pMethods = &gate.methods;
    }
    return rc;
}

/* A file system without shared memory has no write-ahead log. */
static int open_without_shared_memory(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file,
                                      int flags, int *out_flags)
{
    int rc = gate.real->xOpen(vfs, name, file, flags, out_flags);
    if (rc == SQLITE_OK && (flags & SQLITE_OPEN_MAIN_DB) != 0) {
        gate.methods = *file->pMethods;
        gate.methods.iVersion = 1;
        file->pMethods = &gate.methods;
    }
    return rc;
}

static void gate_begin(void)
{
    memset(&gate, 0, sizeof gate);
    kt_directory_make(gate.directory, NULL);
    sem_init(&gate.reached, 0, 0);
    sem_init(&gate.go_on, 0, 0);
    gate.real = sqlite3_vfs_find(NULL);
    gate.vfs = *gate.real;
    gate.vfs.zName = "gate";
    gate.vfs.xOpen = open_at_gate;
    sqlite3_vfs_register(&gate.vfs, 1);
}

static void gate_end(void)
{
    sqlite3_vfs_register(gate.real, 1);
    sqlite3_vfs_unregister(&gate.vfs);
    kt_directory_remove(gate.directory);
}

static void *back_up(void *ql)
{
    char path[CARE_PATH];
    static enum ql_status status;
    snprintf(path, sizeof path, "%s/backup.db", gate.directory);
    status = ql_backup(ql, path, NULL);
    sem_post(&gate.reached); /* also when SQLite was never seen to write it */
    return &status;
}

/* A charge that waits for the disk is acknowledged while a backup is being made. */
static void test_backup_holds_nobody_up(void **state)
{
    struct ql_options options = care_options();
    pthread_t thread;
    void *status;
    (void)state;
    gate_begin();
    options.durability = QL_DURABILITY_SYNC;
    options.charge_wait_ms = 20000;
    struct ql *ql = care_open_with(care.directory, &options);
    care_charge(ql, "alice", 1);
    assert_int_equal(pthread_create(&thread, NULL, back_up, ql), 0);
    sem_wait(&gate.reached);
    bool seen = gate.passed;
    enum ql_status charged = ql_charge(ql, "alice", "bytes", 10, NULL);
    sem_post(&gate.go_on);
    pthread_join(thread, &status);
    ql_close(ql);
    char path[CARE_PATH];
    snprintf(path, sizeof path, "%s/backup.db", gate.directory);
    int64_t copied = care_number(path, "SELECT sum(amount) FROM totals");
    gate_end();
    assert_true(seen);
    assert_int_equal(charged, QL_OK);
    assert_int_equal(*(enum ql_status *)status, QL_OK);
    assert_true(copied == 1 || copied == 11);
    assert_int_equal(care_in_ledger("alice"), 11);
}

/* A journal of another kind would be one in which readers and the writer wait for each
 * other. */
static void test_no_ledger_without_a_write_ahead_log(void **state)
{
    struct ql_options options = care_options();
    struct ql *ql;
    struct ql_error error;
    (void)state;
    gate_begin();
    gate.vfs.xOpen = open_without_shared_memory;
    enum ql_status status = ql_open(care.directory, &options, &ql, &error);
    if (status == QL_OK)
        ql_close(ql);
    gate_end();
    assert_int_equal(status, QL_E_LEDGER);
    assert_non_null(strstr(error.text, "ledger.db"));
    ql = care_open();
    care_charge(ql, "alice", 1);
    care_flush(ql);
    assert_int_equal(care_in_ledger("alice"), 1);
    ql_close(ql);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CARE_TEST(test_leap_ahead_keeps_history),
        CARE_TEST(test_wrong_clock_at_boot_keeps_history),
        CARE_TEST(test_old_history_goes),
        CARE_TEST(test_refused_open_changes_nothing),
        CARE_TEST(test_settings_are_flushed_alone),
        CARE_TEST(test_former_meters_leave_room),
        CARE_TEST(test_edited_limits_are_refused),
        CARE_TEST(test_reopen_on_replaced_ledger),
        CARE_TEST(test_history_beside_a_day_far_away),
        CARE_TEST(test_backup_holds_nobody_up),
        CARE_TEST(test_no_ledger_without_a_write_ahead_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
