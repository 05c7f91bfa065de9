/* SPDX-License-Identifier: Apache-2.0
 *
 * The ledger as a file, and the calls about it: what is written, what is read, and who
 * may open it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stage.h"

/* ---- the file ------------------------------------------------------------ */

static enum ql_status find_amount(void *context, const struct qli_ledger_row *row)
{
    *(int64_t *)context = row->amount;
    return QL_OK;
}

static int64_t amount_of(struct qli_ledger *ledger, const char *subject)
{
    int64_t amount = -1;
    assert_int_equal(qli_ledger_read_subject(ledger, subject, 7, find_amount, &amount), QL_OK);
    return amount;
}

static void put(struct qli_ledger *ledger, const char *subject, int64_t amount)
{
    assert_int_equal(qli_ledger_put(ledger, subject, "bytes", 7, amount), QL_OK);
}

static void an_amount_never_becomes_less(void **state)
{
    (void)state;
    struct qli_ledger ledger;
    struct qli_ledger_meta meta;
    struct qli_ledger_meta again;
    int directory_fd = open(stage.base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(qli_ledger_init(&ledger, directory_fd, NULL), QL_OK);
    close(directory_fd);
    assert_int_equal(qli_ledger_connect(&ledger, (struct qli_ledger_files){0}), QL_OK);
    assert_int_equal(qli_ledger_begin(&ledger, &meta), QL_OK);
    put(&ledger, "alice", 5);
    put(&ledger, "alice", 3);
    put(&ledger, "bob", INT64_MAX);
    meta.sequence++;
    assert_int_equal(qli_ledger_commit(&ledger, &meta), QL_OK);
    assert_int_equal(amount_of(&ledger, "alice"), 5);

    assert_int_equal(qli_ledger_begin(&ledger, &again), QL_OK);
    assert_memory_equal(&again, &meta, sizeof meta);
    put(&ledger, "alice", 9);
    assert_int_equal(amount_of(&ledger, "alice"), 9);
    qli_ledger_rollback(&ledger);

    qli_ledger_disconnect(&ledger);
    assert_int_equal(qli_ledger_connect(&ledger, (struct qli_ledger_files){0}), QL_OK);
    assert_int_equal(amount_of(&ledger, "alice"), 5);
    assert_int_equal(amount_of(&ledger, "bob"), INT64_MAX);
    assert_int_equal(amount_of(&ledger, "carol"), -1);
    assert_int_equal(qli_ledger_check(&ledger), QL_OK);
    qli_ledger_end(&ledger);
}

static void what_is_charged_is_there_after_a_close(void **state)
{
    (void)state;
    struct ql *ql = stage_open();
    stage_charge(ql, "alice", "bytes", 5);
    assert_int_equal(stage_number("SELECT count(*) FROM totals"), 0);
    stage_flush(ql);
    assert_int_equal(stage_number("SELECT sum(amount) FROM totals"), 5);
    stage_charge(ql, "alice", "bytes", 2);
    ql_close(ql);
    assert_int_equal(stage_number("SELECT sum(amount) FROM totals"), 7);
    ql = stage_open();
    assert_int_equal(stage_total(ql, "alice", "bytes"), 7);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(ql);
}

static void expect_mode(const char *name, mode_t mode)
{
    char path[KT_PATH + 32];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", stage.store, name);
    assert_int_equal(stat(path, &info), 0);
    if ((info.st_mode & 0777) != mode)
        fail_msg("%s has mode %o, not %o", name, info.st_mode & 0777, mode);
}

/* Those who may write in the directory may write to the ledger, whatever the umask. */
static void the_files_have_the_directorys_mode(void **state)
{
    (void)state;
    static const mode_t modes[] = {0700, 0770, 0775, 0777};
    static const mode_t masks[] = {0, 0077};
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(mkdir(stage.store, 0700), 0);
        assert_int_equal(chmod(stage.store, modes[i / 2]), 0);
        mode_t before = umask(masks[i % 2]);
        struct ql *ql = stage_open();
        stage_charge(ql, "alice", "bytes", 1);
        stage_flush(ql);
        umask(before);
        expect_mode("ledger.db", modes[i / 2] & 0666);
        expect_mode("ledger.db-wal", modes[i / 2] & 0666);
        expect_mode("ledger.db-shm", modes[i / 2] & 0666);
        ql_close(ql);
        kt_directory_remove(stage.store);
    }
}

static void the_directory_may_be_renamed_while_in_use(void **state)
{
    (void)state;
    char elsewhere[KT_PATH + 16];
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", stage.base);
    struct ql *ql = stage_open();
    stage_charge(ql, "alice", "bytes", 5);
    stage_flush(ql);
    assert_int_equal(rename(stage.store, elsewhere), 0);
    stage_charge(ql, "alice", "bytes", 1);
    stage_flush(ql);
    assert_int_equal(access(stage.store, F_OK), -1);
    assert_int_equal(rename(elsewhere, stage.store), 0);
    assert_int_equal(stage_number("SELECT amount FROM totals"), 6);
    stage_charge(ql, "alice", "bytes", 1);
    stage_flush(ql);
    ql_close(ql);
    assert_int_equal(stage_number("SELECT amount FROM totals"), 7);
}

/* ---- the history --------------------------------------------------------- */

#define SHOWN_MAX 32

struct shown {
    int count;
    int stop_after;
    int64_t starts[SHOWN_MAX];
    int64_t amounts[SHOWN_MAX];
};

static int show(void *context, const struct ql_history_entry *entry)
{
    struct shown *shown = context;
    assert_true(shown->count < SHOWN_MAX);
    assert_int_equal(entry->end, entry->start + STAGE_DAY);
    shown->starts[shown->count] = entry->start;
    shown->amounts[shown->count++] = entry->amount;
    return shown->count == shown->stop_after ? 42 : 0;
}

/* The sum of the amounts is a sum of powers of two: which days are in it. */
static int64_t days_shown(struct ql *ql, const char *meter, int64_t from, int64_t to)
{
    struct shown shown = {0};
    int64_t sum = 0;
    int stopped = 7;
    assert_int_equal(ql_history(ql, "alice", meter, from, to, show, &shown, &stopped), QL_OK);
    assert_int_equal(stopped, 0);
    for (int i = 0; i < shown.count; i++) {
        assert_true(i == 0 || shown.starts[i] >= shown.starts[i - 1]);
        sum += shown.amounts[i];
    }
    return sum;
}

static struct ql *open_with_five_days(int64_t *first)
{
    struct ql *ql = stage_open();
    *first = stage.clock_ns[0] / KT_DAY_NS * STAGE_DAY;
    for (int day = 0; day < 5; day++) {
        stage_charge(ql, "alice", "bytes", INT64_C(1) << day);
        stage_charge(ql, "alice", "statements", INT64_C(256) << day);
        stage_charge(ql, "bob", "bytes", 1000000);
        *stage.clock_ns += day < 4 ? KT_DAY_NS : 0;
    }
    return ql;
}

static void the_history_has_the_windows_that_overlap(void **state)
{
    (void)state;
    int64_t first;
    struct ql *ql = open_with_five_days(&first);
    const int64_t day = STAGE_DAY;
    assert_int_equal(days_shown(ql, "bytes", first, first + 5 * day), 31);
    assert_int_equal(days_shown(ql, "bytes", 0, INT64_MAX), 31);
    assert_int_equal(days_shown(ql, "bytes", INT64_MIN, INT64_MAX), 31);
    assert_int_equal(days_shown(ql, NULL, first, first + 5 * day), 31 * 257);
    assert_int_equal(days_shown(ql, "bytes", first + day, first + 2 * day), 2);
    assert_int_equal(days_shown(ql, "bytes", first + 2 * day - 1, first + 2 * day + 1), 6);
    assert_int_equal(days_shown(ql, "bytes", first + 1, first + 2), 1);
    assert_int_equal(days_shown(ql, "bytes", first + day, first + day), 0);
    assert_int_equal(days_shown(ql, "bytes", INT64_MIN, first), 0);
    assert_int_equal(days_shown(ql, "bytes", first + 5 * day, INT64_MAX), 0);
    assert_int_equal(days_shown(ql, "scans", 0, INT64_MAX), 0);
    ql_close(ql);
}

static void a_visitor_ends_the_history(void **state)
{
    (void)state;
    int64_t first;
    int stopped = 0;
    struct shown shown = {.stop_after = 3};
    struct ql *ql = open_with_five_days(&first);
    assert_int_equal(ql_history(ql, "alice", NULL, 0, INT64_MAX, show, &shown, &stopped), QL_OK);
    assert_int_equal(stopped, 42);
    assert_int_equal(shown.count, 3);
    shown = (struct shown){.stop_after = 1};
    assert_int_equal(ql_history(ql, "alice", NULL, 0, INT64_MAX, show, &shown, NULL), QL_OK);
    assert_int_equal(shown.count, 1);
    ql_close(ql);
}

static void wrong_calls_of_the_ledger(void **state)
{
    (void)state;
    struct shown shown = {0};
    struct ql_error error;
    int64_t lag_ms;
    struct ql *ql = stage_open();
    assert_int_equal(ql_history(NULL, "a", NULL, 0, 1, show, &shown, NULL), QL_E_INVALID);
    assert_int_equal(ql_history(ql, NULL, NULL, 0, 1, show, &shown, NULL), QL_E_SUBJECT);
    assert_int_equal(ql_history(ql, "a", NULL, 0, 1, NULL, &shown, NULL), QL_E_INVALID);
    assert_int_equal(ql_history(ql, "a", NULL, 1, 0, show, &shown, NULL), QL_E_INVALID);
    assert_int_equal(ql_history(ql, "a//b", NULL, 0, 1, show, &shown, NULL), QL_E_SUBJECT);
    assert_int_equal(ql_flush(NULL, &error), QL_E_INVALID);
    assert_int_equal(ql_flush_lag(NULL, &lag_ms), QL_E_INVALID);
    assert_int_equal(ql_flush_lag(ql, NULL), QL_E_INVALID);
    assert_int_equal(ql_backup(NULL, "x", &error), QL_E_INVALID);
    assert_int_equal(ql_backup(ql, NULL, &error), QL_E_INVALID);
    assert_int_equal(ql_backup(ql, "", NULL), QL_E_INVALID);
    assert_int_equal(ql_flush(ql, NULL), QL_OK);
    assert_int_equal(shown.count, 0);
    ql_close(ql);
}

/* ---- how long it is kept ------------------------------------------------- */

static int64_t rows_before(int64_t day)
{
    char sql[96];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM totals WHERE start < %lld",
             (long long)(day * STAGE_DAY));
    return stage_number(sql);
}

static void windows_are_kept_for_history_days(void **state)
{
    (void)state;
    struct ql_options options = stage_options(STAGE_ROOM);
    options.history_days = 3;
    struct ql *ql = kt_open(stage.store, &options);
    for (int i = 0; i < 12; i++) {
        int64_t day = *stage.clock_ns / KT_DAY_NS;
        stage_charge(ql, "alice", "bytes", 1);
        stage_flush(ql);
        assert_int_equal(rows_before(day - 3), 0);
        assert_int_equal(rows_before(day + 1), i < 3 ? i + 1 : 4);
        *stage.clock_ns += KT_DAY_NS;
    }
    ql_close(ql);
}

/* A store that was closed for long has much to remove, which takes some flushes. */
static void old_windows_go_little_by_little(void **state)
{
    (void)state;
    struct ql *ql = stage_open();
    for (int i = 0; i < 3; i++) { /* on so many days there has to have been work */
        stage_charge(ql, "alice", "bytes", 1);
        stage_flush(ql);
        *stage.clock_ns += KT_DAY_NS;
    }
    stage_sql("WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n LIMIT 12000) "
              "INSERT INTO totals SELECT 'day', 86400 * (i % 30), 'old-' || i, 'bytes', 1 "
              "FROM n");
    static const int64_t left[] = {7003, 2003, 3, 3};
    stage_charge(ql, "alice", "bytes", 0); /* moves the day */
    for (size_t i = 0; i < 4; i++) {
        stage_flush(ql);
        assert_int_equal(stage_number("SELECT count(*) FROM totals"), left[i]);
    }
    ql_close(ql);
}

/* A clock that has leapt by years, and is believed, does not remove the history. */
static void a_leap_removes_nothing(void **state)
{
    (void)state;
    struct ql *ql = stage_open();
    for (int i = 0; i < 5; i++) {
        stage_charge(ql, "alice", "bytes", 1);
        stage_flush(ql);
        *stage.clock_ns += KT_DAY_NS;
    }
    for (int i = 0; i < 3; i++) {
        *stage.clock_ns += (i == 0 ? 500 : 1) * KT_DAY_NS;
        stage_charge(ql, "alice", "bytes", 1);
        stage_flush(ql);
        stage_flush(ql);
        assert_int_equal(stage_number("SELECT count(*) FROM totals"), 6 + i);
    }
    ql_close(ql);
}

static void for_ever_is_for_ever(void **state)
{
    (void)state;
    struct ql_options options = stage_options(STAGE_ROOM);
    options.history_days = UINT32_MAX;
    struct ql *ql = kt_open(stage.store, &options);
    stage_charge(ql, "alice", "bytes", 1);
    for (int i = 0; i < 3; i++) {
        *stage.clock_ns += 1000 * KT_DAY_NS;
        stage_charge(ql, "alice", "bytes", 1);
        stage_flush(ql);
    }
    assert_int_equal(stage_number("SELECT count(*) FROM totals"), 4);
    ql_close(ql);
    assert_int_equal(stage_number("SELECT history_days FROM meta"), 0);
}

/* ---- who may open it ----------------------------------------------------- */

static void expect_refusal(const char *path, struct ql_options options, enum ql_status status,
                           const char *word)
{
    struct ql *ql;
    struct ql_error error;
    assert_int_equal(ql_open(path, &options, &ql, &error), status);
    assert_null(ql);
    if (strstr(error.text, word) == NULL)
        fail_msg("no '%s' in: %s", word, error.text);
}

static void a_store_has_a_ledger_or_not(void **state)
{
    (void)state;
    struct ql_options options = stage_options(STAGE_ROOM);
    struct ql *ql = stage_open();
    stage_charge(ql, "alice", "bytes", 5);
    options.durability = QL_DURABILITY_NONE;
    expect_refusal(stage.store, options, QL_E_STORE, "has a ledger");
    ql_close(ql);
    expect_refusal(stage.store, options, QL_E_STORE, "has a ledger");
    kt_directory_remove(stage.store);

    ql = kt_open(stage.store, &options);
    for (int durability = QL_DURABILITY_ASYNC; durability <= QL_DURABILITY_SYNC; durability++) {
        options.durability = (enum ql_durability)durability;
        expect_refusal(stage.store, options, QL_E_STORE, "without a ledger");
    }
    options.durability = QL_DURABILITY_STORE;
    struct ql *other = kt_open(stage.store, &options);
    ql_close(other);
    ql_close(ql);
    options.durability = QL_DURABILITY_ASYNC;
    expect_refusal(stage.store, options, QL_E_STORE, "without a ledger");
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    struct ql_options options = stage_options(STAGE_ROOM);
    for (int durability = QL_DURABILITY_ASYNC; durability <= QL_DURABILITY_SYNC; durability++) {
        options.durability = (enum ql_durability)durability;
        expect_refusal("memory:", options, QL_E_STORE, "'memory:' has no ledger");
    }
    options.durability = (enum ql_durability)(QL_DURABILITY_SYNC + 1);
    expect_refusal(stage.store, options, QL_E_INVALID, "durability");
    options = stage_options(STAGE_ROOM);
    options.flush_interval_ms = -1;
    expect_refusal(stage.store, options, QL_E_INVALID, "flush_interval_ms");
    options.flush_interval_ms = INT64_C(86400001);
    expect_refusal(stage.store, options, QL_E_INVALID, "flush_interval_ms");
    assert_int_equal(access(stage.store, F_OK), -1);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, stage_set_up, stage_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(an_amount_never_becomes_less),
        CASE(what_is_charged_is_there_after_a_close),
        CASE(the_files_have_the_directorys_mode),
        CASE(the_directory_may_be_renamed_while_in_use),
        CASE(the_history_has_the_windows_that_overlap),
        CASE(a_visitor_ends_the_history),
        CASE(wrong_calls_of_the_ledger),
        CASE(windows_are_kept_for_history_days),
        CASE(old_windows_go_little_by_little),
        CASE(a_leap_removes_nothing),
        CASE(for_ever_is_for_ever),
        CASE(a_store_has_a_ledger_or_not),
        CASE(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
