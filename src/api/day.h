/* SPDX-License-Identifier: Apache-2.0
 *
 * The day that a store works in, whoever calls it: docs/decisions/010-store-day.md.
 */
#ifndef QLI_API_DAY_H
#define QLI_API_DAY_H

#include "api/store.h"
#include "rules/window.h"

/* In which day the store works, now that its clock is read. *now_ns is the reading
 * of an injected clock; the system's is read here, into *now_ns. QL_E_CLOCK: it
 * gave no time. */
enum ql_status qli_day_follow_clock(struct qli_store *store, int64_t *now_ns, int64_t *day);

/* The day of the reading, where that is the store's, as almost always; then nothing
 * but two words is loaded. ask_until is loaded after the day, as it is stored before it. */
static inline enum ql_status qli_day_find(struct qli_store *store, struct qli_call *call)
{
    const struct qli_store_page *page = store->engine.page;
    if (__builtin_expect(call->now_ns < 0, 0))
        return QL_E_CLOCK;
    call->day = qli_window_day(call->now_ns);
    enum ql_status status = QL_OK;
    if (__builtin_expect((uint64_t)call->day != __atomic_load_n(&page->day, __ATOMIC_ACQUIRE), 0))
        status = qli_day_follow_clock(store, &call->now_ns, &call->day);
    uint64_t ask_until = __atomic_load_n(&page->ask_until, __ATOMIC_RELAXED);
    call->asks = qli_engine_day_asks(call->day, ask_until);
    return status;
}

#endif
