/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls about the ledger. Each writes to it first what it lacks, so that what
 * was charged before the call is in the answer.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/attempt.h"
#include "base/error.h"
#include "base/system.h"
#include "engine/operation.h"

/* Begins a call that the host is told of: the disk is slow. */
static enum ql_status begin(struct ql *ql, int64_t wait_ms, struct qli_call *call, void **token)
{
    enum ql_status status = qli_attempt_begin(ql, wait_ms, call);
    *token = status == QL_OK ? qli_handle_begins_to_wait(ql) : NULL;
    return status;
}

static void end(const struct ql *ql, enum ql_status begun, void *token)
{
    if (begun == QL_OK)
        qli_handle_ends_to_wait(ql, token);
}

enum ql_status ql_flush(struct ql *ql, struct ql_error *error)
{
    struct qli_call call;
    void *token;
    if (ql == NULL)
        return qli_error(error, QL_E_INVALID, 0, "the handle is NULL");
    enum ql_status begun = begin(ql, ql->options.charge_wait_ms, &call, &token);
    enum ql_status status = begun;
    if (begun != QL_OK)
        qli_error(error, begun, 0, "%s", ql_status_text(begun));
    else if (qli_engine_has_ledger(call.engine))
        status = qli_flusher_flush(&ql->store->flusher, call.self, call.wait_ms, error);
    if (status == QL_OK && qli_engine_has_ledger(call.engine))
        status = qli_flusher_look(&ql->store->flusher, call.wait_ms, error);
    end(ql, begun, token);
    return status;
}

enum ql_status ql_flush_lag(struct ql *ql, int64_t *lag_ms)
{
    struct qli_call call;
    if (ql == NULL || lag_ms == NULL)
        return QL_E_INVALID;
    enum ql_status status = qli_attempt_begin(ql, ql->options.admit_wait_ms, &call);
    if (status == QL_OK)
        *lag_ms = qli_engine_has_ledger(call.engine) ? qli_flusher_lag_ms(&ql->store->flusher) : 0;
    return status;
}

/* ---- history ------------------------------------------------------------- */

/* What is shown without the ledger's lock. */
struct entries {
    const char *meter; /* that is asked for, or NULL */
    size_t count;
    size_t room;
    struct entry {
        int64_t day;
        int64_t amount;
        char meter[QL_NAME_MAX + 1];
    } * items;
};

static enum ql_status add_entry(struct entries *entries, int64_t day, const char *meter,
                                int64_t amount)
{
    if (amount == 0 || (entries->meter != NULL && strcmp(entries->meter, meter) != 0))
        return QL_OK;
    if (entries->count == entries->room) {
        size_t room = entries->room > 0 ? 2 * entries->room : 64;
        struct entry *items = realloc(entries->items, room * sizeof *items);
        if (items == NULL)
            return QL_E_NOMEM;
        entries->items = items;
        entries->room = room;
    }
    struct entry *entry = &entries->items[entries->count++];
    *entry = (struct entry){.day = day, .amount = amount};
    memcpy(entry->meter, meter, strlen(meter) + 1);
    return QL_OK;
}

static enum ql_status add_row(void *context, const struct qli_ledger_row *row)
{
    return add_entry(context, row->day, row->meter, row->amount);
}

static int64_t day_of(int64_t seconds)
{
    return seconds > 0 ? seconds / QLI_SECONDS_PER_DAY : 0;
}

/* The days from first up to last. Days that nobody was charged in are stepped over:
 * a window may stand far in the future, if a clock once did. */
static enum ql_status read_days(struct qli_ledger *ledger, const char *subject, int64_t first,
                                int64_t last, struct entries *entries)
{
    int64_t day = first;
    bool none;
    enum ql_status status = qli_ledger_next_day(ledger, &day, &none);
    while (status == QL_OK && !none && day <= last) {
        status = qli_ledger_read_subject(ledger, subject, day, add_row, entries);
        day++;
        if (status == QL_OK)
            status = qli_ledger_next_day(ledger, &day, &none);
    }
    return status;
}

static enum ql_status read_history(struct ql *ql, const struct qli_call *call,
                                   const struct qli_name *name, int64_t first, int64_t last,
                                   struct entries *entries)
{
    struct qli_flusher *flusher = &ql->store->flusher;
    uint64_t shard = qli_engine_shard_of(call->engine, name->hash);
    enum ql_status status = qli_flusher_lend(flusher, call->self, shard, call->wait_ms, NULL);
    if (status != QL_OK)
        return status;
    status = read_days(&flusher->ledger, name->text, first, last, entries);
    qli_flusher_return(flusher);
    return status;
}

/* Of a store without a ledger: the region's two windows. */
static enum ql_status read_windows(const struct qli_call *call, const struct qli_name *name,
                                   int64_t first, int64_t last, struct entries *entries)
{
    struct ql_usage usage;
    enum ql_status status = qli_operation_usage(call, name, &usage);
    for (int64_t day = call->day - 1; status == QL_OK && day <= call->day; day++) {
        for (uint32_t m = 0; status == QL_OK && m < usage.meter_count; m++) {
            const struct ql_meter_state *meter = &usage.meters[m];
            if (day >= first && day <= last)
                status = add_entry(entries, day, meter->name,
                                   day == call->day ? meter->total : meter->yesterday);
        }
    }
    return status;
}

static int show(const struct entries *entries, ql_history_visitor visit, void *context)
{
    int stopped = 0;
    for (size_t i = 0; i < entries->count && stopped == 0; i++) {
        const struct entry *item = &entries->items[i];
        const struct ql_history_entry entry = {
            .start = item->day * QLI_SECONDS_PER_DAY,
            .end = (item->day + 1) * QLI_SECONDS_PER_DAY,
            .meter = item->meter,
            .amount = item->amount,
        };
        stopped = visit(context, &entry);
    }
    return stopped;
}

enum ql_status ql_history(struct ql *ql, const char *subject, const char *meter, int64_t from,
                          int64_t to, ql_history_visitor visit, void *context, int *stopped)
{
    struct qli_call call;
    struct qli_name name;
    void *token;
    struct entries entries = {.meter = meter};
    if (ql == NULL || visit == NULL || to < from)
        return QL_E_INVALID;
    if (stopped != NULL)
        *stopped = 0;
    enum ql_status begun = begin(ql, ql->options.admit_wait_ms, &call, &token);
    enum ql_status status = begun == QL_OK ? qli_subject_name(call.engine, subject, &name) : begun;
    if (status == QL_OK && to > from && qli_engine_has_ledger(call.engine))
        status = read_history(ql, &call, &name, day_of(from), day_of(to - 1), &entries);
    else if (status == QL_OK && to > from)
        status = read_windows(&call, &name, day_of(from), day_of(to - 1), &entries);
    end(ql, begun, token);
    int ended = status == QL_OK ? show(&entries, visit, context) : 0;
    if (stopped != NULL)
        *stopped = ended;
    free(entries.items);
    return status;
}

/* ---- backup -------------------------------------------------------------- */

static enum ql_status refuse(struct ql_error *error, const char *what, const char *path)
{
    return qli_error(error, QL_E_SYSTEM, errno, "cannot %s %.200s: %s", what, path,
                     strerror(errno));
}

/* SQLite does not wait for the disk when it writes such a copy. */
static enum ql_status sync_file(const char *path, struct ql_error *error)
{
    int fd = qli_system_open(AT_FDCWD, path, O_RDWR, 0);
    if (fd < 0 || qli_system_sync(fd) != 0) {
        enum ql_status status = refuse(error, "write", path);
        if (fd >= 0)
            close(fd);
        return status;
    }
    close(fd);
    return QL_OK;
}

static enum ql_status copy_ledger(struct ql *ql, const struct qli_call *call, const char *path,
                                  struct ql_error *error)
{
    struct qli_flusher *flusher = &ql->store->flusher;
    struct qli_ledger reader;
    enum ql_status status =
        qli_flusher_open_reader(flusher, call->self, call->wait_ms, &reader, error);
    if (status != QL_OK)
        return status;
    status = qli_ledger_copy(&reader, path);
    if (status != QL_OK)
        qli_ledger_explain(&reader, status, error);
    qli_flusher_close_reader(flusher, &reader);
    return status;
}

/* The name too has to last. */
static enum ql_status sync_directory_of(const char *path, struct ql_error *error)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return qli_error(error, QL_E_NOMEM, 0, "out of memory");
    enum ql_status status = QL_OK;
    int fd = qli_system_open(AT_FDCWD, dirname(copy), O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0 || qli_system_sync(fd) != 0)
        status = refuse(error, "write the directory of", path);
    if (fd >= 0)
        close(fd);
    free(copy);
    return status;
}

static enum ql_status name_copy(const char *draft, const char *path, struct ql_error *error)
{
    if (link(draft, path) == 0)
        return sync_directory_of(path, error);
    return errno == EEXIST
               ? qli_error(error, QL_E_INVALID, EEXIST, "%.200s exists; name a new file", path)
               : refuse(error, "make", path);
}

/* Into an empty file of a name that nobody else has; it gets its own when it is whole. */
static enum ql_status back_up(struct ql *ql, const struct qli_call *call, const char *path,
                              struct ql_error *error)
{
    size_t size = strlen(path) + sizeof ".XXXXXX";
    char *draft = malloc(size);
    if (draft == NULL)
        return qli_error(error, QL_E_NOMEM, 0, "out of memory");
    snprintf(draft, size, "%s.XXXXXX", path);
    int fd = mkostemp(draft, O_CLOEXEC);
    if (fd < 0) {
        enum ql_status refused = refuse(error, "write", path);
        free(draft);
        return refused;
    }
    close(fd);
    enum ql_status status = copy_ledger(ql, call, draft, error);
    if (status == QL_OK)
        status = sync_file(draft, error);
    if (status == QL_OK)
        status = name_copy(draft, path, error);
    unlink(draft);
    free(draft);
    return status;
}

enum ql_status ql_backup(struct ql *ql, const char *path, struct ql_error *error)
{
    struct qli_call call;
    void *token;
    if (ql == NULL || path == NULL || path[0] == '\0')
        return qli_error(error, QL_E_INVALID, 0, "name a handle and a new file");
    if (access(path, F_OK) == 0)
        return qli_error(error, QL_E_INVALID, EEXIST, "%.200s exists; name a new file", path);
    enum ql_status begun = begin(ql, ql->options.charge_wait_ms, &call, &token);
    enum ql_status status = begun;
    if (begun != QL_OK)
        qli_error(error, begun, 0, "%s", ql_status_text(begun));
    else if (!qli_engine_has_ledger(call.engine))
        status = qli_error(error, QL_E_INVALID, 0, "the store has no ledger");
    else
        status = back_up(ql, &call, path, error);
    end(ql, begun, token);
    return status;
}
