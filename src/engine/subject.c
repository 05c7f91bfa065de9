/* SPDX-License-Identifier: Apache-2.0
 *
 * Inserting writes the key, hash and cells into a slot that is still free,
 * where they mean nothing, without the undo log; the link that makes the slot
 * a subject is undoable. That is why an eviction commits before its slot is
 * written again: no undo may need what was overwritten.
 */
#include "engine/subject.h"

#include <string.h>

#include "base/siphash.h"
#include "rules/name.h"

static uint64_t make_meta(enum qli_subject_kind kind, size_t length, uint64_t extension)
{
    return (uint64_t)kind | (uint64_t)length << 8 | extension << 32;
}

enum ql_status qli_subject_name(const struct qli_engine *engine, const char *text,
                                struct qli_name *name)
{
    name->text = text;
    name->length = qli_name_subject(text, &name->levels);
    if (name->length == 0)
        return QL_E_SUBJECT;
    name->hash = qli_siphash(engine->hash_key, text, name->length);
    return QL_OK;
}

static struct qli_extension *extension_of(const struct qli_section *section,
                                          const struct qli_subject *subject)
{
    return (struct qli_extension *)qli_subject_at(section, qli_subject_extension(subject));
}

static bool key_equals(const struct qli_section *section, const struct qli_subject *subject,
                       const struct qli_name *name)
{
    if (subject->hash != name->hash || qli_subject_key_length(subject) != name->length)
        return false;
    if (name->length <= QLI_KEY_INLINE)
        return memcmp(subject->key, name->text, name->length) == 0;
    const struct qli_extension *extension = extension_of(section, subject);
    return extension != NULL && memcmp(subject->key, name->text, QLI_KEY_INLINE) == 0 &&
           memcmp(extension->key, name->text + QLI_KEY_INLINE, name->length - QLI_KEY_INLINE) == 0;
}

static uint64_t *bucket_of(const struct qli_section *section, uint64_t hash)
{
    return qli_subject_bucket(section, hash & (section->engine->geometry.shard_buckets - 1));
}

enum ql_status qli_subject_find_locked(struct qli_section *section, const struct qli_name *name,
                                       uint64_t *index)
{
    uint64_t steps = section->engine->geometry.shard_subjects;
    for (*index = *bucket_of(section, name->hash); *index != 0; steps--) {
        const struct qli_subject *subject = qli_subject_at(section, *index);
        if (subject == NULL || steps == 0)
            return QL_E_CORRUPT;
        if (key_equals(section, subject, name))
            return QL_OK;
        *index = subject->next;
    }
    return QL_OK;
}

/* The last slot that was freed, or one that was never used. */
static enum ql_status pop_free(struct qli_section *section, uint64_t *index,
                               struct qli_subject **subject)
{
    struct qli_shard *shard = section->shard;
    bool freed = shard->subject_free != 0;
    *index = freed ? shard->subject_free : shard->subject_top + 1;
    struct qli_subject *slot = qli_subject_at(section, *index);
    if (slot == NULL)
        return freed ? QL_E_CORRUPT : QL_E_FULL;
    if (slot->meta != 0)
        return QL_E_CORRUPT;
    if (freed)
        qli_section_store(section, &shard->subject_free, slot->next);
    else
        qli_section_store(section, &shard->subject_top, *index);
    *subject = slot;
    return QL_OK;
}

static void push_free(struct qli_section *section, uint64_t index, struct qli_subject *slot)
{
    qli_section_store(section, &slot->meta, 0);
    qli_section_store(section, &slot->next, section->shard->subject_free);
    qli_section_store(section, &section->shard->subject_free, index);
}

/* Stores: meta; where the first bit comes or the last one goes, the bitmap's word
 * and dirty_count. */
void qli_subject_set_dirty_locked(struct qli_section *section, struct qli_subject *subject,
                                  uint64_t dirty)
{
    bool was_dirty = qli_subject_dirty(subject) != 0;
    qli_section_store(section, &subject->meta,
                      (subject->meta & ~(UINT64_C(0xffff) << 16)) | dirty << 16);
    if (was_dirty == (dirty != 0))
        return;
    struct qli_shard *shard = section->shard;
    uint64_t index = qli_subject_index(section, subject);
    uint64_t *word = qli_subject_bitmap_word(section, index);
    qli_section_store(section, word, *word ^ qli_subject_bitmap_bit(index));
    qli_section_store(section, &shard->dirty_count,
                      was_dirty ? shard->dirty_count - 1 : shard->dirty_count + 1);
}

/* ---- evicting ------------------------------------------------------------ */

static bool idle(const struct qli_section *section, const struct qli_subject *subject, int64_t day)
{
    if (qli_subject_kind(subject) != QLI_SUBJECT_USED || subject->leases != 0)
        return false;
    if (qli_subject_dirty(subject) != 0 && qli_engine_has_ledger(section->engine))
        return false;
    for (uint64_t m = 0; m < section->engine->geometry.meter_capacity; m++) {
        if (subject->cells[m].total != 0 && subject->cells[m].day >= (uint64_t)day)
            return false;
    }
    return true;
}

/* The word that links to the subject in its chain. */
static enum ql_status find_link(struct qli_section *section, uint64_t index, uint64_t hash,
                                uint64_t **link)
{
    uint64_t steps = section->engine->geometry.shard_subjects;
    *link = bucket_of(section, hash);
    while (**link != index) {
        struct qli_subject *subject = qli_subject_at(section, **link);
        if (subject == NULL || steps-- == 0)
            return QL_E_CORRUPT;
        *link = &subject->next;
    }
    return QL_OK;
}

static enum ql_status evict_locked(struct qli_section *section, uint64_t index)
{
    struct qli_subject *subject = qli_subject_at(section, index);
    uint64_t *link;
    enum ql_status status = find_link(section, index, subject->hash, &link);
    if (status != QL_OK)
        return status;
    uint64_t extension_index = qli_subject_extension(subject);
    struct qli_subject *extension = qli_subject_at(section, extension_index);
    if (extension_index != 0 && extension == NULL)
        return QL_E_CORRUPT;
    qli_section_store(section, link, subject->next);
    if (qli_subject_dirty(subject) != 0)
        qli_subject_set_dirty_locked(section, subject, 0);
    push_free(section, index, subject);
    if (extension != NULL)
        push_free(section, extension_index, extension);
    qli_section_store(section, &section->shard->subject_count, section->shard->subject_count - 1);
    qli_section_commit(section);
    return QL_OK;
}

/* Looks at each slot once, from where the last look ended. */
static enum ql_status evict_one(struct qli_section *section, int64_t day)
{
    uint64_t count = section->engine->geometry.shard_subjects;
    uint64_t hand = section->shard->evict_hand % count;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t index = (hand + i) % count + 1;
        if (!idle(section, qli_subject_at(section, index), day))
            continue;
        section->shard->evict_hand = index % count;
        return evict_locked(section, index);
    }
    return QL_E_FULL;
}

/* Whether there are that many free slots. */
static bool has_free(struct qli_section *section, uint64_t slots)
{
    uint64_t unused = section->engine->geometry.shard_subjects - section->shard->subject_top;
    slots -= unused < slots ? unused : slots;
    uint64_t index = section->shard->subject_free;
    for (; slots > 0 && index != 0; slots--) {
        const struct qli_subject *slot = qli_subject_at(section, index);
        index = slot != NULL ? slot->next : 0;
    }
    return slots == 0;
}

/* ---- inserting ----------------------------------------------------------- */

static enum ql_status write_extension(struct qli_section *section, const struct qli_name *name,
                                      uint64_t *index)
{
    struct qli_subject *slot;
    enum ql_status status = pop_free(section, index, &slot);
    if (status != QL_OK)
        return status;
    struct qli_extension *extension = (struct qli_extension *)slot;
    memcpy(extension->key, name->text + QLI_KEY_INLINE, name->length - QLI_KEY_INLINE);
    qli_section_store(section, &extension->meta, make_meta(QLI_SUBJECT_EXTENSION, 0, 0));
    return QL_OK;
}

static void write_subject(struct qli_section *section, struct qli_subject *subject,
                          const struct qli_name *name)
{
    subject->hash = name->hash;
    subject->leases = 0;
    memcpy(subject->key, name->text, name->length < QLI_KEY_INLINE ? name->length : QLI_KEY_INLINE);
    memset(subject->cells, 0, section->engine->geometry.meter_capacity * sizeof subject->cells[0]);
}

enum ql_status qli_subject_insert_locked(struct qli_section *section, const struct qli_name *name,
                                         int64_t day, uint64_t *index)
{
    uint64_t slots = name->length > QLI_KEY_INLINE ? 2 : 1;
    struct qli_subject *subject = NULL;
    enum ql_status status = QL_OK;
    while (status == QL_OK && !has_free(section, slots))
        status = evict_one(section, day);
    if (status == QL_OK)
        status = pop_free(section, index, &subject);
    uint64_t extension = 0;
    if (status == QL_OK && slots == 2)
        status = write_extension(section, name, &extension);
    if (status != QL_OK)
        return status;
    write_subject(section, subject, name);
    uint64_t *bucket = bucket_of(section, name->hash);
    qli_section_store(section, &subject->meta,
                      make_meta(QLI_SUBJECT_USED, name->length, extension));
    qli_section_store(section, &subject->next, *bucket);
    qli_section_store(section, bucket, *index);
    qli_section_store(section, &section->shard->subject_count, section->shard->subject_count + 1);
    return QL_OK;
}

enum ql_status qli_subject_key(const struct qli_section *section, const struct qli_subject *subject,
                               char key[QL_SUBJECT_MAX + 1])
{
    size_t length = qli_subject_key_length(subject);
    const struct qli_extension *extension = extension_of(section, subject);
    if (length > QL_SUBJECT_MAX || (length > QLI_KEY_INLINE && extension == NULL))
        return QL_E_CORRUPT;
    size_t head = length < QLI_KEY_INLINE ? length : QLI_KEY_INLINE;
    memcpy(key, subject->key, head);
    if (length > head)
        memcpy(key + head, extension->key, length - head);
    key[length] = '\0';
    return QL_OK;
}
