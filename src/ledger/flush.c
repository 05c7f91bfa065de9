/* SPDX-License-Identifier: Apache-2.0
 *
 * One flush, by who has the FLUSHER byte; its steps are in flusher.h.
 *
 * The fence: the ledger's meta row names the region that may write. A region is
 * made under ATTACH, and its maker, having let the lock file's record name no
 * region, writes the new one's epoch there before it reads the totals. So a
 * flusher whose epoch is not the ledger's looks at that record: if its own region
 * is the one named, the ledger was replaced under it, and it makes the ledger its
 * own and writes everything again; otherwise it has been replaced itself.
 */
#include "ledger/flush.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/limits.h"
#include "ledger/page.h"
#include "region/attach.h"

#define CHUNK 4096 /* subjects in a transaction */
#define BATCH 16   /* subjects copied under one hold of a shard's lock */
#define LATELY_DAYS 30
#define LATELY_WORKED 3 /* on how many of them, before anything is removed */
#define REPLACED_MAX 3  /* how often a ledger may be replaced during one flush */

/* The ledger was replaced: everything is dirty again, begin anew. */
#define BEGIN_ANEW ((enum ql_status)1002)

/* Where a flush is: everything before it is copied. */
struct progress {
    uint64_t number; /* of the flush */
    uint64_t shard;
    uint64_t cursor;   /* in the shard */
    uint64_t written;  /* shards that are written whole, or left out */
    uint64_t left_out; /* a bit for each shard whose lock was not given up */
};
_Static_assert(QLI_SHARDS_MAX <= 64, "a bit for each shard");

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
    struct qli_ledger_page *page = flusher->engine->ledger_page;
    uint64_t uuid[2];
    memcpy(uuid, meta->ledger, sizeof uuid);
    qli_page_store(&page->next_sequence, (uint64_t)meta->sequence);
    qli_page_store(&page->sequence, (uint64_t)meta->sequence);
    qli_page_store(&page->uuid[0], uuid[0]);
    qli_page_store(&page->uuid[1], uuid[1]);
    qli_page_store(&page->limits_written, 0);
}

/* Whoever connects next knows by it which files were the ledger's. */
static enum ql_status connect(struct qli_flusher *flusher)
{
    struct qli_ledger_page *page = flusher->engine->ledger_page;
    const struct qli_ledger_files former = {
        .inode = qli_page_load(&page->inode),
        .wal_inode = qli_page_load(&page->wal_inode),
    };
    enum ql_status status = qli_ledger_connect(&flusher->ledger, former);
    if (status != QL_OK)
        return status;
    /* Whether it is ours is not known yet: the next flush looks, whatever there is to
     * be written. */
    if (flusher->ledger.files.inode != former.inode ||
        flusher->ledger.files.wal_inode != former.wal_inode)
        qli_page_store(&page->settings, 0);
    qli_page_store(&page->wal_inode, flusher->ledger.files.wal_inode);
    qli_page_store(&page->inode, flusher->ledger.files.inode);
    return QL_OK;
}

static bool has_our_epoch(const struct qli_flusher *flusher, const struct qli_ledger_meta *meta)
{
    return memcmp(meta->epoch, flusher->engine->region.header->uuid, sizeof meta->epoch) == 0;
}

bool qli_flush_knows(const struct qli_flusher *flusher, const struct qli_ledger_meta *meta)
{
    const struct qli_ledger_page *page = flusher->engine->ledger_page;
    return has_our_epoch(flusher, meta) &&
           memcmp(meta->ledger, page->uuid, sizeof meta->ledger) == 0 &&
           ((uint64_t)meta->sequence == qli_page_load(&page->sequence) ||
            (uint64_t)meta->sequence == qli_page_load(&page->next_sequence));
}

/* Makes another ledger the store's. It gets a name of its own: an earlier copy of it
 * that takes its place is another one. A death before know_ledger: the next flusher
 * does it again. */
static enum ql_status adopt(struct qli_flusher *flusher, const struct qli_call *call)
{
    struct qli_ledger *ledger = &flusher->ledger;
    struct qli_ledger_meta meta;
    if (!qli_attach_is_current(&flusher->engine->region))
        return QL_E_GONE;
    enum ql_status status = qli_dirty_mark_all(call);
    if (status == QL_OK)
        status = qli_ledger_begin(ledger, &meta);
    if (status != QL_OK)
        return status;
    bool current = qli_attach_is_current(&flusher->engine->region);
    if (!current || getrandom(meta.ledger, sizeof meta.ledger, 0) != (ssize_t)sizeof meta.ledger) {
        qli_ledger_rollback(ledger);
        return current ? QL_E_SYSTEM : QL_E_GONE;
    }
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
    enum ql_status status = connect(flusher);
    if (status == QL_OK)
        status = qli_ledger_begin(ledger, meta);
    if (status != QL_OK || qli_flush_knows(flusher, meta))
        return status;
    qli_ledger_rollback(ledger);
    return adopt(flusher, call);
}

static uint64_t settings_of(const struct qli_ledger_page *page)
{
    return qli_page_settings(qli_page_load(&page->durability), qli_page_load(&page->history_days));
}

static enum ql_status put_settings(struct qli_flusher *flusher, const struct qli_limits *limits,
                                   struct qli_ledger_meta *meta)
{
    const struct qli_ledger_page *page = flusher->engine->ledger_page;
    uint64_t settings = settings_of(page);
    meta->durability = (int64_t)(settings & 0xff);
    meta->history_days = (int64_t)(settings >> 8);
    if (limits->sequence == qli_page_load(&page->limits_written))
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
    struct qli_ledger_page *page = flusher->engine->ledger_page;
    meta->sequence++;
    qli_page_store(&page->sequence, (uint64_t)meta->sequence - 1);
    qli_page_store(&page->next_sequence, (uint64_t)meta->sequence);
    enum ql_status status = qli_ledger_commit(&flusher->ledger, meta);
    if (status != QL_OK)
        return status;
    qli_page_store(&page->sequence, (uint64_t)meta->sequence);
    qli_page_store(&page->limits_written, limits_sequence);
    qli_page_store(&page->settings,
                   qli_page_settings((uint64_t)meta->durability, (uint64_t)meta->history_days));
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

/* There is nothing to write, if the ledger still is the one that it was written to. */
static enum ql_status look(struct qli_flusher *flusher, const struct qli_call *call)
{
    struct qli_ledger_meta meta;
    if (qli_ledger_is_there(&flusher->ledger, qli_page_load(&flusher->engine->ledger_page->inode)))
        return QL_OK;
    enum ql_status status = begin(flusher, call, &meta);
    qli_ledger_rollback(&flusher->ledger);
    return status;
}

static enum ql_status write_chunk(struct qli_flusher *flusher, struct qli_call *call)
{
    struct qli_engine *engine = flusher->engine;
    struct qli_ledger_meta meta;
    enum ql_status status = QL_OK;
    /* After the copying: each meter that was charged has its name by now. */
    if (qli_limits_stale(engine))
        status = qli_limits_refresh(engine, call->self, QLI_FLUSH_SHARD_WAIT_MS);
    if (status != QL_OK)
        return status;
    const struct qli_limits *limits = qli_limits_current(engine);
    bool nothing_new =
        limits->sequence == qli_page_load(&engine->ledger_page->limits_written) &&
        settings_of(engine->ledger_page) == qli_page_load(&engine->ledger_page->settings);
    if (flusher->chunk_count == 0 && nothing_new)
        return look(flusher, call);
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
            qli_page_store(&qli_engine_shard(flusher->engine, progress->written)->flushed,
                           progress->number);
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

/* Whether there was work on several of the days before: a clock that has leapt far
 * ahead does not remove a history as soon as it is believed. */
static enum ql_status has_lately_worked(struct qli_ledger *ledger, int64_t today, bool *worked)
{
    int64_t day = today - LATELY_DAYS;
    enum ql_status status = QL_OK;
    bool none = false;
    int days = 0;
    for (; status == QL_OK && !none && day < today && days < LATELY_WORKED; day++) {
        status = qli_ledger_next_day(ledger, &day, &none);
        days += !none && day < today;
    }
    *worked = days == LATELY_WORKED;
    return status;
}

/* Removes some of what is older than the history goes, once a day to the end. */
static enum ql_status prune(struct qli_flusher *flusher, const struct qli_call *call)
{
    struct qli_engine *engine = flusher->engine;
    struct qli_ledger_meta meta;
    int removed = 0;
    uint64_t day = qli_page_load(&engine->page->day);
    uint64_t keep = qli_page_load(&engine->ledger_page->history_days);
    if (keep == 0 || day <= keep || qli_page_load(&engine->ledger_page->pruned_day) == day)
        return QL_OK;
    bool worked = false;
    enum ql_status status = begin(flusher, call, &meta);
    if (status == QL_OK)
        status = has_lately_worked(&flusher->ledger, (int64_t)day, &worked);
    if (status == QL_OK && worked)
        status = qli_ledger_prune(&flusher->ledger, (int64_t)(day - keep), &removed);
    if (status == QL_OK)
        status = commit(flusher, &meta, qli_page_load(&engine->ledger_page->limits_written));
    if (status == QL_OK && removed == 0)
        qli_page_store(&engine->ledger_page->pruned_day, day);
    if (status != QL_OK)
        qli_ledger_rollback(&flusher->ledger);
    return status;
}

static void wake_waiters(struct qli_ledger_page *page)
{
    syscall(SYS_futex, (uint32_t *)&page->done, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static enum ql_status flush_once(struct qli_flusher *flusher, struct qli_call *call)
{
    struct qli_ledger_page *page = flusher->engine->ledger_page;
    struct progress progress = {.number = qli_page_load(&page->begun) + 1};
    uint64_t began_ns = (uint64_t)qli_clock_boot_ns();
    qli_page_store(&page->begun_boot_ns, began_ns);
    qli_page_store(&page->begun, progress.number);
    enum ql_status status = write_shards(flusher, call, &progress);
    if (status == QL_OK) {
        qli_page_store(&page->done_boot_ns, began_ns);
        qli_page_store(&page->flusher, call->self);
        qli_page_store(&page->done, progress.number);
    }
    wake_waiters(page);
    return status == QL_OK ? prune(flusher, call) : status;
}

enum ql_status qli_flush_connect(struct qli_flusher *flusher)
{
    struct qli_ledger_meta meta;
    enum ql_status status = connect(flusher);
    if (status == QL_OK)
        status = qli_ledger_read_meta(&flusher->ledger, &meta);
    return status == QL_OK && !qli_flush_knows(flusher, &meta) ? QLI_MUST_FLUSH : status;
}

enum ql_status qli_flush(struct qli_flusher *flusher, uint64_t self)
{
    struct qli_call call = qli_engine_bare_call(flusher->engine, self, QLI_FLUSH_SHARD_WAIT_MS);
    if (qli_region_corrupt(&flusher->engine->region))
        return QL_E_CORRUPT;
    if (flusher->chunk == NULL)
        flusher->chunk = malloc(CHUNK * sizeof *flusher->chunk);
    if (flusher->chunk == NULL)
        return QL_E_NOMEM;
    enum ql_status status = BEGIN_ANEW;
    for (int i = 0; i < REPLACED_MAX && status == BEGIN_ANEW; i++)
        status = flush_once(flusher, &call);
    return status == BEGIN_ANEW ? QL_E_BUSY : status;
}
