/* SPDX-License-Identifier: Apache-2.0
 *
 * The ledger: the SQLite file of a store, with the totals of every window. The
 * connection and what is written (ledger.c), what is read (reading.c); who may
 * write, and when, is the flusher's business.
 *
 * A connection is used by one thread at a time, and never across fork().
 */
#ifndef QLI_LEDGER_LEDGER_H
#define QLI_LEDGER_LEDGER_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/system.h"
#include "quotalite.h"
#include "region/format.h"

enum qli_ledger_statement {
    QLI_LEDGER_BEGIN,
    QLI_LEDGER_COMMIT,
    QLI_LEDGER_READ_META,
    QLI_LEDGER_WRITE_META,
    QLI_LEDGER_PUT,
    QLI_LEDGER_READ_SUBJECT,
    QLI_LEDGER_READ_DAY,
    QLI_LEDGER_NEXT_DAY,
    QLI_LEDGER_PRUNE,
    QLI_LEDGER_STATEMENTS,
};

/* Which files the ledger is made of: 0 is none. */
struct qli_ledger_files {
    uint64_t inode;
    uint64_t wal_inode; /* of its WAL, the write-ahead log */
    uint64_t shm_inode; /* of that one's index */
};

enum qli_ledger_part {
    QLI_LEDGER_DATABASE,
    QLI_LEDGER_WAL,
    QLI_LEDGER_SHM,
    QLI_LEDGER_PARTS,
};

/* What SQLite has of a part. */
struct qli_ledger_descriptor {
    unsigned count; /* 0: it shares another connection's */
    int fd;
    struct qli_file_id file;
};

struct qli_ledger {
    int directory_fd; /* the store's directory; -1: the store has no ledger */
    struct qli_file_id directory;
    sqlite3 *db; /* NULL: closed */
    sqlite3_stmt *statements[QLI_LEDGER_STATEMENTS];
    struct qli_ledger_files files; /* that are open */
    struct qli_ledger_descriptor descriptors[QLI_LEDGER_PARTS];
    bool lost;             /* atomic; the host closed descriptors: nothing is touched any more */
    struct ql_error error; /* the last failure */
};

/* The one row of the table meta. */
struct qli_ledger_meta {
    uint8_t ledger[QLI_UUID_SIZE]; /* which file this is */
    uint8_t epoch[QLI_UUID_SIZE];  /* of the region that may write */
    int64_t sequence;              /* transactions committed */
    int64_t durability;
    int64_t history_days;
};

/* The errno behind an error of SQLite, or 0. */
int qli_ledger_cause(const struct qli_ledger *ledger, int rc);

/* Notes why a call to SQLite failed; returns QL_E_LEDGER. */
enum ql_status qli_ledger_fail(struct qli_ledger *ledger, int rc);

/* Tells of the last failure, with the status. */
enum ql_status qli_ledger_explain(const struct qli_ledger *ledger, enum ql_status status,
                                  struct ql_error *error);

/* Keeps a descriptor of its own of the directory. directory_fd -1: none. */
enum ql_status qli_ledger_init(struct qli_ledger *ledger, int directory_fd, struct ql_error *error);

/* Closes the connection and the descriptor. */
void qli_ledger_end(struct qli_ledger *ledger);

/* Opens the connection, or looks whether the open one still is that of the file of
 * this name; makes the file and its tables if there are none. former are the files
 * that were in use before: a WAL that a removed file has left is removed, as it
 * would be taken for that of the file in its place. The caller has the FLUSHER
 * byte, and lets others know ledger->files. Each failure of this and the next ones
 * is QL_E_LEDGER, QL_E_VERSION or QL_E_DETACHED (the host closed descriptors), with
 * the text in ledger->error. */
enum ql_status qli_ledger_connect(struct qli_ledger *ledger, struct qli_ledger_files former);
void qli_ledger_disconnect(struct qli_ledger *ledger);

/* Whether the ledger's file has that inode; if the connection is open, also whether it is
 * the one to the files that are there. */
bool qli_ledger_is_there(const struct qli_ledger *ledger, uint64_t inode);

/* Puts the WAL's content into the file and empties it, if no reader is in the way:
 * so that nobody who has the file alone lacks anything. */
void qli_ledger_empty_wal(struct qli_ledger *ledger);

/* Around fork(): keeps all other threads of the process out of SQLite, so that the
 * child finds none of its locks taken. */
void qli_ledger_before_fork(void);
void qli_ledger_after_fork(void);

enum ql_status qli_ledger_read_meta(struct qli_ledger *ledger, struct qli_ledger_meta *meta);

/* A transaction that writes. Each failure of a call within rolls it back. */
enum ql_status qli_ledger_begin(struct qli_ledger *ledger, struct qli_ledger_meta *meta);
enum ql_status qli_ledger_put(struct qli_ledger *ledger, const char *subject, const char *meter,
                              int64_t day, int64_t amount);
enum ql_status qli_ledger_put_limits(struct qli_ledger *ledger, const struct ql_limit *limits,
                                     size_t count);
/* Removes some of the windows before the day; *removed: how many rows. */
enum ql_status qli_ledger_prune(struct qli_ledger *ledger, int64_t day, int *removed);
enum ql_status qli_ledger_commit(struct qli_ledger *ledger, const struct qli_ledger_meta *meta);
void qli_ledger_rollback(struct qli_ledger *ledger);

/* Reading. A row is valid during the function's run; anything but QL_OK ends the
 * reading and is returned. */
struct qli_ledger_row {
    int64_t day;
    const char *subject;
    const char *meter;
    int64_t amount;
};
typedef enum ql_status (*qli_ledger_visitor)(void *context, const struct qli_ledger_row *row);

enum ql_status qli_ledger_read_subject(struct qli_ledger *ledger, const char *subject, int64_t day,
                                       qli_ledger_visitor read, void *context);
enum ql_status qli_ledger_read_day(struct qli_ledger *ledger, int64_t day, qli_ledger_visitor read,
                                   void *context);

/* The first day from *day on that has a row; *none: there is none. */
enum ql_status qli_ledger_next_day(struct qli_ledger *ledger, int64_t *day, bool *none);

/* The last day that has a row; 0: there is no row. */
enum ql_status qli_ledger_last_day(struct qli_ledger *ledger, int64_t *day);

/* The slots that the subjects of a day need. */
enum ql_status qli_ledger_count_slots(struct qli_ledger *ledger, int64_t day, uint64_t *slots);

/* Distinct names of meters, as many as a store may have. */
struct qli_ledger_meters {
    size_t count;
    char names[QL_METERS_MAX][QL_NAME_MAX + 1];
};
void qli_ledger_add_meter(struct qli_ledger_meters *meters, const char *name);

/* Adds the meters that have a total of the day or of the one before it. */
enum ql_status qli_ledger_find_meters(struct qli_ledger *ledger, int64_t day,
                                      struct qli_ledger_meters *meters);

/* The store's limits as they were last written, or what was made of them since: they
 * are to be validated. */
struct qli_ledger_limits {
    size_t count;                          /* QL_LIMITS_MAX + 1: too many */
    struct ql_limit limits[QL_LIMITS_MAX]; /* their texts are the next two */
    char names[QL_LIMITS_MAX][QL_NAME_MAX + 1];
    char meters[QL_LIMITS_MAX][QL_NAME_MAX + 1];
};
enum ql_status qli_ledger_read_limits(struct qli_ledger *ledger, struct qli_ledger_limits *limits);

/* Copies the ledger, as it is at one moment, into a file that is empty. */
enum ql_status qli_ledger_copy(struct qli_ledger *ledger, const char *path);

/* Has SQLite check the file. */
enum ql_status qli_ledger_check(struct qli_ledger *ledger);

#endif
