/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread of a store: it does the ticks and the flushes, so that they happen in
 * a process that makes no calls, and cost none that does. It takes no lock of the
 * table of stores, so a close may wait for it. A forked child has no such thread
 * and starts its own when it becomes a holder.
 */
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "api/handle.h"

#define PERIOD_MAX_NS (200 * QLI_NS_PER_MS)

static int64_t flush_interval_ns(const struct qli_store *store)
{
    return __atomic_load_n(&store->flush_interval_ns, __ATOMIC_RELAXED);
}

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
        int64_t day;
        enum ql_status status = qli_store_self(store, -1, &self);
        if (status == QL_OK)
            status = qli_store_tick(store, self, now_ns);
        if (status == QL_OK && !store->injected_clock)
            status = qli_handle_follow_clock(store, &now_ns, &day);
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
