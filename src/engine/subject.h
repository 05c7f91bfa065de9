/* SPDX-License-Identifier: Apache-2.0
 *
 * Subjects of a shard: finding, inserting, evicting. The shard's lock is held.
 */
#ifndef QLI_ENGINE_SUBJECT_H
#define QLI_ENGINE_SUBJECT_H

#include "engine/engine.h"

/* A subject's name as a call brings it. */
struct qli_name {
    const char *text;
    size_t length;
    uint64_t hash;
    uint32_t levels;
};

static inline enum qli_subject_kind qli_subject_kind(const struct qli_subject *subject)
{
    return (enum qli_subject_kind)(subject->meta & 0xff);
}

static inline uint64_t qli_subject_key_length(const struct qli_subject *subject)
{
    return subject->meta >> 8 & 0xff;
}

static inline uint64_t qli_subject_extension(const struct qli_subject *subject)
{
    return subject->meta >> 32;
}

/* The dirty bits: qli_subject_current_bit and qli_subject_previous_bit of the meters. */
static inline uint64_t qli_subject_dirty(const struct qli_subject *subject)
{
    return subject->meta >> 16 & 0xffff;
}

static inline uint64_t qli_subject_current_bit(uint64_t meter)
{
    return UINT64_C(1) << meter;
}

static inline uint64_t qli_subject_previous_bit(uint64_t meter)
{
    return UINT64_C(1) << (QL_METERS_MAX + meter);
}

/* The index of the first lease on the subject's list, or 0. */
static inline uint64_t qli_subject_first_lease(const struct qli_subject *subject)
{
    return subject->leases & UINT32_MAX;
}

static inline uint64_t qli_subject_lease_count(const struct qli_subject *subject)
{
    return subject->leases >> 32;
}

static inline uint64_t qli_subject_leases(uint64_t first, uint64_t count)
{
    return count << 32 | first;
}

/* QL_OK and the name, or QL_E_SUBJECT. */
enum ql_status qli_subject_name(const struct qli_engine *engine, const char *text,
                                struct qli_name *name);

/* The slot of an index from 1; NULL if there is no such slot. */
static inline struct qli_subject *qli_subject_at(const struct qli_section *section, uint64_t index)
{
    const struct qli_geometry *g = &section->engine->geometry;
    if (index - 1 >= g->shard_subjects)
        return NULL;
    return (struct qli_subject *)((unsigned char *)section->shard + g->subjects_offset +
                                  (index - 1) * g->subject_size);
}

/* The slot's index. */
static inline uint64_t qli_subject_index(const struct qli_section *section,
                                         const struct qli_subject *subject)
{
    const struct qli_geometry *g = &section->engine->geometry;
    const unsigned char *slots = (const unsigned char *)section->shard + g->subjects_offset;
    return (uint64_t)((const unsigned char *)subject - slots) / g->subject_size + 1;
}

/* The word that starts the chain of bucket number b. */
static inline uint64_t *qli_subject_bucket(const struct qli_section *section, uint64_t b)
{
    return (uint64_t *)(section->shard + 1) + b;
}

/* *index is the subject's, or 0 if it is unknown. QL_E_CORRUPT. */
enum ql_status qli_subject_find_locked(struct qli_section *section, const struct qli_name *name,
                                       uint64_t *index);

/* Enters the name's shard and looks for the subject. Only after QL_OK is it
 * entered. */
static inline enum ql_status qli_subject_enter(const struct qli_call *call,
                                               const struct qli_name *name,
                                               struct qli_section *section, uint64_t *index)
{
    enum ql_status status =
        qli_section_enter(call, qli_engine_shard_of(call->engine, name->hash), section);
    if (status == QL_OK) {
        status = qli_subject_find_locked(section, name, index);
        if (__builtin_expect(status != QL_OK, 0))
            return qli_section_abandon(section, status);
    }
    return status;
}

/* Makes the subject, undoably. Evicts an idle one, which is committed, if there
 * is no room: call it before the first store of an operation. QL_E_FULL. */
enum ql_status qli_subject_insert_locked(struct qli_section *section, const struct qli_name *name,
                                         int64_t day, uint64_t *index);

/* The word of the bitmap that has the subject's bit, and that bit. */
static inline uint64_t *qli_subject_bitmap_word(const struct qli_section *section, uint64_t index)
{
    unsigned char *bitmap =
        (unsigned char *)section->shard + section->engine->geometry.bitmap_offset;
    return (uint64_t *)bitmap + (index - 1) / 64;
}

static inline uint64_t qli_subject_bitmap_bit(uint64_t index)
{
    return UINT64_C(1) << (index - 1) % 64;
}

/* Gives the subject these dirty bits, undoably, and the bitmap and dirty_count what
 * follows from them. */
void qli_subject_set_dirty_locked(struct qli_section *section, struct qli_subject *subject,
                                  uint64_t dirty);

/* Copies the key, NUL-terminated. QL_E_CORRUPT. */
enum ql_status qli_subject_key(const struct qli_section *section, const struct qli_subject *subject,
                               char key[QL_SUBJECT_MAX + 1]);

#endif
