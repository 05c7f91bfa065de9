/* SPDX-License-Identifier: Apache-2.0
 *
 * What the ledger's side does to a region, without a ledger: the engine's own
 * functions, called on the only shard of an open store.
 */
#ifndef KILL_FLUSHING_H
#define KILL_FLUSHING_H

#include "engine/dirty.h"
#include "harness.h"

/* Copies what is dirty, 4 subjects at most, and clears what was copied. */
void kt_copy(struct ql *ql);
void kt_clear(struct ql *ql);

void kt_mark_all(struct ql *ql);

/* An amount of the meter bytes, of today and of the day before. */
void kt_restore(struct ql *ql, const char *subject, int64_t today, int64_t yesterday);
void kt_reopen(struct ql *ql, const char *subject, int64_t today, int64_t yesterday);

/* A line for each dirty total of today and the day before. */
size_t kt_dump_dirty(struct ql *ql, char *dump, size_t size);

#endif
