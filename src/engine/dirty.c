/* SPDX-License-Identifier: Apache-2.0
 *
 * Between a region and its ledger. Copying changes nothing; what is cleared,
 * marked, restored or reopened is one commit a subject, so a death in between
 * leaves the rest to the next one, and doing it twice does no harm.
 */
#include "engine/dirty.h"

#include "engine/cell.h"
#include "rules/window.h"

#define MARKED_AT_ONCE 256 /* slots, under one hold of the lock */

/* The bits that a subject of this store can have. */
static uint64_t valid_bits(const struct qli_section *section)
{
    uint64_t meters = qli_subject_current_bit(section->engine->geometry.meter_capacity) - 1;
    return meters | meters << QL_METERS_MAX;
}

/* ---- copy ---------------------------------------------------------------- */

/* The first subject behind index whose bit is set; 0: there is none. */
static uint64_t next_marked(const struct qli_section *section, uint64_t index)
{
    uint64_t count = section->engine->geometry.shard_subjects;
    while (index++ < count) {
        uint64_t word = *qli_subject_bitmap_word(section, index) >> (index - 1) % 64;
        if (word != 0) {
            index += (uint64_t)__builtin_ctzll(word);
            return index <= count ? index : 0;
        }
        index += 63 - (index - 1) % 64; /* the word's last */
    }
    return 0;
}

static void add_total(struct qli_dirty_subject *found, uint64_t meter, uint64_t day, uint64_t total,
                      bool dirty)
{
    found->totals[found->count++] = (struct qli_total){
        .meter = (uint32_t)meter,
        .day = (int64_t)day,
        .amount = (int64_t)total,
        .dirty = dirty,
    };
}

/* What damage made of a total would stay in the ledger for ever. */
static bool totals_valid(const struct qli_section *section, const struct qli_subject *subject)
{
    const uint64_t last_day = INT64_MAX / (QLI_SECONDS_PER_DAY * QLI_NS_PER_SECOND);
    for (uint64_t m = 0; m < section->engine->geometry.meter_capacity; m++) {
        const struct qli_cell *cell = &subject->cells[m];
        if (cell->total > INT64_MAX || cell->previous_total > INT64_MAX || cell->day > last_day ||
            cell->previous_day > last_day)
            return false;
    }
    return true;
}

/* The dirty totals, or all that are dirty or not 0. */
static enum ql_status copy_subject(const struct qli_section *section, uint64_t index, bool all,
                                   struct qli_dirty_subject *found)
{
    const struct qli_subject *subject = qli_subject_at(section, index);
    uint64_t dirty = qli_subject_dirty(subject);
    if ((dirty & ~valid_bits(section)) != 0 || !totals_valid(section, subject))
        return QL_E_CORRUPT;
    found->index = index;
    found->hash = subject->hash;
    found->count = 0;
    for (uint64_t m = 0; m < section->engine->geometry.meter_capacity; m++) {
        const struct qli_cell *cell = &subject->cells[m];
        bool previous = (dirty & qli_subject_previous_bit(m)) != 0;
        bool current = (dirty & qli_subject_current_bit(m)) != 0;
        if (previous || (all && cell->previous_total != 0))
            add_total(found, m, cell->previous_day, cell->previous_total, previous);
        if (current || (all && cell->total != 0))
            add_total(found, m, cell->day, cell->total, current);
    }
    return qli_subject_key(section, subject, found->key);
}

static enum ql_status copy_dirty_locked(struct qli_section *section, uint64_t *cursor,
                                        struct qli_dirty_subject *found, size_t max, size_t *count)
{
    uint64_t index = section->shard->dirty_count != 0 ? next_marked(section, *cursor) : 0;
    for (; index != 0 && *count < max; index = next_marked(section, index)) {
        const struct qli_subject *subject = qli_subject_at(section, index);
        if (qli_subject_kind(subject) != QLI_SUBJECT_USED || qli_subject_dirty(subject) == 0)
            return QL_E_CORRUPT;
        enum ql_status status = copy_subject(section, index, false, &found[*count]);
        if (status != QL_OK)
            return status;
        ++*count;
        *cursor = index;
    }
    return QL_OK;
}

static enum ql_status copy_all_locked(struct qli_section *section, uint64_t *cursor,
                                      struct qli_dirty_subject *found, size_t max, size_t *count)
{
    uint64_t top = section->shard->subject_top;
    if (top > section->engine->geometry.shard_subjects)
        return QL_E_CORRUPT;
    while (*cursor < top && *count < max) {
        uint64_t index = ++*cursor;
        if (qli_subject_kind(qli_subject_at(section, index)) != QLI_SUBJECT_USED)
            continue;
        enum ql_status status = copy_subject(section, index, true, &found[*count]);
        if (status != QL_OK)
            return status;
        ++*count;
    }
    return QL_OK;
}

/* Copies some of a shard, as one of the two above does. */
static enum ql_status copy_some(const struct qli_call *call, uint64_t shard, bool all,
                                uint64_t *cursor, struct qli_dirty_subject *found, size_t max,
                                size_t *count)
{
    struct qli_section section;
    *count = 0;
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    status = all ? copy_all_locked(&section, cursor, found, max, count)
                 : copy_dirty_locked(&section, cursor, found, max, count);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    qli_section_leave(&section);
    return QL_OK;
}

enum ql_status qli_dirty_copy(const struct qli_call *call, uint64_t shard, uint64_t *cursor,
                              struct qli_dirty_subject *found, size_t max, size_t *count)
{
    return copy_some(call, shard, false, cursor, found, max, count);
}

enum ql_status qli_dirty_survey(const struct qli_call *call, uint64_t shard, uint64_t *cursor,
                                struct qli_dirty_subject *found, size_t max, size_t *count)
{
    return copy_some(call, shard, true, cursor, found, max, count);
}

/* ---- clear --------------------------------------------------------------- */

/* The dirty bit of the window that still is what was copied; 0: it was raised
 * since, or is gone. */
static uint64_t bit_of(const struct qli_subject *subject, const struct qli_total *total)
{
    const struct qli_cell *cell = &subject->cells[total->meter];
    uint64_t day = (uint64_t)total->day;
    uint64_t amount = (uint64_t)total->amount;
    if (cell->day == day)
        return cell->total == amount ? qli_subject_current_bit(total->meter) : 0;
    if (cell->previous_day == day)
        return cell->previous_total == amount ? qli_subject_previous_bit(total->meter) : 0;
    return 0;
}

/* Stores: the subject's dirty bits; the commit. */
static void clear_subject(struct qli_section *section, const struct qli_dirty_subject *written)
{
    struct qli_subject *subject = qli_subject_at(section, written->index);
    if (subject == NULL || qli_subject_kind(subject) != QLI_SUBJECT_USED ||
        subject->hash != written->hash)
        return;
    uint64_t old_dirty = qli_subject_dirty(subject);
    uint64_t dirty = old_dirty;
    for (size_t i = 0; i < written->count; i++)
        dirty &= ~bit_of(subject, &written->totals[i]);
    if (dirty == old_dirty)
        return;
    qli_subject_set_dirty_locked(section, subject, dirty);
    qli_section_commit(section);
}

enum ql_status qli_dirty_clear(const struct qli_call *call, uint64_t shard,
                               const struct qli_dirty_subject *written, size_t count)
{
    struct qli_section section;
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    for (size_t i = 0; i < count; i++)
        clear_subject(&section, &written[i]);
    qli_section_leave(&section);
    return QL_OK;
}

/* ---- mark ---------------------------------------------------------------- */

/* Stores: the subject's dirty bits; the commit. */
static void mark_subject(struct qli_section *section, uint64_t index)
{
    struct qli_subject *subject = qli_subject_at(section, index);
    if (qli_subject_kind(subject) != QLI_SUBJECT_USED)
        return;
    uint64_t dirty = qli_subject_dirty(subject);
    for (uint64_t m = 0; m < section->engine->geometry.meter_capacity; m++) {
        const struct qli_cell *cell = &subject->cells[m];
        dirty |= cell->total != 0 ? qli_subject_current_bit(m) : 0;
        dirty |= cell->previous_total != 0 ? qli_subject_previous_bit(m) : 0;
    }
    if (dirty == qli_subject_dirty(subject))
        return;
    qli_subject_set_dirty_locked(section, subject, dirty);
    qli_section_commit(section);
}

/* The slots from *next on; *next is then the first not looked at, 0 at the end. */
static enum ql_status mark_some(const struct qli_call *call, uint64_t shard, uint64_t *next)
{
    struct qli_section section;
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    uint64_t top = section.shard->subject_top;
    if (top > call->engine->geometry.shard_subjects)
        return qli_section_abandon(&section, QL_E_CORRUPT);
    for (unsigned i = 0; i < MARKED_AT_ONCE && *next <= top; i++)
        mark_subject(&section, (*next)++);
    if (*next > top)
        *next = 0;
    qli_section_leave(&section);
    return QL_OK;
}

enum ql_status qli_dirty_mark_all(const struct qli_call *call)
{
    for (uint64_t shard = 0; shard < call->engine->geometry.shard_count; shard++) {
        for (uint64_t next = 1; next != 0;) {
            enum ql_status status = mark_some(call, shard, &next);
            if (status != QL_OK)
                return status;
        }
    }
    return QL_OK;
}

/* ---- restore and reopen -------------------------------------------------- */

static bool total_valid(const struct qli_call *call, const struct qli_total *total)
{
    return total->meter < call->engine->geometry.meter_capacity && total->amount >= 0 &&
           total->day >= 0 && (total->day == call->day || total->day == call->day - 1);
}

/* Stores: the total, with its day if that is the day before; the current day. */
static void restore_window(struct qli_section *section, struct qli_cell *cell, int64_t today,
                           const struct qli_total *total)
{
    if (total->day == today) {
        qli_section_store(section, &cell->total, (uint64_t)total->amount);
    } else {
        qli_section_store(section, &cell->previous_day, (uint64_t)total->day);
        qli_section_store(section, &cell->previous_total, (uint64_t)total->amount);
    }
    qli_section_store(section, &cell->day, (uint64_t)today);
}

/* Stores: the subject's, if it is new; the cell's; the commit. */
enum ql_status qli_dirty_restore(const struct qli_call *call, const struct qli_name *name,
                                 const struct qli_total *total)
{
    struct qli_section section;
    uint64_t index;
    if (!total_valid(call, total))
        return QL_E_INVALID;
    enum ql_status status = qli_subject_enter(call, name, &section, &index);
    if (status != QL_OK)
        return status;
    if (index == 0)
        status = qli_subject_insert_locked(&section, name, call->day, &index);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    struct qli_cell *cell = &qli_subject_at(&section, index)->cells[total->meter];
    restore_window(&section, cell, call->day, total);
    qli_section_commit(&section);
    qli_section_leave(&section);
    return QL_OK;
}

#define CELL_STORES 4
#define INSERT_STORES 7
_Static_assert(QLI_UNDO_MAX >= INSERT_STORES + CELL_STORES * QL_METERS_MAX,
               "all cells of a subject fit into the undo log");

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What the cell or the ledger has of a day. */
static uint64_t known_total(const struct qli_cell *cell, uint64_t meter, int64_t day,
                            const struct qli_total *totals, size_t count)
{
    int64_t amount = qli_cell_window(cell, day);
    for (size_t i = 0; i < count; i++) {
        if (totals[i].meter == meter && totals[i].day == day)
            amount = larger(amount, totals[i].amount);
    }
    return (uint64_t)amount;
}

/* Stores: both windows of the cell. */
static void reopen_cell(struct qli_section *section, struct qli_cell *cell, uint64_t meter,
                        int64_t today, const struct qli_total *totals, size_t count)
{
    int64_t yesterday = today > 0 ? today - 1 : 0;
    uint64_t total = known_total(cell, meter, today, totals, count);
    uint64_t previous = today > 0 ? known_total(cell, meter, yesterday, totals, count) : 0;
    qli_section_store(section, &cell->previous_day, (uint64_t)yesterday);
    qli_section_store(section, &cell->previous_total, previous);
    qli_section_store(section, &cell->day, (uint64_t)today);
    qli_section_store(section, &cell->total, total);
}

/* Another one may have done it meanwhile, and charged. */
static bool is_open(const struct qli_call *call, const struct qli_subject *subject)
{
    for (uint64_t m = 0; m < call->engine->geometry.meter_capacity; m++) {
        if ((int64_t)subject->cells[m].day != call->day)
            return false;
    }
    return true;
}

/* Stores: the subject's, if it is new; the cells'; the commit. */
enum ql_status qli_dirty_reopen(const struct qli_call *call, const struct qli_name *name,
                                const struct qli_total *totals, size_t count)
{
    struct qli_section section;
    uint64_t index;
    for (size_t i = 0; i < count; i++) {
        if (!total_valid(call, &totals[i]))
            return QL_E_INVALID;
    }
    enum ql_status status = qli_subject_enter(call, name, &section, &index);
    if (status != QL_OK)
        return status;
    if (__atomic_load_n(&call->engine->page->day, __ATOMIC_ACQUIRE) != (uint64_t)call->day)
        return qli_section_abandon(&section, QL_OK);
    if (index == 0)
        status = qli_subject_insert_locked(&section, name, call->day, &index);
    else if (is_open(call, qli_subject_at(&section, index)))
        return qli_section_abandon(&section, QL_OK);
    else if (qli_subject_dirty(qli_subject_at(&section, index)) != 0)
        status = QLI_MUST_FLUSH;
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    struct qli_subject *subject = qli_subject_at(&section, index);
    for (uint64_t m = 0; m < call->engine->geometry.meter_capacity; m++)
        reopen_cell(&section, &subject->cells[m], m, call->day, totals, count);
    qli_section_commit(&section);
    qli_section_leave(&section);
    return QL_OK;
}
