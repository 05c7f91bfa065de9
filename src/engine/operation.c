/* SPDX-License-Identifier: Apache-2.0
 *
 * Settle and charge, revoke and reading. Admission is in admission.c.
 */
#include "engine/operation.h"

#include <string.h>

#include "engine/cell.h"
#include "engine/lease.h"
#include "engine/limits.h"
#include "rules/limit.h"
#include "rules/window.h"

/* ---- charging ------------------------------------------------------------ */

static enum ql_status find_or_insert(struct qli_section *section, const struct qli_call *call,
                                     const struct qli_name *name, uint64_t *index)
{
    enum ql_status status = qli_subject_find_locked(section, name, index);
    if (status == QL_OK && *index == 0)
        status = qli_subject_insert_locked(section, name, call->day, index);
    return status;
}

/* Stores: the subject's, if it is new; the cell's; the commit. */
enum ql_status qli_operation_charge(const struct qli_call *call, const struct qli_name *name,
                                    struct qli_amount amount)
{
    struct qli_section section;
    uint64_t shard = qli_engine_shard_of(call->engine, name->hash);
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    uint64_t index;
    status = find_or_insert(&section, call, name, &index);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    struct qli_cell *cell = &qli_subject_at(&section, index)->cells[amount.meter];
    qli_cell_add_locked(&section, cell, call->day, amount.amount);
    qli_section_commit(&section);
    qli_section_leave(&section);
    return QL_OK;
}

/* ---- ending a lease ------------------------------------------------------ */

static enum ql_status why_ended(const struct qli_lease *slot, uint64_t generation)
{
    if (slot->life == qli_lease_life(generation, QLI_LEASE_SETTLED))
        return QL_E_SETTLED;
    return QL_E_EXPIRED;
}

/* Enters the shard of a lease's slot. Only after QL_OK is it entered, and *slot
 * is held with that generation. */
static enum ql_status enter_lease(const struct qli_call *call, struct ql_lease lease,
                                  struct qli_section *section, uint64_t *index)
{
    if (lease.epoch == 0 || lease.generation == 0)
        return QL_E_INVALID;
    if (lease.epoch != call->engine->epoch)
        return QL_E_EXPIRED;
    uint64_t shard = qli_lease_number_shard(lease.index);
    if (shard >= call->engine->geometry.shard_count)
        return QL_E_INVALID;
    enum ql_status status = qli_section_enter(call, shard, section);
    if (status != QL_OK)
        return status;
    *index = qli_lease_number_index(lease.index);
    const struct qli_lease *slot = qli_lease_at(section, *index);
    if (slot != NULL && slot->life == qli_lease_life(lease.generation, QLI_LEASE_HELD))
        return QL_OK;
    if (slot == NULL || qli_lease_generation(slot) < lease.generation)
        status = QL_E_INVALID;
    else
        status = why_ended(slot, lease.generation);
    qli_section_leave(section);
    return status;
}

/* Stores: the cells'; the lease's end; the commit. */
enum ql_status qli_operation_settle(const struct qli_call *call, struct ql_lease lease,
                                    const struct qli_amount *amounts, size_t count)
{
    struct qli_section section;
    uint64_t index;
    enum ql_status status = enter_lease(call, lease, &section, &index);
    if (status != QL_OK)
        return status;
    const struct qli_lease *slot = qli_lease_at(&section, index);
    struct qli_subject *subject = qli_subject_at(&section, slot->subject);
    if (subject == NULL)
        return qli_section_abandon(&section, QL_E_CORRUPT);
    if (slot->holder != call->self)
        return qli_section_abandon(&section, QL_E_NOT_OWNER);
    bool late = qli_lease_over_age(slot, call);
    for (size_t i = 0; !late && i < count; i++)
        qli_cell_add_locked(&section, &subject->cells[amounts[i].meter], call->day,
                            amounts[i].amount);
    status = qli_lease_end_locked(&section, index, late ? QLI_LEASE_EXPIRED : QLI_LEASE_SETTLED);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    qli_section_commit(&section);
    qli_section_leave(&section);
    return late ? QL_E_EXPIRED : QL_OK;
}

enum ql_status qli_operation_revoke(const struct qli_call *call, struct ql_lease lease)
{
    struct qli_section section;
    uint64_t index;
    enum ql_status status = enter_lease(call, lease, &section, &index);
    if (status != QL_OK)
        return status;
    status = qli_lease_end_locked(&section, index, QLI_LEASE_REVOKED);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    qli_section_commit(&section);
    qli_section_leave(&section);
    return QL_OK;
}

/* ---- reading ------------------------------------------------------------- */

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
    return qli_limit_state(limit, qli_cell_total(cell, call->day),
                           qli_window_end(qli_cell_day(cell, call->day)));
}

void qli_operation_report(const struct qli_call *call, const struct qli_subject *subject,
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
        usage->meters[m].total = qli_cell_total(&subject->cells[m], call->day);
        usage->meters[m].yesterday = qli_cell_yesterday(&subject->cells[m], call->day);
    }
}

enum ql_status qli_operation_usage(const struct qli_call *call, const struct qli_name *name,
                                   struct ql_usage *usage)
{
    struct qli_section section;
    uint64_t shard = qli_engine_shard_of(call->engine, name->hash);
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    uint64_t index;
    status = qli_subject_find_locked(&section, name, &index);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    qli_operation_report(call, qli_subject_at(&section, index), usage);
    qli_section_leave(&section);
    return QL_OK;
}

/* ---- reaping ------------------------------------------------------------- */

/* One commit a lease: a death in between leaves the rest to the next reaper. */
static enum ql_status reap_shard(const struct qli_call *call, uint64_t shard, uint64_t slot,
                                 uint64_t up_to_generation)
{
    struct qli_section section;
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    for (uint64_t i = 1; i <= section.shard->lease_top; i++) {
        const struct qli_lease *lease = qli_lease_at(&section, i);
        if (lease == NULL)
            return qli_section_abandon(&section, QL_E_CORRUPT);
        if (qli_lease_state(lease) != QLI_LEASE_HELD || qli_word_slot(lease->holder) != slot ||
            qli_word_generation(lease->holder) > up_to_generation)
            continue;
        status = qli_lease_end_locked(&section, i, QLI_LEASE_REAPED);
        if (status != QL_OK)
            return qli_section_abandon(&section, status);
        qli_section_commit(&section);
    }
    qli_section_leave(&section);
    return QL_OK;
}

enum ql_status qli_operation_reap(const struct qli_call *call, uint64_t slot,
                                  uint64_t up_to_generation)
{
    enum ql_status answer = QL_OK;
    for (uint64_t shard = 0; shard < call->engine->geometry.shard_count; shard++) {
        enum ql_status status = reap_shard(call, shard, slot, up_to_generation);
        if (status == QL_E_CORRUPT)
            return status;
        if (status != QL_OK)
            answer = status; /* a lock that is taken: the other shards need not wait for it */
    }
    return answer;
}

enum ql_status qli_operation_reap_dead(const struct qli_call *call)
{
    struct qli_region *region = &call->engine->region;
    enum ql_status answer = QL_OK;
    for (uint64_t slot = 0; slot < region->holder_count; slot++) {
        struct qli_holder *holder = &region->holders[slot];
        uint64_t attached = __atomic_load_n(&holder->attached, __ATOMIC_ACQUIRE);
        if (attached == 0 || qli_holder_alive(region, call->self, qli_word_make(slot, attached)))
            continue;
        enum ql_status status = qli_operation_reap(call, slot, attached);
        if (status == QL_E_CORRUPT)
            return status;
        if (status != QL_OK) {
            answer = status;
            continue;
        }
        __atomic_compare_exchange_n(&holder->attached, &attached, 0, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED);
    }
    return answer;
}
