/* SPDX-License-Identifier: Apache-2.0
 *
 * The ledger: the SQLite file of a store, with the totals of every window. This
 * file owns the connection and what is read and written through it; who may
 * write, and when, is the flusher's business.
 *
 * A connection is used by one thread at a time, never across fork(), and there is
 * one in a process: SQLite's locks are the process's.
 */
#ifndef QLI_LEDGER_LEDGER_H
#define QLI_LEDGER_LEDGER_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

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
    QLI_LEDGER_PRUNE,
    QLI_LEDGER_STATEMENTS,
};

struct qli_ledger {
    int directory_fd; /* the store's directory; -1: the store has no ledger */
    dev_t directory_device;
    ino_t directory_inode;
    sqlite3 *db; /* NULL: closed */
    sqlite3_stmt *statements[QLI_LEDGER_STATEMENTS];
    uint64_t inode;        /* of the file that is open */
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

/* Keeps a descriptor of its own of the directory. directory_fd -1: none. */
enum ql_status qli_ledger_init(struct qli_ledger *ledger, int directory_fd, struct ql_error *error);

/* Closes the connection and the descriptor. */
void qli_ledger_end(struct qli_ledger *ledger);

/* Opens the connection, or looks whether the open one still is that of the file of
 * this name; makes the file and its tables if there are none. former is the inode
 * of the file that was in use before, or 0: what a file that took its place finds
 * of it (its write-ahead log) is removed. Each failure of this and the next ones is
 * QL_E_LEDGER (or QL_E_VERSION), with the text in ledger->error. */
enum ql_status qli_ledger_connect(struct qli_ledger *ledger, uint64_t former);
void qli_ledger_disconnect(struct qli_ledger *ledger);

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
typedef enum ql_status (*qli_ledger_reader)(void *context, const struct qli_ledger_row *row);

enum ql_status qli_ledger_read_subject(struct qli_ledger *ledger, const char *subject, int64_t day,
                                       qli_ledger_reader read, void *context);
enum ql_status qli_ledger_read_day(struct qli_ledger *ledger, int64_t day, qli_ledger_reader read,
                                   void *context);

/* The first and the last day that have a row; *none: there is no row. */
enum ql_status qli_ledger_days(struct qli_ledger *ledger, int64_t *first, int64_t *last,
                               bool *none);

/* The slots that the subjects of a day need. */
enum ql_status qli_ledger_count_slots(struct qli_ledger *ledger, int64_t day, uint64_t *slots);

/* The store's limits as they were last written. */
struct qli_ledger_limits {
    size_t count;
    struct ql_limit limits[QL_LIMITS_MAX]; /* their texts are the next two */
    char names[QL_LIMITS_MAX][QL_NAME_MAX + 1];
    char meters[QL_LIMITS_MAX][QL_NAME_MAX + 1];
};
enum ql_status qli_ledger_read_limits(struct qli_ledger *ledger, struct qli_ledger_limits *limits);

/* Copies the ledger, as it is at one moment, into a new file. */
enum ql_status qli_ledger_copy(struct qli_ledger *ledger, const char *path);

/* Has SQLite check the file. */
enum ql_status qli_ledger_check(struct qli_ledger *ledger);

#endif
