/* SPDX-License-Identifier: Apache-2.0
 *
 * The table is guarded by one mutex, held over open and close: both are rare.
 * fork() takes it and each store's own mutex first, so that the child finds
 * every descriptor in its place and can close the parent's tokens.
 */
#include "api/store.h"

#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#include "base/clock.h"
#include "base/error.h"
#include "engine/limits.h"
#include "engine/operation.h"
#include "ledger/restore.h"
#include "region/attach.h"

#define DETACH_WAIT_MS 100
#define HISTORY_FOR_EVER UINT32_MAX

static pthread_mutex_t table_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct qli_store *table;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* ---- descriptors of a lost store ------------------------------------------ */

static bool has_descriptor(const struct qli_region *region, int fd)
{
    return region->lock_fd == fd || region->region_fd == fd || region->token_fd == fd;
}

/* A host closed descriptors of a lost store, and one that was opened since may
 * have got their numbers, for the same files: they are that one's to close. */
static void forget_reused(struct qli_store *lost)
{
    int *const own[] = {&lost->engine.region.lock_fd, &lost->engine.region.region_fd,
                        &lost->engine.region.token_fd};
    for (struct qli_store *other = table; other != NULL; other = other->next) {
        for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
            if (other != lost && qli_store_why_lost(other) == QL_OK &&
                has_descriptor(&other->engine.region, *own[i]))
                *own[i] = -1;
        }
    }
}

/* ---- fork ---------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&table_mutex);
    for (struct qli_store *store = table; store != NULL; store = store->next) {
        qli_flusher_before_fork(&store->flusher);
        pthread_mutex_lock(&store->engine.limits_mutex);
        pthread_mutex_lock(&store->engine.region.self->mutex);
    }
    if (table != NULL)
        qli_ledger_before_fork();
    for (struct qli_store *store = table; store != NULL; store = store->next)
        qli_flusher_find_host_connection(&store->flusher);
}

static void after_fork_in_parent(void)
{
    if (table != NULL)
        qli_ledger_after_fork();
    for (struct qli_store *store = table; store != NULL; store = store->next) {
        pthread_mutex_unlock(&store->engine.region.self->mutex);
        pthread_mutex_unlock(&store->engine.limits_mutex);
        qli_flusher_after_fork(&store->flusher, false);
    }
    pthread_mutex_unlock(&table_mutex);
}

/* ThreadSanitizer saw the mutex locked before the fork and does not know that
 * the page is zero, so the mutex free, in the child. */
static void tell_sanitizer_unlocked(pthread_mutex_t *mutex)
{
#ifdef __SANITIZE_THREAD__
    __tsan_mutex_pre_unlock(mutex, 0);
    __tsan_mutex_post_unlock(mutex, 0);
#else
    (void)mutex;
#endif
}

/* A child that kept the token would keep its parent alive for everybody. The
 * mutex in region.self is unlocked: the page is zero here. */
static void after_fork_in_child(void)
{
    if (table != NULL)
        qli_ledger_after_fork();
    for (struct qli_store *store = table; store != NULL; store = store->next) {
        if (qli_store_why_lost(store) != QL_OK)
            forget_reused(store);
        qli_holder_close_token(&store->engine.region);
        tell_sanitizer_unlocked(&store->engine.region.self->mutex);
        pthread_mutex_unlock(&store->engine.limits_mutex);
        qli_flusher_after_fork(&store->flusher, true);
        __atomic_store_n(&store->ticker.runs, false, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&table_mutex);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- registering --------------------------------------------------------- */

static enum ql_status reap_former_owner(void *context, uint64_t self)
{
    struct qli_store *store = context;
    struct qli_call call = qli_engine_bare_call(&store->engine, self, -1);
    return qli_operation_reap(&call, qli_word_slot(self), qli_word_generation(self) - 1, NULL);
}

/* Whether the handle's clock is of the kind that the store has. */
static enum ql_status check_clock(const struct qli_store *store, const struct ql_options *options,
                                  struct ql_error *error)
{
    if (options->any_clock || store->injected_clock == (options->clock != NULL))
        return QL_OK;
    return qli_error(error, QL_E_CLOCK, 0, "the store runs on %s clock: open it with the same kind",
                     store->injected_clock ? "an injected" : "the system's");
}

static enum ql_status check_region(struct qli_store *store, const struct ql_options *options,
                                   struct ql_error *error)
{
    enum ql_status status = qli_engine_bind(&store->engine, error);
    if (status != QL_OK)
        return status;
    store->injected_clock = store->engine.region.header->injected_clock != 0;
    status = check_clock(store, options, error);
    if (status != QL_OK)
        return status;
    if (qli_region_corrupt(&store->engine.region))
        return qli_error(error, QL_E_CORRUPT, 0,
                         "the store was found damaged: stop all its processes, move the region's "
                         "file away and keep it for a report; what was flushed is in the ledger");
    return QL_OK;
}

/* Another thread of the child may be registering, with a longer deadline. */
static enum ql_status lock_self(struct qli_region *region, int64_t wait_ms)
{
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    while (pthread_mutex_trylock(&region->self->mutex) != 0) {
        if (!qli_clock_nap(deadline_ns))
            return QL_E_BUSY;
    }
    return QL_OK;
}

static enum ql_status register_child(struct qli_store *store, int64_t wait_ms, uint64_t *self)
{
    struct qli_region *region = &store->engine.region;
    if (lock_self(region, wait_ms) != QL_OK)
        return QL_E_BUSY;
    enum ql_status status = qli_store_why_lost(store); /* then the word is 0 and stays so */
    if (status == QL_OK && qli_holder_self(region) == 0)
        status = qli_attach_child(region, wait_ms, reap_former_owner, store);
    if (status == QL_OK)
        qli_ticker_start(store);
    *self = qli_holder_self(region);
    pthread_mutex_unlock(&region->self->mutex);
    return status;
}

enum ql_status qli_store_self(struct qli_store *store, int64_t wait_ms, uint64_t *self)
{
    enum ql_status lost = qli_store_why_lost(store);
    if (__builtin_expect(lost != QL_OK, 0))
        return lost;
    *self = qli_holder_self(&store->engine.region);
    return __builtin_expect(*self != 0, 1) ? QL_OK : register_child(store, wait_ms, self);
}

/* ---- the table ----------------------------------------------------------- */

/* The store that has the same lock file, if this process has it open. */
static struct qli_store *find_in_table(const struct qli_region *region)
{
    struct qli_store *store = table;
    while (store != NULL &&
           !(qli_file_id_equal(store->engine.region.lock_file, region->lock_file) &&
             qli_store_why_lost(store) == QL_OK))
        store = store->next;
    return store;
}

static void free_store(struct qli_store *store)
{
    qli_flusher_end(&store->flusher);
    qli_limits_free(&store->engine);
    qli_region_unmap(&store->engine.region);
    pthread_mutex_destroy(&store->engine.limits_mutex);
    free(store);
}

/* ---- making a region ------------------------------------------------------ */

/* A store on its way into the table. */
struct opening {
    struct qli_store *store;
    const struct ql_options *options;
    int64_t now_ns; /* by the store's clock */
    bool restores;
    struct qli_restore restore;
};

static enum ql_status plan_region(void *context, int directory_fd, int lock_fd,
                                  struct qli_region_plan *plan, struct ql_error *error)
{
    struct opening *opening = context;
    struct ql_options options = *opening->options;
    enum ql_status status = QL_OK;
    if (directory_fd >= 0 && options.durability != QL_DURABILITY_NONE) {
        opening->restores = true;
        status = qli_restore_begin(&opening->restore, directory_fd, lock_fd, opening->now_ns,
                                   &options, error);
    }
    return status == QL_OK ? qli_engine_plan(&options, plan, error) : status;
}

static enum ql_status fill_region(void *context, int region_fd,
                                  const struct qli_region_header *header, struct ql_error *error)
{
    struct opening *opening = context;
    struct qli_engine engine = {.region = qli_region_none()};
    enum ql_status status = qli_region_map(&engine.region, region_fd, header, error);
    engine.region.region_fd = -1; /* the caller's */
    if (status == QL_OK)
        status = qli_engine_bind(&engine, error);
    if (status == QL_OK && opening->restores)
        status = qli_restore_fill(&opening->restore, &engine, error);
    else if (status == QL_OK)
        engine.ledger_page->durability = QL_DURABILITY_NONE;
    qli_region_unmap(&engine.region);
    return status;
}

static enum ql_status check_opened(void *context, struct ql_error *error)
{
    const struct opening *opening = context;
    return check_region(opening->store, opening->options, error);
}

static enum ql_status reap_for_opened(void *context, uint64_t self)
{
    const struct opening *opening = context;
    return reap_former_owner(opening->store, self);
}

/* *existing: the store, if this process has it open; otherwise it is attached. */
static enum ql_status attach_directory(struct qli_store *store, const char *path,
                                       const struct ql_options *options,
                                       const struct qli_attach_hooks *hooks,
                                       struct qli_store **existing, struct ql_error *error)
{
    const struct qli_place_request request = {path, options->region_directory,
                                              options->allow_any_filesystem,
                                              options->must_exist || options->any_clock};
    struct qli_region *region = &store->engine.region;
    struct qli_place place;
    enum ql_status status = qli_place_open(&place, &request, region, error);
    if (status == QL_OK) {
        *existing = find_in_table(region);
        status = *existing != NULL ? qli_attach_compare(&place, region, error)
                                   : qli_attach(&place, hooks, region, error);
    }
    if (status == QL_OK && *existing == NULL && qli_engine_has_ledger(&store->engine))
        status = qli_ledger_init(&store->flusher.ledger, place.directory_fd, error);
    qli_place_close(&place);
    return status;
}

static enum ql_status attach_memory(struct qli_store *store, const struct ql_options *options,
                                    const struct qli_attach_hooks *hooks, struct ql_error *error)
{
    if (options->must_exist || options->region_directory != NULL)
        return qli_error(error, QL_E_STORE, 0,
                         "'memory:' is private to the program that opens it, always new, and has "
                         "no directory: name the directory of a store");
    if (options->durability > QL_DURABILITY_NONE)
        return qli_error(error, QL_E_STORE, 0,
                         "'memory:' has no ledger: name a directory, or QL_DURABILITY_NONE");
    enum ql_status status = qli_attach_memory(&store->engine.region, error);
    return status == QL_OK ? qli_attach(NULL, hooks, &store->engine.region, error) : status;
}

static enum ql_status attach(struct qli_store *store, const char *path,
                             const struct ql_options *options, int64_t now_ns,
                             struct qli_store **existing, struct ql_error *error)
{
    struct qli_region_plan plan;
    struct opening opening = {.store = store, .options = options, .now_ns = now_ns};
    const struct qli_attach_hooks hooks = {
        .stamp = qli_engine_stamp(),
        .plan = plan_region,
        .fill = fill_region,
        .check = check_opened,
        .reap = reap_for_opened,
        .context = &opening,
    };
    enum ql_status status = qli_engine_plan(options, &plan, error); /* are they valid? */
    if (status != QL_OK)
        return status;
    if (strcmp(path, "memory:") == 0)
        status = attach_memory(store, options, &hooks, error);
    else
        status = attach_directory(store, path, options, &hooks, existing, error);
    if (opening.restores)
        qli_restore_end(&opening.restore);
    return status;
}

static enum ql_status check_durability(const struct qli_store *store,
                                       const struct ql_options *options, struct ql_error *error)
{
    bool has_ledger = qli_engine_has_ledger(&store->engine);
    if (options->durability == QL_DURABILITY_STORE ||
        (options->durability != QL_DURABILITY_NONE) == has_ledger)
        return QL_OK;
    return qli_error(error, QL_E_STORE, 0,
                     has_ledger ? "the store has a ledger: open it with its durability, or with "
                                  "sync or async"
                                : "the store was opened without a ledger: stop its processes and "
                                  "remove its file 'region', which forgets what was counted, or "
                                  "open it with QL_DURABILITY_NONE");
}

void qli_store_configure(struct qli_store *store, const struct ql_options *options)
{
    struct qli_ledger_page *page = store->engine.ledger_page;
    if (options->durability != QL_DURABILITY_STORE)
        __atomic_store_n(&page->durability, (uint64_t)options->durability, __ATOMIC_RELAXED);
    if (options->history_days != 0)
        __atomic_store_n(&page->history_days,
                         options->history_days == HISTORY_FOR_EVER ? 0 : options->history_days,
                         __ATOMIC_RELAXED);
    __atomic_store_n(&store->flush_interval_ns, options->flush_interval_ms * QLI_NS_PER_MS,
                     __ATOMIC_RELAXED);
    pthread_mutex_lock(&store->engine.region.self->mutex);
    if (qli_engine_has_ledger(&store->engine) && !options->no_thread)
        store->ticker.wanted = true;
    if (qli_holder_self(&store->engine.region) != 0)
        qli_ticker_start(store);
    pthread_mutex_unlock(&store->engine.region.self->mutex);
}

/* ---- opening and closing ------------------------------------------------- */

/* A process that leaves its slot with leases in it (a stopped lock holder in
 * the way) is taken for dead: the next who looks reaps them. */
static void detach(struct qli_store *store)
{
    struct qli_region *region = &store->engine.region;
    uint64_t self = qli_holder_self(region);
    if (self == 0)
        return;
    if (qli_engine_has_ledger(&store->engine))
        qli_flusher_finish(&store->flusher, self, QLI_LAST_FLUSH_WAIT_MS);
    struct qli_call call = qli_engine_bare_call(&store->engine, self, DETACH_WAIT_MS);
    if (qli_operation_reap(&call, qli_word_slot(self), qli_word_generation(self), NULL) == QL_OK)
        qli_holder_detach(region);
}

static enum ql_status open_locked(const char *path, const struct ql_options *options,
                                  int64_t now_ns, struct qli_store **store, struct ql_error *error)
{
    struct qli_store *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL)
        return qli_error(error, QL_E_NOMEM, 0, "out of memory");
    fresh->engine.region = qli_region_none();
    pthread_mutex_init(&fresh->engine.limits_mutex, NULL);
    qli_flusher_init(&fresh->flusher, &fresh->engine);
    fresh->handles = 1;
    struct qli_store *existing = NULL;
    enum ql_status status = attach(fresh, path, options, now_ns, &existing, error);
    if (status == QL_OK && existing != NULL)
        status = check_clock(existing, options, error);
    if (status == QL_OK) {
        status = check_durability(existing != NULL ? existing : fresh, options, error);
        if (status != QL_OK && existing == NULL)
            detach(fresh);
    }
    if (status != QL_OK || existing != NULL) {
        free_store(fresh);
        *store = status == QL_OK ? existing : NULL;
        if (*store != NULL)
            existing->handles++;
        return status;
    }
    fresh->next = table;
    table = fresh;
    *store = fresh;
    return QL_OK;
}

enum ql_status qli_store_open(const char *path, const struct ql_options *options,
                              struct qli_store **store, struct ql_error *error)
{
    int64_t now_ns =
        options->clock != NULL ? options->clock(options->context) : qli_clock_calendar_ns();
    pthread_once(&fork_once, watch_forks);
    pthread_mutex_lock(&table_mutex);
    enum ql_status status = open_locked(path, options, now_ns, store, error);
    pthread_mutex_unlock(&table_mutex);
    return status;
}

void qli_store_close(struct qli_store *store)
{
    pthread_mutex_lock(&table_mutex);
    if (--store->handles == 0) {
        struct qli_store **link = &table;
        while (*link != store)
            link = &(*link)->next;
        *link = store->next;
        qli_ticker_stop(store);
        if (qli_store_why_lost(store) == QL_OK)
            detach(store);
        else
            forget_reused(store);
        free_store(store);
    }
    pthread_mutex_unlock(&table_mutex);
}
