/* SPDX-License-Identifier: Apache-2.0
 *
 * While the FLUSHER byte is ours nobody writes to the ledger, and no dirty bit is
 * cleared: so what was copied out of the region may be looked up after it.
 */
#include "ledger/compare.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "engine/limits.h"
#include "ledger/flush.h"
#include "ledger/page.h"
#include "rules/window.h"

#define BATCH 16

struct looking {
    const char *meter;
    bool found;
    int64_t amount; /* that the ledger has of it */
};

static enum ql_status find_amount(void *context, const struct qli_ledger_row *row)
{
    struct looking *looking = context;
    if (strcmp(row->meter, looking->meter) != 0)
        return QL_OK;
    looking->found = true;
    looking->amount = row->amount;
    return QL_OK;
}

static enum ql_status compare_total(struct qli_flusher *flusher, const struct qli_limits *limits,
                                    const char *subject, const struct qli_total *total,
                                    struct ql_error *error)
{
    struct looking looking = {.meter = limits->meters[total->meter]};
    enum ql_status status =
        qli_ledger_read_subject(&flusher->ledger, subject, total->day, find_amount, &looking);
    if (status != QL_OK)
        return qli_ledger_explain(&flusher->ledger, status, error);
    bool agree = total->dirty ? looking.amount <= total->amount : looking.amount == total->amount;
    int64_t today = (int64_t)qli_page_load(&flusher->engine->page->day);
    bool removed = !looking.found && total->day < today - 1; /* as its history is over */
    if (agree || removed)
        return QL_OK;
    return qli_error(error, QL_E_CORRUPT, 0,
                     "[T%d] of %.100s, %s, in the day that begins at %lld, the region has %lld and "
                     "the ledger %lld: keep both files for a report",
                     total->dirty ? 2 : 1, subject, looking.meter,
                     (long long)qli_window_end(total->day - 1), (long long)total->amount,
                     (long long)looking.amount);
}

static enum ql_status compare_batch(struct qli_flusher *flusher,
                                    const struct qli_dirty_subject *batch, size_t count,
                                    struct ql_error *error)
{
    const struct qli_limits *limits = qli_limits_current(flusher->engine);
    for (size_t i = 0; i < count; i++) {
        for (size_t t = 0; t < batch[i].count; t++) {
            const struct qli_total *total = &batch[i].totals[t];
            if (total->meter >= limits->meter_count) /* named since: it is charged since */
                continue;
            enum ql_status status = compare_total(flusher, limits, batch[i].key, total, error);
            if (status != QL_OK)
                return status;
        }
    }
    return QL_OK;
}

static enum ql_status compare_shard(struct qli_flusher *flusher, const struct qli_call *call,
                                    uint64_t shard, struct ql_error *error)
{
    struct qli_dirty_subject batch[BATCH];
    uint64_t cursor = 0;
    size_t count;
    do {
        enum ql_status status = qli_dirty_survey(call, shard, &cursor, batch, BATCH, &count);
        if (status != QL_OK)
            return qli_error(error, status, 0, "shard %llu: %s", (unsigned long long)shard,
                             ql_status_text(status));
        status = compare_batch(flusher, batch, count, error);
        if (status != QL_OK)
            return status;
    } while (count > 0);
    return QL_OK;
}

static enum ql_status check_file(struct qli_flusher *flusher, const struct qli_call *call,
                                 struct ql_error *error)
{
    struct qli_ledger reader;
    enum ql_status status =
        qli_flusher_open_reader(flusher, call->self, call->wait_ms, &reader, error);
    if (status != QL_OK)
        return status;
    status = qli_ledger_check(&reader);
    if (status != QL_OK)
        qli_ledger_explain(&reader, status, error);
    qli_flusher_close_reader(flusher, &reader);
    return status;
}

static enum ql_status compare_in_turn(struct qli_flusher *flusher, const struct qli_call *call,
                                      uint64_t shard, int64_t wait_ms, struct ql_error *error)
{
    if (!qli_flusher_enter(flusher, wait_ms))
        return qli_flusher_not_entered(flusher, wait_ms, error);
    enum ql_status status = qli_flush_connect(flusher);
    if (status == QL_OK)
        status = compare_shard(flusher, call, shard, error);
    else if (status == QLI_MUST_FLUSH)
        status = qli_error(error, QL_E_BUSY, 0, "the ledger was replaced meanwhile: try again");
    else
        qli_ledger_explain(&flusher->ledger, status, error);
    qli_flusher_leave(flusher);
    return status;
}

/* Does not stay in the ledger to wait for a shard's lock: others want to write. */
enum ql_status qli_compare(struct qli_flusher *flusher, const struct qli_call *call,
                           struct ql_error *error)
{
    const struct qli_call hasty = qli_flush_hasty_call(call);
    enum ql_status status = check_file(flusher, call, error);
    int64_t deadline_ns = qli_clock_boot_ns() + call->wait_ms * QLI_NS_PER_MS;
    uint64_t shards = flusher->engine->geometry.shard_count;
    for (uint64_t shard = 0; status == QL_OK && shard < shards; shard++) {
        do
            status = compare_in_turn(flusher, &hasty, shard, call->wait_ms, error);
        while (status == QL_E_BUSY && qli_clock_nap(deadline_ns));
    }
    return status;
}
