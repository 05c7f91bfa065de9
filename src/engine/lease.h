/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases of a shard: taking and ending. The shard's lock is held. Taking and
 * settling stand here whole, because every admit and every settle runs through
 * them.
 *
 * Taking writes subject, holder and times into a slot that is still free,
 * where they mean nothing, without the undo log; life and links are undoable.
 */
#ifndef QLI_ENGINE_LEASE_H
#define QLI_ENGINE_LEASE_H

#include "engine/subject.h"

/* The slot of an index from 1; NULL if there is no such slot. */
static inline struct qli_lease *qli_lease_at(const struct qli_section *section, uint64_t index)
{
    const struct qli_geometry *g = &section->engine->geometry;
    if (index - 1 >= g->shard_leases)
        return NULL;
    return (struct qli_lease *)((unsigned char *)section->shard + g->leases_offset) + (index - 1);
}

static inline enum qli_lease_state qli_lease_state(const struct qli_lease *lease)
{
    return (enum qli_lease_state)(lease->life & 7);
}

static inline uint64_t qli_lease_generation(const struct qli_lease *lease)
{
    return lease->life >> 3;
}

static inline uint64_t qli_lease_life(uint64_t generation, enum qli_lease_state state)
{
    return generation << 3 | (uint64_t)state;
}

static inline uint64_t qli_lease_next(const struct qli_lease *lease)
{
    return lease->links & UINT32_MAX;
}

static inline uint64_t qli_lease_previous(const struct qli_lease *lease)
{
    return lease->links >> 32;
}

static inline uint64_t qli_lease_links(uint64_t next, uint64_t previous)
{
    return previous << 32 | next;
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

/* Ended before it was settled: kept, so that its settle still charges, late. */
static inline bool qli_lease_is_kept(const struct qli_lease *lease)
{
    return qli_lease_state(lease) >= QLI_LEASE_REVOKED;
}

/* How many leases a subject's list can have: damage can make it go round, and
 * its count as large as you like. */
static inline uint64_t qli_lease_list_bound(const struct qli_section *section,
                                            const struct qli_subject *subject)
{
    uint64_t count = qli_subject_lease_count(subject);
    uint64_t slots = section->engine->geometry.shard_leases;
    return count < slots ? count : slots;
}

/* What a lease is taken for. */
struct qli_lease_terms {
    uint64_t holder;      /* 0: timed */
    uint64_t deadline_ns; /* CLOCK_BOOTTIME; 0: none */
    uint64_t ttl_ns;      /* of a timed one */
};

/* Gives the slot of the oldest kept lease to the free list, with a commit of its
 * own, since a slot that is freed and taken in one step could not be put back.
 * QL_E_FULL: none is kept. */
enum ql_status qli_lease_forget_oldest_locked(struct qli_section *section);

/* Sees to it that there is a slot to take: called before the first store of an
 * operation that takes one. QL_E_FULL. */
static inline enum ql_status qli_lease_make_room_locked(struct qli_section *section)
{
    const struct qli_shard *shard = section->shard;
    bool free_slot =
        shard->lease_free != 0 || shard->lease_top < section->engine->geometry.shard_leases;
    return __builtin_expect(free_slot, 1) ? QL_OK : qli_lease_forget_oldest_locked(section);
}

/* Takes a slot for the subject, undoably: the one that was freed last, or one
 * that was never used; there is one. Stores: free list or top, life, the links
 * both ways, the subject's list. */
static inline enum ql_status
qli_lease_take_locked(struct qli_section *section, const struct qli_call *call,
                      uint64_t subject_index, const struct qli_lease_terms *terms, uint64_t *index)
{
    struct qli_shard *shard = section->shard;
    bool freed = shard->lease_free != 0;
    *index = freed ? shard->lease_free : shard->lease_top + 1;
    struct qli_lease *lease = qli_lease_at(section, *index);
    struct qli_subject *subject = qli_subject_at(section, subject_index);
    uint64_t first_index = qli_subject_first_lease(subject);
    struct qli_lease *first = qli_lease_at(section, first_index);
    if (lease == NULL || qli_lease_state(lease) == QLI_LEASE_HELD ||
        (first_index != 0 && first == NULL))
        return QL_E_CORRUPT;
    struct qli_log log = section->log;
    lease->subject = subject_index;
    lease->holder = terms->holder;
    lease->deadline_ns = terms->deadline_ns;
    lease->since_ns = (uint64_t)call->now_ns;
    lease->ttl_ns = terms->ttl_ns;
    lease->subject_hash = subject->hash;
    if (freed)
        qli_log_store(&log, &shard->lease_free, qli_lease_next(lease));
    else
        qli_log_store(&log, &shard->lease_top, *index);
    qli_log_store(&log, &lease->life,
                  qli_lease_life(qli_lease_generation(lease) + 1, QLI_LEASE_HELD));
    qli_log_store(&log, &lease->links, qli_lease_links(first_index, 0));
    if (first != NULL)
        qli_log_store(&log, &first->links, qli_lease_links(qli_lease_next(first), *index));
    qli_log_store(&log, &subject->leases,
                  qli_subject_leases(*index, qli_subject_lease_count(subject) + 1));
    section->log = log;
    return QL_OK;
}

/* Takes a held lease off its subject's list, undoably. Stores: the neighbours'
 * links, the subject's list. */
static inline enum ql_status qli_lease_unlist_locked(struct qli_section *section,
                                                     const struct qli_lease *lease)
{
    struct qli_subject *subject = qli_subject_at(section, lease->subject);
    uint64_t next_index = qli_lease_next(lease);
    uint64_t previous_index = qli_lease_previous(lease);
    struct qli_lease *next = qli_lease_at(section, next_index);
    struct qli_lease *previous = qli_lease_at(section, previous_index);
    if (subject == NULL || (next_index != 0 && next == NULL) ||
        (previous_index != 0 && previous == NULL) || qli_subject_lease_count(subject) == 0)
        return QL_E_CORRUPT;
    struct qli_log log = section->log;
    uint64_t first_index = qli_subject_first_lease(subject);
    if (previous != NULL)
        qli_log_store(&log, &previous->links,
                      qli_lease_links(next_index, qli_lease_previous(previous)));
    else
        first_index = next_index;
    if (next != NULL)
        qli_log_store(&log, &next->links, qli_lease_links(qli_lease_next(next), previous_index));
    qli_log_store(&log, &subject->leases,
                  qli_subject_leases(first_index, qli_subject_lease_count(subject) - 1));
    section->log = log;
    return QL_OK;
}

/* Puts the slot of a lease that is on no list any more on the free list. Stores:
 * life, the slot's link, the free list. */
static inline void qli_lease_free_locked(struct qli_section *section, struct qli_lease *lease,
                                         uint64_t index, enum qli_lease_state how)
{
    struct qli_log log = section->log;
    qli_log_store(&log, &lease->life, qli_lease_life(qli_lease_generation(lease), how));
    qli_log_store(&log, &lease->links, qli_lease_links(section->shard->lease_free, 0));
    qli_log_store(&log, &section->shard->lease_free, index);
    section->log = log;
}

/* Ends a held lease that is settled, undoably. Its slot is free. */
static inline enum ql_status qli_lease_settle_locked(struct qli_section *section, uint64_t index)
{
    struct qli_lease *lease = qli_lease_at(section, index);
    enum ql_status status = qli_lease_unlist_locked(section, lease);
    if (status == QL_OK)
        qli_lease_free_locked(section, lease, index, QLI_LEASE_SETTLED);
    return status;
}

/* The same for one that is kept. */
enum ql_status qli_lease_settle_kept_locked(struct qli_section *section, uint64_t index);

/* Ends a held lease that is not settled, undoably: it is kept, as the youngest.
 * how is one of the states from QLI_LEASE_REVOKED on. */
enum ql_status qli_lease_end_locked(struct qli_section *section, uint64_t index,
                                    enum qli_lease_state how);

/* Ends the subject's leases that are over their age, each with a commit. */
enum ql_status qli_lease_expire_locked(struct qli_section *section, const struct qli_call *call,
                                       struct qli_subject *subject);

#endif
