/* SPDX-License-Identifier: Apache-2.0
 *
 * Taking writes subject, holder and times into a slot that is still free,
 * where they mean nothing, without the undo log; generation, state and links
 * are undoable.
 */
#include "engine/lease.h"

enum ql_status qli_lease_take_locked(struct qli_section *section, const struct qli_call *call,
                                     uint64_t subject_index, int64_t deadline_ns, uint64_t *index)
{
    *index = section->shard->lease_free;
    if (*index == 0)
        return QL_E_FULL;
    struct qli_lease *lease = qli_lease_at(section, *index);
    struct qli_subject *subject = qli_subject_at(section, subject_index);
    struct qli_lease *first = qli_lease_at(section, subject->leases);
    if (lease == NULL || lease->state == QLI_LEASE_HELD || (subject->leases != 0 && first == NULL))
        return QL_E_CORRUPT;
    lease->subject = subject_index;
    lease->holder = call->self;
    lease->deadline_ns = (uint64_t)deadline_ns;
    lease->since_ns = (uint64_t)call->now_ns;
    lease->previous = 0;
    qli_section_store(section, &section->shard->lease_free, lease->next);
    qli_section_store(section, &lease->generation, lease->generation + 1);
    qli_section_store(section, &lease->state, QLI_LEASE_HELD);
    qli_section_store(section, &lease->next, subject->leases);
    if (first != NULL)
        qli_section_store(section, &first->previous, *index);
    qli_section_store(section, &subject->leases, *index);
    qli_section_store(section, &subject->lease_count, subject->lease_count + 1);
    qli_section_store(section, &section->shard->lease_count, section->shard->lease_count + 1);
    return QL_OK;
}

enum ql_status qli_lease_end_locked(struct qli_section *section, uint64_t index,
                                    enum qli_lease_state how)
{
    struct qli_lease *lease = qli_lease_at(section, index);
    struct qli_subject *subject = qli_subject_at(section, lease->subject);
    struct qli_lease *next = qli_lease_at(section, lease->next);
    struct qli_lease *previous = qli_lease_at(section, lease->previous);
    if (subject == NULL || (lease->next != 0 && next == NULL) ||
        (lease->previous != 0 && previous == NULL) || subject->lease_count == 0)
        return QL_E_CORRUPT;
    qli_section_store(section, previous != NULL ? &previous->next : &subject->leases, lease->next);
    if (next != NULL)
        qli_section_store(section, &next->previous, lease->previous);
    qli_section_store(section, &subject->lease_count, subject->lease_count - 1);
    qli_section_store(section, &section->shard->lease_count, section->shard->lease_count - 1);
    qli_section_store(section, &lease->state, how);
    qli_section_store(section, &lease->next, section->shard->lease_free);
    qli_section_store(section, &section->shard->lease_free, index);
    return QL_OK;
}
