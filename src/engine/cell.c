/* SPDX-License-Identifier: Apache-2.0
 *
 * Cells whose day is not the call's.
 */
#include "engine/cell.h"

/* Whether the cell's day is still to come for the store. */
static bool is_ahead(const struct qli_call *call, const struct qli_cell *cell)
{
    const struct qli_engine *engine = call->engine;
    return (int64_t)cell->day > call->day && qli_engine_has_ledger(engine) &&
           __atomic_load_n(&engine->page->day, __ATOMIC_ACQUIRE) < cell->day;
}

bool qli_cell_asks_slow(const struct qli_call *call, const struct qli_cell *cell)
{
    return (int64_t)cell->day < call->day ? qli_cell_new_day_asks(call) : is_ahead(call, cell);
}

int64_t qli_cell_day_slow(const struct qli_call *call, const struct qli_cell *cell)
{
    bool behind = (int64_t)cell->day > call->day && !is_ahead(call, cell);
    return behind ? (int64_t)cell->day : call->day;
}

int64_t qli_cell_window(const struct qli_cell *cell, int64_t day)
{
    if ((int64_t)cell->day == day)
        return qli_engine_amount(cell->total);
    return (int64_t)cell->previous_day == day ? qli_engine_amount(cell->previous_total) : 0;
}

bool qli_cell_opening_asks(const struct qli_call *call)
{
    const struct qli_engine *engine = call->engine;
    uint64_t day = __atomic_load_n(&engine->page->day, __ATOMIC_ACQUIRE);
    return qli_cell_new_day_asks(call) ||
           (day != (uint64_t)call->day && qli_engine_has_ledger(engine));
}

enum ql_status qli_cell_may_add_slow(const struct qli_call *call, const struct qli_subject *subject,
                                     uint32_t meter)
{
    const struct qli_cell *cell = &subject->cells[meter];
    if ((int64_t)cell->day >= call->day)
        return is_ahead(call, cell) ? QLI_ASK_LEDGER : QL_OK;
    if (qli_cell_opening_asks(call))
        return QLI_ASK_LEDGER;
    bool drops = (qli_subject_dirty(subject) & qli_subject_previous_bit(meter)) != 0;
    return drops && qli_engine_has_ledger(call->engine) ? QLI_MUST_FLUSH : QL_OK;
}

void qli_cell_add_slow_locked(struct qli_section *section, struct qli_subject *subject,
                              uint32_t meter, int64_t day, int64_t amount)
{
    struct qli_cell *cell = &subject->cells[meter];
    uint64_t old_dirty = qli_subject_dirty(subject);
    uint64_t dirty = old_dirty;
    int64_t total = amount;
    if ((int64_t)cell->day < day) {
        bool moves = (dirty & qli_subject_current_bit(meter)) != 0;
        dirty &= ~qli_subject_previous_bit(meter);
        dirty |= moves ? qli_subject_previous_bit(meter) : 0;
        qli_section_store(section, &cell->previous_day, cell->day);
        qli_section_store(section, &cell->previous_total, cell->total);
        qli_section_store(section, &cell->day, (uint64_t)day);
    } else {
        total = qli_limit_add(qli_engine_amount(cell->total), amount);
    }
    qli_section_store(section, &cell->total, (uint64_t)total);
    dirty |= qli_subject_current_bit(meter);
    if (dirty != old_dirty)
        qli_subject_set_dirty_locked(section, subject, dirty);
}
