/* SPDX-License-Identifier: Apache-2.0
 *
 * A death in here leaves what SQLite promises: the transactions that were
 * committed, each whole.
 */
#include "ledger/ledger.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/system.h"
#include "ledger/schema.h"
#include "rules/name.h"
#include "rules/window.h"

#define FILE_NAME "ledger.db"
#define LOG_NAME FILE_NAME "-wal"
#define INDEX_NAME FILE_NAME "-shm"
#define BUSY_WAIT_MS 1000 /* for a reader that is in SQLite's way; writers are kept apart by us */
#define INLINE_KEY_BYTES "96"
#define LAST_DAY (INT64_MAX / QLI_SECONDS_PER_DAY - 1) /* that ends at a time which there is */

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

static const char *advice_for(int rc, int cause)
{
    if (cause == ENOSPC || cause == EDQUOT || (rc & 0xff) == SQLITE_FULL)
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

static enum ql_status fail(struct qli_ledger *ledger, int rc)
{
    int cause = ledger->db != NULL ? sqlite3_system_errno(ledger->db) : 0;
    return qli_error(&ledger->error, QL_E_LEDGER, cause, "the ledger (%s): %s; %s", FILE_NAME,
                     sqlite3_errstr(rc), advice_for(rc, cause));
}

static enum ql_status refuse_file(struct qli_ledger *ledger, const char *what)
{
    return qli_error(&ledger->error, QL_E_LEDGER, errno, "cannot %s the ledger (%s): %s", what,
                     FILE_NAME, strerror(errno));
}

/* ---- the file ------------------------------------------------------------ */

enum ql_status qli_ledger_init(struct qli_ledger *ledger, int directory_fd, struct ql_error *error)
{
    struct stat info;
    *ledger = (struct qli_ledger){.directory_fd = -1};
    if (directory_fd < 0)
        return QL_OK;
    ledger->directory_fd = qli_system_open(directory_fd, ".", O_RDONLY | O_DIRECTORY, 0);
    if (ledger->directory_fd < 0 || fstat(ledger->directory_fd, &info) != 0)
        return qli_error(error, QL_E_SYSTEM, errno, "cannot keep the store's directory open: %s",
                         strerror(errno));
    ledger->directory_device = info.st_dev;
    ledger->directory_inode = info.st_ino;
    return QL_OK;
}

/* A host may have closed the descriptor and got its number for something else. */
static bool directory_is_ours(const struct qli_ledger *ledger)
{
    struct stat info;
    return ledger->directory_fd >= 0 && fstat(ledger->directory_fd, &info) == 0 &&
           info.st_dev == ledger->directory_device && info.st_ino == ledger->directory_inode;
}

void qli_ledger_end(struct qli_ledger *ledger)
{
    qli_ledger_disconnect(ledger);
    if (directory_is_ours(ledger))
        close(ledger->directory_fd);
    ledger->directory_fd = -1;
}

/* The inode of a file of the ledger, or 0. */
static uint64_t find_inode(const struct qli_ledger *ledger, const char *name)
{
    struct stat info;
    return fstatat(ledger->directory_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 ? info.st_ino : 0;
}

static struct qli_ledger_files find_files(const struct qli_ledger *ledger)
{
    return (struct qli_ledger_files){find_inode(ledger, FILE_NAME), find_inode(ledger, LOG_NAME),
                                     find_inode(ledger, INDEX_NAME)};
}

/* Whoever may use the store's directory may use its files. By name: a descriptor of
 * an existing file must not be closed here, as that would drop SQLite's locks. */
static bool follow_directory(const struct qli_ledger *ledger, const char *name)
{
    struct stat directory;
    struct stat made;
    if (fstat(ledger->directory_fd, &directory) != 0 ||
        fstatat(ledger->directory_fd, name, &made, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    mode_t mode = directory.st_mode & 0666;
    bool root = geteuid() == 0;
    uid_t owner = root ? directory.st_uid : made.st_uid;
    if (made.st_uid != geteuid() ||
        (made.st_uid == owner && made.st_gid == directory.st_gid && (made.st_mode & 0777) == mode))
        return true;
    bool shared = root || (directory.st_mode & 0060) != 0;
    if (fchownat(ledger->directory_fd, name, owner, directory.st_gid, AT_SYMLINK_NOFOLLOW) != 0 &&
        shared)
        return false;
    return fchmodat(ledger->directory_fd, name, mode, 0) == 0;
}

/* SQLite would give a file the group of its maker and the mode that the umask makes
 * of 0644. An empty log or index is as good to it as none. */
static bool make_file(const struct qli_ledger *ledger, const char *name)
{
    int fd = qli_system_open(ledger->directory_fd, name, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (fd < 0 && errno != EEXIST)
        return false;
    if (fd >= 0)
        close(fd);
    return follow_directory(ledger, name);
}

static enum ql_status make_files(struct qli_ledger *ledger)
{
    bool fresh = find_inode(ledger, FILE_NAME) == 0;
    if (!make_file(ledger, FILE_NAME) || !make_file(ledger, LOG_NAME) ||
        !make_file(ledger, INDEX_NAME))
        return refuse_file(ledger, "make");
    return fresh && qli_system_sync(ledger->directory_fd) != 0 ? refuse_file(ledger, "make")
                                                               : QL_OK;
}

static void remove_former_log(const struct qli_ledger *ledger, struct qli_ledger_files former)
{
    struct qli_ledger_files now = find_files(ledger);
    if (former.inode == 0 || now.inode == former.inode || now.wal_inode == 0 ||
        now.wal_inode != former.wal_inode)
        return;
    unlinkat(ledger->directory_fd, LOG_NAME, 0);
    unlinkat(ledger->directory_fd, INDEX_NAME, 0);
}

/* ---- descriptors ---------------------------------------------------------- */

static bool is_file(const struct stat *info, const struct qli_ledger *ledger, const char *name)
{
    struct stat file;
    return fstatat(ledger->directory_fd, name, &file, AT_SYMLINK_NOFOLLOW) == 0 &&
           file.st_dev == info->st_dev && file.st_ino == info->st_ino;
}

/* Finds out which descriptors of the process are of the ledger's files, but for those
 * of others. */
static size_t find_descriptors(const struct qli_ledger *ledger,
                               const struct qli_ledger_descriptor *others, size_t other_count,
                               struct qli_ledger_descriptor *found)
{
    size_t count = 0;
    DIR *listing = opendir("/proc/self/fd");
    struct dirent *entry;
    while (listing != NULL && count < QLI_LEDGER_DESCRIPTORS &&
           (entry = readdir(listing)) != NULL) {
        struct stat info;
        int fd = entry->d_name[0] != '.' ? atoi(entry->d_name) : -1;
        if (fd < 0 || fstat(fd, &info) != 0 ||
            !(is_file(&info, ledger, FILE_NAME) || is_file(&info, ledger, LOG_NAME) ||
              is_file(&info, ledger, INDEX_NAME)))
            continue;
        bool other = false;
        for (size_t i = 0; i < other_count; i++)
            other = other || others[i].fd == fd;
        if (!other)
            found[count++] = (struct qli_ledger_descriptor){fd, info.st_dev, info.st_ino};
    }
    if (listing != NULL)
        closedir(listing);
    return count;
}

/* A host that closes what it did not open may have got the numbers for files of its
 * own, which SQLite would write to, and close. */
static bool descriptors_are_ours(const struct qli_ledger *ledger)
{
    for (size_t i = 0; i < ledger->descriptor_count; i++) {
        const struct qli_ledger_descriptor *descriptor = &ledger->descriptors[i];
        struct stat info;
        if (fstat(descriptor->fd, &info) != 0 || info.st_dev != descriptor->device ||
            info.st_ino != descriptor->inode)
            return false;
    }
    return true;
}

/* The connection is left as it is: any call to SQLite might touch a descriptor. */
static enum ql_status lose_connection(struct qli_ledger *ledger)
{
    __atomic_store_n(&ledger->lost, true, __ATOMIC_RELAXED);
    memset(ledger->statements, 0, sizeof ledger->statements);
    ledger->db = NULL;
    return qli_error(&ledger->error, QL_E_DETACHED, 0, "%s", ql_status_text(QL_E_DETACHED));
}

/* ---- the connection ------------------------------------------------------ */

static int set_up(sqlite3 *db)
{
    /* Writing and checkpointing is for who has the FLUSHER byte, closing is for
     * everybody: so closing does not checkpoint. */
    int rc = sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
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
    snprintf(path, sizeof path, "/proc/self/fd/%d/" FILE_NAME, ledger->directory_fd);
    int rc = sqlite3_open_v2(path, &ledger->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(ledger->db, BUSY_WAIT_MS);
    ledger->error.text[0] = '\0';
    enum ql_status status = rc == SQLITE_OK ? prepare(ledger, &rc) : QL_E_LEDGER;
    if (status != QL_OK)
        return ledger->error.text[0] != '\0' ? status : fail(ledger, rc);
    for (int i = 0; i < QLI_LEDGER_STATEMENTS; i++) {
        rc = sqlite3_prepare_v3(ledger->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                                &ledger->statements[i], NULL);
        if (rc != SQLITE_OK)
            return fail(ledger, rc);
    }
    return QL_OK;
}

void qli_ledger_disconnect(struct qli_ledger *ledger)
{
    if (ledger->db != NULL && !descriptors_are_ours(ledger))
        lose_connection(ledger);
    for (int i = 0; i < QLI_LEDGER_STATEMENTS; i++) {
        sqlite3_finalize(ledger->statements[i]);
        ledger->statements[i] = NULL;
    }
    sqlite3_close(ledger->db);
    ledger->db = NULL;
}

/* The log and its index too: whoever removes one of them takes away what was committed,
 * or what keeps two processes apart. */
static bool has_moved(const struct qli_ledger *ledger)
{
    const struct qli_ledger_files now = find_files(ledger);
    int moved = 0;
    return sqlite3_file_control(ledger->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) != SQLITE_OK ||
           moved != 0 || now.inode != ledger->files.inode ||
           now.wal_inode != ledger->files.wal_inode || now.shm_inode != ledger->files.shm_inode;
}

bool qli_ledger_is_there(const struct qli_ledger *ledger, uint64_t inode)
{
    return directory_is_ours(ledger) && find_inode(ledger, FILE_NAME) == inode &&
           (ledger->db == NULL || !has_moved(ledger));
}

enum ql_status qli_ledger_connect(struct qli_ledger *ledger, struct qli_ledger_files former)
{
    if (ledger->directory_fd < 0 && !ledger->lost)
        return qli_error(&ledger->error, QL_E_LEDGER, 0, "the store has no ledger");
    if (ledger->lost || (ledger->db != NULL && !descriptors_are_ours(ledger)))
        return lose_connection(ledger);
    if (ledger->db != NULL && has_moved(ledger))
        qli_ledger_disconnect(ledger);
    if (ledger->db != NULL)
        return QL_OK;
    if (!directory_is_ours(ledger))
        return lose_connection(ledger);
    remove_former_log(ledger, former);
    struct qli_ledger_descriptor others[QLI_LEDGER_DESCRIPTORS];
    enum ql_status status = make_files(ledger);
    size_t other_count = find_descriptors(ledger, NULL, 0, others);
    if (status == QL_OK)
        status = open_connection(ledger);
    ledger->files = find_files(ledger);
    if (status == QL_OK && has_moved(ledger)) /* somebody replaced it meanwhile */
        status = fail(ledger, SQLITE_READONLY_DBMOVED);
    /* SQLite does not tell which descriptors it has. */
    ledger->descriptor_count = find_descriptors(ledger, others, other_count, ledger->descriptors);
    if (status != QL_OK)
        qli_ledger_disconnect(ledger);
    return status;
}

/* Nobody is waited for: with a reader in the way the log stays as it is. */
void qli_ledger_empty_log(struct qli_ledger *ledger)
{
    if (ledger->db == NULL || !descriptors_are_ours(ledger))
        return;
    sqlite3_busy_timeout(ledger->db, 0);
    sqlite3_wal_checkpoint_v2(ledger->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_busy_timeout(ledger->db, BUSY_WAIT_MS);
}

/* In the order in which SQLite takes one under another: the heap's is the last. */
static const int sqlite_mutexes[] = {
    SQLITE_MUTEX_STATIC_MAIN, SQLITE_MUTEX_STATIC_VFS1, SQLITE_MUTEX_STATIC_VFS2,
    SQLITE_MUTEX_STATIC_VFS3, SQLITE_MUTEX_STATIC_LRU,  SQLITE_MUTEX_STATIC_PMEM,
    SQLITE_MUTEX_STATIC_PRNG, SQLITE_MUTEX_STATIC_MEM,
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
    enum ql_status status = fail(ledger, rc);
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
    return rc == SQLITE_OK ? QL_OK : fail(ledger, rc);
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

/* ---- reading ------------------------------------------------------------- */

/* A file that anybody may have edited: what is no subject, meter or amount of ours
 * is passed over. */
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
                                qli_ledger_reader read, void *context)
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
        status = fail(ledger, rc);
    return status;
}

enum ql_status qli_ledger_read_subject(struct qli_ledger *ledger, const char *subject, int64_t day,
                                       qli_ledger_reader read, void *context)
{
    sqlite3_stmt *statement = ledger->statements[QLI_LEDGER_READ_SUBJECT];
    int rc = sqlite3_bind_int64(statement, 1, day * QLI_SECONDS_PER_DAY);
    if (rc == SQLITE_OK)
        rc = bind_text(statement, 2, subject);
    return rc == SQLITE_OK ? read_rows(ledger, statement, read, context) : fail(ledger, rc);
}

enum ql_status qli_ledger_read_day(struct qli_ledger *ledger, int64_t day, qli_ledger_reader read,
                                   void *context)
{
    sqlite3_stmt *statement = ledger->statements[QLI_LEDGER_READ_DAY];
    int rc = sqlite3_bind_int64(statement, 1, day * QLI_SECONDS_PER_DAY);
    return rc == SQLITE_OK ? read_rows(ledger, statement, read, context) : fail(ledger, rc);
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
    return rc == SQLITE_ROW ? QL_OK : fail(ledger, rc);
}

enum ql_status qli_ledger_last_day(struct qli_ledger *ledger, int64_t *day)
{
    sqlite3_stmt *statement = NULL;
    int rc = read_one(ledger, "SELECT max(start) FROM totals WHERE window = 'day'", 0, &statement);
    if (rc == SQLITE_ROW)
        *day = sqlite3_column_int64(statement, 0) / QLI_SECONDS_PER_DAY;
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? QL_OK : fail(ledger, rc);
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
    return rc == SQLITE_ROW ? QL_OK : fail(ledger, rc);
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
    return rc == SQLITE_DONE ? QL_OK : fail(ledger, rc);
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
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? QL_OK : fail(ledger, rc);
}

/* ---- care ---------------------------------------------------------------- */

enum ql_status qli_ledger_copy(struct qli_ledger *ledger, const char *path)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(ledger->db, "VACUUM INTO ?1", -1, &statement, NULL);
    if (rc == SQLITE_OK)
        rc = bind_text(statement, 1, path);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(statement);
    sqlite3_finalize(statement);
    if (rc == SQLITE_DONE)
        return QL_OK;
    if ((rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB)
        return fail(ledger, rc);
    return qli_error(&ledger->error, QL_E_LEDGER, sqlite3_system_errno(ledger->db),
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
        qli_error(&ledger->error, QL_E_LEDGER, 0, "the ledger (%s) is damaged: %.200s; %s",
                  FILE_NAME, answer != NULL ? answer : "out of memory",
                  advice_for(SQLITE_CORRUPT, 0));
    sqlite3_finalize(statement);
    return sound ? QL_OK : QL_E_LEDGER;
}
