/* SPDX-License-Identifier: Apache-2.0
 *
 * The fence: the ledger's meta row names the region that may write. A region is
 * made under ATTACH, and its maker, having let the lock file's record name no
 * region, writes the new one's epoch there before it reads the totals. So a
 * flusher whose epoch is not the ledger's looks at that record: if its own region
 * is the one named, the ledger was replaced under it, and it makes the ledger its
 * own and writes everything again; otherwise it has been replaced itself.
 */
#include "ledger/flusher.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "engine/limits.h"
#include "region/attach.h"

#define CHUNK 4096 /* subjects in a transaction */
#define BATCH 16   /* subjects copied under one hold of a shard's lock */
#define SHARD_WAIT_MS                                                                              \
    20 /* for a shard's lock; one that is not given up is left for the next flush */
#define AWAIT_NAP_NS (5 * QLI_NS_PER_MS)
#define REPLACED_MAX 3 /* how often a ledger may be replaced during one flush */

/* The ledger was replaced: everything is dirty again, begin anew. */
#define BEGIN_ANEW ((enum ql_status)1002)

static uint64_t load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* ---- the right to write -------------------------------------------------- */

static bool take_byte(struct qli_flusher *flusher)
{
    struct qli_region *region = &flusher->engine->region;
    if (!qli_holder_is_lock_file(region, flusher->lock_fd))
        flusher->lock_fd = qli_attach_reopen_lock(region);
    return flusher->lock_fd >= 0 && qli_lockfile_take(flusher->lock_fd, QLI_BYTE_FLUSHER);
}

static void give_byte(struct qli_flusher *flusher)
{
    qli_lockfile_give(flusher->lock_fd, QLI_BYTE_FLUSHER);
}

static bool try_enter(struct qli_flusher *flusher)
{
    if (pthread_mutex_trylock(&flusher->mutex) != 0)
        return false;
    if (take_byte(flusher))
        return true;
    pthread_mutex_unlock(&flusher->mutex);
    return false;
}

static void leave(struct qli_flusher *flusher)
{
    give_byte(flusher);
    pthread_mutex_unlock(&flusher->mutex);
}

/* Naps rather than sleeps on the mutex: the holder may be in another process. */
static bool enter(struct qli_flusher *flusher, int64_t wait_ms)
{
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    while (!try_enter(flusher)) {
        if (qli_clock_boot_ns() >= deadline_ns)
            return false;
        struct timespec nap = {.tv_sec = 0, .tv_nsec = QLI_NS_PER_MS};
        nanosleep(&nap, NULL);
    }
    return true;
}

/* ---- one flush ----------------------------------------------------------- */

/* Where a flush is: everything before it is copied. */
struct progress {
    uint64_t number; /* of the flush */
    uint64_t shard;
    uint64_t cursor;   /* in the shard */
    uint64_t written;  /* shards that are written whole, or left out */
    uint64_t left_out; /* a bit for each shard whose lock was not given up */
};

static struct qli_call call_of(struct qli_flusher *flusher, uint64_t self)
{
    return (struct qli_call){
        .engine = flusher->engine,
        .self = self,
        .wait_ms = SHARD_WAIT_MS,
    };
}

/* Fills the chunk. */
static enum ql_status gather(struct qli_flusher *flusher, const struct qli_call *call,
                             struct progress *progress)
{
    uint64_t shards = flusher->engine->geometry.shard_count;
    while (progress->shard < shards && flusher->chunk_count + BATCH <= CHUNK) {
        size_t count = 0;
        enum ql_status status =
            qli_dirty_copy(call, progress->shard, &progress->cursor,
                           &flusher->chunk[flusher->chunk_count], BATCH, &count);
        if (status == QL_E_BUSY)
            progress->left_out |= UINT64_C(1) << progress->shard;
        else if (status != QL_OK)
            return status;
        flusher->chunk_count += count;
        if (count == 0) {
            progress->shard++;
            progress->cursor = 0;
        }
    }
    return QL_OK;
}

static void know_ledger(struct qli_flusher *flusher, const struct qli_ledger_meta *meta)
{
    struct qli_ledger_page *page = flusher->engine->ledger;
    uint64_t uuid[2];
    memcpy(uuid, meta->ledger, sizeof uuid);
    store(&page->next_sequence, (uint64_t)meta->sequence);
    store(&page->sequence, (uint64_t)meta->sequence);
    store(&page->inode, flusher->ledger.inode);
    store(&page->uuid[0], uuid[0]);
    store(&page->uuid[1], uuid[1]);
    store(&page->limits_written, 0);
}

static bool has_our_epoch(const struct qli_flusher *flusher, const struct qli_ledger_meta *meta)
{
    return memcmp(meta->epoch, flusher->engine->region.header->uuid, sizeof meta->epoch) == 0;
}

/* Whether this is the ledger that the totals that are not dirty are in. */
static bool is_known(const struct qli_flusher *flusher, const struct qli_ledger_meta *meta)
{
    const struct qli_ledger_page *page = flusher->engine->ledger;
    return has_our_epoch(flusher, meta) &&
           memcmp(meta->ledger, page->uuid, sizeof meta->ledger) == 0 &&
           ((uint64_t)meta->sequence == load(&page->sequence) ||
            (uint64_t)meta->sequence == load(&page->next_sequence));
}

/* Makes another ledger the store's. A death before know_ledger: the next flusher
 * does it again. */
static enum ql_status adopt(struct qli_flusher *flusher, const struct qli_call *call)
{
    struct qli_ledger *ledger = &flusher->ledger;
    struct qli_ledger_meta meta;
    enum ql_status status = qli_dirty_mark_all(call);
    if (status == QL_OK)
        status = qli_ledger_begin(ledger, &meta);
    if (status != QL_OK)
        return status;
    memcpy(meta.epoch, flusher->engine->region.header->uuid, sizeof meta.epoch);
    meta.sequence++;
    status = qli_ledger_commit(ledger, &meta);
    if (status != QL_OK)
        return status;
    know_ledger(flusher, &meta);
    return BEGIN_ANEW;
}

/* Connects and begins a transaction in the ledger that is known. */
static enum ql_status begin(struct qli_flusher *flusher, const struct qli_call *call,
                            struct qli_ledger_meta *meta)
{
    struct qli_ledger *ledger = &flusher->ledger;
    enum ql_status status = qli_ledger_connect(ledger, load(&flusher->engine->ledger->inode));
    if (status == QL_OK)
        status = qli_ledger_begin(ledger, meta);
    if (status != QL_OK || is_known(flusher, meta))
        return status;
    qli_ledger_rollback(ledger);
    if (!qli_attach_is_current(&flusher->engine->region))
        return QL_E_GONE;
    return adopt(flusher, call);
}

static enum ql_status put_settings(struct qli_flusher *flusher, const struct qli_limits *limits,
                                   struct qli_ledger_meta *meta)
{
    const struct qli_ledger_page *page = flusher->engine->ledger;
    meta->durability = (int64_t)load(&page->durability);
    meta->history_days = (int64_t)load(&page->history_days);
    if (limits->sequence == load(&page->limits_written))
        return QL_OK;
    return qli_ledger_put_limits(&flusher->ledger, limits->limits, limits->count);
}

static enum ql_status put_chunk(struct qli_flusher *flusher, const struct qli_limits *limits)
{
    for (size_t i = 0; i < flusher->chunk_count; i++) {
        const struct qli_dirty_subject *subject = &flusher->chunk[i];
        for (size_t t = 0; t < subject->count; t++) {
            const struct qli_total *total = &subject->totals[t];
            if (total->meter >= limits->meter_count) {
                qli_ledger_rollback(&flusher->ledger);
                return qli_region_poison(&flusher->engine->region);
            }
            enum ql_status status =
                qli_ledger_put(&flusher->ledger, subject->key, limits->meters[total->meter],
                               total->day, total->amount);
            if (status != QL_OK)
                return status;
        }
    }
    return QL_OK;
}

static enum ql_status commit(struct qli_flusher *flusher, struct qli_ledger_meta *meta,
                             uint64_t limits_sequence)
{
    struct qli_ledger_page *page = flusher->engine->ledger;
    meta->sequence++;
    store(&page->sequence, (uint64_t)meta->sequence - 1);
    store(&page->next_sequence, (uint64_t)meta->sequence);
    enum ql_status status = qli_ledger_commit(&flusher->ledger, meta);
    if (status != QL_OK)
        return status;
    store(&page->sequence, (uint64_t)meta->sequence);
    store(&page->limits_written, limits_sequence);
    return QL_OK;
}

/* The chunk has the subjects of one shard side by side. */
static enum ql_status clear_chunk(struct qli_flusher *flusher, const struct qli_call *call)
{
    for (size_t i = 0; i < flusher->chunk_count;) {
        uint64_t shard = qli_engine_shard_of(flusher->engine, flusher->chunk[i].hash);
        size_t end = i + 1;
        while (end < flusher->chunk_count && end - i < BATCH &&
               qli_engine_shard_of(flusher->engine, flusher->chunk[end].hash) == shard)
            end++;
        enum ql_status status = qli_dirty_clear(call, shard, &flusher->chunk[i], end - i);
        if (status != QL_OK && status != QL_E_BUSY) /* busy: it stays dirty, and is written again */
            return status;
        i = end;
    }
    return QL_OK;
}

static enum ql_status write_chunk(struct qli_flusher *flusher, struct qli_call *call)
{
    struct qli_engine *engine = flusher->engine;
    struct qli_ledger_meta meta;
    enum ql_status status = QL_OK;
    /* After the copying: each meter that was charged has its name by now. */
    if (qli_limits_stale(engine))
        status = qli_limits_refresh(engine, call->self, SHARD_WAIT_MS);
    if (status != QL_OK)
        return status;
    const struct qli_limits *limits = qli_limits_current(engine);
    if (flusher->chunk_count == 0 && limits->sequence == load(&engine->ledger->limits_written))
        return QL_OK;
    status = begin(flusher, call, &meta);
    if (status == QL_OK)
        status = put_settings(flusher, limits, &meta);
    if (status == QL_OK)
        status = put_chunk(flusher, limits);
    if (status == QL_OK)
        status = commit(flusher, &meta, limits->sequence);
    return status == QL_OK ? clear_chunk(flusher, call) : status;
}

/* The shards up to progress->shard are written. */
static void tell_shards(struct qli_flusher *flusher, struct progress *progress)
{
    for (; progress->written < progress->shard; progress->written++) {
        if ((progress->left_out >> progress->written & 1) == 0)
            store(&qli_engine_shard(flusher->engine, progress->written)->flushed, progress->number);
    }
}

static enum ql_status write_shards(struct qli_flusher *flusher, struct qli_call *call,
                                   struct progress *progress)
{
    do {
        flusher->chunk_count = 0;
        enum ql_status status = gather(flusher, call, progress);
        if (status == QL_OK)
            status = write_chunk(flusher, call);
        if (status != QL_OK)
            return status;
        tell_shards(flusher, progress);
    } while (progress->shard < flusher->engine->geometry.shard_count);
    return progress->left_out == 0 ? QL_OK : QL_E_BUSY;
}

/* Removes some of what is older than the history goes, once a day to the end. */
static enum ql_status prune(struct qli_flusher *flusher, const struct qli_call *call)
{
    struct qli_engine *engine = flusher->engine;
    struct qli_ledger_meta meta;
    int removed = 0;
    uint64_t day = load(&engine->page->day);
    uint64_t keep = load(&engine->ledger->history_days);
    if (keep == 0 || day <= keep || load(&engine->ledger->pruned_day) == day)
        return QL_OK;
    enum ql_status status = begin(flusher, call, &meta);
    if (status == QL_OK)
        status = qli_ledger_prune(&flusher->ledger, (int64_t)(day - keep), &removed);
    if (status == QL_OK)
        status = commit(flusher, &meta, load(&engine->ledger->limits_written));
    if (status == QL_OK && removed == 0)
        store(&engine->ledger->pruned_day, day);
    return status;
}

static void wake_waiters(struct qli_ledger_page *page)
{
    syscall(SYS_futex, (uint32_t *)&page->done, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static enum ql_status flush_once(struct qli_flusher *flusher, struct qli_call *call)
{
    struct qli_ledger_page *page = flusher->engine->ledger;
    struct progress progress = {.number = load(&page->begun) + 1};
    uint64_t began_ns = (uint64_t)qli_clock_boot_ns();
    store(&page->begun_boot_ns, began_ns);
    store(&page->begun, progress.number);
    enum ql_status status = write_shards(flusher, call, &progress);
    if (status == QL_OK) {
        store(&page->done_boot_ns, began_ns);
        store(&page->flusher, call->self);
        store(&page->done, progress.number);
    }
    wake_waiters(page);
    return status == QL_OK ? prune(flusher, call) : status;
}

/* The byte is ours. */
static enum ql_status flush_entered(struct qli_flusher *flusher, uint64_t self)
{
    struct qli_call call = call_of(flusher, self);
    if (flusher->chunk == NULL)
        flusher->chunk = malloc(CHUNK * sizeof *flusher->chunk);
    if (flusher->chunk == NULL)
        return QL_E_NOMEM;
    enum ql_status status = BEGIN_ANEW;
    for (int i = 0; i < REPLACED_MAX && status == BEGIN_ANEW; i++)
        status = flush_once(flusher, &call);
    return status == BEGIN_ANEW ? QL_E_BUSY : status;
}

/* ---- from outside -------------------------------------------------------- */

void qli_flusher_init(struct qli_flusher *flusher, struct qli_engine *engine)
{
    *flusher = (struct qli_flusher){.engine = engine, .lock_fd = -1, .ledger.directory_fd = -1};
    pthread_mutex_init(&flusher->mutex, NULL);
}

void qli_flusher_end(struct qli_flusher *flusher)
{
    qli_ledger_end(&flusher->ledger);
    if (qli_holder_is_lock_file(&flusher->engine->region, flusher->lock_fd))
        close(flusher->lock_fd);
    free(flusher->chunk);
    pthread_mutex_destroy(&flusher->mutex);
}

static enum ql_status explain(const struct qli_flusher *flusher, enum ql_status status,
                              struct ql_error *error)
{
    if (status == QL_E_LEDGER || status == QL_E_VERSION)
        return qli_error(error, status, flusher->ledger.error.system_errno, "%s",
                         flusher->ledger.error.text);
    return status == QL_OK ? QL_OK : qli_error(error, status, 0, "%s", ql_status_text(status));
}

enum ql_status qli_flusher_flush(struct qli_flusher *flusher, uint64_t self, int64_t wait_ms,
                                 struct ql_error *error)
{
    if (!enter(flusher, wait_ms))
        return qli_error(error, QL_E_BUSY, 0,
                         "another process has been writing the ledger for %lld ms: is it stopped?",
                         (long long)wait_ms);
    enum ql_status status = flush_entered(flusher, self);
    status = explain(flusher, status, error);
    leave(flusher);
    return status;
}

void qli_flusher_tick(struct qli_flusher *flusher, uint64_t self, int64_t interval_ns)
{
    const struct qli_ledger_page *page = flusher->engine->ledger;
    int64_t since_ns = qli_clock_boot_ns() - (int64_t)load(&page->begun_boot_ns);
    bool due = since_ns >= (load(&page->flusher) == self ? interval_ns : 2 * interval_ns);
    if (!due || !try_enter(flusher))
        return;
    flush_entered(flusher, self);
    leave(flusher);
}

static void nap_until_done(struct qli_ledger_page *page, uint32_t seen, int64_t left_ns)
{
    struct timespec nap = {.tv_nsec = left_ns < AWAIT_NAP_NS ? left_ns : AWAIT_NAP_NS};
    syscall(SYS_futex, (uint32_t *)&page->done, FUTEX_WAIT, seen, &nap, NULL, 0);
}

enum ql_status qli_flusher_await(struct qli_flusher *flusher, uint64_t self, uint64_t shard,
                                 int64_t wait_ms)
{
    struct qli_ledger_page *page = flusher->engine->ledger;
    const uint64_t *flushed = &qli_engine_shard(flusher->engine, shard)->flushed;
    uint64_t needed = load(&page->begun) + 1;
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    while (load(flushed) < needed) {
        uint32_t seen = (uint32_t)load(&page->done);
        if (try_enter(flusher)) {
            if (load(flushed) < needed)
                flush_entered(flusher, self);
            leave(flusher);
            if (load(flushed) >= needed)
                return QL_OK;
        } else if (load(flushed) >= needed) {
            return QL_OK;
        }
        int64_t left_ns = deadline_ns - qli_clock_boot_ns();
        if (left_ns <= 0)
            return QL_E_NOT_DURABLE;
        nap_until_done(page, seen, left_ns);
    }
    return QL_OK;
}

/* ---- an older window ----------------------------------------------------- */

struct found {
    const struct qli_limits *limits;
    size_t count;
    struct qli_total totals[2 * QL_METERS_MAX];
};

#define TOTALS_MAX (sizeof((struct found *)0)->totals / sizeof(struct qli_total))

static enum ql_status note_total(void *context, const struct qli_ledger_row *row)
{
    struct found *found = context;
    int meter = qli_limits_meter(found->limits, row->meter);
    if (meter >= 0 && found->count < TOTALS_MAX)
        found->totals[found->count++] = (struct qli_total){(uint32_t)meter, row->day, row->amount};
    return QL_OK;
}

/* The byte is ours: nobody flushes between the reading and the opening, so that
 * what is dropped from the region meanwhile is none that was charged meanwhile. */
static enum ql_status reopen_entered(struct qli_flusher *flusher, const struct qli_call *call,
                                     const struct qli_name *name)
{
    struct qli_ledger *ledger = &flusher->ledger;
    struct found found = {.limits = call->limits};
    enum ql_status status = qli_ledger_connect(ledger, load(&flusher->engine->ledger->inode));
    for (int64_t day = call->day - 1; status == QL_OK && day <= call->day; day++)
        status = qli_ledger_read_subject(ledger, name->text, day, note_total, &found);
    return status == QL_OK ? qli_dirty_reopen(call, name, found.totals, found.count) : status;
}

enum ql_status qli_flusher_reopen(struct qli_flusher *flusher, const struct qli_call *call,
                                  const struct qli_name *name)
{
    if (!enter(flusher, call->wait_ms))
        return QL_E_BUSY;
    enum ql_status status = reopen_entered(flusher, call, name);
    for (int i = 0; i < REPLACED_MAX && status == QLI_MUST_FLUSH; i++) {
        status = flush_entered(flusher, call->self);
        if (status == QL_OK)
            status = reopen_entered(flusher, call, name);
    }
    leave(flusher);
    return status == QLI_MUST_FLUSH ? QL_E_BUSY : status;
}

/* ---- reading, and fork() ------------------------------------------------- */

enum ql_status qli_flusher_lend(struct qli_flusher *flusher, int64_t wait_ms,
                                struct ql_error *error)
{
    if (!enter(flusher, wait_ms))
        return qli_error(error, QL_E_BUSY, 0, "another process is writing the ledger");
    enum ql_status status =
        qli_ledger_connect(&flusher->ledger, load(&flusher->engine->ledger->inode));
    status = explain(flusher, status, error);
    if (status != QL_OK)
        leave(flusher);
    else
        give_byte(flusher);
    return status;
}

void qli_flusher_return(struct qli_flusher *flusher)
{
    pthread_mutex_unlock(&flusher->mutex);
}

int64_t qli_flusher_lag_ms(const struct qli_flusher *flusher)
{
    int64_t done_ns = (int64_t)load(&flusher->engine->ledger->done_boot_ns);
    return (qli_clock_boot_ns() - done_ns) / QLI_NS_PER_MS;
}

void qli_flusher_before_fork(struct qli_flusher *flusher)
{
    pthread_mutex_lock(&flusher->mutex);
    qli_ledger_disconnect(&flusher->ledger);
}

void qli_flusher_after_fork(struct qli_flusher *flusher, bool child)
{
    if (child && flusher->lock_fd >= 0) {
        if (qli_holder_is_lock_file(&flusher->engine->region, flusher->lock_fd))
            close(flusher->lock_fd);
        flusher->lock_fd = -1;
    }
    pthread_mutex_unlock(&flusher->mutex);
}
