/* SPDX-License-Identifier: Apache-2.0 */
#ifndef QLI_LEDGER_FLUSH_H
#define QLI_LEDGER_FLUSH_H

#include "ledger/flusher.h"

/* For a shard's lock, by whoever has entered the flusher, whom others wait for. */
#define QLI_FLUSH_SHARD_WAIT_MS 20

/* The call, as it waits for a shard's lock there. */
static inline struct qli_call qli_flush_hasty_call(const struct qli_call *call)
{
    struct qli_call hasty = *call;
    if (hasty.wait_ms > QLI_FLUSH_SHARD_WAIT_MS)
        hasty.wait_ms = QLI_FLUSH_SHARD_WAIT_MS;
    return hasty;
}

/* Writes what is dirty, as the holder self, who has entered the flusher. The
 * answers are those of qli_flusher_flush. */
enum ql_status qli_flush(struct qli_flusher *flusher, uint64_t self);

/* Whether this is the ledger that the totals that are not dirty are in. */
bool qli_flush_knows(const struct qli_flusher *flusher, const struct qli_ledger_meta *meta);

/* Connects for reading, as one who has entered the flusher. QLI_MUST_FLUSH: the
 * ledger was replaced, and nobody has made it the store's yet. */
enum ql_status qli_flush_connect(struct qli_flusher *flusher);

#endif
