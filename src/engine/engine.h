/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine: quota state inside a region. This file owns the geometry of the
 * body and the context of a call; the operations are in operation.h.
 */
#ifndef QLI_ENGINE_ENGINE_H
#define QLI_ENGINE_ENGINE_H

#include "engine/layout.h"
#include "region/guard.h"
#include "region/holder.h"

/* The store's limits as one process last read them. Immutable once published;
 * kept until the engine is closed, so that names in verdicts stay valid. */
struct qli_limits {
    uint64_t sequence;
    size_t count;
    struct ql_limit limits[QL_LIMITS_MAX];
    uint32_t meter_of[QL_LIMITS_MAX]; /* index of the cell, if windowed */
    uint32_t windowed;                /* bit i: limits[i] is windowed */
    uint32_t concurrent;              /* bit i: limits[i] is concurrent */
    uint32_t meter_count;
    char meters[QL_METERS_MAX][QLI_NAME_SIZE];
    char names[QL_LIMITS_MAX][QLI_NAME_SIZE];
    struct qli_limits *older;
};

#define QLI_SHARDS_MAX 64u

struct qli_geometry {
    uint64_t shard_count; /* a power of two, up to QLI_SHARDS_MAX */
    uint64_t shard_subjects;
    uint64_t shard_leases;
    uint64_t shard_buckets; /* a power of two */
    uint64_t meter_capacity;
    uint64_t subject_size;
    uint64_t shards_offset; /* in the region */
    uint64_t shard_size;    /* bytes from one shard's head to the next */
    uint64_t bitmap_offset; /* in a shard, as are the next two; the buckets follow the head */
    uint64_t subjects_offset;
    uint64_t leases_offset;
    uint64_t body_end;
    uint64_t max_subjects; /* as asked for; the slots are a few more */
    uint64_t max_leases;
};

struct qli_engine {
    struct qli_region region;
    struct qli_geometry geometry;
    uint64_t hash_key[2];
    uint64_t epoch;
    struct qli_store_page *page;
    struct qli_ledger_page *ledger_page;
    struct qli_limits *limits;    /* the current ones; atomic */
    pthread_mutex_t limits_mutex; /* publishing them; nothing is waited for under it */
    int closed;                   /* atomic; the region is gone: see qli_section_closed */
};

/* Answers of an operation to the layer above, which has the ledger; they never
 * reach a caller. Nothing was done. */

/* Reopen the subject's windows, begin anew. */
#define QLI_ASK_LEDGER ((enum ql_status)1000)

/* Flush, begin anew: a window that the ledger lacks would be dropped. Also: the ledger
 * was replaced (qli_flush_connect). */
#define QLI_MUST_FLUSH ((enum ql_status)1001)

/* What one call carries through the engine. */
struct qli_call {
    struct qli_engine *engine;
    const struct qli_limits *limits;
    uint64_t self;
    int64_t now_ns;
    int64_t day;     /* of the store, not of the reader's clock */
    bool asks;       /* a cell without the day's window does not know its total, or yesterday's */
    int64_t boot_ns; /* CLOCK_BOOTTIME, or 0 while no lease has a deadline */
    int64_t wait_ms;
};

/* A call that is about no time and no limits. */
static inline struct qli_call qli_engine_bare_call(struct qli_engine *engine, uint64_t self,
                                                   int64_t wait_ms)
{
    return (struct qli_call){.engine = engine, .self = self, .wait_ms = wait_ms};
}

/* A shard whose lock is held. */
struct qli_section {
    struct qli_engine *engine;
    struct qli_log log;      /* with the guard */
    struct qli_shard *shard; /* the head; the rest of the shard lies behind it */
    uint64_t index;          /* of the shard */
};

/* A word of the region that is an amount, a count or a time: damage may have
 * made it none, and what is computed from it must not overflow. */
static inline int64_t qli_engine_amount(uint64_t word)
{
    return word <= INT64_MAX ? (int64_t)word : INT64_MAX;
}

/* Whether what is charged has to reach a ledger. */
static inline bool qli_engine_has_ledger(const struct qli_engine *engine)
{
    return __atomic_load_n(&engine->ledger_page->durability, __ATOMIC_RELAXED) >=
           QL_DURABILITY_ASYNC;
}

/* Whether the ledger may know more of that day, or of the day before it, which is
 * opened with it. */
static inline bool qli_engine_day_asks(int64_t day, uint64_t ask_until)
{
    return ask_until != 0 && (uint64_t)day - 1 <= ask_until;
}

/* Computes the geometry and the plan of a region for these options. */
enum ql_status qli_engine_plan(const struct ql_options *options, struct qli_region_plan *plan,
                               struct ql_error *error);

/* Raises the sizes that the options ask for to what there has to be room for. */
void qli_engine_raise(struct ql_options *options, uint64_t subjects, uint64_t meters);

/* The stamp that a region of this build has. */
uint64_t qli_engine_stamp(void);

/* Reads the geometry out of the mapped region and checks it. */
enum ql_status qli_engine_bind(struct qli_engine *engine, struct ql_error *error);

static inline struct qli_shard *qli_engine_shard(const struct qli_engine *engine, uint64_t shard)
{
    const struct qli_geometry *g = &engine->geometry;
    return (struct qli_shard *)(engine->region.base + g->shards_offset + shard * g->shard_size);
}

/* Enters a shard; leave it with qli_section_leave or qli_section_abandon. */
static inline enum ql_status qli_section_enter(const struct qli_call *call, uint64_t shard,
                                               struct qli_section *section)
{
    struct qli_engine *engine = call->engine;
    section->engine = engine;
    section->log = qli_log_of(&engine->region, &engine->region.guards[1 + shard]);
    section->shard = qli_engine_shard(engine, shard);
    section->index = shard;
    return qli_guard_enter(&engine->region, section->log.guard, call->self, call->wait_ms);
}

/* Whether the region is gone for this process. Who saves what it has sets the mark
 * first and then enters each shard: who enters it later, to charge, sees the mark. */
static inline bool qli_section_closed(const struct qli_section *section)
{
    return __builtin_expect(__atomic_load_n(&section->engine->closed, __ATOMIC_RELAXED), 0) != 0;
}

static inline uint64_t qli_engine_shard_of(const struct qli_engine *engine, uint64_t hash)
{
    return hash >> 32 & (engine->geometry.shard_count - 1);
}

static inline void qli_section_store(struct qli_section *section, uint64_t *field, uint64_t value)
{
    qli_log_store(&section->log, field, value);
}

static inline void qli_section_commit(struct qli_section *section)
{
    qli_log_commit(&section->log);
}

static inline void qli_section_leave(struct qli_section *section)
{
    qli_guard_leave(section->log.guard);
}

/* Takes back what is not committed and leaves; damage poisons the region.
 * Returns status. */
enum ql_status qli_section_abandon(struct qli_section *section, enum ql_status status);

#endif
