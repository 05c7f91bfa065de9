/* SPDX-License-Identifier: Apache-2.0
 *
 * A cell: what one meter of one subject adds up to, in the current day and the
 * one before. The roll-over is lazy. The shard's lock is held.
 *
 * A call whose day is older than the cell's is just behind, and uses the cell's,
 * unless the store itself has gone back. That, and a day that the cell has not
 * opened yet, may need the ledger: see qli_cell_asks.
 */
#ifndef QLI_ENGINE_CELL_H
#define QLI_ENGINE_CELL_H

#include "engine/subject.h"
#include "rules/limit.h"

/* Whether the cell's day is still to come for the store. */
static inline bool qli_cell_is_ahead(const struct qli_call *call, const struct qli_cell *cell)
{
    const struct qli_engine *engine = call->engine;
    return (int64_t)cell->day > call->day && qli_engine_has_ledger(engine) &&
           __atomic_load_n(&engine->page->day, __ATOMIC_ACQUIRE) < cell->day;
}

/* Whether the ledger may know more of the call's day than a subject that has no
 * window of it. The page is looked at again: since the call began the store may
 * have stepped back. */
static inline bool qli_cell_new_day_asks(const struct qli_call *call)
{
    uint64_t ask_until = __atomic_load_n(&call->engine->page->ask_until, __ATOMIC_RELAXED);
    return call->asks || qli_engine_day_asks(call->day, ask_until);
}

/* Whether a call that looks at the cell has to ask the ledger. */
static inline bool qli_cell_asks(const struct qli_call *call, const struct qli_cell *cell)
{
    if (__builtin_expect((int64_t)cell->day == call->day, 1))
        return false;
    return (int64_t)cell->day < call->day ? qli_cell_new_day_asks(call)
                                          : qli_cell_is_ahead(call, cell);
}

/* The day in which the call works. */
static inline int64_t qli_cell_day(const struct qli_call *call, const struct qli_cell *cell)
{
    if (__builtin_expect((int64_t)cell->day <= call->day, 1) || qli_cell_is_ahead(call, cell))
        return call->day;
    return (int64_t)cell->day;
}

/* What the cell has of a day. */
static inline int64_t qli_cell_window(const struct qli_cell *cell, int64_t day)
{
    if (__builtin_expect((int64_t)cell->day == day, 1))
        return qli_engine_amount(cell->total);
    return (int64_t)cell->previous_day == day ? qli_engine_amount(cell->previous_total) : 0;
}

/* The total of the call's day. */
static inline int64_t qli_cell_total(const struct qli_call *call, const struct qli_cell *cell)
{
    return qli_cell_window(cell, qli_cell_day(call, cell));
}

/* The total of the day before it. */
static inline int64_t qli_cell_yesterday(const struct qli_call *call, const struct qli_cell *cell)
{
    return qli_cell_window(cell, qli_cell_day(call, cell) - 1);
}

/* Whether a call that adds to a subject without a window of its day has to ask. Only
 * the store's own day is opened: of one that is over, the ledger may have more of
 * a subject that was evicted since. */
static inline bool qli_cell_opening_asks(const struct qli_call *call)
{
    const struct qli_engine *engine = call->engine;
    uint64_t day = __atomic_load_n(&engine->page->day, __ATOMIC_ACQUIRE);
    return qli_cell_new_day_asks(call) ||
           (day != (uint64_t)call->day && qli_engine_has_ledger(engine));
}

/* Whether the call may add to the subject's cell: QL_OK, QLI_ASK_LEDGER, or
 * QLI_MUST_FLUSH: its roll-over would drop a window that the ledger lacks. */
static inline enum ql_status qli_cell_admits(const struct qli_call *call,
                                             const struct qli_subject *subject, uint32_t meter)
{
    const struct qli_cell *cell = &subject->cells[meter];
    if (__builtin_expect((int64_t)cell->day == call->day, 1))
        return QL_OK;
    if ((int64_t)cell->day > call->day)
        return qli_cell_is_ahead(call, cell) ? QLI_ASK_LEDGER : QL_OK;
    if (qli_cell_opening_asks(call))
        return QLI_ASK_LEDGER;
    bool drops = (qli_subject_dirty(subject) & qli_dirty_previous(meter)) != 0;
    return drops && qli_engine_has_ledger(call->engine) ? QLI_MUST_FLUSH : QL_OK;
}

/* Adds an amount above 0, undoably, after qli_cell_admits. Stores: the old day and
 * its total to previous, the new day, its total; or the total alone; then the
 * dirty bits, if they change. */
static inline void qli_cell_add_locked(struct qli_section *section, uint64_t index, uint32_t meter,
                                       int64_t day, int64_t amount)
{
    struct qli_subject *subject = qli_subject_at(section, index);
    struct qli_cell *cell = &subject->cells[meter];
    uint64_t old_dirty = qli_subject_dirty(subject);
    uint64_t dirty = old_dirty;
    int64_t total = amount;
    if ((int64_t)cell->day < day) {
        bool moves = (dirty & qli_dirty_current(meter)) != 0;
        dirty &= ~qli_dirty_previous(meter);
        dirty |= moves ? qli_dirty_previous(meter) : 0;
        qli_section_store(section, &cell->previous_day, cell->day);
        qli_section_store(section, &cell->previous_total, cell->total);
        qli_section_store(section, &cell->day, (uint64_t)day);
    } else {
        total = qli_limit_add(qli_engine_amount(cell->total), amount);
    }
    qli_section_store(section, &cell->total, (uint64_t)total);
    dirty |= qli_dirty_current(meter);
    if (__builtin_expect(dirty != old_dirty, 0))
        qli_subject_set_dirty_locked(section, index, dirty);
}

#endif
