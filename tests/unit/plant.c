/* SPDX-License-Identifier: Apache-2.0 */
#include "plant.h"

struct plant plant_open(const struct kt_view *view)
{
    struct plant plant = {.engine = kt_view_engine(view)};
    const struct qli_geometry *g = &plant.engine.geometry;
    KT_CHECK(g->shard_count == 1, "%llu shards", (unsigned long long)g->shard_count);
    plant.section = (struct qli_section){
        .log = qli_log_of(&view->region, &view->region.guards[1]),
        .shard = qli_engine_shard(&plant.engine, 0),
    };
    return plant;
}

/* The section points to the engine, which the caller may have copied. */
static struct qli_section *section_of(struct plant *plant)
{
    plant->section.engine = &plant->engine;
    return &plant->section;
}

struct qli_subject *plant_subject(struct plant *plant, const char *name)
{
    struct qli_name found;
    uint64_t index;
    KT_CHECK(qli_subject_name(&plant->engine, name, &found) == QL_OK, "%s", name);
    KT_CHECK(qli_subject_find_locked(section_of(plant), &found, &index) == QL_OK && index != 0,
             "there is no %s", name);
    return plant_slot(plant, index);
}

struct qli_subject *plant_slot(struct plant *plant, uint64_t index)
{
    struct qli_subject *slot = qli_subject_at(section_of(plant), index);
    KT_CHECK(slot != NULL, "there is no slot %llu", (unsigned long long)index);
    return slot;
}

uint64_t plant_index(struct plant *plant, const struct qli_subject *subject)
{
    const unsigned char *first = (const unsigned char *)plant_slot(plant, 1);
    size_t offset = (size_t)((const unsigned char *)subject - first);
    return offset / plant->engine.geometry.subject_size + 1;
}

struct qli_lease *plant_lease(struct plant *plant, uint64_t index)
{
    struct qli_lease *lease = qli_lease_at(section_of(plant), index);
    KT_CHECK(lease != NULL, "there is no lease %llu", (unsigned long long)index);
    return lease;
}

uint64_t plant_lease_next(struct plant *plant, uint64_t index)
{
    return qli_lease_next(plant_lease(plant, index));
}

void plant_link_lease(struct plant *plant, uint64_t index, uint64_t next)
{
    struct qli_lease *lease = plant_lease(plant, index);
    lease->links = qli_lease_links(next, qli_lease_previous(lease));
}

void plant_link_lease_back(struct plant *plant, uint64_t index, uint64_t previous)
{
    struct qli_lease *lease = plant_lease(plant, index);
    lease->links = qli_lease_links(qli_lease_next(lease), previous);
}

void plant_set_lease_state(struct plant *plant, uint64_t index, enum qli_lease_state state)
{
    struct qli_lease *lease = plant_lease(plant, index);
    lease->life = qli_lease_life(qli_lease_generation(lease), state);
}
