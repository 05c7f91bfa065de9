/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether region and ledger agree.
 */
#ifndef QLI_LEDGER_COMPARE_H
#define QLI_LEDGER_COMPARE_H

#include "ledger/flusher.h"

/* After a flush:
 * [T1] what the region holds of a window and is not dirty, the ledger has, to the
 *      byte, unless the window is so old that the ledger has removed it;
 * [T2] of what is dirty the ledger has no more than the region.
 * And SQLite finds its file sound. Keeps the FLUSHER byte for a shard at a time.
 * QL_E_CORRUPT and a text with the tag, or QL_E_LEDGER, QL_E_BUSY. */
enum ql_status qli_compare(struct qli_flusher *flusher, const struct qli_call *call,
                           struct ql_error *error);

#endif
