/* SPDX-License-Identifier: Apache-2.0
 *
 * The stores that this process has open. All handles of one directory share
 * one mapping, one holder's slot, one token, one flusher and one thread; a store
 * in memory belongs to one handle.
 */
#ifndef QLI_API_STORE_H
#define QLI_API_STORE_H

#include "base/clock.h"
#include "engine/engine.h"
#include "ledger/flusher.h"

/* The thread that does the ticks of one store. */
struct qli_ticker {
    pthread_t thread;
    bool wanted;   /* guarded by the mutex of region.self */
    bool runs;     /* the same, and atomic */
    uint32_t stop; /* atomic; waited for */
};

#define QLI_TICK_NS (100 * QLI_NS_PER_MS)

struct qli_store {
    struct qli_engine engine;
    struct qli_flusher flusher; /* idle in a store without a ledger */
    int64_t flush_interval_ns;  /* atomic */
    struct qli_ticker ticker;
    bool injected_clock;
    unsigned handles;
    int64_t last_tick_ns; /* atomic */
    uint64_t tick_slot;   /* atomic; the holder that the last tick looked at last */
    int lost;             /* atomic; why calls fail: QL_OK, QL_E_GONE or QL_E_DETACHED */
    struct qli_store *next;
};

#define QLI_LAST_FLUSH_WAIT_MS 1000 /* of a region that this process leaves */

static inline enum ql_status qli_store_why_lost(const struct qli_store *store)
{
    return (enum ql_status)__atomic_load_n(&store->lost, __ATOMIC_RELAXED);
}

enum ql_status qli_store_open(const char *path, const struct ql_options *options,
                              struct qli_store **store, struct ql_error *error);
void qli_store_close(struct qli_store *store);

/* Makes what the options say about the ledger the store's, and starts its thread:
 * the last step of an opening, which can't fail any more. */
void qli_store_configure(struct qli_store *store, const struct ql_options *options);

/* This process's word; a forked child registers here. */
enum ql_status qli_store_self(struct qli_store *store, int64_t wait_ms, uint64_t *self);

/* Has the system's clock moved the day, where it is the store's? And now and then:
 * is the token still held, is the region still there, who died, is a flush due
 * (unless the thread does that)? calendar_ns is the system's clock. QL_E_GONE or
 * QL_E_DETACHED: the call must not go on. */
enum ql_status qli_store_tick(struct qli_store *store, uint64_t self, int64_t calendar_ns);

static inline bool qli_ticker_runs(const struct qli_store *store)
{
    return __atomic_load_n(&store->ticker.runs, __ATOMIC_RELAXED);
}

/* Starts the thread, if it is wanted and does not run; without one (the system
 * gave none) the calls do its work. The caller has the mutex of region.self. */
void qli_ticker_start(struct qli_store *store);
void qli_ticker_stop(struct qli_store *store);

#endif
