/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases that end before they are settled, those over their age among them. Their
 * slots stand in a queue, the oldest first, until they are settled late or their
 * room is needed.
 */
#include "engine/lease.h"

/* Stores: the last one's link or the queue's first, life, the slot's link, the
 * queue's last. */
static enum ql_status keep(struct qli_section *section, struct qli_lease *lease, uint64_t index,
                           enum qli_lease_state how)
{
    struct qli_shard *shard = section->shard;
    uint64_t last_index = shard->kept_last;
    struct qli_lease *last = qli_lease_at(section, last_index);
    if (last_index != 0 && last == NULL)
        return QL_E_CORRUPT;
    if (last != NULL)
        qli_section_store(section, &last->links, qli_lease_links(index, qli_lease_previous(last)));
    else
        qli_section_store(section, &shard->kept_first, index);
    qli_section_store(section, &lease->life, qli_lease_life(qli_lease_generation(lease), how));
    qli_section_store(section, &lease->links, qli_lease_links(0, last_index));
    qli_section_store(section, &shard->kept_last, index);
    return QL_OK;
}

/* Stores: the neighbours' links, or the queue's ends. */
static enum ql_status leave_queue(struct qli_section *section, const struct qli_lease *lease)
{
    struct qli_shard *shard = section->shard;
    uint64_t next_index = qli_lease_next(lease);
    uint64_t previous_index = qli_lease_previous(lease);
    struct qli_lease *next = qli_lease_at(section, next_index);
    struct qli_lease *previous = qli_lease_at(section, previous_index);
    if ((next_index != 0 && next == NULL) || (previous_index != 0 && previous == NULL))
        return QL_E_CORRUPT;
    if (previous != NULL)
        qli_section_store(section, &previous->links,
                          qli_lease_links(next_index, qli_lease_previous(previous)));
    else
        qli_section_store(section, &shard->kept_first, next_index);
    if (next != NULL)
        qli_section_store(section, &next->links,
                          qli_lease_links(qli_lease_next(next), previous_index));
    else
        qli_section_store(section, &shard->kept_last, previous_index);
    return QL_OK;
}

enum ql_status qli_lease_end_locked(struct qli_section *section, uint64_t index,
                                    enum qli_lease_state how)
{
    struct qli_lease *lease = qli_lease_at(section, index);
    enum ql_status status = qli_lease_unlist_locked(section, lease);
    return status == QL_OK ? keep(section, lease, index, how) : status;
}

static enum ql_status free_kept(struct qli_section *section, uint64_t index,
                                enum qli_lease_state how)
{
    struct qli_lease *lease = qli_lease_at(section, index);
    if (lease == NULL || !qli_lease_is_kept(lease))
        return QL_E_CORRUPT;
    enum ql_status status = leave_queue(section, lease);
    if (status == QL_OK)
        qli_lease_free_locked(section, lease, index, how);
    return status;
}

enum ql_status qli_lease_settle_kept_locked(struct qli_section *section, uint64_t index)
{
    return free_kept(section, index, QLI_LEASE_SETTLED);
}

enum ql_status qli_lease_forget_oldest_locked(struct qli_section *section)
{
    uint64_t index = section->shard->kept_first;
    if (index == 0)
        return QL_E_FULL;
    enum ql_status status = free_kept(section, index, QLI_LEASE_NONE);
    if (status == QL_OK)
        qli_section_commit(section);
    return status;
}

enum ql_status qli_lease_expire_locked(struct qli_section *section, const struct qli_call *call,
                                       struct qli_subject *subject)
{
    if (call->boot_ns == 0)
        return QL_OK;
    uint64_t steps = qli_lease_list_bound(section, subject);
    for (uint64_t index = qli_subject_first_lease(subject); index != 0; steps--) {
        const struct qli_lease *lease = qli_lease_at(section, index);
        if (lease == NULL || qli_lease_state(lease) != QLI_LEASE_HELD || steps == 0)
            return QL_E_CORRUPT;
        uint64_t next = qli_lease_next(lease);
        if (qli_lease_over_age(lease, call)) {
            enum ql_status status = qli_lease_end_locked(section, index, QLI_LEASE_EXPIRED);
            if (status != QL_OK)
                return status;
            qli_section_commit(section);
        }
        index = next;
    }
    return QL_OK;
}
