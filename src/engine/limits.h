/* SPDX-License-Identifier: Apache-2.0
 *
 * The store's limits: one list in the region, read by each process when its
 * sequence has changed. Guard 0.
 */
#ifndef QLI_ENGINE_LIMITS_H
#define QLI_ENGINE_LIMITS_H

#include "engine/engine.h"

/* Makes engine->limits what the region says now. Another process may change it
 * at once: a call works with the list that it began with. */
enum ql_status qli_limits_refresh(struct qli_engine *engine, uint64_t self, int64_t wait_ms);

static inline const struct qli_limits *qli_limits_current(struct qli_engine *engine)
{
    return __atomic_load_n(&engine->limits, __ATOMIC_ACQUIRE);
}

static inline bool qli_limits_stale(struct qli_engine *engine)
{
    const struct qli_limits *limits = qli_limits_current(engine);
    return limits == NULL ||
           limits->sequence != __atomic_load_n(&engine->page->sequence, __ATOMIC_ACQUIRE);
}

/* How many meters a list names. */
uint64_t qli_limits_meters_named(const struct ql_limit *limits, size_t count);

/* Makes a list the store's. The same list as before changes nothing; another
 * one is QL_E_LIMITS unless replace is set or the store had none ever, and
 * QL_E_FULL if its meters do not fit. A refusal changes nothing. */
enum ql_status qli_limits_apply(struct qli_engine *engine, uint64_t self,
                                const struct ql_limit *limits, size_t count, bool replace,
                                struct ql_error *error);

/* The meter's index in the cells, or -1. */
int qli_limits_meter(const struct qli_limits *limits, const char *meter);

/* The index of a meter in a region that nobody else has seen, where it is named if
 * it is not yet; -1: there is no room. */
int qli_limits_add_meter(struct qli_engine *engine, const char *meter);

/* Whether the limits of the store page are as [C1] says. Guard 0 is held. */
bool qli_limits_sound_locked(const struct qli_engine *engine);

/* Frees what was read. */
void qli_limits_free(struct qli_engine *engine);

#endif
