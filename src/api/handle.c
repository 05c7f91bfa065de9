/* SPDX-License-Identifier: Apache-2.0 */
#include "api/handle.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "rules/limit.h"

#define DEFAULT_ADMIT_WAIT_MS 100
#define DEFAULT_CHARGE_WAIT_MS 5000
#define LIMITS_WAIT_MS 5000
#define DEFAULT_FLUSH_INTERVAL_MS 200
#define WAIT_MS_MAX (INT64_C(1000) * 86400)

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

/* ---- what few calls meet ------------------------------------------------- */

enum ql_status qli_handle_prepare(struct ql *ql, int64_t wait_ms, int64_t system_ns, uint64_t *self)
{
    struct qli_engine *engine = &ql->store->engine;
    enum ql_status status = qli_store_self(ql->store, wait_ms, self);
    if (status == QL_OK && qli_region_corrupt(&engine->region))
        status = QL_E_CORRUPT;
    if (status == QL_OK)
        status = qli_store_tick(ql->store, *self, system_ns);
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
