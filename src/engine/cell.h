/* SPDX-License-Identifier: Apache-2.0
 *
 * A cell: what one meter of one subject adds up to, in the current day and the
 * one before. The roll-over is lazy. A reader whose clock is behind a day that
 * is already open uses the open one. The shard's lock is held.
 */
#ifndef QLI_ENGINE_CELL_H
#define QLI_ENGINE_CELL_H

#include "engine/engine.h"
#include "rules/limit.h"

/* The day that a reader of that day works in. */
static inline int64_t qli_cell_day(const struct qli_cell *cell, int64_t day)
{
    return (int64_t)cell->day > day ? (int64_t)cell->day : day;
}

/* The total of that day, as qli_cell_day corrects it. */
static inline int64_t qli_cell_total(const struct qli_cell *cell, int64_t day)
{
    return (int64_t)cell->day >= day ? qli_engine_amount(cell->total) : 0;
}

/* The total of the day before it. */
static inline int64_t qli_cell_yesterday(const struct qli_cell *cell, int64_t day)
{
    int64_t yesterday = qli_cell_day(cell, day) - 1;
    if ((int64_t)cell->day == yesterday)
        return qli_engine_amount(cell->total);
    return (int64_t)cell->previous_day == yesterday ? qli_engine_amount(cell->previous_total) : 0;
}

/* Adds an amount, undoably. Stores: the old day and its total to previous, the
 * new day, its total; or the total alone. */
static inline void qli_cell_add_locked(struct qli_section *section, struct qli_cell *cell,
                                       int64_t day, int64_t amount)
{
    int64_t total = qli_limit_add(qli_cell_total(cell, day), amount);
    if ((int64_t)cell->day < day) {
        qli_section_store(section, &cell->previous_day, cell->day);
        qli_section_store(section, &cell->previous_total, cell->total);
        qli_section_store(section, &cell->day, (uint64_t)day);
    }
    qli_section_store(section, &cell->total, (uint64_t)total);
}

#endif
