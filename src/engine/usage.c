/* SPDX-License-Identifier: Apache-2.0
 *
 * What a subject has used.
 */
#include <string.h>

#include "engine/cell.h"
#include "engine/lease.h"
#include "engine/operation.h"
#include "engine/suspects.h"
#include "rules/limit.h"
#include "rules/window.h"

static int64_t lease_count(const struct qli_subject *subject)
{
    return subject != NULL ? (int64_t)qli_subject_lease_count(subject) : 0;
}

static struct ql_limit_state limit_state(const struct qli_call *call, size_t i,
                                         const struct qli_subject *subject)
{
    const struct ql_limit *limit = &call->limits->limits[i];
    if (limit->window == QL_WINDOW_NONE)
        return qli_limit_state(limit, lease_count(subject), 0);
    if (subject == NULL)
        return qli_limit_state(limit, 0, qli_window_end(call->day));
    const struct qli_cell *cell = &subject->cells[call->limits->meter_of[i]];
    return qli_limit_state(limit, qli_cell_total(call, cell),
                           qli_window_end(qli_cell_day(call, cell)));
}

static void report(const struct qli_call *call, const struct qli_subject *subject,
                   struct ql_usage *usage)
{
    const struct qli_limits *limits = call->limits;
    memset(usage, 0, sizeof *usage);
    usage->leases = lease_count(subject);
    usage->limit_count = (uint32_t)limits->count;
    usage->meter_count = limits->meter_count;
    for (size_t i = 0; i < limits->count; i++)
        usage->limits[i] = limit_state(call, i, subject);
    for (uint32_t m = 0; m < limits->meter_count; m++) {
        usage->meters[m].name = limits->meters[m];
        if (subject == NULL)
            continue;
        usage->meters[m].total = qli_cell_total(call, &subject->cells[m]);
        usage->meters[m].yesterday = qli_cell_yesterday(call, &subject->cells[m]);
    }
}

enum ql_status qli_operation_report_locked(struct qli_section *section, const struct qli_call *call,
                                           struct qli_subject *subject, struct ql_usage *usage)
{
    enum ql_status status = QL_OK;
    if (subject != NULL)
        status = qli_lease_expire_locked(section, call, subject);
    if (status == QL_OK)
        report(call, subject, usage);
    return status;
}

static bool asks_ledger(const struct qli_call *call, const struct qli_subject *subject)
{
    if (subject == NULL)
        return qli_cell_new_day_asks(call);
    for (uint32_t m = 0; m < call->limits->meter_count; m++) {
        if (qli_cell_asks(call, &subject->cells[m]))
            return true;
    }
    return false;
}

static enum ql_status usage_once(const struct qli_call *call, const struct qli_name *name,
                                 struct ql_usage *usage, struct qli_suspects *suspects)
{
    struct qli_section section;
    uint64_t index;
    enum ql_status status = qli_subject_enter(call, name, &section, &index);
    if (status != QL_OK)
        return status;
    struct qli_subject *subject = qli_subject_at(&section, index);
    if (asks_ledger(call, subject))
        return qli_section_abandon(&section, QLI_ASK_LEDGER);
    status = qli_operation_report_locked(&section, call, subject, usage);
    if (status == QL_OK && subject != NULL)
        status = qli_suspects_note_locked(&section, subject, suspects);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    qli_section_leave(&section);
    return QL_OK;
}

enum ql_status qli_operation_usage(const struct qli_call *call, const struct qli_name *name,
                                   struct ql_usage *usage)
{
    struct qli_suspects suspects;
    bool again = false;
    qli_suspects_none(&suspects);
    enum ql_status status = usage_once(call, name, usage, &suspects);
    if (status == QL_OK)
        status = qli_suspects_reap(call, qli_engine_shard_of(call->engine, name->hash), &suspects,
                                   &again);
    return status == QL_OK && again ? usage_once(call, name, usage, &suspects) : status;
}
