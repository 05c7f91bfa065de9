/* SPDX-License-Identifier: Apache-2.0
 *
 * A change writes the list that is not in use, then stores the sequence: a
 * death before that store leaves the old list with its meters.
 */
#include "engine/limits.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "rules/limit.h"

#define WAIT_MS 5000

static const struct qli_shared_limits *live_list(const struct qli_store_page *page)
{
    return &page->lists[page->sequence & 1];
}

/* ---- reading ------------------------------------------------------------- */

static void copy_name(char to[QLI_NAME_SIZE], const char *from)
{
    memcpy(to, from, QLI_NAME_SIZE);
    to[QL_NAME_MAX] = '\0';
}

static enum ql_status read_limit(struct qli_limits *limits, size_t i,
                                 const struct qli_shared_limit *shared)
{
    copy_name(limits->names[i], shared->name);
    limits->limits[i] = (struct ql_limit){
        .name = limits->names[i],
        .window = (enum ql_window)shared->window,
        .cap = (int64_t)shared->cap,
    };
    if (shared->window == QL_WINDOW_NONE) {
        limits->concurrent |= 1u << i;
        return QL_OK;
    }
    uint64_t meter = __atomic_load_n(&shared->meter, __ATOMIC_RELAXED);
    if (meter >= limits->meter_count)
        return QL_E_CORRUPT;
    limits->windowed |= 1u << i;
    limits->meter_of[i] = (uint32_t)meter;
    limits->limits[i].meter = limits->meters[meter];
    return QL_OK;
}

static bool meters_distinct(const struct qli_limits *limits)
{
    for (uint32_t m = 0; m < limits->meter_count; m++) {
        for (uint32_t other = 0; other < m; other++) {
            if (strcmp(limits->meters[m], limits->meters[other]) == 0)
                return false;
        }
    }
    return true;
}

/* Each count is loaded once: what was checked is what is used. */
static enum ql_status read_page(const struct qli_engine *engine, struct qli_limits *limits)
{
    const struct qli_store_page *page = engine->page;
    const struct qli_shared_limits *list = live_list(page);
    uint64_t meter_count = __atomic_load_n(&list->meter_count, __ATOMIC_RELAXED);
    uint64_t count = __atomic_load_n(&list->count, __ATOMIC_RELAXED);
    if (meter_count > engine->geometry.meter_capacity || count > QL_LIMITS_MAX)
        return QL_E_CORRUPT;
    limits->sequence = page->sequence;
    limits->count = count;
    limits->meter_count = (uint32_t)meter_count;
    for (uint32_t m = 0; m < limits->meter_count; m++)
        copy_name(limits->meters[m], page->meters[m]);
    if (!meters_distinct(limits))
        return QL_E_CORRUPT;
    for (size_t i = 0; i < limits->count; i++) {
        enum ql_status status = read_limit(limits, i, &list->limits[i]);
        if (status != QL_OK)
            return status;
    }
    return qli_limit_validate(limits->limits, limits->count, NULL) == QL_OK ? QL_OK : QL_E_CORRUPT;
}

/* Keeps the mutex for no longer than it takes to compare: each thread waits for
 * the guard with a deadline of its own. Whoever reads too late drops its list. */
static void publish(struct qli_engine *engine, struct qli_limits *limits)
{
    pthread_mutex_lock(&engine->limits_mutex);
    bool newer = engine->limits == NULL || engine->limits->sequence < limits->sequence;
    if (newer) {
        limits->older = engine->limits;
        __atomic_store_n(&engine->limits, limits, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&engine->limits_mutex);
    if (!newer)
        free(limits);
}

bool qli_limits_sound_locked(const struct qli_engine *engine)
{
    struct qli_limits limits = {0};
    return read_page(engine, &limits) == QL_OK;
}

enum ql_status qli_limits_refresh(struct qli_engine *engine, uint64_t self, int64_t wait_ms)
{
    struct qli_guard *guard = &engine->region.guards[0];
    struct qli_limits *limits = calloc(1, sizeof *limits);
    if (limits == NULL)
        return QL_E_NOMEM;
    enum ql_status status = qli_guard_enter(&engine->region, guard, self, wait_ms);
    if (status == QL_OK) {
        status = read_page(engine, limits);
        qli_guard_leave(guard);
    }
    if (status == QL_OK) {
        publish(engine, limits);
        return QL_OK;
    }
    free(limits);
    return status == QL_E_CORRUPT ? qli_region_poison(&engine->region) : status;
}

int qli_limits_meter(const struct qli_limits *limits, const char *meter)
{
    for (uint32_t m = 0; m < limits->meter_count; m++) {
        if (strcmp(limits->meters[m], meter) == 0)
            return (int)m;
    }
    return -1;
}

void qli_limits_free(struct qli_engine *engine)
{
    while (engine->limits != NULL) {
        struct qli_limits *older = engine->limits->older;
        free(engine->limits);
        engine->limits = older;
    }
}

/* ---- changing ------------------------------------------------------------ */

static bool same_limit(const struct ql_limit *a, const struct ql_limit *b)
{
    return strcmp(a->name, b->name) == 0 && a->window == b->window && a->cap == b->cap &&
           (a->meter == NULL ? b->meter == NULL
                             : b->meter != NULL && strcmp(a->meter, b->meter) == 0);
}

static enum ql_status report_difference(const struct qli_limits *store,
                                        const struct ql_limit *limits, size_t count,
                                        struct ql_error *error)
{
    const char *advice = "give the store's limits, give none to adopt them, or set replace_limits";
    for (size_t i = 0; i < count && i < store->count; i++) {
        if (!same_limit(&store->limits[i], &limits[i]))
            return qli_error(error, QL_E_LIMITS, 0,
                             "limit %zu is %s (cap %lld) in the store, but %s (cap %lld) was "
                             "given: %s",
                             i + 1, store->limits[i].name, (long long)store->limits[i].cap,
                             limits[i].name, (long long)limits[i].cap, advice);
    }
    return qli_error(error, QL_E_LIMITS, 0, "the store has %zu limits, but %zu were given: %s",
                     store->count, count, advice);
}

static bool same_list(const struct qli_limits *store, const struct ql_limit *limits, size_t count)
{
    bool same = store->count == count;
    for (size_t i = 0; same && i < count; i++)
        same = same_limit(&store->limits[i], &limits[i]);
    return same;
}

/* The meter's index, or count if it has no name yet. */
static uint64_t find_meter(const struct qli_store_page *page, uint64_t count, const char *name)
{
    uint64_t meter = 0;
    while (meter < count && strncmp(page->meters[meter], name, QLI_NAME_SIZE) != 0)
        meter++;
    return meter;
}

/* The meter's index; it is named behind the others if it is new. There is room:
 * see check_room. *count was checked, and damage can't change it. */
static uint64_t name_meter(struct qli_store_page *page, uint64_t *count, const char *name)
{
    uint64_t meter = find_meter(page, *count, name);
    if (meter == *count) {
        strncpy(page->meters[meter], name, QLI_NAME_SIZE);
        ++*count;
    }
    return meter;
}

int qli_limits_add_meter(struct qli_engine *engine, const char *meter)
{
    struct qli_store_page *page = engine->page;
    uint64_t *count = &page->lists[page->sequence & 1].meter_count;
    if (find_meter(page, *count, meter) == engine->geometry.meter_capacity)
        return -1;
    return (int)name_meter(page, count, meter);
}

static void write_list(struct qli_store_page *page, uint64_t meter_count,
                       const struct ql_limit *limits, size_t count)
{
    struct qli_shared_limits *list = &page->lists[(page->sequence + 1) & 1];
    memset(list, 0, sizeof *list);
    list->count = count;
    for (size_t i = 0; i < count; i++) {
        struct qli_shared_limit *shared = &list->limits[i];
        memcpy(shared->name, limits[i].name, strlen(limits[i].name));
        shared->window = limits[i].window;
        shared->cap = (uint64_t)limits[i].cap;
        if (limits[i].window != QL_WINDOW_NONE)
            shared->meter = name_meter(page, &meter_count, limits[i].meter);
    }
    list->meter_count = meter_count;
    __atomic_store_n(&page->sequence, page->sequence + 1, __ATOMIC_RELEASE);
}

static bool names_meter(const struct ql_limit *limits, size_t count, const char *meter)
{
    bool named = false;
    for (size_t i = 0; i < count && !named; i++)
        named = limits[i].window != QL_WINDOW_NONE && strcmp(limits[i].meter, meter) == 0;
    return named;
}

/* How many meters the list names that the store does not have; *last is one. */
static uint64_t new_meters(const struct qli_limits *store, const struct ql_limit *limits,
                           size_t count, const char **last)
{
    uint64_t meters = 0;
    for (size_t i = 0; i < count; i++) {
        if (limits[i].window == QL_WINDOW_NONE || names_meter(limits, i, limits[i].meter) ||
            qli_limits_meter(store, limits[i].meter) >= 0)
            continue;
        *last = limits[i].meter;
        meters++;
    }
    return meters;
}

uint64_t qli_limits_meters_named(const struct ql_limit *limits, size_t count)
{
    static const struct qli_limits none;
    const char *last;
    return new_meters(&none, limits, count, &last);
}

static enum ql_status check_room(const struct qli_engine *engine, const struct qli_limits *store,
                                 const struct ql_limit *limits, size_t count,
                                 struct ql_error *error)
{
    const char *last = "";
    uint64_t meters = store->meter_count + new_meters(store, limits, count, &last);
    if (meters <= engine->geometry.meter_capacity)
        return QL_OK;
    return qli_error(error, QL_E_FULL, 0,
                     "the store was made for %llu meters and its limits have named %u so far: "
                     "there is no room for %s. A meter's room is not used again, and a store keeps "
                     "its size: stop its processes, remove its directory, which forgets what was "
                     "counted, and make it with max_meters of at least %llu",
                     (unsigned long long)engine->geometry.meter_capacity, store->meter_count, last,
                     (unsigned long long)meters);
}

/* Guard 0 is held: compares with the page itself, not with what was read once. */
static enum ql_status apply_locked(struct qli_engine *engine, const struct ql_limit *limits,
                                   size_t count, bool replace, struct ql_error *error)
{
    struct qli_limits store = {0};
    enum ql_status status = read_page(engine, &store);
    if (status != QL_OK)
        return status;
    if (store.sequence != 0 && same_list(&store, limits, count))
        return QL_OK;
    if (store.sequence != 0 && !replace)
        return report_difference(&store, limits, count, error);
    status = check_room(engine, &store, limits, count, error);
    if (status == QL_OK)
        write_list(engine->page, store.meter_count, limits, count);
    return status;
}

enum ql_status qli_limits_apply(struct qli_engine *engine, uint64_t self,
                                const struct ql_limit *limits, size_t count, bool replace,
                                struct ql_error *error)
{
    struct qli_guard *guard = &engine->region.guards[0];
    enum ql_status status = qli_guard_enter(&engine->region, guard, self, WAIT_MS);
    if (status != QL_OK)
        return qli_error(error, status, 0, "cannot read the store's limits: %s",
                         ql_status_text(status));
    status = apply_locked(engine, limits, count, replace, error);
    qli_guard_leave(guard);
    if (status == QL_E_CORRUPT)
        return qli_error(error, qli_region_poison(&engine->region), 0,
                         "the store's limits are damaged");
    return status;
}
