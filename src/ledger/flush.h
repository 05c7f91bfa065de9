/* SPDX-License-Identifier: Apache-2.0
 *
 * What may be done by one who has entered the flusher (flusher.h).
 */
#ifndef QLI_LEDGER_FLUSH_H
#define QLI_LEDGER_FLUSH_H

#include "ledger/flusher.h"

/* For a shard's lock: others wait for the flusher meanwhile. */
#define QLI_FLUSH_SHARD_WAIT_MS 20

/* The call, with no longer a wait than that. */
static inline struct qli_call qli_flush_hasty_call(const struct qli_call *call)
{
    struct qli_call hasty = *call;
    if (hasty.wait_ms > QLI_FLUSH_SHARD_WAIT_MS)
        hasty.wait_ms = QLI_FLUSH_SHARD_WAIT_MS;
    return hasty;
}

/* Writes what is dirty, as the holder self. The answers are those of
 * qli_flusher_flush. */
enum ql_status qli_flush(struct qli_flusher *flusher, uint64_t self);

/* Whether the meta row is that of the ledger that has all totals that are not dirty. */
bool qli_flush_knows(const struct qli_flusher *flusher, const struct qli_ledger_meta *meta);

/* Connects for reading. QLI_MUST_FLUSH: the ledger was replaced, and nobody has made
 * it the store's yet. */
enum ql_status qli_flush_connect(struct qli_flusher *flusher);

#endif
