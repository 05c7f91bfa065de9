/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases of a shard: taking and ending. The shard's lock is held.
 */
#ifndef QLI_ENGINE_LEASE_H
#define QLI_ENGINE_LEASE_H

#include "engine/subject.h"

/* The slot of an index from 1; NULL if there is no such slot. */
static inline struct qli_lease *qli_lease_at(const struct qli_section *section, uint64_t index)
{
    if (index - 1 >= section->engine->geometry.shard_leases)
        return NULL;
    return &section->leases[index - 1];
}

/* A slot's number in the whole store, as a struct ql_lease has it. */
static inline uint64_t qli_lease_number(const struct qli_section *section, uint64_t index)
{
    return section->index << 32 | (index - 1);
}

static inline uint64_t qli_lease_number_shard(uint64_t number)
{
    return number >> 32;
}

static inline uint64_t qli_lease_number_index(uint64_t number)
{
    return (number & UINT32_MAX) + 1;
}

static inline bool qli_lease_over_age(const struct qli_lease *lease, const struct qli_call *call)
{
    return lease->deadline_ns != 0 && (int64_t)lease->deadline_ns <= call->boot_ns;
}

/* Takes a slot for the subject, undoably. deadline_ns 0: none. QL_E_FULL. */
enum ql_status qli_lease_take_locked(struct qli_section *section, const struct qli_call *call,
                                     uint64_t subject, int64_t deadline_ns, uint64_t *index);

/* Ends a held lease, undoably. how is one of the ended states. */
enum ql_status qli_lease_end_locked(struct qli_section *section, uint64_t index,
                                    enum qli_lease_state how);

#endif
