/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands in a store, as the named tuples of quotalite._support.
 */
#include "report.h"

/* How many visits are made before other threads may have the GIL. */
enum { VISITS_PER_TURN = 256 };

/* Calls a named tuple type of quotalite._support; arguments are Py_BuildValue's. */
#define MAKE(type, format, ...) PyObject_CallMethod(quotalite.support, type, format, __VA_ARGS__)

static PyObject *limit_state(const struct ql_limit_state *state)
{
    return MAKE("LimitState", "szzLLLL", state->name, state->meter,
                state->window == QL_WINDOW_DAY ? "day" : NULL, (long long)state->cap,
                (long long)state->used, (long long)state->remaining, (long long)state->resets_at);
}

static PyObject *meter_state(const struct ql_meter_state *state)
{
    return MAKE("MeterState", "sLL", state->name, (long long)state->total,
                (long long)state->yesterday);
}

/* Steals item. */
static bool tuple_put(PyObject *tuple, Py_ssize_t at, PyObject *item)
{
    return item != NULL && PyTuple_SetItem(tuple, at, item) == 0;
}

PyObject *store_limit_states(const struct ql_limit_state *limits, uint32_t count)
{
    PyObject *tuple = PyTuple_New(count);
    for (uint32_t i = 0; tuple != NULL && i < count; i++)
        if (!tuple_put(tuple, i, limit_state(&limits[i])))
            Py_CLEAR(tuple);
    return tuple;
}

static PyObject *meter_states(const struct ql_meter_state *meters, uint32_t count)
{
    PyObject *tuple = PyTuple_New(count);
    for (uint32_t i = 0; tuple != NULL && i < count; i++)
        if (!tuple_put(tuple, i, meter_state(&meters[i])))
            Py_CLEAR(tuple);
    return tuple;
}

static PyObject *usage_tuple(const struct ql_usage *usage)
{
    PyObject *limits = store_limit_states(usage->limits, usage->limit_count);
    PyObject *meters = limits == NULL ? NULL : meter_states(usage->meters, usage->meter_count);
    if (meters == NULL) {
        Py_XDECREF(limits);
        return NULL;
    }
    return MAKE("Usage", "LNN", (long long)usage->leases, limits, meters);
}

PyObject *store_usage(PyObject *self, PyObject *subject)
{
    struct store *store = (struct store *)self;
    struct ql_usage usage;
    const char *text = argument_subject(subject);
    if (text == NULL || !store_begin(store))
        return NULL;
    enum ql_status status = ql_usage(store->ql, text, &usage);
    PyObject *result = status == QL_OK ? usage_tuple(&usage) : failure_raise(status);
    store_end(store);
    return result;
}

static PyObject *limit_tuple(const struct ql_limit *limit)
{
    return MAKE("Limit", "sLzz", limit->name, (long long)limit->cap, limit->meter,
                limit->window == QL_WINDOW_DAY ? "day" : NULL);
}

PyObject *store_limits(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct store *store = (struct store *)self;
    struct ql_limit limits[QL_LIMITS_MAX];
    size_t count = 0;
    if (!store_begin(store))
        return NULL;
    enum ql_status status = ql_limits(store->ql, limits, &count);
    PyObject *tuple = status == QL_OK ? PyTuple_New((Py_ssize_t)count) : failure_raise(status);
    for (size_t i = 0; tuple != NULL && i < count; i++)
        if (!tuple_put(tuple, (Py_ssize_t)i, limit_tuple(&limits[i])))
            Py_CLEAR(tuple);
    store_end(store);
    return tuple;
}

struct collection {
    PyObject *list;
    size_t visits;
};

/* Steals item, which may be NULL. Tells the visit whether to end. */
static int collect(struct collection *collection, PyObject *item)
{
    int failed = item == NULL ? -1 : PyList_Append(collection->list, item);
    Py_XDECREF(item);
    if (failed == 0 && ++collection->visits % VISITS_PER_TURN == 0) {
        Py_BEGIN_ALLOW_THREADS Py_END_ALLOW_THREADS
    }
    return failed;
}

static int visit_subject(void *context, const struct ql_subject_info *info)
{
    PyObject *usage = usage_tuple(&info->usage);
    if (usage == NULL)
        return -1;
    return collect(context, MAKE("SubjectInfo", "sN", info->subject, usage));
}

static int visit_lease(void *context, const struct ql_lease_info *info)
{
    char text[QL_LEASE_TEXT_MAX];
    ql_lease_format(info->lease, text);
    return collect(context, MAKE("LeaseInfo", "ssLLLLNN", text, info->subject,
                                 (long long)info->since, (long long)info->age_ms,
                                 (long long)info->expires_in_ms, (long long)info->pid,
                                 PyBool_FromLong(info->own), PyBool_FromLong(info->timed)));
}

/* What a visit gave, as an answer to the caller. */
static PyObject *collected(struct collection *collection, enum ql_status status, int stopped)
{
    if (status == QL_OK && stopped == 0)
        return collection->list;
    Py_CLEAR(collection->list);
    return stopped != 0 ? NULL : failure_raise(status);
}

PyObject *store_subjects(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct store *store = (struct store *)self;
    int stopped = 0;
    if (!store_begin(store))
        return NULL;
    struct collection collection = {PyList_New(0), 0};
    enum ql_status status = QL_E_NOMEM;
    store_visits++;
    if (collection.list != NULL)
        status = ql_each_subject(store->ql, visit_subject, &collection, &stopped);
    store_visits--;
    store_end(store);
    return collected(&collection, status, stopped);
}

PyObject *store_leases(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct store *store = (struct store *)self;
    int stopped = 0;
    if (!store_begin(store))
        return NULL;
    struct collection collection = {PyList_New(0), 0};
    enum ql_status status = QL_E_NOMEM;
    store_visits++;
    if (collection.list != NULL)
        status = ql_each_lease(store->ql, visit_lease, &collection, &stopped);
    store_visits--;
    store_end(store);
    return collected(&collection, status, stopped);
}

static int visit_history(void *context, const struct ql_history_entry *entry)
{
    return collect(context, MAKE("HistoryEntry", "LLsL", (long long)entry->start,
                                 (long long)entry->end, entry->meter, (long long)entry->amount));
}

/* Unix seconds; what is before 1970 has no windows. *seconds stays for None. */
static bool read_time(PyObject *given, int64_t *seconds)
{
    if (given == NULL || given == Py_None)
        return true;
    if (!argument_amount(given, seconds))
        return false;
    if (*seconds < 0)
        *seconds = 0;
    return true;
}

struct history_range {
    const char *subject;
    const char *meter; /* NULL: all */
    int64_t start;
    int64_t end;
};

static bool read_range(PyObject *const *in, struct history_range *range)
{
    *range = (struct history_range){.end = INT64_MAX};
    range->subject = argument_subject(in[0]);
    if (range->subject == NULL)
        return false;
    if (in[1] != NULL && in[1] != Py_None && (range->meter = argument_subject(in[1])) == NULL)
        return false;
    if (!read_time(in[2], &range->start) || !read_time(in[3], &range->end))
        return false;
    if (range->start <= range->end)
        return true;
    PyErr_Format(PyExc_ValueError, "end (%lld) is before start (%lld)", (long long)range->end,
                 (long long)range->start);
    return false;
}

PyObject *store_history(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"subject", "meter", "start", "end", NULL};
    struct store *store = (struct store *)self;
    PyObject *in[4];
    struct history_range range;
    int stopped = 0;
    if (count > 1) {
        PyErr_SetString(PyExc_TypeError, "history() takes meter, start and end by name only");
        return NULL;
    }
    if (!argument_parse("history", names, 1, args, count, keywords, in) ||
        !read_range(in, &range) || !store_begin(store))
        return NULL;
    struct collection collection = {PyList_New(0), 0};
    enum ql_status status = QL_E_NOMEM;
    store_visits++;
    if (collection.list != NULL)
        status = ql_history(store->ql, range.subject, range.meter, range.start, range.end,
                            visit_history, &collection, &stopped);
    store_visits--;
    store_end(store);
    return collected(&collection, status, stopped);
}

PyObject *store_verify(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct store *store = (struct store *)self;
    struct ql_verify_report report;
    struct ql_error error;
    if (!store_begin(store))
        return NULL;
    PyThreadState *thread = store_leave_python();
    enum ql_status status = ql_verify(store->ql, &report, &error);
    store_enter_python(thread);
    store_end(store);
    if (status != QL_OK)
        return failure_raise_text(status, error.text);
    return MAKE("VerifyReport", "KKKKKKKL", (unsigned long long)report.subjects,
                (unsigned long long)report.leases, (unsigned long long)report.holders,
                (unsigned long long)report.omissions, (unsigned long long)report.max_subjects,
                (unsigned long long)report.max_leases, (unsigned long long)report.region_bytes,
                (long long)report.flush_lag_ms);
}
