/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads the arguments that a Store is opened with. Durations are milliseconds
 * here and 0 is the default; quotalite.Store is what its users see.
 */
#include "binding.h"

#include <string.h>

/* A Limit is a tuple (name, cap, meter or None, window or None). */
static bool read_limit(PyObject *item, struct ql_limit *limit)
{
    long long cap;
    const char *window;
    if (!PyTuple_Check(item)) {
        PyErr_SetString(PyExc_TypeError, "limits must be quotalite.Limit objects");
        return false;
    }
    if (!PyArg_ParseTuple(item, "sLzz:Limit", &limit->name, &cap, &limit->meter, &window))
        return false;
    limit->cap = cap;
    limit->window = window == NULL ? QL_WINDOW_NONE : QL_WINDOW_DAY;
    if (window == NULL || strcmp(window, "day") == 0)
        return true;
    PyErr_Format(PyExc_ValueError, "no such window: '%s' (there is 'day')", window);
    return false;
}

static bool read_limits(PyObject *limits, struct opening *opening)
{
    if (limits == Py_None)
        return true;
    if (!PyTuple_Check(limits)) {
        PyErr_SetString(PyExc_TypeError, "limits must be a tuple of quotalite.Limit, or None");
        return false;
    }
    Py_ssize_t count = PyTuple_Size(limits);
    if (count > QL_LIMITS_MAX) {
        PyErr_Format(PyExc_ValueError, "a store has at most %d limits, not %zd", QL_LIMITS_MAX,
                     count);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        if (!read_limit(PyTuple_GetItem(limits, i), &opening->limits[i]))
            return false;
    opening->options.limits = opening->limits;
    opening->options.limit_count = (size_t)count;
    return true;
}

static bool read_durability(const char *name, enum ql_durability *durability)
{
    static const char *const names[] = {
        [QL_DURABILITY_NONE] = "none",
        [QL_DURABILITY_ASYNC] = "async",
        [QL_DURABILITY_SYNC] = "sync",
    };
    *durability = QL_DURABILITY_STORE;
    if (name == NULL)
        return true;
    for (int i = QL_DURABILITY_NONE; i <= QL_DURABILITY_SYNC; i++) {
        if (strcmp(name, names[i]) == 0) {
            *durability = (enum ql_durability)i;
            return true;
        }
    }
    PyErr_Format(PyExc_ValueError,
                 "no such durability: '%s' (there are 'none', 'async' and 'sync'; None is what the "
                 "store has)",
                 name);
    return false;
}

bool options_read(PyObject *args, PyObject *keywords, struct opening *opening)
{
    static char *names[] = {"store",
                            "limits",
                            "replace_limits",
                            "max_subjects",
                            "max_leases",
                            "max_meters",
                            "max_holders",
                            "admit_when_full",
                            "lease_max_age_ms",
                            "admit_wait_ms",
                            "charge_wait_ms",
                            "allow_any_filesystem",
                            "clock",
                            "must_exist",
                            "region_directory",
                            "durability",
                            "flush_interval_ms",
                            "history_days",
                            "no_thread",
                            NULL};
    PyObject *limits = Py_None, *clock = Py_None;
    const char *region_directory = NULL, *durability = NULL;
    long long age = 0, admit_wait = 0, charge_wait = 0, flush_interval = 0;
    unsigned int subjects = 0, leases = 0, meters = 0, holders = 0, history_days = 0;
    int replace = 0, admit_when_full = 0, any = 0, must_exist = 0, no_thread = 0;
    *opening = (struct opening){.options = QL_OPTIONS_INIT};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "s|OpIIIIpLLLpOpzzLIp:Store", names,
                                     &opening->path, &limits, &replace, &subjects, &leases, &meters,
                                     &holders, &admit_when_full, &age, &admit_wait, &charge_wait,
                                     &any, &clock, &must_exist, &region_directory, &durability,
                                     &flush_interval, &history_days, &no_thread))
        return false;
    struct ql_options *options = &opening->options;
    options->replace_limits = replace != 0;
    options->max_subjects = subjects;
    options->max_leases = leases;
    options->max_meters = meters;
    options->max_holders = holders;
    options->when_full = admit_when_full ? QL_FULL_ADMIT : QL_FULL_REFUSE;
    options->lease_max_age_ms = age;
    options->admit_wait_ms = admit_wait;
    options->charge_wait_ms = charge_wait;
    options->allow_any_filesystem = any != 0;
    options->must_exist = must_exist != 0;
    options->region_directory = region_directory;
    options->flush_interval_ms = flush_interval;
    options->history_days = history_days;
    options->no_thread = no_thread != 0;
    opening->clock = clock == Py_None ? NULL : clock;
    return read_limits(limits, opening) && read_durability(durability, &options->durability);
}
