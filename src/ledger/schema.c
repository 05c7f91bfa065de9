/* SPDX-License-Identifier: Apache-2.0
 *
 * A ledger of an earlier format is brought up to date here, in one transaction:
 * to change a table, raise QLI_LEDGER_FORMAT and add the step to the list. A
 * death in between leaves the earlier format whole.
 */
#include "ledger/schema.h"

#include "base/error.h"

#define APPLICATION_ID 0x716c6c67 /* "qllg": tells file(1) and us whose file it is */

/* steps[n] makes format n + 1 out of format n; format 0 is an empty file. */
static const char *const steps[QLI_LEDGER_FORMAT] = {
    "CREATE TABLE meta ("
    "  id INTEGER PRIMARY KEY CHECK (id = 1),"
    "  ledger BLOB NOT NULL,"
    "  epoch BLOB NOT NULL,"
    "  sequence INTEGER NOT NULL,"
    "  durability INTEGER NOT NULL,"
    "  history_days INTEGER NOT NULL"
    ");"
    "INSERT INTO meta VALUES (1, randomblob(16), zeroblob(16), 0, 0, 0);"
    "CREATE TABLE limits ("
    "  position INTEGER PRIMARY KEY,"
    "  name TEXT NOT NULL,"
    "  meter TEXT,"
    "  window TEXT CHECK (window = 'day'),"
    "  cap INTEGER NOT NULL CHECK (typeof(cap) = 'integer' AND cap >= 0)"
    ");"
    "CREATE TABLE totals ("
    "  window TEXT NOT NULL,"
    "  start INTEGER NOT NULL CHECK (typeof(start) = 'integer' AND start >= 0),"
    "  subject TEXT NOT NULL,"
    "  meter TEXT NOT NULL,"
    "  amount INTEGER NOT NULL CHECK (typeof(amount) = 'integer' AND amount >= 0),"
    "  PRIMARY KEY (window, start, subject, meter)"
    ") WITHOUT ROWID;",
};

static int read_number(sqlite3 *db, const char *sql, int *number)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        *number = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int read_format(sqlite3 *db, int *format, int *application, int *tables)
{
    int rc = read_number(db, "PRAGMA user_version", format);
    if (rc == SQLITE_OK)
        rc = read_number(db, "PRAGMA application_id", application);
    return rc == SQLITE_OK ? read_number(db, "SELECT count(*) FROM sqlite_schema", tables) : rc;
}

static int write_number(sqlite3 *db, const char *pragma, int number)
{
    char *sql = sqlite3_mprintf("PRAGMA %s = %d", pragma, number);
    int rc = sql != NULL ? sqlite3_exec(db, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
    sqlite3_free(sql);
    return rc;
}

/* Somebody else may have done it meanwhile: the format is read again inside. */
static int upgrade(sqlite3 *db)
{
    int format = 0;
    int rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return rc;
    rc = read_number(db, "PRAGMA user_version", &format);
    for (; rc == SQLITE_OK && format < QLI_LEDGER_FORMAT; format++)
        rc = sqlite3_exec(db, steps[format], NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = write_number(db, "application_id", APPLICATION_ID);
    if (rc == SQLITE_OK)
        rc = write_number(db, "user_version", QLI_LEDGER_FORMAT);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

int qli_schema_upgrade(sqlite3 *db)
{
    int format = 0;
    int rc = read_number(db, "PRAGMA user_version", &format);
    return rc == SQLITE_OK && format < QLI_LEDGER_FORMAT ? upgrade(db) : rc;
}

enum ql_status qli_schema_check(sqlite3 *db, int *rc, struct ql_error *error)
{
    int format = 0;
    int application = 0;
    int tables = 0;
    *rc = read_format(db, &format, &application, &tables);
    if (*rc != SQLITE_OK)
        return QL_E_LEDGER;
    bool ours = application == APPLICATION_ID || (format == 0 && tables == 0);
    if (!ours)
        return qli_error(error, QL_E_LEDGER, 0,
                         "the store's file 'ledger.db' is a database of another program; move it "
                         "away");
    if (format > QLI_LEDGER_FORMAT)
        return qli_error(error, QL_E_VERSION, 0,
                         "the ledger has format %d and this build knows formats to %d: use the "
                         "newer quotalite for all programs of this store",
                         format, QLI_LEDGER_FORMAT);
    return QL_OK;
}
