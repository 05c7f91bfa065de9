/* SPDX-License-Identifier: Apache-2.0
 *
 * What the region knows and the ledger does not. A total is dirty from the charge
 * that raised it until it is known to be committed; the way to the ledger is
 *
 *   copy    the dirty totals, under the shard's lock
 *   ...     they are committed to the ledger, without it
 *   clear   the dirty bit where the total still is the one that was copied
 *
 * and the other way is restore (a region that nobody else has seen yet) and reopen.
 */
#ifndef QLI_ENGINE_DIRTY_H
#define QLI_ENGINE_DIRTY_H

#include "engine/subject.h"

/* One window of one meter of a subject. */
struct qli_total {
    uint32_t meter;
    int64_t day;
    int64_t amount;
    bool dirty; /* where it was copied from a region */
};

struct qli_dirty_subject {
    uint64_t index; /* in its shard */
    uint64_t hash;
    size_t count;
    struct qli_total totals[2 * QL_METERS_MAX];
    char key[QL_SUBJECT_MAX + 1];
};

/* Copies the next dirty subjects of a shard, max at most, under one hold of its
 * lock; call->wait_ms says how long that is waited for. *cursor is 0 at first and
 * moves behind the last one; *count 0: no more. A subject that becomes dirty
 * behind the cursor is one of the next look. */
enum ql_status qli_dirty_copy(const struct qli_call *call, uint64_t shard, uint64_t *cursor,
                              struct qli_dirty_subject *found, size_t max, size_t *count);

/* The same of all subjects of a shard, with all their totals that are not 0: for who
 * compares them with the ledger. */
enum ql_status qli_dirty_survey(const struct qli_call *call, uint64_t shard, uint64_t *cursor,
                                struct qli_dirty_subject *found, size_t max, size_t *count);

/* The ledger has these totals now, of one copy. One commit a subject, all under one
 * hold of the lock. What was raised since stays dirty. */
enum ql_status qli_dirty_clear(const struct qli_call *call, uint64_t shard,
                               const struct qli_dirty_subject *written, size_t count);

/* Makes every total dirty that is not 0, for a ledger that has none of them. After
 * QL_E_BUSY some are; call it again. */
enum ql_status qli_dirty_mark_all(const struct qli_call *call);

/* Puts a total of call->day, or of the day before it, into a region that nobody
 * else has seen; it is clean. One of the day before opens call->day too, with 0
 * until its own comes. A subject that has nothing but that makes room for others.
 * QL_E_INVALID: another day, no amount, or a meter that the store has no room for.
 * QL_E_FULL. */
enum ql_status qli_dirty_restore(const struct qli_call *call, const struct qli_name *name,
                                 const struct qli_total *total);

/* Makes call->day and the day before it the windows of all cells of the subject:
 * after QLI_ASK_LEDGER, by who has the FLUSHER byte, who has kept it since before
 * the ledger was read. A subject that is not there is made, also where the ledger
 * has nothing of it: that it is there says that the ledger was asked. totals are
 * what the ledger has of these days (nothing of a meter: 0). A window that a cell
 * has itself keeps the larger amount. Where the store has gone to another day since
 * the call began, nothing is done: what asked is called again, as a new call, and
 * asks again if it has to. QLI_MUST_FLUSH: the subject is dirty.
 * QL_E_INVALID as for restore; QL_E_FULL. */
enum ql_status qli_dirty_reopen(const struct qli_call *call, const struct qli_name *name,
                                const struct qli_total *totals, size_t count);

#endif
