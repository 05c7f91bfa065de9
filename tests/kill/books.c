/* SPDX-License-Identifier: Apache-2.0 */
#include "books.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

#include "region/lockfile.h"

#define ROWS_MAX 4096
#define FDS 64 /* that a child may have open */

struct ql_options kt_ledger_options(int64_t *clock_ns, enum ql_durability durability,
                                    int64_t wait_ms)
{
    struct ql_options options = kt_options(clock_ns, 64, 64);
    options.durability = durability;
    options.admit_wait_ms = wait_ms;
    options.charge_wait_ms = wait_ms;
    options.flush_interval_ms = KT_DAY_NS / 1000000;
    options.no_thread = true;
    return options;
}

void kt_flush(struct ql *ql)
{
    struct ql_error error = {0};
    enum ql_status status = ql_flush(ql, &error);
    KT_CHECK(status == QL_OK, "flush: %s: %s", ql_status_name(status), error.text);
}

/* ---- reading ------------------------------------------------------------- */

static sqlite3 *open_ledger(const char *directory)
{
    char path[KT_PATH + 16];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/ledger.db", directory);
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);
    KT_CHECK(rc == SQLITE_OK, "%s: %s", path, sqlite3_errstr(rc));
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_busy_timeout(db, 10000);
    return db;
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement;
    int rc = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    KT_CHECK(rc == SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(db));
    return statement;
}

int64_t kt_ledger_total(const char *directory, const char *subject, const char *meter, int64_t day)
{
    sqlite3 *db = open_ledger(directory);
    sqlite3_stmt *statement =
        prepare(db, "SELECT coalesce(sum(amount), 0) FROM totals WHERE subject = ?1 AND meter = ?2 "
                    "AND (?3 < 0 OR start = ?3 * 86400)");
    sqlite3_bind_text(statement, 1, subject, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, meter, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 3, day);
    KT_CHECK(sqlite3_step(statement) == SQLITE_ROW, "total: %s", sqlite3_errmsg(db));
    int64_t total = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return total;
}

void kt_ledger_check(const char *directory)
{
    sqlite3 *db = open_ledger(directory);
    sqlite3_stmt *statement = prepare(db, "PRAGMA integrity_check");
    int rc = sqlite3_step(statement);
    KT_CHECK(rc == SQLITE_ROW, "integrity_check: %s", sqlite3_errmsg(db));
    const char *answer = (const char *)sqlite3_column_text(statement, 0);
    KT_CHECK(strcmp(answer, "ok") == 0, "integrity_check: %s", answer);
    sqlite3_finalize(statement);
    sqlite3_close(db);
}

/* ---- comparing ----------------------------------------------------------- */

struct row {
    int64_t day;
    char subject[64];
    char meter[32];
    int64_t amount;
    bool seen;
};

struct rows {
    struct row items[ROWS_MAX];
    size_t count;
    int64_t today;
    struct kt_difference difference;
};

static void read_rows(const char *directory, struct rows *rows)
{
    sqlite3 *db = open_ledger(directory);
    sqlite3_stmt *statement = prepare(db, "SELECT start / 86400, subject, meter, amount "
                                          "FROM totals WHERE start / 86400 IN (?1, ?1 - 1)");
    sqlite3_bind_int64(statement, 1, rows->today);
    int rc;
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
        KT_CHECK(rows->count < ROWS_MAX, "more than %d rows", ROWS_MAX);
        struct row *row = &rows->items[rows->count++];
        *row = (struct row){.day = sqlite3_column_int64(statement, 0),
                            .amount = sqlite3_column_int64(statement, 3)};
        snprintf(row->subject, sizeof row->subject, "%s", sqlite3_column_text(statement, 1));
        snprintf(row->meter, sizeof row->meter, "%s", sqlite3_column_text(statement, 2));
    }
    KT_CHECK(rc == SQLITE_DONE, "totals: %s", sqlite3_errmsg(db));
    sqlite3_finalize(statement);
    sqlite3_close(db);
}

static struct row *find_row(struct rows *rows, const char *subject, const char *meter, int64_t day)
{
    for (size_t i = 0; i < rows->count; i++) {
        struct row *row = &rows->items[i];
        if (row->day == day && strcmp(row->subject, subject) == 0 && strcmp(row->meter, meter) == 0)
            return row;
    }
    return NULL;
}

static void note(struct kt_difference *difference, const char *subject, const char *meter,
                 int64_t day, int64_t ledger, int64_t region)
{
    difference->rows++;
    if (ledger == region)
        return;
    difference->over += ledger > region;
    difference->under += ledger < region;
    if (difference->first[0] == '\0')
        snprintf(difference->first, sizeof difference->first,
                 "%s %s of day %lld: the ledger has %lld, the region %lld", subject, meter,
                 (long long)day, (long long)ledger, (long long)region);
}

static void compare_window(struct rows *rows, const char *subject, const char *meter, int64_t day,
                           int64_t amount)
{
    struct row *row = find_row(rows, subject, meter, day);
    if (row != NULL)
        row->seen = true;
    if (row != NULL || amount != 0)
        note(&rows->difference, subject, meter, day, row != NULL ? row->amount : 0, amount);
}

static int compare_subject(void *context, const struct ql_subject_info *info)
{
    struct rows *rows = context;
    for (uint32_t m = 0; m < info->usage.meter_count; m++) {
        const struct ql_meter_state *meter = &info->usage.meters[m];
        compare_window(rows, info->subject, meter->name, rows->today, meter->total);
        compare_window(rows, info->subject, meter->name, rows->today - 1, meter->yesterday);
    }
    return 0;
}

struct kt_difference kt_ledger_compare(const char *directory, struct ql *ql)
{
    static struct rows rows;
    memset(&rows, 0, sizeof rows);
    rows.today = (int64_t)ql->store->engine.page->day;
    read_rows(directory, &rows);
    KT_CHECK(ql_each_subject(ql, compare_subject, &rows, NULL) == QL_OK, "each subject");
    for (size_t i = 0; i < rows.count; i++) {
        const struct row *row = &rows.items[i];
        if (!row->seen)
            note(&rows.difference, row->subject, row->meter, row->day, row->amount, 0);
    }
    return rows.difference;
}

void kt_ledger_expect_equal(const char *directory, struct ql *ql, const char *when)
{
    kt_flush(ql);
    kt_ledger_check(directory);
    struct kt_difference difference = kt_ledger_compare(directory, ql);
    KT_CHECK(difference.over == 0 && difference.under == 0, "%s: %u rows over, %u under: %s", when,
             difference.over, difference.under, difference.first);
}

/* ---- who flushes --------------------------------------------------------- */

/* /proc/PID/fdinfo/FD names the locks that were taken through the descriptor. */
static bool has_flusher_byte(pid_t pid, int number)
{
    char path[64];
    char text[1024];
    char range[64];
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", (int)pid, number);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    snprintf(range, sizeof range, " %d %d\n", (int)QLI_BYTE_FLUSHER, (int)QLI_BYTE_FLUSHER);
    return strstr(text, "OFDLCK") != NULL && strstr(text, range) != NULL;
}

int kt_flusher_of(const pid_t *pids, int count)
{
    for (int i = 0; i < count; i++) {
        for (int fd = 3; fd < FDS; fd++) {
            if (has_flusher_byte(pids[i], fd))
                return i;
        }
    }
    return -1;
}
