/* SPDX-License-Identifier: Apache-2.0
 *
 * An older window that is opened again: its totals come from the ledger. Who reads
 * them keeps the FLUSHER byte until they are in the region. So nothing that is charged
 * meanwhile can be dropped from the region: it is dirty, and nobody else can flush it.
 */
#include "ledger/flusher.h"

#include "base/clock.h"
#include "engine/limits.h"
#include "ledger/flush.h"

#define FLUSHES_MAX 3 /* before it succeeds: others charge meanwhile */

struct found {
    const struct qli_limits *limits;
    size_t count;
    struct qli_total totals[2 * QL_METERS_MAX];
};

#define TOTALS_MAX (sizeof((struct found *)0)->totals / sizeof(struct qli_total))

static enum ql_status note_total(void *context, const struct qli_ledger_row *row)
{
    struct found *found = context;
    int meter = qli_limits_meter(found->limits, row->meter);
    if (meter >= 0 && found->count < TOTALS_MAX)
        found->totals[found->count++] =
            (struct qli_total){.meter = (uint32_t)meter, .day = row->day, .amount = row->amount};
    return QL_OK;
}

static enum ql_status reopen_entered(struct qli_flusher *flusher, const struct qli_call *call,
                                     const struct qli_name *name)
{
    struct qli_ledger *ledger = &flusher->ledger;
    struct found found = {0};
    enum ql_status status = qli_flush_connect(flusher);
    if (status == QL_OK && qli_limits_stale(flusher->engine))
        status = qli_limits_refresh(flusher->engine, call->self, call->wait_ms);
    found.limits = qli_limits_current(flusher->engine);
    for (int64_t day = call->day - 1; status == QL_OK && day <= call->day; day++)
        status = qli_ledger_read_subject(ledger, name->text, day, note_total, &found);
    return status == QL_OK ? qli_dirty_reopen(call, name, found.totals, found.count) : status;
}

static enum ql_status reopen_in_turn(struct qli_flusher *flusher, const struct qli_call *call,
                                     const struct qli_name *name, int64_t wait_ms)
{
    if (!qli_flusher_enter(flusher, wait_ms))
        return qli_flusher_not_entered(flusher, wait_ms, NULL);
    enum ql_status status = reopen_entered(flusher, call, name);
    for (int i = 0; i < FLUSHES_MAX && status == QLI_MUST_FLUSH; i++) {
        status = qli_flush(flusher, call->self);
        if (status == QL_OK || status == QL_E_BUSY) /* busy: another shard, perhaps */
            status = reopen_entered(flusher, call, name);
    }
    qli_flusher_leave(flusher);
    return status == QLI_MUST_FLUSH ? QL_E_BUSY : status;
}

/* Does not stay in the ledger to wait for a shard's lock: others want to write. */
enum ql_status qli_flusher_reopen(struct qli_flusher *flusher, const struct qli_call *call,
                                  const struct qli_name *name)
{
    const struct qli_call hasty = qli_flush_hasty_call(call);
    int64_t deadline_ns = qli_clock_boot_ns() + call->wait_ms * QLI_NS_PER_MS;
    enum ql_status status;
    do {
        int64_t left_ns = deadline_ns - qli_clock_boot_ns();
        status = reopen_in_turn(flusher, &hasty, name, left_ns / QLI_NS_PER_MS);
    } while (status == QL_E_BUSY && qli_clock_nap(deadline_ns));
    return status;
}
