/* SPDX-License-Identifier: Apache-2.0
 *
 * The ticks of a store, and its thread: that ticks and flushes, so that this is done in a
 * process that makes no calls, and costs the calls of the others nothing. It takes no lock
 * of the table of stores, so a close may wait for it. A forked child has no such thread
 * and starts its own when it becomes a holder.
 */
#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "api/day.h"
#include "engine/operation.h"

#define LOOKS_A_TICK 32 /* at holders; 1024 of them are through in 3 s, and faster the more tick */
#define PERIOD_MAX_NS (200 * QLI_NS_PER_MS)

/* Our own mutex is held: losing the region takes the descriptors away. */
static enum ql_status find_loss(struct qli_store *store)
{
    struct qli_region *region = &store->engine.region;
    if (!qli_holder_token_held(region) ||
        __atomic_load_n(&store->flusher.ledger.lost, __ATOMIC_RELAXED))
        return QL_E_DETACHED;
    return qli_region_look(region);
}

/* The region was removed, but is mapped here still: what the ledger lacks of it is written.
 * Nobody makes another region as long as we have our byte. */
static void save_removed_region(struct qli_store *store, uint64_t self)
{
    __atomic_store_n(&store->engine.closed, 1, __ATOMIC_SEQ_CST);
    if (qli_engine_has_ledger(&store->engine))
        qli_flusher_flush(&store->flusher, self, QLI_LAST_FLUSH_WAIT_MS, NULL);
}

/* What is lost stays so, for the reason that was seen first. Lets go of the byte
 * of a region that is gone, so that a new open can make a new one. */
static enum ql_status look_for_loss(struct qli_store *store, uint64_t self)
{
    struct qli_region *region = &store->engine.region;
    pthread_mutex_lock(&region->self->mutex);
    enum ql_status lost = qli_store_why_lost(store);
    bool noticed = lost == QL_OK;
    if (noticed) {
        lost = find_loss(store);
        __atomic_store_n(&store->lost, (int)lost, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&region->self->mutex);
    if (!noticed || lost != QL_E_GONE)
        return lost;
    save_removed_region(store, self);
    pthread_mutex_lock(&region->self->mutex);
    qli_holder_detach(region);
    pthread_mutex_unlock(&region->self->mutex);
    return lost;
}

static int64_t flush_interval_ns(const struct qli_store *store)
{
    return __atomic_load_n(&store->flush_interval_ns, __ATOMIC_RELAXED);
}

/* Whether it is time again, and no other thread of this process was faster. */
static bool takes_turn(struct qli_store *store, int64_t calendar_ns)
{
    int64_t last_ns = __atomic_load_n(&store->last_tick_ns, __ATOMIC_RELAXED);
    if (__builtin_expect(calendar_ns - last_ns < QLI_TICK_NS && calendar_ns >= last_ns, 1))
        return false;
    return __atomic_compare_exchange_n(&store->last_tick_ns, &last_ns, calendar_ns, false,
                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static enum ql_status look_around(struct qli_store *store, uint64_t self)
{
    enum ql_status lost = look_for_loss(store, self);
    if (lost != QL_OK)
        return lost;
    if (!qli_ticker_runs(store) && qli_engine_has_ledger(&store->engine))
        qli_flusher_tick(&store->flusher, self, flush_interval_ns(store));
    struct qli_call call = qli_engine_bare_call(&store->engine, self, -1);
    uint64_t slot = __atomic_load_n(&store->tick_slot, __ATOMIC_RELAXED);
    slot = qli_operation_reap_some(&call, slot, LOOKS_A_TICK);
    __atomic_store_n(&store->tick_slot, slot, __ATOMIC_RELAXED);
    return QL_OK;
}

/* A leap within a day is noticed here too, and the offset kept. */
enum ql_status qli_store_tick(struct qli_store *store, uint64_t self, int64_t calendar_ns)
{
    int64_t day;
    enum ql_status status = QL_OK;
    if (takes_turn(store, calendar_ns))
        status = look_around(store, self);
    if (status == QL_OK && !store->injected_clock)
        status = qli_day_follow_clock(store, &calendar_ns, &day);
    return status;
}

/* ---- the thread ---------------------------------------------------------- */

static bool nap(struct qli_store *store)
{
    int64_t period_ns = flush_interval_ns(store);
    period_ns = period_ns < PERIOD_MAX_NS ? period_ns : PERIOD_MAX_NS;
    const struct timespec time = {.tv_nsec = period_ns};
    if (__atomic_load_n(&store->ticker.stop, __ATOMIC_ACQUIRE) == 0)
        syscall(SYS_futex, &store->ticker.stop, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
    return __atomic_load_n(&store->ticker.stop, __ATOMIC_ACQUIRE) == 0;
}

static void *run(void *context)
{
    struct qli_store *store = context;
    uint64_t self;
    while (nap(store)) {
        int64_t now_ns = qli_clock_calendar_ns();
        enum ql_status status = qli_store_self(store, -1, &self);
        if (status == QL_OK)
            status = qli_store_tick(store, self, now_ns);
        if (status == QL_E_GONE || status == QL_E_DETACHED)
            return NULL;
        if (status == QL_OK)
            qli_flusher_tick(&store->flusher, self, flush_interval_ns(store));
    }
    return NULL;
}

/* The host's signals are for its own threads. */
void qli_ticker_start(struct qli_store *store)
{
    sigset_t all;
    sigset_t own;
    struct qli_ticker *ticker = &store->ticker;
    if (!ticker->wanted || qli_ticker_runs(store))
        return;
    ticker->stop = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &own);
    bool runs = pthread_create(&ticker->thread, NULL, run, store) == 0;
    pthread_sigmask(SIG_SETMASK, &own, NULL);
    if (runs)
        pthread_setname_np(ticker->thread, "quotalite");
    __atomic_store_n(&ticker->runs, runs, __ATOMIC_RELAXED);
}

void qli_ticker_stop(struct qli_store *store)
{
    struct qli_ticker *ticker = &store->ticker;
    if (!qli_ticker_runs(store))
        return;
    __atomic_store_n(&ticker->stop, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &ticker->stop, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    pthread_join(ticker->thread, NULL);
    __atomic_store_n(&ticker->runs, false, __ATOMIC_RELAXED);
}
