/* SPDX-License-Identifier: Apache-2.0
 *
 * A death in here leaves what SQLite promises: the transactions that were
 * committed, each whole.
 */
#include "ledger/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/system.h"
#include "ledger/descriptors.h"
#include "ledger/files.h"
#include "ledger/schema.h"
#include "rules/window.h"

#define BUSY_WAIT_MS 1000 /* for a reader that is in SQLite's way; writers are kept apart by us */
#define OPENINGS_MAX 20   /* tries, while other threads of the host open the ledger too */

static const char *const texts[QLI_LEDGER_STATEMENTS] = {
    [QLI_LEDGER_BEGIN] = "BEGIN IMMEDIATE",
    [QLI_LEDGER_COMMIT] = "COMMIT",
    [QLI_LEDGER_READ_META] = "SELECT ledger, epoch, sequence, durability, history_days FROM meta",
    [QLI_LEDGER_WRITE_META] =
        "UPDATE meta SET epoch = ?1, sequence = ?2, durability = ?3, history_days = ?4, "
        "ledger = ?5",
    [QLI_LEDGER_PUT] = "INSERT INTO totals VALUES ('day', ?1, ?2, ?3, ?4) "
                       "ON CONFLICT DO UPDATE SET amount = excluded.amount "
                       "WHERE excluded.amount > amount",
    [QLI_LEDGER_READ_SUBJECT] = "SELECT start, subject, meter, amount FROM totals "
                                "WHERE window = 'day' AND start = ?1 AND subject = ?2",
    [QLI_LEDGER_READ_DAY] = "SELECT start, subject, meter, amount FROM totals "
                            "WHERE window = 'day' AND start = ?1",
    [QLI_LEDGER_NEXT_DAY] = "SELECT min(start) FROM totals WHERE window = 'day' AND start >= ?1",
    [QLI_LEDGER_PRUNE] =
        "DELETE FROM totals WHERE (window, start, subject, meter) IN "
        "(SELECT window, start, subject, meter FROM totals WHERE window = 'day' AND start < ?1 "
        "LIMIT 5000)",
};

/* ---- failures ------------------------------------------------------------ */

/* sqlite3_system_errno() is that of the last call to the system that failed. It is older
 * than an error that comes from no such call; a full disk is one of these to SQLite. */
int qli_ledger_cause(const struct qli_ledger *ledger, int rc)
{
    switch (rc & 0xff) {
    case SQLITE_FULL:
        return ENOSPC;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
        return ledger->db != NULL ? sqlite3_system_errno(ledger->db) : 0;
    default:
        return 0;
    }
}

static const char *advice_for(int rc, int cause)
{
    if (cause == ENOSPC || cause == EDQUOT)
        return "free some space: nothing is lost meanwhile, it will be written then";
    switch (rc & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return "it is damaged: put a backup in its place, or move it away to begin with no history";
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
        return "let the program's user read and write the store's directory and its files";
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return "another program has it locked: end that";
    default:
        return "look at the disk";
    }
}

enum ql_status qli_ledger_fail(struct qli_ledger *ledger, int rc)
{
    int cause = qli_ledger_cause(ledger, rc);
    return qli_error(&ledger->error, QL_E_LEDGER, cause, "the ledger (%s): %s; %s", QLI_LEDGER_FILE,
                     sqlite3_errstr(rc), advice_for(rc, cause));
}

enum ql_status qli_ledger_explain(const struct qli_ledger *ledger, enum ql_status status,
                                  struct ql_error *error)
{
    return qli_error(error, status, ledger->error.system_errno, "%s", ledger->error.text);
}

/* ---- the file ------------------------------------------------------------ */

enum ql_status qli_ledger_init(struct qli_ledger *ledger, int directory_fd, struct ql_error *error)
{
    *ledger = (struct qli_ledger){.directory_fd = -1};
    if (directory_fd < 0)
        return QL_OK;
    ledger->directory_fd = qli_system_open(directory_fd, ".", O_RDONLY | O_DIRECTORY, 0);
    if (ledger->directory_fd < 0 ||
        !qli_system_identify(ledger->directory_fd, "", &ledger->directory))
        return qli_error(error, QL_E_SYSTEM, errno, "cannot keep the store's directory open: %s",
                         strerror(errno));
    return QL_OK;
}

void qli_ledger_end(struct qli_ledger *ledger)
{
    qli_ledger_disconnect(ledger);
    if (qli_files_directory_is_ours(ledger))
        close(ledger->directory_fd);
    ledger->directory_fd = -1;
}

/* The connection is left as it is: any call to SQLite might touch a descriptor. */
static enum ql_status lose_connection(struct qli_ledger *ledger)
{
    if (ledger->db != NULL)
        qli_files_distrust((struct qli_file_id){ledger->directory.device, ledger->files.inode});
    __atomic_store_n(&ledger->lost, true, __ATOMIC_RELAXED);
    memset(ledger->statements, 0, sizeof ledger->statements);
    ledger->db = NULL;
    return qli_error(&ledger->error, QL_E_DETACHED, 0, "%s", ql_status_text(QL_E_DETACHED));
}

/* ---- the connection ------------------------------------------------------ */

/* SQLite answers with the mode that it has then, whatever was asked for. */
static int choose_wal(sqlite3 *db)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db, "PRAGMA journal_mode = WAL", -1, &statement, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        rc = strcmp((const char *)sqlite3_column_text(statement, 0), "wal") == 0 ? SQLITE_OK
                                                                                 : SQLITE_CANTOPEN;
    sqlite3_finalize(statement);
    return rc;
}

static int set_up(sqlite3 *db)
{
    /* Writing and checkpointing is for who has the FLUSHER byte, closing is for
     * everybody: so closing does not checkpoint. */
    int rc = sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (rc == SQLITE_OK)
        rc = choose_wal(db);
    return rc == SQLITE_OK ? sqlite3_exec(db, "PRAGMA synchronous = FULL", NULL, NULL, NULL) : rc;
}

/* What is not ours is left as it is. */
static enum ql_status prepare(struct qli_ledger *ledger, int *rc)
{
    if (sqlite3_threadsafe() == 0)
        return qli_error(&ledger->error, QL_E_LEDGER, 0,
                         "this machine's SQLite was built without threads: install another");
    enum ql_status status = qli_schema_check(ledger->db, rc, &ledger->error);
    if (status != QL_OK)
        return status;
    *rc = set_up(ledger->db);
    if (*rc == SQLITE_OK)
        *rc = qli_schema_upgrade(ledger->db);
    return *rc == SQLITE_OK ? QL_OK : QL_E_LEDGER;
}

static enum ql_status open_connection(struct qli_ledger *ledger)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d/" QLI_LEDGER_FILE, ledger->directory_fd);
    /* A cache of its own: in one that the host shares, a reader's locks and settings are ours. */
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_PRIVATECACHE;
    int rc = sqlite3_open_v2(path, &ledger->db, flags, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(ledger->db, BUSY_WAIT_MS);
    ledger->error.text[0] = '\0';
    enum ql_status status = rc == SQLITE_OK ? prepare(ledger, &rc) : QL_E_LEDGER;
    if (status != QL_OK)
        return ledger->error.text[0] != '\0' ? status : qli_ledger_fail(ledger, rc);
    for (int i = 0; i < QLI_LEDGER_STATEMENTS; i++) {
        rc = sqlite3_prepare_v3(ledger->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                                &ledger->statements[i], NULL);
        if (rc != SQLITE_OK)
            return qli_ledger_fail(ledger, rc);
    }
    return QL_OK;
}

static void close_connection(struct qli_ledger *ledger)
{
    for (int i = 0; i < QLI_LEDGER_STATEMENTS; i++) {
        sqlite3_finalize(ledger->statements[i]);
        ledger->statements[i] = NULL;
    }
    sqlite3_close(ledger->db);
    ledger->db = NULL;
}

void qli_ledger_disconnect(struct qli_ledger *ledger)
{
    if (ledger->db != NULL && !qli_descriptors_are_ours(ledger))
        lose_connection(ledger);
    close_connection(ledger);
}

/* The WAL and its index too: whoever removes one of them takes away what was committed,
 * or what keeps two processes apart. */
static bool has_moved(const struct qli_ledger *ledger)
{
    const struct qli_ledger_files now = qli_files_find(ledger);
    int moved = 0;
    return sqlite3_file_control(ledger->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) != SQLITE_OK ||
           moved != 0 || now.inode != ledger->files.inode ||
           now.wal_inode != ledger->files.wal_inode || now.shm_inode != ledger->files.shm_inode;
}

bool qli_ledger_is_there(const struct qli_ledger *ledger, uint64_t inode)
{
    return qli_files_directory_is_ours(ledger) && qli_files_find(ledger).inode == inode &&
           (ledger->db == NULL || !has_moved(ledger));
}

/* QL_E_BUSY: as qli_descriptors_note; it is closed again. */
static enum ql_status open_noted(struct qli_ledger *ledger)
{
    enum ql_status status = qli_descriptors_mark(ledger);
    if (status == QL_OK)
        status = open_connection(ledger);
    ledger->files = qli_files_find(ledger);
    if (status == QL_OK && has_moved(ledger)) /* somebody replaced it meanwhile */
        status = qli_ledger_fail(ledger, SQLITE_READONLY_DBMOVED);
    if (status == QL_OK)
        status = qli_descriptors_note(ledger);
    if (status != QL_OK)
        close_connection(ledger);
    return status;
}

enum ql_status qli_ledger_connect(struct qli_ledger *ledger, struct qli_ledger_files former)
{
    if (ledger->directory_fd < 0 && !ledger->lost)
        return qli_error(&ledger->error, QL_E_LEDGER, 0, "the store has no ledger");
    if (ledger->lost || (ledger->db != NULL && !qli_descriptors_are_ours(ledger)))
        return lose_connection(ledger);
    if (ledger->db != NULL && has_moved(ledger))
        qli_ledger_disconnect(ledger);
    if (ledger->db != NULL)
        return QL_OK;
    if (!qli_files_directory_is_ours(ledger))
        return lose_connection(ledger);
    qli_files_remove_former_wal(ledger, former);
    enum ql_status status = qli_files_make(ledger);
    if (status == QL_OK)
        status = qli_files_check_trust(ledger);
    if (status == QL_OK)
        status = open_noted(ledger);
    for (int i = 1; i < OPENINGS_MAX && status == QL_E_BUSY; i++)
        status = open_noted(ledger);
    if (status == QL_E_BUSY)
        return qli_error(&ledger->error, QL_E_LEDGER, 0,
                         "threads of this program open and close the ledger (%s) all the time: "
                         "let them keep it open",
                         QLI_LEDGER_FILE);
    return status;
}

/* Nobody is waited for: with a reader in the way the WAL stays as it is. */
void qli_ledger_empty_wal(struct qli_ledger *ledger)
{
    if (ledger->db == NULL || !qli_descriptors_are_ours(ledger))
        return;
    sqlite3_busy_timeout(ledger->db, 0);
    sqlite3_wal_checkpoint_v2(ledger->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_busy_timeout(ledger->db, BUSY_WAIT_MS);
}

/* In the order in which SQLite takes one under another: the name of a temporary file
 * (VFS1) needs a random number (PRNG), the first of which the default VFS (MAIN), and
 * the heap's is the last. */
static const int sqlite_mutexes[] = {
    SQLITE_MUTEX_STATIC_VFS1, SQLITE_MUTEX_STATIC_VFS2, SQLITE_MUTEX_STATIC_VFS3,
    SQLITE_MUTEX_STATIC_PRNG, SQLITE_MUTEX_STATIC_MAIN, SQLITE_MUTEX_STATIC_LRU,
    SQLITE_MUTEX_STATIC_PMEM, SQLITE_MUTEX_STATIC_MEM,
};
#define SQLITE_MUTEXES (sizeof sqlite_mutexes / sizeof sqlite_mutexes[0])

void qli_ledger_before_fork(void)
{
    for (size_t i = 0; i < SQLITE_MUTEXES; i++)
        sqlite3_mutex_enter(sqlite3_mutex_alloc(sqlite_mutexes[i]));
}

void qli_ledger_after_fork(void)
{
    for (size_t i = SQLITE_MUTEXES; i > 0; i--)
        sqlite3_mutex_leave(sqlite3_mutex_alloc(sqlite_mutexes[i - 1]));
}

/* ---- statements ---------------------------------------------------------- */

/* Runs a statement that gives no row. */
static int run(sqlite3_stmt *statement)
{
    int rc = sqlite3_step(statement);
    int again = sqlite3_reset(statement);
    return rc == SQLITE_DONE ? SQLITE_OK : again;
}

static int bind_text(sqlite3_stmt *statement, int position, const char *text)
{
    return sqlite3_bind_text(statement, position, text, -1, SQLITE_STATIC);
}

void qli_ledger_rollback(struct qli_ledger *ledger)
{
    if (ledger->db != NULL && sqlite3_get_autocommit(ledger->db) == 0)
        sqlite3_exec(ledger->db, "ROLLBACK", NULL, NULL, NULL);
}

static enum ql_status give_up(struct qli_ledger *ledger, int rc)
{
    enum ql_status status = qli_ledger_fail(ledger, rc);
    qli_ledger_rollback(ledger);
    return status;
}

static int read_blob(sqlite3_stmt *statement, int column, uint8_t uuid[QLI_UUID_SIZE])
{
    const void *blob = sqlite3_column_blob(statement, column);
    if (blob == NULL || sqlite3_column_bytes(statement, column) != QLI_UUID_SIZE)
        return SQLITE_CORRUPT;
    memcpy(uuid, blob, QLI_UUID_SIZE);
    return SQLITE_OK;
}

static int read_meta(sqlite3_stmt *statement, struct qli_ledger_meta *meta)
{
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW) {
        rc = read_blob(statement, 0, meta->ledger);
        if (rc == SQLITE_OK)
            rc = read_blob(statement, 1, meta->epoch);
        meta->sequence = sqlite3_column_int64(statement, 2);
        meta->durability = sqlite3_column_int64(statement, 3);
        meta->history_days = sqlite3_column_int64(statement, 4);
    } else if (rc == SQLITE_DONE) {
        rc = SQLITE_CORRUPT;
    }
    sqlite3_reset(statement);
    return rc;
}

enum ql_status qli_ledger_read_meta(struct qli_ledger *ledger, struct qli_ledger_meta *meta)
{
    int rc = read_meta(ledger->statements[QLI_LEDGER_READ_META], meta);
    return rc == SQLITE_OK ? QL_OK : qli_ledger_fail(ledger, rc);
}

enum ql_status qli_ledger_begin(struct qli_ledger *ledger, struct qli_ledger_meta *meta)
{
    int rc = run(ledger->statements[QLI_LEDGER_BEGIN]);
    if (rc == SQLITE_OK)
        rc = read_meta(ledger->statements[QLI_LEDGER_READ_META], meta);
    return rc == SQLITE_OK ? QL_OK : give_up(ledger, rc);
}

enum ql_status qli_ledger_put(struct qli_ledger *ledger, const char *subject, const char *meter,
                              int64_t day, int64_t amount)
{
    sqlite3_stmt *statement = ledger->statements[QLI_LEDGER_PUT];
    int rc = sqlite3_bind_int64(statement, 1, day * QLI_SECONDS_PER_DAY);
    if (rc == SQLITE_OK)
        rc = bind_text(statement, 2, subject);
    if (rc == SQLITE_OK)
        rc = bind_text(statement, 3, meter);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(statement, 4, amount);
    if (rc == SQLITE_OK)
        rc = run(statement);
    return rc == SQLITE_OK ? QL_OK : give_up(ledger, rc);
}

static int put_limit(sqlite3_stmt *statement, const struct ql_limit *limit, size_t position)
{
    int rc = sqlite3_bind_int64(statement, 1, (int64_t)position);
    if (rc == SQLITE_OK)
        rc = bind_text(statement, 2, limit->name);
    if (rc == SQLITE_OK)
        rc = bind_text(statement, 3, limit->meter);
    if (rc == SQLITE_OK)
        rc = bind_text(statement, 4, limit->window == QL_WINDOW_DAY ? "day" : NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(statement, 5, limit->cap);
    return rc == SQLITE_OK ? run(statement) : rc;
}

enum ql_status qli_ledger_put_limits(struct qli_ledger *ledger, const struct ql_limit *limits,
                                     size_t count)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_exec(ledger->db, "DELETE FROM limits", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(ledger->db, "INSERT INTO limits VALUES (?1, ?2, ?3, ?4, ?5)", -1,
                                &statement, NULL);
    for (size_t i = 0; rc == SQLITE_OK && i < count; i++)
        rc = put_limit(statement, &limits[i], i);
    sqlite3_finalize(statement);
    return rc == SQLITE_OK ? QL_OK : give_up(ledger, rc);
}

enum ql_status qli_ledger_prune(struct qli_ledger *ledger, int64_t day, int *removed)
{
    sqlite3_stmt *statement = ledger->statements[QLI_LEDGER_PRUNE];
    int rc = sqlite3_bind_int64(statement, 1, day * QLI_SECONDS_PER_DAY);
    if (rc == SQLITE_OK)
        rc = run(statement);
    *removed = sqlite3_changes(ledger->db);
    return rc == SQLITE_OK ? QL_OK : give_up(ledger, rc);
}

enum ql_status qli_ledger_commit(struct qli_ledger *ledger, const struct qli_ledger_meta *meta)
{
    sqlite3_stmt *statement = ledger->statements[QLI_LEDGER_WRITE_META];
    int rc = sqlite3_bind_blob(statement, 1, meta->epoch, QLI_UUID_SIZE, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(statement, 2, meta->sequence);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(statement, 3, meta->durability);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(statement, 4, meta->history_days);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_blob(statement, 5, meta->ledger, QLI_UUID_SIZE, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = run(statement);
    if (rc == SQLITE_OK)
        rc = run(ledger->statements[QLI_LEDGER_COMMIT]);
    return rc == SQLITE_OK ? QL_OK : give_up(ledger, rc);
}
