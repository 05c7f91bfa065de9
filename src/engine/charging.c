/* SPDX-License-Identifier: Apache-2.0
 *
 * Charge, settle, release and revoke: what is added to a meter, and how a lease
 * ends. A death before an operation's commit leaves it undone.
 */
#include "engine/cell.h"
#include "engine/lease.h"
#include "engine/operation.h"

/* The most that one change stores: a settle that rolls every meter over, the first
 * dirty bit of its subject, the end of its lease. */
#define CELL_STORES 5
#define DIRTY_STORES 2
#define LEASE_STORES 6
_Static_assert(QLI_UNDO_MAX >= DIRTY_STORES + LEASE_STORES + CELL_STORES * QL_METERS_MAX,
               "a settle fits into the undo log");

/* Stores: the subject's, if it is new; the cell's; the commit. */
static enum ql_status charge_once(const struct qli_call *call, const struct qli_name *name,
                                  struct qli_amount amount)
{
    struct qli_section section;
    uint64_t index;
    enum ql_status status = qli_subject_enter(call, name, &section, &index);
    if (status != QL_OK)
        return status;
    if (qli_section_closed(&section))
        status = QL_E_GONE;
    else if (index != 0)
        status = qli_cell_may_add(call, qli_subject_at(&section, index), amount.meter);
    else if (qli_cell_opening_asks(call))
        status = QLI_ASK_LEDGER;
    else
        status = qli_subject_insert_locked(&section, name, call->day, &index);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    qli_cell_add_locked(&section, qli_subject_at(&section, index), amount.meter, call->day,
                        amount.amount);
    qli_section_commit(&section);
    qli_section_leave(&section);
    return QL_OK;
}

enum ql_status qli_operation_charge(const struct qli_call *call, const struct qli_name *name,
                                    struct qli_amount amount)
{
    enum ql_status status = charge_once(call, name, amount);
    if (status != QL_E_FULL)
        return status;
    status = qli_operation_make_room(call, qli_engine_shard_of(call->engine, name->hash));
    return status == QL_OK ? charge_once(call, name, amount) : status;
}

static enum ql_status why_ended(const struct qli_lease *slot, uint64_t generation)
{
    if (qli_lease_generation(slot) < generation)
        return QL_E_INVALID;
    if (slot->life == qli_lease_life(generation, QLI_LEASE_SETTLED))
        return QL_E_SETTLED;
    return QL_E_EXPIRED;
}

/* Enters the shard of a lease's slot. Only after QL_OK is it entered, and the
 * slot has the lease: held, or kept. */
static enum ql_status enter_lease(const struct qli_call *call, const struct ql_lease *lease,
                                  struct qli_section *section, uint64_t *index)
{
    if (lease->epoch == 0 || lease->generation == 0)
        return QL_E_INVALID;
    if (lease->epoch != call->engine->epoch)
        return QL_E_EXPIRED;
    uint64_t shard = qli_lease_number_shard(lease->index);
    *index = qli_lease_number_index(lease->index);
    if (shard >= call->engine->geometry.shard_count || *index > call->engine->geometry.shard_leases)
        return QL_E_INVALID;
    enum ql_status status = qli_section_enter(call, shard, section);
    if (status != QL_OK)
        return status;
    const struct qli_lease *slot = qli_lease_at(section, *index);
    bool there = qli_lease_state(slot) == QLI_LEASE_HELD || qli_lease_is_kept(slot);
    bool closed = qli_section_closed(section);
    if (there && qli_lease_generation(slot) == lease->generation && !closed)
        return QL_OK;
    status = closed ? QL_E_GONE : why_ended(slot, lease->generation);
    qli_section_leave(section);
    return status;
}

static enum ql_status leave_lease(struct qli_section *section, enum ql_status status)
{
    if (status != QL_OK)
        return qli_section_abandon(section, status);
    qli_section_commit(section);
    qli_section_leave(section);
    return QL_OK;
}

static bool foreign(const struct qli_call *call, const struct qli_lease *slot)
{
    return qli_lease_state(slot) == QLI_LEASE_HELD && slot->holder != call->self &&
           slot->holder != 0 && !qli_lease_over_age(slot, call);
}

/* The subject of a kept lease may have been evicted, and its slot have another. */
static bool has_subject(const struct qli_lease *slot, const struct qli_subject *subject)
{
    return qli_lease_state(slot) == QLI_LEASE_HELD ||
           (qli_subject_kind(subject) == QLI_SUBJECT_USED && subject->hash == slot->subject_hash);
}

/* Whether all cells may be added to. */
static enum ql_status may_add_amounts(const struct qli_call *call,
                                      const struct qli_subject *subject,
                                      const struct qli_amount *amounts, size_t count)
{
    enum ql_status status = QL_OK;
    for (size_t i = 0; i < count && status == QL_OK; i++) {
        if (amounts[i].amount > 0)
            status = qli_cell_may_add(call, subject, amounts[i].meter);
    }
    return status;
}

/* Stores: the cells'. */
static void add_amounts(struct qli_section *section, const struct qli_call *call,
                        struct qli_subject *subject, const struct qli_amount *amounts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (amounts[i].amount > 0)
            qli_cell_add_locked(section, subject, amounts[i].meter, call->day, amounts[i].amount);
    }
}

/* *owner is whose it is after QL_E_NOT_OWNER. Stores: the cells'; the lease's end; the
 * commit. */
static enum ql_status settle_once(const struct qli_call *call, const struct ql_lease *lease,
                                  const struct qli_amount *amounts, size_t count, uint64_t *owner)
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
    if (foreign(call, slot)) {
        *owner = slot->holder;
        return qli_section_abandon(&section, QL_E_NOT_OWNER);
    }
    if (!has_subject(slot, subject))
        return qli_section_abandon(&section, QL_E_EXPIRED);
    bool kept = qli_lease_is_kept(slot);
    bool late = kept || qli_lease_over_age(slot, call);
    status = may_add_amounts(call, subject, amounts, count);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    add_amounts(&section, call, subject, amounts, count);
    status = kept ? qli_lease_settle_kept_locked(&section, index)
                  : qli_lease_settle_locked(&section, index);
    status = leave_lease(&section, status);
    return status == QL_OK && late ? QL_LATE : status;
}

enum ql_status qli_operation_settle(const struct qli_call *call, const struct ql_lease *lease,
                                    const struct qli_amount *amounts, size_t count)
{
    uint64_t owner = 0;
    enum ql_status status = settle_once(call, lease, amounts, count, &owner);
    if (status != QL_E_NOT_OWNER || qli_holder_alive(&call->engine->region, call->self, owner))
        return status;
    /* Its death was not noticed yet; the lease ended then. */
    const uint64_t shard = qli_lease_number_shard(lease->index);
    uint64_t waited = shard;
    status = qli_operation_reap(call, qli_word_slot(owner), qli_word_generation(owner), &waited);
    if (status != QL_OK && (status != QL_E_BUSY || waited != shard))
        return status;
    return settle_once(call, lease, amounts, count, &owner);
}

/* Stores: the deadline, or the lease's end if it is over; the commit. */
enum ql_status qli_operation_renew(const struct qli_call *call, const struct ql_lease *lease)
{
    struct qli_section section;
    uint64_t index;
    enum ql_status status = enter_lease(call, lease, &section, &index);
    if (status != QL_OK)
        return status;
    struct qli_lease *slot = qli_lease_at(&section, index);
    if (qli_lease_is_kept(slot))
        return qli_section_abandon(&section, QL_E_EXPIRED);
    if (slot->holder != 0)
        return qli_section_abandon(&section, QL_E_INVALID);
    bool over = qli_lease_over_age(slot, call);
    if (over)
        status = qli_lease_end_locked(&section, index, QLI_LEASE_EXPIRED);
    else
        qli_section_store(&section, &slot->deadline_ns, (uint64_t)call->boot_ns + slot->ttl_ns);
    status = leave_lease(&section, status);
    return status == QL_OK && over ? QL_E_EXPIRED : status;
}

enum ql_status qli_operation_revoke(const struct qli_call *call, const struct ql_lease *lease)
{
    struct qli_section section;
    uint64_t index;
    enum ql_status status = enter_lease(call, lease, &section, &index);
    if (status != QL_OK)
        return status;
    const struct qli_lease *slot = qli_lease_at(&section, index);
    if (qli_lease_is_kept(slot))
        return qli_section_abandon(&section, QL_E_EXPIRED);
    bool over = qli_lease_over_age(slot, call);
    status =
        leave_lease(&section, qli_lease_end_locked(&section, index,
                                                   over ? QLI_LEASE_EXPIRED : QLI_LEASE_REVOKED));
    return status == QL_OK && over ? QL_E_EXPIRED : status;
}

enum ql_status qli_operation_lease_subject(const struct qli_call *call,
                                           const struct ql_lease *lease,
                                           char key[QL_SUBJECT_MAX + 1])
{
    struct qli_section section;
    uint64_t index;
    enum ql_status status = enter_lease(call, lease, &section, &index);
    if (status != QL_OK)
        return status;
    const struct qli_lease *slot = qli_lease_at(&section, index);
    const struct qli_subject *subject = qli_subject_at(&section, slot->subject);
    if (subject == NULL)
        status = QL_E_CORRUPT;
    else
        status =
            has_subject(slot, subject) ? qli_subject_key(&section, subject, key) : QL_E_EXPIRED;
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    qli_section_leave(&section);
    return QL_OK;
}
