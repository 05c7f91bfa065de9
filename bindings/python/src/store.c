/* SPDX-License-Identifier: Apache-2.0
 *
 * Store: a handle of the library as a Python object, and what the library
 * offers on it. Opening and closing, the clock, and the count of threads
 * inside, so that a close while others are in a call waits for the last one.
 */
#include "report.h"

#define LIFE_MS_MAX (366 * 86400 * 1000LL)

/* The clock's value for the call that this thread is about to make. */
static _Thread_local int64_t clock_now = -1;

/* Whether this thread gave up the GIL by itself around a long call. */
static _Thread_local bool without_gil;

_Thread_local unsigned store_visits;

static int64_t given_clock(void *context)
{
    (void)context;
    return clock_now;
}

static void *wait_begin(void *context)
{
    (void)context;
    return without_gil ? NULL : PyEval_SaveThread();
}

static void wait_end(void *context, void *token)
{
    (void)context;
    if (token != NULL)
        PyEval_RestoreThread(token);
}

PyThreadState *store_leave_python(void)
{
    PyThreadState *thread = PyEval_SaveThread();
    without_gil = true;
    return thread;
}

void store_enter_python(PyThreadState *thread)
{
    without_gil = false;
    PyEval_RestoreThread(thread);
}

/* ---- around each call -------------------------------------------------- */

static bool tick(struct store *store)
{
    if (store->clock == NULL)
        return true;
    PyObject *now = PyObject_CallObject(store->clock, NULL);
    if (now == NULL)
        return false;
    store->last_now = PyLong_AsLongLong(now);
    Py_DECREF(now);
    if (store->last_now == -1 && PyErr_Occurred())
        return false;
    clock_now = store->last_now;
    return true;
}

void store_tick_last(struct store *store)
{
    clock_now = store->last_now;
}

static bool count_in(struct store *store)
{
    if (store->ql == NULL || store->closing) {
        PyErr_SetString(PyExc_ValueError, "the store is closed: open it again");
        return false;
    }
    store->calls++;
    return true;
}

bool store_begin_slowly(struct store *store)
{
    if (store == NULL)
        return failure_no_store() != NULL;
    if (!tick(store) || !count_in(store))
        return false;
    if (store->queue.count > 0) {
        queue_drain(store, false);
        store_tick_last(store); /* its log lines may have run another store's clock */
    }
    return true;
}

/* The last thread inside a store that is closing closes it. What the others
 * put into the queue since is tried once more. */
void store_finish(struct store *store)
{
    struct ql *ql = store->ql;
    if (ql == NULL)
        return;
    queue_drain(store, true);
    queue_clear(store);
    store->ql = NULL;
    PyThreadState *thread = store_leave_python();
    ql_close(ql);
    store_enter_python(thread);
}

void store_release(struct store *store, struct ql_lease lease)
{
    if (store->ql == NULL || store->closing)
        return; /* closing it gave the lease back */
    store->calls++;
    if (store->clock != NULL)
        store_tick_last(store);
    enum ql_status status = ql_release(store->ql, lease);
    if (queue_takes_release(status))
        queue_add_release(store, lease, status);
    store_end(store);
}

static bool is_argument_error(enum ql_status status)
{
    return status == QL_E_INVALID || status == QL_E_SUBJECT || status == QL_E_METER;
}

bool store_charge(struct store *store, const char *subject, const char *meter, int64_t amount)
{
    if (!store_begin(store))
        return false;
    enum ql_status status = ql_charge(store->ql, subject, meter, amount, NULL);
    bool ours = !is_argument_error(status);
    if (status < 0 && ours)
        queue_failed_charge(store, subject, meter, amount, status);
    store_end(store);
    if (!ours)
        failure_raise(status);
    return ours;
}

/* ---- opening ----------------------------------------------------------- */

static bool open_handle(struct store *store, const char *path, const struct ql_options *options)
{
    struct ql_error error;
    struct ql *ql;
    if (!tick(store))
        return false;
    PyThreadState *thread = store_leave_python();
    enum ql_status status = ql_open(path, options, &ql, &error);
    store_enter_python(thread);
    if (status != QL_OK)
        return failure_raise_text(status, error.text) != NULL;
    store->ql = ql;
    return true;
}

/* As tp_new, not tp_init: a store that is there is open, and is opened once. */
static PyObject *store_make(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    struct opening opening;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    if (!options_read(args, keywords, &opening))
        return NULL;
    struct store *store = (struct store *)allocate(type, 0);
    if (store == NULL)
        return NULL;
    store->last_now = -1;
    opening.options.wait_begin = wait_begin;
    opening.options.wait_end = wait_end;
    if (opening.clock != NULL) {
        Py_INCREF(opening.clock);
        store->clock = opening.clock;
        opening.options.clock = given_clock;
    }
    if (!open_handle(store, opening.path, &opening.options))
        Py_CLEAR(store);
    return (PyObject *)store;
}

static PyObject *store_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct store *store = (struct store *)self;
    if (store->ql != NULL && !store->closing) {
        store->calls++;
        queue_drain(store, true);
        queue_clear(store);
        store->closing = true;
        store_end(store);
    }
    Py_RETURN_NONE;
}

/* The threads that were inside are the parent's. A callback of a visit may have
 * forked, and then this one is still inside. */
static PyObject *store_after_fork(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct store *store = (struct store *)self;
    if (store_visits == 0) {
        store->calls = 0;
        if (store->closing)
            store_finish(store);
    }
    Py_RETURN_NONE;
}

/* There is no tp_clear: the clock stays until the store is closed. What it
 * refers to can break a cycle. */
static int store_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((struct store *)self)->clock);
    return 0;
}

static void store_dealloc(PyObject *self)
{
    PyObject *type, *value, *traceback;
    PyObject_GC_UnTrack(self);
    PyErr_Fetch(&type, &value, &traceback);
    Py_XDECREF(store_close(self, NULL));
    PyErr_Restore(type, value, traceback);
    PyTypeObject *own = Py_TYPE(self);
    Py_XDECREF(((struct store *)self)->clock);
    ((freefunc)PyType_GetSlot(own, Py_tp_free))(self);
    Py_DECREF(own);
}

static PyObject *store_drain(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct store *store = (struct store *)self;
    if (!count_in(store))
        return NULL;
    queue_drain(store, true);
    size_t left = store->queue.count;
    store_end(store);
    return PyLong_FromSize_t(left);
}

/* ---- check, acquire, admit, charge ------------------------------------- */

static PyObject *answer(enum ql_status status, const struct ql_verdict *verdict)
{
    if (status == QL_REFUSED)
        return failure_refused(verdict);
    if (status != QL_OK)
        return failure_raise(status);
    return store_limit_states(verdict->limits, verdict->limit_count);
}

static PyObject *store_check(PyObject *self, PyObject *const *args, Py_ssize_t count,
                             PyObject *keywords)
{
    static const char *const names[] = {"subject", "limit", NULL};
    struct store *store = (struct store *)self;
    PyObject *in[2];
    struct ql_verdict verdict;
    if (!argument_parse("check", names, 1, args, count, keywords, in))
        return NULL;
    const char *limit = NULL;
    const char *subject = argument_subject(in[0]);
    if (subject == NULL)
        return NULL;
    if (in[1] != NULL && in[1] != Py_None && (limit = argument_subject(in[1])) == NULL)
        return NULL;
    if (!store_begin(store))
        return NULL;
    enum ql_status status = ql_check(store->ql, subject, limit, &verdict);
    PyObject *result = answer(status, &verdict);
    store_end(store);
    return result;
}

static PyObject *take(struct store *store, PyObject *subject, bool budgets,
                      const struct ql_request *request)
{
    struct ql_lease lease;
    struct ql_verdict verdict;
    const char *text = argument_subject(subject);
    if (text == NULL || !store_begin(store))
        return NULL;
    enum ql_status status = budgets ? ql_admit(store->ql, text, request, &lease, &verdict)
                                    : ql_acquire(store->ql, text, &lease, &verdict);
    PyObject *result;
    if (status == QL_OK)
        result = lease_new(store, lease, subject, request == NULL || request->ttl_ms == 0);
    else
        result = answer(status, &verdict);
    store_end(store);
    return result;
}

static PyObject *store_acquire(PyObject *self, PyObject *const *args, Py_ssize_t count,
                               PyObject *keywords)
{
    static const char *const names[] = {"subject", NULL};
    PyObject *in[1];
    if (!argument_parse("acquire", names, 1, args, count, keywords, in))
        return NULL;
    return take((struct store *)self, in[0], false, NULL);
}

/* How long a lease may live; 0 where nothing is given. */
static bool read_life(PyObject *given, const char *name, int64_t *life_ms)
{
    if (given == NULL)
        return true;
    if (!argument_amount(given, life_ms))
        return false;
    if (*life_ms >= 0 && *life_ms <= LIFE_MS_MAX)
        return true;
    PyErr_Format(PyExc_ValueError,
                 "%s is %R: it must be 1 to %lld milliseconds (366 days), or 0 for the default",
                 name, given, LIFE_MS_MAX);
    return false;
}

static PyObject *store_admit(PyObject *self, PyObject *const *args, Py_ssize_t count,
                             PyObject *keywords)
{
    static const char *const names[] = {"subject", "max_age_ms", "ttl_ms", NULL};
    struct ql_request request = QL_REQUEST_INIT;
    PyObject *in[3];
    if (!argument_parse("admit", names, 1, args, count, keywords, in) ||
        !read_life(in[1], names[1], &request.max_age_ms) ||
        !read_life(in[2], names[2], &request.ttl_ms))
        return NULL;
    if (request.max_age_ms > 0 && request.ttl_ms > 0) {
        PyErr_SetString(PyExc_ValueError,
                        "max_age_ms is for a held lease and ttl_ms makes a timed one: give one of "
                        "them");
        return NULL;
    }
    return take((struct store *)self, in[0], true, &request);
}

static PyObject *store_charge_method(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                     PyObject *keywords)
{
    static const char *const names[] = {"subject", "meter", "amount", NULL};
    struct store *store = (struct store *)self;
    PyObject *in[3];
    int64_t amount;
    if (!argument_parse("charge", names, 3, args, count, keywords, in))
        return NULL;
    const char *subject = argument_subject(in[0]);
    const char *meter = subject == NULL ? NULL : argument_subject(in[1]);
    if (meter == NULL || !argument_amount(in[2], &amount))
        return NULL;
    if (!store_begin(store))
        return NULL;
    enum ql_status status = ql_charge(store->ql, subject, meter, amount, NULL);
    store_end(store);
    if (status != QL_OK)
        return failure_raise(status);
    Py_RETURN_NONE;
}

static PyObject *store_revoke(PyObject *self, PyObject *which)
{
    struct store *store = (struct store *)self;
    struct ql_lease lease;
    if (!lease_value(which, &lease) || !store_begin(store))
        return NULL;
    enum ql_status status = ql_revoke(store->ql, lease);
    store_end(store);
    if (status == QL_E_EXPIRED)
        return failure_raise_text(status, "the lease had ended before: nothing is left to revoke");
    if (status != QL_OK)
        return failure_raise(status);
    Py_RETURN_NONE;
}

/* ---- the ledger -------------------------------------------------------- */

static PyObject *done_or_raise(enum ql_status status, const struct ql_error *error)
{
    if (status != QL_OK)
        return failure_raise_text(status, error->text);
    Py_RETURN_NONE;
}

static PyObject *store_flush(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct store *store = (struct store *)self;
    struct ql_error error;
    if (!store_begin(store))
        return NULL;
    enum ql_status status = ql_flush(store->ql, &error);
    store_end(store);
    return done_or_raise(status, &error);
}

static PyObject *store_flush_lag_ms(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct store *store = (struct store *)self;
    int64_t lag_ms;
    if (!store_begin(store))
        return NULL;
    enum ql_status status = ql_flush_lag(store->ql, &lag_ms);
    store_end(store);
    return status == QL_OK ? PyLong_FromLongLong(lag_ms) : failure_raise(status);
}

static PyObject *store_backup(PyObject *self, PyObject *path)
{
    struct store *store = (struct store *)self;
    struct ql_error error;
    PyObject *bytes;
    if (!PyUnicode_FSConverter(path, &bytes))
        return NULL;
    if (!store_begin(store)) {
        Py_DECREF(bytes);
        return NULL;
    }
    enum ql_status status = ql_backup(store->ql, PyBytes_AsString(bytes), &error);
    store_end(store);
    Py_DECREF(bytes);
    return done_or_raise(status, &error);
}

#define FASTCALL (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef methods[] = {
    {"check", (PyCFunction)(void (*)(void))store_check, FASTCALL,
     "check($self, subject, limit=None)\n--\n\nAsks whether the budgets allow work now; takes "
     "nothing."},
    {"acquire", (PyCFunction)(void (*)(void))store_acquire, FASTCALL,
     "acquire($self, subject)\n--\n\nTakes a slot under the concurrent limit; looks at no budget."},
    {"admit", (PyCFunction)(void (*)(void))store_admit, FASTCALL,
     "admit($self, subject, max_age_ms=0, ttl_ms=0)\n--\n\nCheck of all limits and acquire, as "
     "one step. With ttl_ms the lease is timed:\nit belongs to no process and ends so long after "
     "it was taken or renewed."},
    {"charge", (PyCFunction)(void (*)(void))store_charge_method, FASTCALL,
     "charge($self, subject, meter, amount)\n--\n\nAdds an amount to a meter, past the cap if need "
     "be. Error with status\nQL_E_NOT_DURABLE: it is made, and only not in the ledger yet; do not "
     "repeat it.\nAny other: it is not made."},
    {"lease", lease_from_text, METH_O,
     "lease($self, text, /)\n--\n\nThe lease of this text, which another process may have taken. "
     "Dropping the\nobject releases nothing."},
    {"revoke", store_revoke, METH_O,
     "revoke($self, lease, /)\n--\n\nEnds a lease of any process, given as a Lease or as its "
     "text."},
    {"usage", store_usage, METH_O, "usage($self, subject, /)\n--\n\nThe subject as it stands."},
    {"limits", store_limits, METH_NOARGS,
     "limits($self)\n--\n\nThe store's limits, in declared order."},
    {"subjects", store_subjects, METH_NOARGS, "subjects($self)\n--\n\nEvery subject, in no order."},
    {"leases", store_leases, METH_NOARGS,
     "leases($self)\n--\n\nEvery lease, held or timed, in no order."},
    {"history", (PyCFunction)(void (*)(void))store_history, FASTCALL,
     "history($self, subject, *, meter=None, start=None, end=None)\n--\n\nWhat the subject was "
     "charged in the windows that overlap start to end (Unix\nseconds), in order of time; None is "
     "all of them. Subjects below it are not in it."},
    {"flush", store_flush, METH_NOARGS,
     "flush($self)\n--\n\nWrites to the ledger what it lacks, now; raises what is in the way."},
    {"flush_lag_ms", store_flush_lag_ms, METH_NOARGS,
     "flush_lag_ms($self)\n--\n\nMilliseconds since the last completed flush began: what was "
     "charged since then\na power cut would lose. 0 in a store without a ledger."},
    {"backup", store_backup, METH_O,
     "backup($self, path, /)\n--\n\nCopies the ledger, with all that was charged before, into a "
     "new file, an SQLite\ndatabase, while others go on."},
    {"verify", store_verify, METH_NOARGS,
     "verify($self)\n--\n\nChecks every invariant of the store and, after a flush, its ledger."},
    {"drain", store_drain, METH_NOARGS,
     "drain($self)\n--\n\nTries what is queued now; gives how many charges and releases are left."},
    {"close", store_close, METH_NOARGS,
     "close($self)\n--\n\nCloses the store: the ledger gets what it lacks, and the held leases "
     "that are left\nare released."},
    {"_after_fork_in_child", store_after_fork, METH_NOARGS,
     "_after_fork_in_child($self)\n--\n\nForgets the threads that are the parent's."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, store_make},
    {Py_tp_dealloc, store_dealloc},
    {Py_tp_traverse, store_traverse},
    {Py_tp_methods, methods},
    {Py_tp_doc,
     "Store(store, limits=None, replace_limits=False, max_subjects=0, max_leases=0, max_meters=0, "
     "max_holders=0, admit_when_full=False, lease_max_age_ms=0, admit_wait_ms=0, charge_wait_ms=0, "
     "allow_any_filesystem=False, clock=None, must_exist=False, region_directory=None, "
     "durability=None, flush_interval_ms=0, history_days=0, no_thread=False)\n--\n\nA store that "
     "is open. Made by "
     "quotalite.Store."},
    {0, NULL},
};

PyType_Spec store_spec = {
    .name = "quotalite._quotalite.Store",
    .basicsize = sizeof(struct store),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
