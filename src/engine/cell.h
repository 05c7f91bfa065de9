/* SPDX-License-Identifier: Apache-2.0
 *
 * A cell: what one meter of one subject adds up to, in the current day and the
 * one before. The roll-over is lazy. A reader whose clock is behind a day that
 * is already open uses the open one. The shard's lock is held.
 */
#ifndef QLI_ENGINE_CELL_H
#define QLI_ENGINE_CELL_H

#include "engine/engine.h"

/* The day that a reader of that day works in. */
int64_t qli_cell_day(const struct qli_cell *cell, int64_t day);

/* The total of that day, as qli_cell_day corrects it, and of the one before. */
int64_t qli_cell_total(const struct qli_cell *cell, int64_t day);
int64_t qli_cell_yesterday(const struct qli_cell *cell, int64_t day);

/* Adds an amount, undoably. Stores: the old day and its total to previous, the
 * new day, its total; or the total alone. */
void qli_cell_add_locked(struct qli_section *section, struct qli_cell *cell, int64_t day,
                         int64_t amount);

#endif
