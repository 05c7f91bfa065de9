/* SPDX-License-Identifier: Apache-2.0
 *
 * The epoch is written in the same transaction in which the totals are read: a
 * flusher of an earlier region, which may still be at work in a process that has
 * lost its byte, has committed before it, or finds the epoch changed.
 *
 * A death before that transaction's commit leaves the ledger as it was; after it,
 * with an epoch of a region that never was: the next one writes its own.
 */
#include "ledger/restore.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "engine/dirty.h"
#include "engine/limits.h"
#include "ledger/page.h"
#include "region/lockfile.h"
#include "rules/limit.h"
#include "rules/timeline.h"
#include "rules/window.h"

#define HISTORY_DAYS 400
#define BACK_NS (QLI_TIMELINE_BACK_SECONDS * QLI_NS_PER_SECOND)
#define FLUSHER_WAIT_MS 4000 /* below what others wait for ATTACH, which is ours meanwhile */

static enum ql_status take_flusher_byte(struct qli_restore *restore, int lock_fd,
                                        struct ql_error *error)
{
    int64_t deadline_ns = qli_clock_boot_ns() + FLUSHER_WAIT_MS * QLI_NS_PER_MS;
    while (!qli_lockfile_take(lock_fd, QLI_BYTE_FLUSHER)) {
        if (!qli_clock_nap(deadline_ns))
            return qli_error(error, QL_E_BUSY, 0,
                             "a process that has lost the store is still writing its ledger: end "
                             "it");
    }
    restore->lock_fd = lock_fd;
    return QL_OK;
}

static enum ql_status explain(const struct qli_restore *restore, enum ql_status status,
                              struct ql_error *error)
{
    const struct ql_error *cause = &restore->ledger.error;
    if (status == QL_OK)
        return QL_OK;
    if (status == cause->status)
        return qli_error(error, status, cause->system_errno,
                         "the store cannot be opened without its budgets: %s", cause->text);
    if (error != NULL && error->text[0] != '\0')
        return status;
    return qli_error(error, status, 0, "the store cannot be made out of its ledger: %s",
                     ql_status_text(status));
}

/* The day of the clock; but a clock that is a little behind the last window that
 * was opened stays in that one, as it does in a running store. */
static int64_t choose_day(int64_t calendar_ns, int64_t last_day)
{
    if (calendar_ns < 0) /* the clock gave no time */
        return last_day;
    int64_t day = qli_window_day(calendar_ns);
    bool a_little_behind = last_day > day && qli_window_day(calendar_ns + BACK_NS) >= last_day;
    return a_little_behind ? last_day : day;
}

static void name_meters(struct qli_ledger_meters *meters, const struct ql_limit *limits,
                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (limits[i].meter != NULL)
            qli_ledger_add_meter(meters, limits[i].meter);
    }
}

/* Those that limits name have room before those that are only counted still. */
static enum ql_status find_meters(struct qli_restore *restore, const struct ql_options *plan)
{
    if (plan->limits != NULL)
        name_meters(&restore->meters, plan->limits, plan->limit_count);
    name_meters(&restore->meters, restore->limits.limits, restore->limits.count);
    return qli_ledger_find_meters(&restore->ledger, restore->day, &restore->meters);
}

static enum ql_status measure(struct qli_restore *restore, int64_t calendar_ns,
                              struct ql_options *plan)
{
    struct qli_ledger *ledger = &restore->ledger;
    uint64_t slots = 0;
    enum ql_status status = qli_ledger_last_day(ledger, &restore->last_day);
    restore->day = choose_day(calendar_ns, restore->last_day);
    if (status == QL_OK)
        status = qli_ledger_count_slots(ledger, restore->day, &slots);
    if (status == QL_OK)
        status = qli_ledger_read_limits(ledger, &restore->limits);
    if (status != QL_OK)
        return status;
    if (qli_limit_validate(restore->limits.limits, restore->limits.count, NULL) != QL_OK)
        return qli_error(&ledger->error, QL_E_LEDGER, 0,
                         "its table 'limits' has what is no list of limits: put it right, or empty "
                         "it and open the store with the limits");
    status = find_meters(restore, plan);
    slots += slots / 8; /* a store that is full of what was restored takes nobody new today */
    qli_engine_raise(plan, slots, restore->meters.count);
    return status;
}

enum ql_status qli_restore_begin(struct qli_restore *restore, int directory_fd, int lock_fd,
                                 int64_t calendar_ns, struct ql_options *plan,
                                 struct ql_error *error)
{
    *restore = (struct qli_restore){.lock_fd = -1};
    enum ql_status status = qli_ledger_init(&restore->ledger, directory_fd, error);
    if (status == QL_OK)
        status = take_flusher_byte(restore, lock_fd, error);
    if (status != QL_OK)
        return status;
    status = qli_ledger_connect(&restore->ledger, (struct qli_ledger_files){0});
    if (status == QL_OK)
        status = measure(restore, calendar_ns, plan);
    return explain(restore, status, error);
}

/* ---- filling ------------------------------------------------------------- */

struct filling {
    const struct qli_call *call;
    int64_t today;
};

/* What does not fit is in the ledger still; of today everything fits, as far as
 * the store may be large. */
static enum ql_status fill_row(void *context, const struct qli_ledger_row *row)
{
    struct filling *filling = context;
    struct qli_name name;
    int meter = qli_limits_add_meter(filling->call->engine, row->meter);
    if (meter < 0 || qli_subject_name(filling->call->engine, row->subject, &name) != QL_OK)
        return QL_OK;
    const struct qli_total total = {
        .meter = (uint32_t)meter, .day = row->day, .amount = row->amount};
    enum ql_status status = qli_dirty_restore(filling->call, &name, &total);
    return status == QL_E_FULL && row->day != filling->today ? QL_OK : status;
}

static enum ql_status fill(struct qli_restore *restore, const struct qli_call *call,
                           struct ql_error *error)
{
    struct filling filling = {call, restore->day};
    enum ql_status status = QL_OK;
    if (restore->limits.count > 0)
        status = qli_limits_apply(call->engine, call->self, restore->limits.limits,
                                  restore->limits.count, false, error);
    for (size_t m = 0; m < restore->meters.count; m++)
        qli_limits_add_meter(call->engine, restore->meters.names[m]);
    if (status == QL_OK)
        status = qli_ledger_read_day(&restore->ledger, restore->day, fill_row, &filling);
    if (status == QL_OK)
        status = qli_ledger_read_day(&restore->ledger, restore->day - 1, fill_row, &filling);
    return status;
}

static void know_ledger(const struct qli_restore *restore, const struct qli_ledger_meta *meta,
                        struct qli_engine *engine)
{
    struct qli_ledger_page *page = engine->ledger_page;
    memcpy(page->uuid, meta->ledger, sizeof page->uuid);
    page->sequence = (uint64_t)meta->sequence;
    page->next_sequence = (uint64_t)meta->sequence;
    page->inode = restore->ledger.files.inode;
    page->wal_inode = restore->ledger.files.wal_inode;
    page->settings = qli_page_settings((uint64_t)meta->durability, (uint64_t)meta->history_days);
    page->limits_written = restore->limits.count > 0 ? engine->page->sequence : 0;
    page->durability = (uint64_t)meta->durability;
    page->history_days = (uint64_t)meta->history_days;
    page->done_boot_ns = (uint64_t)qli_clock_boot_ns();
    engine->page->day = (uint64_t)restore->day;
    engine->page->ask_until = restore->last_day > restore->day ? (uint64_t)restore->last_day : 0;
}

enum ql_status qli_restore_fill(struct qli_restore *restore, struct qli_engine *engine,
                                struct ql_error *error)
{
    const struct qli_call call = {
        .engine = engine,
        .self = qli_word_make(0, 1), /* the locks of this region are known to nobody yet */
        .day = restore->day,
        .wait_ms = -1,
    };
    struct qli_ledger_meta meta;
    enum ql_status status = qli_ledger_begin(&restore->ledger, &meta);
    if (status == QL_OK)
        status = fill(restore, &call, error);
    if (status != QL_OK) {
        qli_ledger_rollback(&restore->ledger);
        return explain(restore, status, error);
    }
    memcpy(meta.epoch, engine->region.header->uuid, sizeof meta.epoch);
    meta.sequence++;
    if (meta.durability < QL_DURABILITY_ASYNC || meta.durability > QL_DURABILITY_SYNC) {
        meta.durability = QL_DURABILITY_ASYNC;
        meta.history_days = HISTORY_DAYS;
    }
    status = qli_ledger_commit(&restore->ledger, &meta);
    if (status == QL_OK)
        know_ledger(restore, &meta, engine);
    return explain(restore, status, error);
}

void qli_restore_end(struct qli_restore *restore)
{
    qli_ledger_end(&restore->ledger);
    if (restore->lock_fd >= 0)
        qli_lockfile_give(restore->lock_fd, QLI_BYTE_FLUSHER);
    restore->lock_fd = -1;
}
