/* SPDX-License-Identifier: Apache-2.0
 *
 * A handle: what one ql_open returned. It adds the caller's clock, waits and
 * choices to a store.
 */
#ifndef QLI_API_HANDLE_H
#define QLI_API_HANDLE_H

#include "api/store.h"
#include "engine/limits.h"
#include "rules/window.h"

/* Of a maximum age and of a ttl: one year. */
#define QLI_AGE_MS_MAX (INT64_C(1000) * 86400 * 366)

struct ql {
    struct qli_store *store;
    struct ql_options options; /* with defaults filled in; limits are not kept */
};

/* In which day the store works, now that its clock is read. *now_ns is the reading
 * of an injected clock; the system's is read here, into *now_ns. QL_E_CLOCK: it
 * gave no time. */
enum ql_status qli_handle_follow_clock(struct qli_store *store, int64_t *now_ns, int64_t *day);

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

/* The day of the reading, where that is the store's, as almost always; then nothing
 * but two words is looked at. Whether to ask is looked at after the day: it was
 * stored before it. */
static inline enum ql_status qli_handle_find_day(struct qli_store *store, struct qli_call *call)
{
    const struct qli_store_page *page = store->engine.page;
    if (__builtin_expect(call->now_ns < 0, 0))
        return QL_E_CLOCK;
    call->day = qli_window_day(call->now_ns);
    enum ql_status status = QL_OK;
    if (__builtin_expect((uint64_t)call->day != __atomic_load_n(&page->day, __ATOMIC_ACQUIRE), 0))
        status = qli_handle_follow_clock(store, &call->now_ns, &call->day);
    uint64_t ask_until = __atomic_load_n(&page->ask_until, __ATOMIC_RELAXED);
    call->asks = qli_engine_day_asks(call->day, ask_until);
    return status;
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
    return qli_handle_find_day(store, call);
}

/* Whether a charge is acknowledged only when it is in the ledger. */
static inline bool qli_handle_is_sync(const struct ql *ql)
{
    const struct qli_ledger_page *page = ql->store->engine.ledger;
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
