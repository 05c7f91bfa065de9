/* SPDX-License-Identifier: Apache-2.0
 *
 * The tags are those of region/format.h and engine/layout.h. Every walk is
 * bounded by the number of slots, so that a damaged list ends.
 */
#include "engine/verify.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/siphash.h"
#include "engine/lease.h"
#include "engine/limits.h"
#include "rules/name.h"

/* What a slot was seen as. */
enum seen { SEEN_NOWHERE = 0, SEEN_FREE, SEEN_USED, SEEN_EXTENSION, SEEN_KEPT };

struct walk {
    const struct qli_call *call;
    struct qli_section section;
    unsigned char *subjects_seen; /* by index */
    unsigned char *leases_seen;
    uint64_t subjects;
    uint64_t dirty; /* subjects */
    uint64_t leases;
    const char *fault;
};

static bool fail(struct walk *walk, const char *fault)
{
    if (walk->fault == NULL)
        walk->fault = fault;
    return false;
}

static bool mark(unsigned char *seen, uint64_t index, enum seen as)
{
    bool first = seen[index] == SEEN_NOWHERE;
    seen[index] = (unsigned char)as;
    return first;
}

/* ---- subjects ------------------------------------------------------------ */

static bool walk_free_subjects(struct walk *walk)
{
    uint64_t index = walk->section.shard->subject_free;
    while (index != 0) {
        const struct qli_subject *slot = qli_subject_at(&walk->section, index);
        if (slot == NULL || slot->meta != 0 || !mark(walk->subjects_seen, index, SEEN_FREE))
            return fail(walk,
                        "[S1] the free list of subjects has a slot that is not free or twice");
        index = slot->next;
    }
    return true;
}

static bool check_extension(struct walk *walk, const struct qli_subject *subject)
{
    uint64_t index = qli_subject_extension(subject);
    bool needed = qli_subject_key_length(subject) > QLI_KEY_INLINE;
    if (!needed)
        return index == 0 || fail(walk, "[S1] a short key has an extension");
    const struct qli_subject *extension = qli_subject_at(&walk->section, index);
    if (extension == NULL || qli_subject_kind(extension) != QLI_SUBJECT_EXTENSION ||
        !mark(walk->subjects_seen, index, SEEN_EXTENSION))
        return fail(walk, "[S1] the extension of a key is no extension or is used twice");
    return qli_subject_dirty(extension) == 0 || fail(walk, "[D1] an extension is dirty");
}

static bool check_dirty(struct walk *walk, const struct qli_subject *subject, uint64_t index)
{
    uint64_t capacity = walk->section.engine->geometry.meter_capacity;
    uint64_t dirty = qli_subject_dirty(subject);
    bool marked =
        (*qli_subject_bitmap_word(&walk->section, index) & qli_subject_bitmap_bit(index)) != 0;
    walk->dirty += dirty != 0;
    for (uint64_t m = capacity; m < QL_METERS_MAX; m++) {
        if (dirty & (qli_subject_current_bit(m) | qli_subject_previous_bit(m)))
            return fail(walk, "[D1] a meter that there is no room for is dirty");
    }
    return marked == (dirty != 0) ||
           fail(walk, "[D1] the bitmap does not say whether a subject is dirty");
}

static bool check_key(struct walk *walk, const struct qli_subject *subject, uint64_t index,
                      uint64_t bucket)
{
    char key[QL_SUBJECT_MAX + 1];
    uint32_t levels;
    const struct qli_engine *engine = walk->section.engine;
    if (qli_subject_key(&walk->section, subject, key) != QL_OK ||
        qli_name_subject(key, &levels) != qli_subject_key_length(subject))
        return fail(walk, "[S2] a subject's key is no valid subject");
    struct qli_name name = {key, strlen(key), 0, levels};
    name.hash = qli_siphash(engine->hash_key, key, name.length);
    if (name.hash != subject->hash ||
        (name.hash & (engine->geometry.shard_buckets - 1)) != bucket ||
        qli_engine_shard_of(engine, name.hash) != walk->section.index)
        return fail(walk, "[S2] a subject's hash is not that of its key, or in the wrong chain");
    uint64_t found;
    if (qli_subject_find_locked(&walk->section, &name, &found) != QL_OK || found != index)
        return fail(walk, "[S2] two subjects have the same key");
    return true;
}

static bool check_cells(struct walk *walk, const struct qli_subject *subject)
{
    for (uint64_t m = 0; m < walk->section.engine->geometry.meter_capacity; m++) {
        const struct qli_cell *cell = &subject->cells[m];
        bool ordered =
            cell->day > cell->previous_day || (cell->day == 0 && cell->previous_day == 0);
        if (!ordered || cell->total > INT64_MAX || cell->previous_total > INT64_MAX)
            return fail(walk, "[U1] a cell has days out of order or a total that is no amount");
    }
    return true;
}

static bool holder_valid(const struct qli_region *region, const struct qli_lease *lease)
{
    if (lease->holder == 0)
        return lease->deadline_ns != 0;
    uint64_t slot = qli_word_slot(lease->holder);
    return slot < region->holder_count &&
           qli_word_generation(lease->holder) <=
               __atomic_load_n(&region->holders[slot].generation, __ATOMIC_ACQUIRE);
}

static bool walk_subject_leases(struct walk *walk, const struct qli_subject *subject,
                                uint64_t subject_index)
{
    uint64_t count = 0;
    uint64_t previous = 0;
    for (uint64_t index = qli_subject_first_lease(subject); index != 0; count++) {
        const struct qli_lease *lease = qli_lease_at(&walk->section, index);
        if (lease == NULL || qli_lease_state(lease) != QLI_LEASE_HELD ||
            lease->subject != subject_index || qli_lease_previous(lease) != previous ||
            !mark(walk->leases_seen, index, SEEN_USED))
            return fail(walk, "[L1] a subject's list has a lease that is not its own, or twice");
        if (!holder_valid(&walk->section.engine->region, lease))
            return fail(walk,
                        "[L3] a lease names a holder that never was, or none and no deadline");
        previous = index;
        index = qli_lease_next(lease);
    }
    walk->leases += count;
    return count == qli_subject_lease_count(subject) ||
           fail(walk, "[L2] a subject's count of leases is wrong");
}

static bool check_subject(struct walk *walk, uint64_t index, uint64_t bucket)
{
    const struct qli_subject *subject = qli_subject_at(&walk->section, index);
    if (subject == NULL || qli_subject_kind(subject) != QLI_SUBJECT_USED ||
        !mark(walk->subjects_seen, index, SEEN_USED))
        return fail(walk, "[S1] a chain has a slot that is no subject, or twice");
    walk->subjects++;
    return check_extension(walk, subject) && check_key(walk, subject, index, bucket) &&
           check_cells(walk, subject) && check_dirty(walk, subject, index) &&
           walk_subject_leases(walk, subject, index);
}

static bool walk_buckets(struct walk *walk)
{
    for (uint64_t b = 0; b < walk->section.engine->geometry.shard_buckets; b++) {
        uint64_t index = *qli_subject_bucket(&walk->section, b);
        while (index != 0) {
            if (!check_subject(walk, index, b))
                return false;
            index = qli_subject_at(&walk->section, index)->next;
        }
    }
    return walk->subjects == walk->section.shard->subject_count ||
           fail(walk, "[S3] subject_count is wrong");
}

/* ---- leases and the rest ------------------------------------------------- */

static bool walk_free_leases(struct walk *walk)
{
    uint64_t index = walk->section.shard->lease_free;
    while (index != 0) {
        const struct qli_lease *lease = qli_lease_at(&walk->section, index);
        if (lease == NULL || qli_lease_state(lease) == QLI_LEASE_HELD || qli_lease_is_kept(lease) ||
            !mark(walk->leases_seen, index, SEEN_FREE))
            return fail(walk, "[L1] the free list of leases has a slot that is not free or twice");
        index = qli_lease_next(lease);
    }
    return true;
}

static bool walk_kept_leases(struct walk *walk)
{
    const struct qli_shard *shard = walk->section.shard;
    uint64_t previous = 0;
    for (uint64_t index = shard->kept_first; index != 0;) {
        const struct qli_lease *lease = qli_lease_at(&walk->section, index);
        if (lease == NULL || !qli_lease_is_kept(lease) || qli_lease_previous(lease) != previous ||
            !mark(walk->leases_seen, index, SEEN_KEPT))
            return fail(walk, "[L1] the queue of kept leases has one that is not kept, or twice");
        previous = index;
        index = qli_lease_next(lease);
    }
    return shard->kept_last == previous ||
           fail(walk, "[L1] the queue of kept leases does not end with its last");
}

/* Whether the slots up to top were seen, and none above it. */
static bool seen_up_to(const unsigned char *seen, uint64_t top, uint64_t count)
{
    if (top > count || memchr(seen + 1, SEEN_NOWHERE, top) != NULL)
        return false;
    for (uint64_t i = top + 1; i <= count; i++) {
        if (seen[i] != SEEN_NOWHERE)
            return false;
    }
    return true;
}

static bool check_totals(struct walk *walk)
{
    const struct qli_geometry *g = &walk->section.engine->geometry;
    const struct qli_shard *shard = walk->section.shard;
    if (!seen_up_to(walk->subjects_seen, shard->subject_top, g->shard_subjects))
        return fail(walk, "[S1] a subject slot is on no list, or was never taken into use");
    if (!seen_up_to(walk->leases_seen, shard->lease_top, g->shard_leases))
        return fail(walk, "[L1] a lease slot is on no list, or was never taken into use");
    return true;
}

/* Each dirty subject has its bit: if no more bits are set, no other slot has one. */
static bool check_bitmap(struct walk *walk)
{
    uint64_t bits = 0;
    for (uint64_t i = 0; i <= walk->section.engine->geometry.shard_subjects / 64; i++)
        bits += (uint64_t)__builtin_popcountll(qli_subject_bitmap_word(&walk->section, 1)[i]);
    if (bits != walk->dirty)
        return fail(walk, "[D1] the bitmap has a slot that is no dirty subject");
    return walk->section.shard->dirty_count == walk->dirty ||
           fail(walk, "[D1] dirty_count is wrong");
}

static enum ql_status verify_shard(struct walk *walk, uint64_t shard)
{
    const struct qli_geometry *g = &walk->call->engine->geometry;
    memset(walk->subjects_seen, SEEN_NOWHERE, g->shard_subjects + 1);
    memset(walk->leases_seen, SEEN_NOWHERE, g->shard_leases + 1);
    walk->subjects = 0;
    walk->dirty = 0;
    walk->leases = 0;
    enum ql_status status = qli_section_enter(walk->call, shard, &walk->section);
    if (status != QL_OK)
        return status;
    bool sound = walk_free_subjects(walk) && walk_buckets(walk) && walk_free_leases(walk) &&
                 walk_kept_leases(walk) && check_totals(walk) && check_bitmap(walk);
    qli_section_leave(&walk->section);
    return sound ? QL_OK : QL_E_CORRUPT;
}

static enum ql_status report_damage(const struct walk *walk, const char *where, uint64_t number,
                                    struct ql_error *error)
{
    return qli_error(error, QL_E_CORRUPT, 0,
                     "%s %llu: %s; move the store's directory away and keep it for a report", where,
                     (unsigned long long)number,
                     walk->fault != NULL ? walk->fault : "[R5] the undo log is damaged");
}

static enum ql_status verify_limits(struct walk *walk, struct ql_error *error)
{
    struct qli_engine *engine = walk->call->engine;
    struct qli_guard *guard = &engine->region.guards[0];
    enum ql_status status =
        qli_guard_enter(&engine->region, guard, walk->call->self, walk->call->wait_ms);
    if (status == QL_OK) {
        if (!qli_limits_sound_locked(engine)) {
            fail(walk, "[C1] the limits make no sense");
            status = QL_E_CORRUPT;
        }
        qli_guard_leave(guard);
    }
    if (status == QL_E_CORRUPT)
        return report_damage(walk, "guard", 0, error);
    if (status != QL_OK)
        return qli_error(error, status, 0, "the limits: %s", ql_status_text(status));
    return QL_OK;
}

static enum ql_status verify_shards(struct walk *walk, struct ql_verify_report *report,
                                    struct ql_error *error)
{
    for (uint64_t shard = 0; shard < walk->call->engine->geometry.shard_count; shard++) {
        enum ql_status status = verify_shard(walk, shard);
        if (status == QL_E_CORRUPT)
            return report_damage(walk, "shard", shard, error);
        if (status != QL_OK)
            return qli_error(error, status, 0, "shard %llu: %s", (unsigned long long)shard,
                             ql_status_text(status));
        report->subjects += walk->subjects;
        report->leases += walk->leases;
    }
    return QL_OK;
}

static void count_holders(const struct qli_call *call, struct ql_verify_report *report)
{
    struct qli_region *region = &call->engine->region;
    for (uint64_t slot = 0; slot < region->holder_count; slot++) {
        uint64_t attached = __atomic_load_n(&region->holders[slot].attached, __ATOMIC_ACQUIRE);
        report->holders +=
            attached != 0 && qli_holder_alive(region, call->self, qli_word_make(slot, attached));
    }
}

enum ql_status qli_verify(const struct qli_call *call, struct ql_verify_report *report,
                          struct ql_error *error)
{
    const struct qli_geometry *g = &call->engine->geometry;
    memset(report, 0, sizeof *report);
    report->max_subjects = g->max_subjects;
    report->max_leases = g->max_leases;
    report->region_bytes = call->engine->region.size;
    report->omissions = __atomic_load_n(&call->engine->page->omissions, __ATOMIC_RELAXED);
    struct walk walk = {
        .call = call,
        .subjects_seen = malloc(g->shard_subjects + 1),
        .leases_seen = malloc(g->shard_leases + 1),
    };
    enum ql_status status = QL_E_NOMEM;
    if (walk.subjects_seen != NULL && walk.leases_seen != NULL) {
        status = verify_limits(&walk, error);
        if (status == QL_OK)
            status = verify_shards(&walk, report, error);
    } else {
        qli_error(error, status, 0, "out of memory");
    }
    free(walk.subjects_seen);
    free(walk.leases_seen);
    count_holders(call, report);
    return status;
}
