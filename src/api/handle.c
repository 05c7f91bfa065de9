/* SPDX-License-Identifier: Apache-2.0
 *
 * The store's day is moved here, by whoever reads the clock; the rule is in
 * rules/timeline.h. Its four words have no lock. Each is stored by itself, only
 * where it still is what the rule was given, else the rule begins anew; and each
 * is right as soon as it is stored. In this order, with what a death after it leaves:
 *
 *   ask_until        raised before the day steps back: a question too many
 *   clock_offset_ns  the next reading agrees with it and does the rest
 *   leap_since_ns    the same; or a leap that has begun, until a reading agrees
 *   day              nothing is left to do
 *
 * The words are loaded before the clock is read: a thread that was stopped in
 * between is not behind the day that it wants to move. One that is stopped after
 * that, until the words have come round to the same values, stores what was
 * right then; the next reading of anybody puts it right, and what was opened on
 * the way is asked of the ledger. Words of different moments may be loaded
 * together: a leap may be seen where none is (the next reading ends it), or the
 * day moved to one that has just been left, as by a call that came earlier.
 */
#include "api/handle.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "rules/limit.h"
#include "rules/timeline.h"

#define DEFAULT_ADMIT_WAIT_MS 100
#define DEFAULT_CHARGE_WAIT_MS 5000
#define LIMITS_WAIT_MS 5000
#define DEFAULT_FLUSH_INTERVAL_MS 200
#define WAIT_MS_MAX (INT64_C(1000) * 86400)
#define READING_NS_MAX QLI_NS_PER_SECOND /* from the first to the last clock of one reading */

static enum ql_status read_options(const struct ql_options *given, struct ql_options *options,
                                   struct ql_error *error)
{
    *options = (struct ql_options)QL_OPTIONS_INIT;
    if (given != NULL && given->size != sizeof *options)
        return qli_error(error, QL_E_INVALID, 0,
                         "options.size is %zu: start from QL_OPTIONS_INIT and build with the "
                         "header of this library",
                         given->size);
    if (given != NULL)
        *options = *given;
    if (options->admit_wait_ms == 0)
        options->admit_wait_ms = DEFAULT_ADMIT_WAIT_MS;
    if (options->charge_wait_ms == 0)
        options->charge_wait_ms = DEFAULT_CHARGE_WAIT_MS;
    if (options->admit_wait_ms > WAIT_MS_MAX || options->charge_wait_ms > WAIT_MS_MAX)
        return qli_error(error, QL_E_INVALID, 0, "a wait is at most one day");
    if (options->lease_max_age_ms < 0 || options->lease_max_age_ms > QLI_AGE_MS_MAX)
        return qli_error(error, QL_E_INVALID, 0, "lease_max_age_ms is 0 to one year");
    if (options->flush_interval_ms == 0)
        options->flush_interval_ms = DEFAULT_FLUSH_INTERVAL_MS;
    if (options->flush_interval_ms < 0 || options->flush_interval_ms > WAIT_MS_MAX)
        return qli_error(error, QL_E_INVALID, 0, "flush_interval_ms is 1 to one day");
    if (options->durability < QL_DURABILITY_STORE || options->durability > QL_DURABILITY_SYNC)
        return qli_error(error, QL_E_INVALID, 0, "durability is one of enum ql_durability");
    if ((options->wait_begin == NULL) != (options->wait_end == NULL))
        return qli_error(error, QL_E_INVALID, 0, "wait_begin and wait_end go together");
    if (options->limits == NULL && options->limit_count == 0)
        return QL_OK;
    return qli_limit_validate(options->limits, options->limit_count, error);
}

/* The clock of a handle of another kind than the store's. */
static int64_t give_no_time(void *context)
{
    (void)context;
    return -1;
}

static enum ql_status set_up_limits(struct ql *ql, struct ql_error *error)
{
    struct qli_engine *engine = &ql->store->engine;
    uint64_t self;
    enum ql_status status = qli_store_self(ql->store, LIMITS_WAIT_MS, &self);
    if (status == QL_OK && ql->options.limits != NULL)
        return qli_limits_apply(engine, self, ql->options.limits, ql->options.limit_count,
                                ql->options.replace_limits, error);
    if (status != QL_OK)
        return qli_error(error, status, 0, "%s", ql_status_text(status));
    return QL_OK;
}

enum ql_status ql_open(const char *store, const struct ql_options *options, struct ql **out,
                       struct ql_error *error)
{
    if (error != NULL)
        *error = (struct ql_error){0};
    if (out == NULL)
        return qli_error(error, QL_E_INVALID, 0, "the place for the handle is NULL");
    *out = NULL;
    if (store == NULL || store[0] == '\0')
        return qli_error(error, QL_E_INVALID, 0, "name a store: 'memory:' or a directory");
    if (strstr(store, "://") != NULL)
        return qli_error(error, QL_E_STORE, 0,
                         "this build knows no store of the kind %.60s: name a directory", store);
    struct ql *ql = calloc(1, sizeof *ql);
    if (ql == NULL)
        return qli_error(error, QL_E_NOMEM, 0, "out of memory");
    enum ql_status status = read_options(options, &ql->options, error);
    if (status == QL_OK)
        status = qli_store_open(store, &ql->options, &ql->store, error);
    if (status == QL_OK)
        status = set_up_limits(ql, error);
    ql->options.limits = NULL;
    if (status == QL_OK) {
        qli_store_configure(ql->store, &ql->options);
        if (ql->store->injected_clock != (ql->options.clock != NULL))
            ql->options.clock = give_no_time;
        *out = ql;
        return QL_OK;
    }
    ql_close(ql);
    return status;
}

void ql_close(struct ql *ql)
{
    if (ql == NULL)
        return;
    if (ql->store != NULL)
        qli_store_close(ql->store);
    free(ql);
}

/* ---- the store's day ----------------------------------------------------- */

/* The day first: who sees one that was opened again sees what was stored before it. */
static struct qli_timeline load_timeline(const struct qli_store_page *page)
{
    struct qli_timeline words;
    words.day = __atomic_load_n(&page->day, __ATOMIC_ACQUIRE);
    words.ask_until = __atomic_load_n(&page->ask_until, __ATOMIC_RELAXED);
    words.clock_offset_ns = __atomic_load_n(&page->clock_offset_ns, __ATOMIC_RELAXED);
    words.leap_since_ns = __atomic_load_n(&page->leap_since_ns, __ATOMIC_RELAXED);
    return words;
}

static bool replace_word(uint64_t *word, uint64_t old, uint64_t new)
{
    return old == new ||
           __atomic_compare_exchange_n(word, &old, new, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

/* Stores: what has changed, in the order of the file's head. False: another one
 * has changed a word meanwhile. */
static bool store_timeline(struct qli_store_page *page, const struct qli_timeline *old,
                           const struct qli_timeline *new)
{
    return replace_word(&page->ask_until, old->ask_until, new->ask_until) &&
           replace_word(&page->clock_offset_ns, old->clock_offset_ns, new->clock_offset_ns) &&
           replace_word(&page->leap_since_ns, old->leap_since_ns, new->leap_since_ns) &&
           replace_word(&page->day, old->day, new->day);
}

/* Both clocks at one moment: a thread that is stopped between them tries again. */
static void read_clocks(struct qli_reading *reading)
{
    int64_t begun_ns;
    do {
        begun_ns = qli_clock_boot_ns();
        reading->calendar_ns = qli_clock_calendar_ns();
        reading->boot_ns = qli_clock_boot_ns();
    } while (reading->boot_ns - begun_ns > READING_NS_MAX);
}

enum ql_status qli_handle_follow_clock(struct qli_store *store, int64_t *now_ns, int64_t *day)
{
    const struct qli_engine *engine = &store->engine;
    struct qli_timeline old;
    struct qli_timeline new;
    struct qli_reading reading = {
        .calendar_ns = *now_ns,
        .believes_leaps = store->injected_clock,
        .steps_back = qli_engine_has_ledger(engine),
    };
    do {
        old = load_timeline(engine->page);
        if (!store->injected_clock)
            read_clocks(&reading);
        if (reading.calendar_ns < 0)
            return QL_E_CLOCK;
        new = old;
        qli_timeline_follow(&new, &reading);
    } while (!store_timeline(engine->page, &old, &new));
    *now_ns = reading.calendar_ns;
    *day = (int64_t) new.day;
    return QL_OK;
}

/* ---- what few calls meet ------------------------------------------------- */

/* A leap within a day is noticed here too, and the offset kept. */
static enum ql_status tick(struct qli_store *store, uint64_t self, int64_t system_ns)
{
    int64_t day;
    enum ql_status status = qli_store_tick(store, self, system_ns);
    if (status == QL_OK && !store->injected_clock)
        status = qli_handle_follow_clock(store, &system_ns, &day);
    return status;
}

enum ql_status qli_handle_prepare(struct ql *ql, int64_t wait_ms, int64_t system_ns, uint64_t *self)
{
    struct qli_engine *engine = &ql->store->engine;
    enum ql_status status = qli_store_self(ql->store, wait_ms, self);
    if (status == QL_OK && qli_region_corrupt(&engine->region))
        status = QL_E_CORRUPT;
    if (status == QL_OK)
        status = tick(ql->store, *self, system_ns);
    if (status == QL_OK && qli_limits_stale(engine))
        status = qli_limits_refresh(engine, *self, wait_ms);
    return status;
}

enum ql_status qli_handle_make_durable(struct ql *ql, uint64_t shard, enum ql_status status)
{
    struct qli_store *store = ql->store;
    uint64_t self = qli_holder_self(&store->engine.region);
    void *token = qli_handle_begins_to_wait(ql);
    enum ql_status durable =
        self == 0 ? QL_E_NOT_DURABLE
                  : qli_flusher_await(&store->flusher, self, shard, ql->options.charge_wait_ms);
    qli_handle_ends_to_wait(ql, token);
    return durable == QL_OK ? status : durable;
}
