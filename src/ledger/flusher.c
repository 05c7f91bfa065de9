/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may flush, when, and who waits for it; flush.c is the flush itself. A death
 * in here frees the byte.
 */
#include "ledger/flusher.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "ledger/descriptors.h"
#include "ledger/files.h"
#include "ledger/flush.h"
#include "ledger/page.h"
#include "region/attach.h"

#define AWAIT_NAP_NS (5 * QLI_NS_PER_MS)

/* ---- the right to write -------------------------------------------------- */

/* A host closed our descriptors, SQLite's with them. */
static bool is_detached(const struct qli_flusher *flusher)
{
    const struct qli_region *region = &flusher->engine->region;
    return !qli_holder_is_lock_file(region, region->lock_fd) ||
           __atomic_load_n(&flusher->ledger.lost, __ATOMIC_RELAXED);
}

static bool take_byte(struct qli_flusher *flusher)
{
    struct qli_region *region = &flusher->engine->region;
    if (is_detached(flusher))
        return false;
    if (!qli_holder_is_lock_file(region, flusher->lock_fd)) {
        int fd = qli_attach_reopen_lock(region, O_RDWR);
        if (fd >= 0 && !qli_holder_is_lock_file(region, fd)) {
            close(fd); /* of a host, which has got our descriptor's number meanwhile */
            fd = -1;
        }
        flusher->lock_fd = fd;
    }
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

void qli_flusher_leave(struct qli_flusher *flusher)
{
    give_byte(flusher);
    pthread_mutex_unlock(&flusher->mutex);
}

/* Naps rather than sleeps on the mutex: the holder may be in another process. */
bool qli_flusher_enter(struct qli_flusher *flusher, int64_t wait_ms)
{
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    while (!try_enter(flusher)) {
        if (is_detached(flusher) || !qli_clock_nap(deadline_ns))
            return false;
    }
    return true;
}

/* ---- from outside -------------------------------------------------------- */

void qli_flusher_init(struct qli_flusher *flusher, struct qli_engine *engine)
{
    *flusher = (struct qli_flusher){.engine = engine, .lock_fd = -1, .ledger.directory_fd = -1};
    pthread_mutex_init(&flusher->reader_mutex, NULL);
    pthread_mutex_init(&flusher->mutex, NULL);
}

void qli_flusher_end(struct qli_flusher *flusher)
{
    qli_ledger_end(&flusher->ledger);
    if (qli_holder_is_lock_file(&flusher->engine->region, flusher->lock_fd))
        close(flusher->lock_fd);
    free(flusher->chunk);
    pthread_mutex_destroy(&flusher->mutex);
    pthread_mutex_destroy(&flusher->reader_mutex);
}

static enum ql_status explain(const struct qli_flusher *flusher, enum ql_status status,
                              struct ql_error *error)
{
    if (status == QL_OK)
        return QL_OK;
    if (status == flusher->ledger.error.status)
        return qli_ledger_explain(&flusher->ledger, status, error);
    return qli_error(error, status, 0, "%s", ql_status_text(status));
}

enum ql_status qli_flusher_not_entered(const struct qli_flusher *flusher, int64_t wait_ms,
                                       struct ql_error *error)
{
    if (is_detached(flusher))
        return qli_error(error, QL_E_DETACHED, 0, "%s", ql_status_text(QL_E_DETACHED));
    return qli_error(error, QL_E_BUSY, 0,
                     "others have been in the ledger for %lld ms: it is in heavy use, or one of "
                     "them is stopped",
                     (long long)wait_ms);
}

static enum ql_status flush_in_turn(struct qli_flusher *flusher, uint64_t self, int64_t wait_ms,
                                    struct ql_error *error)
{
    if (!qli_flusher_enter(flusher, wait_ms))
        return qli_flusher_not_entered(flusher, wait_ms, error);
    enum ql_status status = qli_flush(flusher, self);
    status = explain(flusher, status, error);
    qli_flusher_leave(flusher);
    return status;
}

/* Until all is written; or, where flushed is given, the shard whose word it is, by
 * anybody: somebody else may write it between two tries. */
static enum ql_status flush_patiently(struct qli_flusher *flusher, uint64_t self,
                                      const uint64_t *flushed, int64_t wait_ms,
                                      struct ql_error *error)
{
    uint64_t needed = qli_page_load(&flusher->engine->ledger_page->begun) + 1;
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    enum ql_status status;
    do {
        int64_t left_ns = deadline_ns - qli_clock_boot_ns();
        status = flush_in_turn(flusher, self, left_ns / QLI_NS_PER_MS, error);
        if (status == QL_E_BUSY && flushed != NULL && qli_page_load(flushed) >= needed)
            return QL_OK;
    } while (status == QL_E_BUSY && qli_clock_nap(deadline_ns));
    return status;
}

enum ql_status qli_flusher_flush(struct qli_flusher *flusher, uint64_t self, int64_t wait_ms,
                                 struct ql_error *error)
{
    return flush_patiently(flusher, self, NULL, wait_ms, error);
}

enum ql_status qli_flusher_flush_shard(struct qli_flusher *flusher, uint64_t self, uint64_t shard,
                                       int64_t wait_ms)
{
    const uint64_t *flushed = &qli_engine_shard(flusher->engine, shard)->flushed;
    return flush_patiently(flusher, self, flushed, wait_ms, NULL);
}

/* Reads the clock last. A time that is still to come is damage: it was long ago. */
static uint64_t since_ns(const uint64_t *boot_ns)
{
    uint64_t then_ns = qli_page_load(boot_ns);
    return (uint64_t)qli_clock_boot_ns() - then_ns;
}

void qli_flusher_tick(struct qli_flusher *flusher, uint64_t self, int64_t interval_ns)
{
    const struct qli_ledger_page *page = flusher->engine->ledger_page;
    int64_t due_ns = qli_page_load(&page->flusher) == self ? interval_ns : 2 * interval_ns;
    if (since_ns(&page->begun_boot_ns) < (uint64_t)due_ns || !try_enter(flusher))
        return;
    qli_flush(flusher, self);
    qli_flusher_leave(flusher);
}

static void nap_until_done(struct qli_ledger_page *page, uint32_t seen, int64_t left_ns)
{
    struct timespec nap = {.tv_nsec = left_ns < AWAIT_NAP_NS ? left_ns : AWAIT_NAP_NS};
    syscall(SYS_futex, (uint32_t *)&page->done, FUTEX_WAIT, seen, &nap, NULL, 0);
}

enum ql_status qli_flusher_await(struct qli_flusher *flusher, uint64_t self, uint64_t shard,
                                 int64_t wait_ms)
{
    struct qli_ledger_page *page = flusher->engine->ledger_page;
    const uint64_t *flushed = &qli_engine_shard(flusher->engine, shard)->flushed;
    uint64_t needed = qli_page_load(&page->begun) + 1;
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    while (qli_page_load(flushed) < needed) {
        uint32_t seen = (uint32_t)qli_page_load(&page->done);
        if (try_enter(flusher)) {
            if (qli_page_load(flushed) < needed)
                qli_flush(flusher, self);
            qli_flusher_leave(flusher);
            if (qli_page_load(flushed) >= needed)
                return QL_OK;
        } else if (qli_page_load(flushed) >= needed) {
            return QL_OK;
        }
        int64_t left_ns = deadline_ns - qli_clock_boot_ns();
        if (left_ns <= 0 || is_detached(flusher))
            return QL_E_NOT_DURABLE;
        nap_until_done(page, seen, left_ns);
    }
    return QL_OK;
}

/* ---- reading, and fork() ------------------------------------------------- */

/* A flush that left out other shards, as somebody stays in their locks, will do: flushed is
 * the word of the shard that has to be written. */
static enum ql_status lend_in_turn(struct qli_flusher *flusher, uint64_t self,
                                   const uint64_t *flushed, uint64_t needed, int64_t wait_ms,
                                   struct ql_error *error)
{
    if (!qli_flusher_enter(flusher, wait_ms))
        return qli_flusher_not_entered(flusher, wait_ms, error);
    enum ql_status status = QL_OK;
    if (qli_page_load(flushed) < needed)
        status = qli_flush(flusher, self);
    if (status == QL_E_BUSY && qli_page_load(flushed) >= needed)
        status = QL_OK;
    if (status == QL_OK)
        status = qli_flush_connect(flusher);
    status = explain(flusher, status == QLI_MUST_FLUSH ? QL_E_BUSY : status, error);
    if (status != QL_OK)
        qli_flusher_leave(flusher);
    else
        give_byte(flusher);
    return status;
}

enum ql_status qli_flusher_lend(struct qli_flusher *flusher, uint64_t self, uint64_t shard,
                                int64_t wait_ms, struct ql_error *error)
{
    const uint64_t *flushed = &qli_engine_shard(flusher->engine, shard)->flushed;
    uint64_t needed = qli_page_load(&flusher->engine->ledger_page->begun) + 1;
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    enum ql_status status;
    do {
        int64_t left_ns = deadline_ns - qli_clock_boot_ns();
        status = lend_in_turn(flusher, self, flushed, needed, left_ns / QLI_NS_PER_MS, error);
    } while (status == QL_E_BUSY && qli_clock_nap(deadline_ns));
    return status;
}

enum ql_status qli_flusher_look(struct qli_flusher *flusher, int64_t wait_ms,
                                struct ql_error *error)
{
    if (!qli_flusher_enter(flusher, wait_ms))
        return qli_flusher_not_entered(flusher, wait_ms, error);
    enum ql_status status = qli_flush_connect(flusher);
    status = explain(flusher, status == QLI_MUST_FLUSH ? QL_E_BUSY : status, error);
    qli_flusher_leave(flusher);
    return status;
}

void qli_flusher_return(struct qli_flusher *flusher)
{
    pthread_mutex_unlock(&flusher->mutex);
}

static enum ql_status connect_reader(struct qli_flusher *flusher, int64_t wait_ms,
                                     struct qli_ledger *reader, struct ql_error *error)
{
    *reader = (struct qli_ledger){.directory_fd = -1};
    if (!qli_flusher_enter(flusher, wait_ms))
        return qli_flusher_not_entered(flusher, wait_ms, error);
    enum ql_status status = qli_ledger_init(reader, flusher->ledger.directory_fd, error);
    if (status == QL_OK) {
        struct qli_ledger_meta meta;
        status = qli_ledger_connect(reader, flusher->ledger.files);
        if (status == QL_OK)
            status = qli_ledger_read_meta(reader, &meta);
        if (status != QL_OK)
            qli_ledger_explain(reader, status, error);
        else if (!qli_flush_knows(flusher, &meta))
            status = qli_error(error, QL_E_BUSY, 0, "the ledger was replaced meanwhile: try again");
    }
    qli_flusher_leave(flusher);
    return status;
}

enum ql_status qli_flusher_open_reader(struct qli_flusher *flusher, uint64_t self, int64_t wait_ms,
                                       struct qli_ledger *reader, struct ql_error *error)
{
    enum ql_status status = qli_flusher_flush(flusher, self, wait_ms, error);
    if (status != QL_OK)
        return status;
    pthread_mutex_lock(&flusher->reader_mutex);
    status = connect_reader(flusher, wait_ms, reader, error);
    if (status != QL_OK)
        qli_flusher_close_reader(flusher, reader);
    return status;
}

void qli_flusher_close_reader(struct qli_flusher *flusher, struct qli_ledger *reader)
{
    qli_ledger_end(reader);
    pthread_mutex_unlock(&flusher->reader_mutex);
}

void qli_flusher_finish(struct qli_flusher *flusher, uint64_t self, int64_t wait_ms)
{
    if (!qli_flusher_enter(flusher, wait_ms))
        return;
    qli_flush(flusher, self);
    qli_ledger_empty_wal(&flusher->ledger);
    qli_flusher_leave(flusher);
}

int64_t qli_flusher_lag_ms(const struct qli_flusher *flusher)
{
    return (int64_t)(since_ns(&flusher->engine->ledger_page->done_boot_ns) / QLI_NS_PER_MS);
}

void qli_flusher_before_fork(struct qli_flusher *flusher)
{
    pthread_mutex_lock(&flusher->reader_mutex);
    pthread_mutex_lock(&flusher->mutex);
    qli_ledger_disconnect(&flusher->ledger);
}

void qli_flusher_find_host_connection(struct qli_flusher *flusher)
{
    flusher->host_is_connected = qli_files_directory_is_ours(&flusher->ledger) &&
                                 qli_descriptors_host_is_connected(&flusher->ledger);
}

static void distrust(const struct qli_flusher *flusher)
{
    struct qli_file_id file;
    if (qli_files_identify(&flusher->ledger, QLI_LEDGER_DATABASE, &file))
        qli_files_distrust(file);
}

void qli_flusher_after_fork(struct qli_flusher *flusher, bool child)
{
    if (child && flusher->host_is_connected)
        distrust(flusher);
    if (child && flusher->lock_fd >= 0) {
        if (qli_holder_is_lock_file(&flusher->engine->region, flusher->lock_fd))
            close(flusher->lock_fd);
        flusher->lock_fd = -1;
    }
    pthread_mutex_unlock(&flusher->mutex);
    pthread_mutex_unlock(&flusher->reader_mutex);
}
