/* SPDX-License-Identifier: Apache-2.0 */
#ifndef QLI_LEDGER_FLUSH_H
#define QLI_LEDGER_FLUSH_H

#include "ledger/flusher.h"

/* Writes what is dirty, as the holder self, who has entered the flusher. The
 * answers are those of qli_flusher_flush. */
enum ql_status qli_flush(struct qli_flusher *flusher, uint64_t self);

#endif
