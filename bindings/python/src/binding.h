/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the extension share. module.c puts it together; store.c
 * owns the handle, lease.c and tracker.c stand on it, queue.c keeps what could
 * not be carried out yet, argument.c and options.c read arguments, failure.c
 * raises.
 *
 * All fields of all objects are guarded by the GIL. ql_open, ql_close and
 * ql_verify are called without it, every other ql_ call with it: the library
 * gives it up through wait_begin only when it sleeps.
 */
#ifndef QUOTALITE_BINDING_H
#define QUOTALITE_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "quotalite.h"

/* ---- objects ----------------------------------------------------------- */

struct queue_entry;

/* Charges and releases that the machine did not let through. */
struct queue {
    struct queue_entry *entries;
    size_t count;
    size_t capacity;
    pid_t owner;           /* a forked child drops what its parent queued */
    bool draining;         /* a thread is at it; it may have given up the GIL */
    int64_t not_before_ns; /* CLOCK_MONOTONIC: no attempt earlier */
};

struct store {
    PyObject_HEAD struct ql *ql; /* NULL: closed, or never opened */
    size_t calls;                /* threads inside a ql_ call */
    bool closing;                /* the last of them closes */
    PyObject *clock;             /* gives nanoseconds as an int; NULL: the system's clock */
    int64_t last_now;            /* what it gave last */
    struct queue queue;
};

struct quotalite {
    PyObject *support; /* the module quotalite._support */
    PyTypeObject *store_type;
    PyTypeObject *lease_type;
    PyTypeObject *tracker_type;
    PyTypeObject *slot_type;
    PyObject *done; /* an awaitable that is done */
};

/* One interpreter a process: module.c refuses a second. */
extern struct quotalite quotalite;

extern PyType_Spec store_spec;
extern PyType_Spec lease_spec;
extern PyType_Spec tracker_spec;
extern PyType_Spec slot_spec;
extern PyType_Spec done_spec;

PyMODINIT_FUNC PyInit__quotalite(void);

/* ---- argument.c -------------------------------------------------------- */

/* A call's arguments by position or by name. names ends with NULL; the first
 * required of them must be there; out has room for all, NULL where not given. */
bool argument_parse_slowly(const char *function, const char *const *names, int required,
                           PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                           PyObject **out);

/* The same; quick if all arguments, one or two, are given by position. */
static inline bool argument_parse(const char *function, const char *const *names, int required,
                                  PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                                  PyObject **out)
{
    bool two = names[1] != NULL;
    if (keywords != NULL || count != (two ? 2 : 1) || (two && names[2] != NULL))
        return argument_parse_slowly(function, names, required, args, count, keywords, out);
    out[0] = args[0];
    if (two)
        out[1] = args[1];
    return true;
}

/* A user's id as one segment: a new reference to the str that holds it, and
 * its bytes in *text. NULL with TypeError or ValueError. */
PyObject *argument_segment(PyObject *user, const char **text);

/* A subject, taken as it is. NULL with TypeError or ValueError. */
const char *argument_subject(PyObject *subject);

/* An amount: anything with __index__; above int64_t saturates, below 0 is -1. */
bool argument_amount(PyObject *amount, int64_t *value);

/* ---- options.c --------------------------------------------------------- */

/* What a Store is opened with. The clock is borrowed, NULL for the system's; the
 * rest points into the arguments. */
struct opening {
    const char *path;
    struct ql_options options;
    struct ql_limit limits[QL_LIMITS_MAX];
    PyObject *clock;
};

/* options may point into opening. false with TypeError or ValueError. */
bool options_read(PyObject *args, PyObject *keywords, struct opening *opening);

/* ---- failure.c --------------------------------------------------------- */

/* Raises what a negative status means; text is ql_open's or ql_verify's own.
 * Always NULL. */
PyObject *failure_raise(enum ql_status status);
PyObject *failure_raise_text(enum ql_status status, const char *text);

/* Raises QuotaExceededError. Always NULL. */
PyObject *failure_refused(const struct ql_verdict *verdict);

/* Raises that a tracker was not initialised. Always NULL. */
PyObject *failure_no_store(void);

/* Calls a function of quotalite._support for its log line; never raises. */
void failure_report(const char *function, const char *detail, int64_t amount);

/* ---- store.c ----------------------------------------------------------- */

/* What store_begin and store_end do when there is something to do. */
bool store_begin_slowly(struct store *store);
void store_finish(struct store *store);

/* Around each ql_ call. begin asks the store's clock, if it has one, tries what
 * is queued, and counts the caller in. false, with an exception: the clock
 * raised, the store is closed, or there is none (NULL). */
static inline bool store_begin(struct store *store)
{
    if (store == NULL || store->ql == NULL || store->closing || store->clock != NULL ||
        store->queue.count > 0)
        return store_begin_slowly(store);
    store->calls++;
    return true;
}

static inline void store_end(struct store *store)
{
    store->calls--;
    if (store->calls == 0 && store->closing)
        store_finish(store);
}

/* Visits that this thread is inside of; their callbacks run Python code. */
extern _Thread_local unsigned store_visits;

/* Around a ql_ call that takes long: without the GIL. */
PyThreadState *store_leave_python(void);
void store_enter_python(PyThreadState *thread);

/* Hands the clock's last value over without asking it. */
void store_tick_last(struct store *store);

/* Gives a lease back and never raises: what cannot be done now is queued. */
void store_release(struct store *store, struct ql_lease lease);

/* Charges, and never raises for what the machine does: then it is queued.
 * false: an argument was wrong, or the clock raised. */
bool store_charge(struct store *store, const char *subject, const char *meter, int64_t amount);

/* A ql_limit_state array as a tuple of LimitState. */
PyObject *store_limit_states(const struct ql_limit_state *limits, uint32_t count);

/* ---- lease.c ----------------------------------------------------------- */

/* held: of this process; otherwise timed. */
PyObject *lease_new(struct store *store, struct ql_lease lease, PyObject *subject, bool held);
PyObject *lease_from_text(PyObject *store, PyObject *text);
bool lease_value(PyObject *lease_or_text, struct ql_lease *lease);

/* ---- slot.c ------------------------------------------------------------ */

PyObject *slot_new(struct store *store, PyObject *subject, const char *text);

/* ---- queue.c ----------------------------------------------------------- */

/* After a charge that failed for what the machine does: queues it, unless it was
 * made all the same. */
void queue_failed_charge(struct store *store, const char *subject, const char *meter,
                         int64_t amount, enum ql_status why);

/* Whether a release that came back so has yet to be made. */
bool queue_takes_release(enum ql_status status);
void queue_add_release(struct store *store, struct ql_lease lease, enum ql_status why);

/* Tries what is queued, unless it was tried shortly before. */
void queue_drain(struct store *store, bool now);

/* Forgets everything, saying what is lost. */
void queue_clear(struct store *store);

#endif
