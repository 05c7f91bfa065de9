/* SPDX-License-Identifier: Apache-2.0
 *
 * A handle: what one ql_open returned. It adds the caller's clock, waits and
 * choices to a store.
 */
#ifndef QLI_API_HANDLE_H
#define QLI_API_HANDLE_H

#include "api/day.h"
#include "api/store.h"
#include "engine/limits.h"

/* Of a maximum age and of a ttl: one year. */
#define QLI_AGE_MS_MAX (INT64_C(1000) * 86400 * 366)

struct ql {
    struct qli_store *store;
    struct ql_options options; /* with defaults filled in; limits are not kept */
};

/* What few calls meet: a forked child registers, a tick is due, the limits have
 * changed, the store is lost or damaged. */
enum ql_status qli_handle_prepare(struct ql *ql, int64_t wait_ms, int64_t system_ns,
                                  uint64_t *self);

static inline bool qli_handle_needs_preparing(struct qli_store *store, uint64_t self,
                                              int64_t system_ns)
{
    struct qli_engine *engine = &store->engine;
    uint64_t since_tick_ns =
        (uint64_t)(system_ns - __atomic_load_n(&store->last_tick_ns, __ATOMIC_RELAXED));
    return since_tick_ns >= (uint64_t)QLI_TICK_NS || self == 0 ||
           __atomic_load_n(&store->lost, __ATOMIC_RELAXED) != 0 ||
           qli_region_corrupt(&engine->region) || qli_limits_stale(engine);
}

/* Prepares a call: who we are, what time it is, which limits hold. */
static inline enum ql_status qli_handle_begin(struct ql *ql, int64_t wait_ms, struct qli_call *call)
{
    struct qli_store *store = ql->store;
    struct qli_engine *engine = &store->engine;
    int64_t system_ns = qli_clock_calendar_ns();
    call->now_ns = system_ns;
    if (__builtin_expect(ql->options.clock != NULL, 0))
        call->now_ns = ql->options.clock(ql->options.context);
    /* After the caller's function, which may have forked. Read once: another
     * thread may lose the store meanwhile, and 0 takes no lock. */
    call->self = qli_holder_self(&engine->region);
    if (__builtin_expect(qli_handle_needs_preparing(store, call->self, system_ns), 0)) {
        enum ql_status status = qli_handle_prepare(ql, wait_ms, system_ns, &call->self);
        if (status != QL_OK)
            return status;
    }
    call->engine = engine;
    call->limits = qli_limits_current(engine);
    call->asks = false;
    call->wait_ms = wait_ms;
    call->boot_ns = 0;
    if (__builtin_expect(__atomic_load_n(&engine->page->deadlines, __ATOMIC_RELAXED) != 0, 0))
        call->boot_ns = qli_clock_boot_ns();
    return qli_day_find(store, call);
}

/* Whether a charge is acknowledged only when it is in the ledger. */
static inline bool qli_handle_is_sync(const struct ql *ql)
{
    const struct qli_ledger_page *page = ql->store->engine.ledger_page;
    return __atomic_load_n(&page->durability, __ATOMIC_RELAXED) == QL_DURABILITY_SYNC;
}

/* After a charge in a shard of such a store was made: waits until it is in the
 * ledger. Returns status, or QL_E_NOT_DURABLE. */
enum ql_status qli_handle_make_durable(struct ql *ql, uint64_t shard, enum ql_status status);

/* ---- waits of which the host is told ------------------------------------- */

static inline void *qli_handle_begins_to_wait(const struct ql *ql)
{
    return ql->options.wait_begin != NULL ? ql->options.wait_begin(ql->options.context) : NULL;
}

static inline void qli_handle_ends_to_wait(const struct ql *ql, void *token)
{
    if (ql->options.wait_end != NULL)
        ql->options.wait_end(ql->options.context, token);
}

#endif
