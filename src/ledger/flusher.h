/* SPDX-License-Identifier: Apache-2.0
 *
 * The flusher: what of the region's totals the ledger lacks, it writes.
 *
 * Whoever has the FLUSHER byte of the lock file writes, checkpoints and makes the
 * ledger; it is taken for one flush and given back, so a process that dies frees
 * it, and a process that lives needs nobody's leave. Totals are absolute: writing
 * one twice, or an older one after a newer one, changes nothing.
 *
 * A flush has a number. It stores, in this order (2 to 5 for each part of it, where
 * there is much):
 *   1. begun = number             whoever charged before it saw a smaller one
 *   2. (no store) the dirty totals are copied, shard by shard, under its lock
 *   3. next_sequence, then the transaction, which carries it; then sequence
 *   4. the dirty bits of what was written and is unchanged
 *   5. flushed = number, of each shard of which nothing was left out
 *   6. done = number              if that is all of them; waiters wake
 * A death before 4 leaves everything dirty: it is written again. One between the
 * commit and sequence is known by next_sequence. After it the next flush takes the
 * number after begun, so that nobody is told that a flush that died was done.
 */
#ifndef QLI_LEDGER_FLUSHER_H
#define QLI_LEDGER_FLUSHER_H

#include <pthread.h>

#include "engine/dirty.h"
#include "ledger/ledger.h"

struct qli_flusher {
    struct qli_engine *engine;
    pthread_mutex_t reader_mutex; /* the second connection, a reader's; fork() takes it first */
    pthread_mutex_t mutex;        /* the ledger's connection and what follows; fork() takes it */
    struct qli_ledger ledger;
    int lock_fd; /* the lock file; owns the FLUSHER byte during a flush, and nothing else */
    struct qli_dirty_subject *chunk; /* what is copied and not written yet */
    size_t chunk_count;
    bool host_is_connected; /* at the fork: by a connection of its own */
};

/* With a ledger that is to be initialised before the first flush. */
void qli_flusher_init(struct qli_flusher *flusher, struct qli_engine *engine);
void qli_flusher_end(struct qli_flusher *flusher);

/* Writes what is dirty now, as the holder self. Waits up to wait_ms for another
 * flush to end. QL_E_BUSY: that one, or somebody in a lock, does not go on.
 * QL_E_GONE: the region is no longer the store's. QL_E_LEDGER, QL_E_VERSION,
 * QL_E_DETACHED, QL_E_CORRUPT (the region), QL_E_SYSTEM, QL_E_NOMEM. After a failure the
 * rest stays dirty. */
enum ql_status qli_flusher_flush(struct qli_flusher *flusher, uint64_t self, int64_t wait_ms,
                                 struct ql_error *error);

/* The same, but it is enough that the one shard is written, by anybody. */
enum ql_status qli_flusher_flush_shard(struct qli_flusher *flusher, uint64_t self, uint64_t shard,
                                       int64_t wait_ms);

/* Flushes if the next flush is due: interval_ns after the last one began, for the process
 * that made that one, and twice as long for the others. Waits for nobody. */
void qli_flusher_tick(struct qli_flusher *flusher, uint64_t self, int64_t interval_ns);

/* Returns once a flush that began after this call, anybody's, has written the shard; makes
 * one itself if nobody else does. QL_E_NOT_DURABLE after wait_ms. */
enum ql_status qli_flusher_await(struct qli_flusher *flusher, uint64_t self, uint64_t shard,
                                 int64_t wait_ms);

/* After QLI_ASK_LEDGER: reads the subject's windows of call->day and of the day
 * before out of the ledger into the region, flushing first what must be. */
enum ql_status qli_flusher_reopen(struct qli_flusher *flusher, const struct qli_call *call,
                                  const struct qli_name *name);

/* Takes the connection and the FLUSHER byte, and gives both back. false after
 * wait_ms. */
bool qli_flusher_enter(struct qli_flusher *flusher, int64_t wait_ms);
void qli_flusher_leave(struct qli_flusher *flusher);

/* Why it could not be entered: QL_E_BUSY or QL_E_DETACHED. */
enum ql_status qli_flusher_not_entered(const struct qli_flusher *flusher, int64_t wait_ms,
                                       struct ql_error *error);

/* Lends the connection for reading, once all that was charged in the shard before is in
 * the ledger; return gives it back, after QL_OK only. QL_E_BUSY after wait_ms, and what
 * qli_flusher_flush answers. */
enum ql_status qli_flusher_lend(struct qli_flusher *flusher, uint64_t self, uint64_t shard,
                                int64_t wait_ms, struct ql_error *error);
void qli_flusher_return(struct qli_flusher *flusher);

/* Whether the ledger can be read, also where there was nothing to be written to it. */
enum ql_status qli_flusher_look(struct qli_flusher *flusher, int64_t wait_ms,
                                struct ql_error *error);

/* Opens a second connection, for a reading that takes long, once all that was charged
 * before is in the ledger. It holds up nobody but fork() and the next reader. To be closed
 * after QL_OK only. */
enum ql_status qli_flusher_open_reader(struct qli_flusher *flusher, uint64_t self, int64_t wait_ms,
                                       struct qli_ledger *reader, struct ql_error *error);
void qli_flusher_close_reader(struct qli_flusher *flusher, struct qli_ledger *reader);

/* The last flush of a process that closes the store: the file then needs no WAL, if
 * nobody else is at work. */
void qli_flusher_finish(struct qli_flusher *flusher, uint64_t self, int64_t wait_ms);

/* Milliseconds since the last completed flush began. */
int64_t qli_flusher_lag_ms(const struct qli_flusher *flusher);

/* Around fork(): from before_fork on the flusher is idle and its connections are closed,
 * since none of SQLite's may be used in a child; after after_fork, in the parent and the
 * child, it may be used again. */
void qli_flusher_before_fork(struct qli_flusher *flusher);

/* Before the fork too, once all flushers have closed their connections and other threads
 * are kept out of SQLite: finds out whether the host has a connection of its own. If so,
 * SQLite believes in the child that it has that one's locks, which stay the parent's; so
 * the child does not open the ledger. */
void qli_flusher_find_host_connection(struct qli_flusher *flusher);
void qli_flusher_after_fork(struct qli_flusher *flusher, bool child);

#endif
