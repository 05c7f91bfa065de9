/* SPDX-License-Identifier: Apache-2.0
 *
 * What is read out of the ledger. Anybody may have edited it: what is no subject,
 * meter or amount of ours is passed over.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "engine/layout.h"
#include "ledger/files.h"
#include "rules/limit.h"
#include "rules/name.h"
#include "rules/window.h"

#define INLINE_KEY_BYTES "96"
_Static_assert(QLI_KEY_INLINE == 96, "a longer key takes two slots");
#define LAST_DAY (INT64_MAX / QLI_SECONDS_PER_DAY - 1) /* that ends at a time which there is */

static bool read_row(sqlite3_stmt *statement, struct qli_ledger_row *row)
{
    uint32_t levels;
    int64_t start = sqlite3_column_int64(statement, 0);
    if (sqlite3_column_type(statement, 3) != SQLITE_INTEGER)
        return false;
    row->day = start / QLI_SECONDS_PER_DAY;
    row->subject = (const char *)sqlite3_column_text(statement, 1);
    row->meter = (const char *)sqlite3_column_text(statement, 2);
    row->amount = sqlite3_column_int64(statement, 3);
    size_t length = row->subject != NULL ? qli_name_subject(row->subject, &levels) : 0;
    return start >= 0 && row->day <= LAST_DAY && row->amount >= 0 && length != 0 &&
           qli_name_valid(row->meter) && length == (size_t)sqlite3_column_bytes(statement, 1) &&
           strlen(row->meter) == (size_t)sqlite3_column_bytes(statement, 2);
}

static enum ql_status read_rows(struct qli_ledger *ledger, sqlite3_stmt *statement,
                                qli_ledger_visitor read, void *context)
{
    enum ql_status status = QL_OK;
    int rc = SQLITE_ROW;
    while (status == QL_OK && (rc = sqlite3_step(statement)) == SQLITE_ROW) {
        struct qli_ledger_row row;
        if (read_row(statement, &row))
            status = read(context, &row);
    }
    sqlite3_reset(statement);
    if (status == QL_OK && rc != SQLITE_DONE)
        status = qli_ledger_fail(ledger, rc);
    return status;
}

enum ql_status qli_ledger_read_subject(struct qli_ledger *ledger, const char *subject, int64_t day,
                                       qli_ledger_visitor read, void *context)
{
    sqlite3_stmt *statement = ledger->statements[QLI_LEDGER_READ_SUBJECT];
    int rc = sqlite3_bind_int64(statement, 1, day * QLI_SECONDS_PER_DAY);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(statement, 2, subject, -1, SQLITE_STATIC);
    return rc == SQLITE_OK ? read_rows(ledger, statement, read, context)
                           : qli_ledger_fail(ledger, rc);
}

enum ql_status qli_ledger_read_day(struct qli_ledger *ledger, int64_t day, qli_ledger_visitor read,
                                   void *context)
{
    sqlite3_stmt *statement = ledger->statements[QLI_LEDGER_READ_DAY];
    int rc = sqlite3_bind_int64(statement, 1, day * QLI_SECONDS_PER_DAY);
    return rc == SQLITE_OK ? read_rows(ledger, statement, read, context)
                           : qli_ledger_fail(ledger, rc);
}

/* The first row of a query with one parameter, if it has any. */
static int read_one(struct qli_ledger *ledger, const char *sql, int64_t parameter,
                    sqlite3_stmt **statement)
{
    int rc = sqlite3_prepare_v2(ledger->db, sql, -1, statement, NULL);
    if (rc == SQLITE_OK && sqlite3_bind_parameter_count(*statement) > 0)
        rc = sqlite3_bind_int64(*statement, 1, parameter);
    return rc == SQLITE_OK ? sqlite3_step(*statement) : rc;
}

enum ql_status qli_ledger_next_day(struct qli_ledger *ledger, int64_t *day, bool *none)
{
    sqlite3_stmt *statement = ledger->statements[QLI_LEDGER_NEXT_DAY];
    *none = *day > LAST_DAY;
    if (*none)
        return QL_OK;
    int rc = sqlite3_bind_int64(statement, 1, *day * QLI_SECONDS_PER_DAY);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW) {
        int64_t start = sqlite3_column_int64(statement, 0);
        *day = start / QLI_SECONDS_PER_DAY + (start % QLI_SECONDS_PER_DAY != 0);
        *none = sqlite3_column_type(statement, 0) == SQLITE_NULL || *day > LAST_DAY;
    }
    sqlite3_reset(statement);
    return rc == SQLITE_ROW ? QL_OK : qli_ledger_fail(ledger, rc);
}

enum ql_status qli_ledger_last_day(struct qli_ledger *ledger, int64_t *day)
{
    sqlite3_stmt *statement = NULL;
    int rc = read_one(ledger, "SELECT max(start) FROM totals WHERE window = 'day'", 0, &statement);
    if (rc == SQLITE_ROW)
        *day = sqlite3_column_int64(statement, 0) / QLI_SECONDS_PER_DAY;
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? QL_OK : qli_ledger_fail(ledger, rc);
}

enum ql_status qli_ledger_count_slots(struct qli_ledger *ledger, int64_t day, uint64_t *slots)
{
    sqlite3_stmt *statement = NULL;
    int rc = read_one(ledger,
                      "SELECT coalesce(sum(1 + (length(CAST(subject AS BLOB)) > " INLINE_KEY_BYTES
                      ")), 0) FROM (SELECT DISTINCT subject FROM totals WHERE window = 'day' "
                      "AND start = ?1)",
                      day * QLI_SECONDS_PER_DAY, &statement);
    if (rc == SQLITE_ROW)
        *slots = (uint64_t)sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? QL_OK : qli_ledger_fail(ledger, rc);
}

void qli_ledger_add_meter(struct qli_ledger_meters *meters, const char *name)
{
    size_t m = 0;
    while (m < meters->count && strcmp(meters->names[m], name) != 0)
        m++;
    if (m == meters->count && m < QL_METERS_MAX)
        snprintf(meters->names[meters->count++], QL_NAME_MAX + 1, "%s", name);
}

enum ql_status qli_ledger_find_meters(struct qli_ledger *ledger, int64_t day,
                                      struct qli_ledger_meters *meters)
{
    sqlite3_stmt *statement = NULL;
    int rc = read_one(ledger,
                      "SELECT DISTINCT meter FROM totals WHERE window = 'day' "
                      "AND start IN (?1, ?1 - 86400)",
                      day * QLI_SECONDS_PER_DAY, &statement);
    for (; rc == SQLITE_ROW; rc = sqlite3_step(statement)) {
        const char *name = (const char *)sqlite3_column_text(statement, 0);
        if (qli_name_valid(name))
            qli_ledger_add_meter(meters, name);
    }
    sqlite3_finalize(statement);
    return rc == SQLITE_DONE ? QL_OK : qli_ledger_fail(ledger, rc);
}

/* What is no name is made empty, which is none either: a part of it might be one. */
static void copy_name(char to[QL_NAME_MAX + 1], sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);
    size_t length = text != NULL ? strlen(text) : 0;
    bool whole = length <= QL_NAME_MAX && length == (size_t)sqlite3_column_bytes(statement, column);
    snprintf(to, QL_NAME_MAX + 1, "%s", text != NULL && whole ? text : "");
}

static void read_limit(sqlite3_stmt *statement, struct qli_ledger_limits *limits, size_t i)
{
    copy_name(limits->names[i], statement, 0);
    copy_name(limits->meters[i], statement, 1);
    bool metered = sqlite3_column_type(statement, 1) != SQLITE_NULL;
    bool windowed = sqlite3_column_type(statement, 2) != SQLITE_NULL;
    limits->limits[i] = (struct ql_limit){
        .name = limits->names[i],
        .meter = metered ? limits->meters[i] : NULL,
        .window = windowed ? QL_WINDOW_DAY : QL_WINDOW_NONE,
        .cap = sqlite3_column_int64(statement, 3),
    };
}

enum ql_status qli_ledger_read_limits(struct qli_ledger *ledger, struct qli_ledger_limits *limits)
{
    sqlite3_stmt *statement = NULL;
    limits->count = 0;
    int rc = read_one(ledger, "SELECT name, meter, window, cap FROM limits ORDER BY position", 0,
                      &statement);
    for (; rc == SQLITE_ROW && limits->count <= QL_LIMITS_MAX; rc = sqlite3_step(statement)) {
        if (limits->count < QL_LIMITS_MAX)
            read_limit(statement, limits, limits->count);
        limits->count++;
    }
    sqlite3_finalize(statement);
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? QL_OK : qli_ledger_fail(ledger, rc);
}

/* ---- care ---------------------------------------------------------------- */

enum ql_status qli_ledger_copy(struct qli_ledger *ledger, const char *path)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(ledger->db, "VACUUM INTO ?1", -1, &statement, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(statement, 1, path, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(statement);
    sqlite3_finalize(statement);
    if (rc == SQLITE_DONE)
        return QL_OK;
    if ((rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB)
        return qli_ledger_fail(ledger, rc);
    return qli_error(&ledger->error, QL_E_LEDGER, qli_ledger_cause(ledger, rc),
                     "cannot copy the ledger into %.200s: %s", path, sqlite3_errstr(rc));
}

enum ql_status qli_ledger_check(struct qli_ledger *ledger)
{
    sqlite3_stmt *statement = NULL;
    int rc = read_one(ledger, "PRAGMA integrity_check(1)", 0, &statement);
    const char *answer =
        rc == SQLITE_ROW ? (const char *)sqlite3_column_text(statement, 0) : sqlite3_errstr(rc);
    bool sound = answer != NULL && strcmp(answer, "ok") == 0;
    if (!sound)
        qli_error(&ledger->error, QL_E_LEDGER, 0,
                  "the ledger (%s) is damaged: %.200s; put a backup in its place, or move it away "
                  "to begin with no history",
                  QLI_LEDGER_FILE, answer != NULL ? answer : "out of memory");
    sqlite3_finalize(statement);
    return sound ? QL_OK : QL_E_LEDGER;
}
