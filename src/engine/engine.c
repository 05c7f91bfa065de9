/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/engine.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/siphash.h"
#include "engine/limits.h"
#include "region/lockfile.h"

#define DEFAULT_SUBJECTS 65536u
#define DEFAULT_METERS 4u
#define SPARE_METERS 2u
#define DEFAULT_HOLDERS 1024u
#define SUBJECTS_MAX (1u << 24)
#define SHARD_SUBJECTS_MIN 256u

enum param {
    PARAM_SHARDS,
    PARAM_SUBJECTS,
    PARAM_LEASES,
    PARAM_BUCKETS,
    PARAM_METERS,
    PARAM_MAX_SUBJECTS,
    PARAM_MAX_LEASES,
};

static uint64_t power_of_two_from(uint64_t value)
{
    uint64_t power = 1;
    while (power < value)
        power *= 2;
    return power;
}

static uint64_t align_line(uint64_t value)
{
    return (value + QLI_CACHE_LINE - 1) / QLI_CACHE_LINE * QLI_CACHE_LINE;
}

/* Subjects fall into shards by chance, so a shard has room for six standard
 * deviations above its share: of the stores that are filled, one in some ten
 * million has a shard that is full early. */
static uint64_t shard_share(uint64_t total, uint64_t shards)
{
    if (shards == 1)
        return total;
    uint64_t share = (total + shards - 1) / shards;
    return share + 6 * (uint64_t)ceil(sqrt((double)share));
}

static void lay_out(struct qli_geometry *g, uint64_t body_offset)
{
    g->subject_size =
        align_line(sizeof(struct qli_subject) + g->meter_capacity * sizeof(struct qli_cell));
    g->shards_offset =
        body_offset + align_line(sizeof(struct qli_store_page)) + sizeof(struct qli_ledger_page);
    g->bitmap_offset = sizeof(struct qli_shard) + g->shard_buckets * sizeof(uint64_t);
    g->subjects_offset =
        align_line(g->bitmap_offset + (g->shard_subjects / 64 + 1) * sizeof(uint64_t));
    g->leases_offset = g->subjects_offset + g->shard_subjects * g->subject_size;
    g->shard_size = g->leases_offset + g->shard_leases * sizeof(struct qli_lease);
    g->body_end = g->shards_offset + g->shard_count * g->shard_size;
}

static void read_params(const struct qli_region_header *header, struct qli_geometry *g)
{
    g->shard_count = header->params[PARAM_SHARDS];
    g->shard_subjects = header->params[PARAM_SUBJECTS];
    g->shard_leases = header->params[PARAM_LEASES];
    g->shard_buckets = header->params[PARAM_BUCKETS];
    g->meter_capacity = header->params[PARAM_METERS];
    g->max_subjects = header->params[PARAM_MAX_SUBJECTS];
    g->max_leases = header->params[PARAM_MAX_LEASES];
    lay_out(g, header->body_offset);
}

static bool is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

uint64_t qli_engine_stamp(void)
{
    static const uint64_t key[2];
    const uint64_t sizes[] = {
        sizeof(struct qli_region_header), sizeof(struct qli_holder),
        sizeof(struct qli_guard),         sizeof(struct qli_subject),
        sizeof(struct qli_cell),          sizeof(struct qli_lease),
        sizeof(struct qli_shard),         sizeof(struct qli_store_page),
        sizeof(struct qli_ledger_page),
    };
    return qli_siphash(key, sizes, sizeof sizes);
}

/* Limits may be replaced by a list that names other meters: some more have room. */
static uint64_t default_meters(const struct ql_options *options)
{
    uint64_t meters = qli_limits_meters_named(options->limits, options->limit_count) + SPARE_METERS;
    if (meters < DEFAULT_METERS)
        return DEFAULT_METERS;
    return meters < QL_METERS_MAX ? meters : QL_METERS_MAX;
}

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
    return value != 0 ? value : otherwise;
}

void qli_engine_raise(struct ql_options *options, uint64_t subjects, uint64_t meters)
{
    if (subjects > or_default(options->max_subjects, DEFAULT_SUBJECTS))
        options->max_subjects = subjects < SUBJECTS_MAX ? (uint32_t)subjects : SUBJECTS_MAX;
    if (meters > or_default(options->max_meters, default_meters(options)))
        options->max_meters = meters < QL_METERS_MAX ? (uint32_t)meters : QL_METERS_MAX;
}

enum ql_status qli_engine_plan(const struct ql_options *options, struct qli_region_plan *plan,
                               struct ql_error *error)
{
    uint64_t subjects = or_default(options->max_subjects, DEFAULT_SUBJECTS);
    uint64_t leases = or_default(options->max_leases, subjects);
    uint64_t holders = or_default(options->max_holders, DEFAULT_HOLDERS);
    uint64_t meters = or_default(options->max_meters, default_meters(options));
    if (subjects > SUBJECTS_MAX || leases > SUBJECTS_MAX)
        return qli_error(error, QL_E_INVALID, 0, "max_subjects and max_leases are at most %u",
                         SUBJECTS_MAX);
    if (holders > QLI_HOLDERS_MAX)
        return qli_error(error, QL_E_INVALID, 0, "max_holders is at most %u",
                         (unsigned)QLI_HOLDERS_MAX);
    if (meters > QL_METERS_MAX)
        return qli_error(error, QL_E_INVALID, 0, "max_meters is at most %d", QL_METERS_MAX);
    uint64_t shards = 1;
    while (shards < QLI_SHARDS_MAX && subjects / (shards * 2) >= SHARD_SUBJECTS_MIN)
        shards *= 2;
    *plan = (struct qli_region_plan){
        .stamp = qli_engine_stamp(),
        .holder_count = holders,
        .guard_count = 1 + shards,
        .injected_clock = options->clock != NULL,
    };
    struct qli_geometry g = {
        .shard_count = shards,
        .shard_subjects = shard_share(subjects, shards),
        .shard_leases = shard_share(leases, shards),
        .meter_capacity = meters,
    };
    g.shard_buckets = power_of_two_from(g.shard_subjects);
    lay_out(&g, 0);
    plan->body_size = g.body_end;
    plan->params[PARAM_SHARDS] = g.shard_count;
    plan->params[PARAM_SUBJECTS] = g.shard_subjects;
    plan->params[PARAM_LEASES] = g.shard_leases;
    plan->params[PARAM_BUCKETS] = g.shard_buckets;
    plan->params[PARAM_METERS] = g.meter_capacity;
    plan->params[PARAM_MAX_SUBJECTS] = subjects;
    plan->params[PARAM_MAX_LEASES] = leases;
    return QL_OK;
}

enum ql_status qli_engine_bind(struct qli_engine *engine, struct ql_error *error)
{
    const struct qli_region_header *header = engine->region.header;
    struct qli_geometry *g = &engine->geometry;
    read_params(header, g);
    const uint64_t many = UINT64_C(1) << 32;
    if (!is_power_of_two(g->shard_count) || g->shard_count > QLI_SHARDS_MAX ||
        g->shard_count + 1 != engine->region.guard_count || !is_power_of_two(g->shard_buckets) ||
        g->shard_buckets > many || g->shard_subjects == 0 || g->shard_subjects > many ||
        g->shard_leases == 0 || g->shard_leases > many || g->meter_capacity == 0 ||
        g->meter_capacity > QL_METERS_MAX || g->body_end > engine->region.size)
        return qli_error(error, QL_E_CORRUPT, 0, "the region's geometry makes no sense");
    memcpy(engine->hash_key, header->hash_key, sizeof engine->hash_key);
    memcpy(&engine->epoch, header->uuid, sizeof engine->epoch);
    engine->page = (struct qli_store_page *)(engine->region.base + header->body_offset);
    engine->ledger_page = (struct qli_ledger_page *)(engine->region.base + header->body_offset +
                                                     align_line(sizeof(struct qli_store_page)));
    return QL_OK;
}

enum ql_status qli_section_abandon(struct qli_section *section, enum ql_status status)
{
    struct qli_region *region = &section->engine->region;
    if (status == QL_E_CORRUPT || qli_guard_rollback(region, section->log.guard) != QL_OK)
        status = qli_region_poison(region);
    qli_section_leave(section);
    return status;
}
