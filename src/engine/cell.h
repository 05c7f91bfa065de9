/* SPDX-License-Identifier: Apache-2.0
 *
 * A cell: what one meter of one subject adds up to, in the current day and the
 * one before. The roll-over is lazy. The shard's lock is held.
 *
 * A call whose day is older than the cell's is just behind, and uses the cell's,
 * unless the store itself has gone back. That, and a day that the cell has not
 * opened yet, may need the ledger: see qli_cell_asks. Nearly always the call's day
 * is the cell's: what needs a second look is in cell.c.
 */
#ifndef QLI_ENGINE_CELL_H
#define QLI_ENGINE_CELL_H

#include "engine/subject.h"
#include "rules/limit.h"

static inline bool qli_cell_is_current(const struct qli_call *call, const struct qli_cell *cell)
{
    return __builtin_expect((int64_t)cell->day == call->day, 1);
}

/* Whether the ledger may know more of the call's day than a subject that has no
 * window of it. The page is looked at again: since the call began the store may
 * have stepped back. */
static inline bool qli_cell_new_day_asks(const struct qli_call *call)
{
    uint64_t ask_until = __atomic_load_n(&call->engine->page->ask_until, __ATOMIC_RELAXED);
    return call->asks || qli_engine_day_asks(call->day, ask_until);
}

bool qli_cell_asks_slow(const struct qli_call *call, const struct qli_cell *cell);

/* Whether a call that looks at the cell has to ask the ledger. */
static inline bool qli_cell_asks(const struct qli_call *call, const struct qli_cell *cell)
{
    return !qli_cell_is_current(call, cell) && qli_cell_asks_slow(call, cell);
}

int64_t qli_cell_day_slow(const struct qli_call *call, const struct qli_cell *cell);

/* The day in which the call works. */
static inline int64_t qli_cell_day(const struct qli_call *call, const struct qli_cell *cell)
{
    return qli_cell_is_current(call, cell) ? call->day : qli_cell_day_slow(call, cell);
}

/* What the cell has of a day. */
int64_t qli_cell_window(const struct qli_cell *cell, int64_t day);

/* The total of the call's day. */
static inline int64_t qli_cell_total(const struct qli_call *call, const struct qli_cell *cell)
{
    return qli_cell_is_current(call, cell) ? qli_engine_amount(cell->total)
                                           : qli_cell_window(cell, qli_cell_day_slow(call, cell));
}

/* The total of the day before it. */
static inline int64_t qli_cell_yesterday(const struct qli_call *call, const struct qli_cell *cell)
{
    return qli_cell_window(cell, qli_cell_day(call, cell) - 1);
}

/* Whether a call that adds to a subject without a window of its day has to ask. Only
 * the store's own day is opened: of one that is over, the ledger may have more of
 * a subject that was evicted since. */
bool qli_cell_opening_asks(const struct qli_call *call);

enum ql_status qli_cell_may_add_slow(const struct qli_call *call, const struct qli_subject *subject,
                                     uint32_t meter);

/* Whether the call may add to the subject's cell: QL_OK, QLI_ASK_LEDGER, or
 * QLI_MUST_FLUSH: its roll-over would drop a window that the ledger lacks. */
static inline enum ql_status qli_cell_may_add(const struct qli_call *call,
                                              const struct qli_subject *subject, uint32_t meter)
{
    return qli_cell_is_current(call, &subject->cells[meter])
               ? QL_OK
               : qli_cell_may_add_slow(call, subject, meter);
}

/* What follows for a cell that is not dirty in that day. */
void qli_cell_add_slow_locked(struct qli_section *section, struct qli_subject *subject,
                              uint32_t meter, int64_t day, int64_t amount);

/* Adds an amount above 0, undoably, after qli_cell_may_add. Stores: the old day and
 * its total to previous, the new day, its total; or the total alone; then the
 * dirty bits, if they change. */
static inline void qli_cell_add_locked(struct qli_section *section, struct qli_subject *subject,
                                       uint32_t meter, int64_t day, int64_t amount)
{
    struct qli_cell *cell = &subject->cells[meter];
    bool dirty = (qli_subject_dirty(subject) & qli_subject_current_bit(meter)) != 0;
    if (__builtin_expect((int64_t)cell->day < day || !dirty, 0)) {
        qli_cell_add_slow_locked(section, subject, meter, day, amount);
        return;
    }
    int64_t total = qli_limit_add(qli_engine_amount(cell->total), amount);
    qli_section_store(section, &cell->total, (uint64_t)total);
}

#endif
