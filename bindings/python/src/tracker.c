/* SPDX-License-Identifier: Apache-2.0
 *
 * Tracker: the calls of QuotaTracker, on a Store. The Python class above it
 * adds the constructor and nothing else, so that no call runs Python code.
 */
#include "binding.h"

#define DAILY_BYTES "daily_bytes"
#define DAILY_ESTIMATES "daily_estimates"
#define BYTES "bytes"
#define STATEMENTS "statements"

struct tracker {
    PyObject_HEAD struct store *store;
};

static struct store *store_of(PyObject *tracker)
{
    return ((struct tracker *)tracker)->store;
}

/* Open once: threads may be inside the store of a tracker. */
static int tracker_init(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"store", NULL};
    struct tracker *tracker = (struct tracker *)self;
    PyObject *store;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!:Tracker", names, quotalite.store_type,
                                     &store))
        return -1;
    if (tracker->store != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the tracker has a store: make another tracker");
        return -1;
    }
    Py_INCREF(store);
    tracker->store = (struct store *)store;
    return 0;
}

static int tracker_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)store_of(self));
    return 0;
}

static int tracker_clear(PyObject *self)
{
    struct tracker *tracker = (struct tracker *)self;
    PyObject *store = (PyObject *)tracker->store;
    tracker->store = NULL;
    Py_XDECREF(store);
    return 0;
}

static void tracker_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    tracker_clear(object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* ---- the slot ---------------------------------------------------------- */

static PyObject *tracker_acquire(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                 PyObject *keywords)
{
    static const char *const names[] = {"user", NULL};
    PyObject *in[1];
    const char *text;
    if (!argument_parse("acquire", names, 1, args, count, keywords, in))
        return NULL;
    PyObject *segment = argument_segment(in[0], &text);
    if (segment == NULL)
        return NULL;
    struct store *store = store_of(self);
    PyObject *slot = store == NULL ? failure_no_store() : slot_new(store, segment, text);
    Py_DECREF(segment);
    return slot;
}

/* ---- budgets ----------------------------------------------------------- */

static PyObject *check_answer(enum ql_status status, const struct ql_verdict *verdict)
{
    if (status == QL_REFUSED)
        return failure_refused(verdict);
    if (status != QL_OK)
        return failure_raise(status);
    Py_RETURN_NONE;
}

static PyObject *check(PyObject *self, PyObject *user, const char *limit)
{
    struct store *store = store_of(self);
    struct ql_verdict verdict;
    const char *text;
    PyObject *segment = argument_segment(user, &text);
    if (segment == NULL)
        return NULL;
    PyObject *result = NULL;
    if (store_begin(store)) {
        result = check_answer(ql_check(store->ql, text, limit, &verdict), &verdict);
        store_end(store);
    }
    Py_DECREF(segment);
    return result;
}

static PyObject *charge(PyObject *self, PyObject *user, const char *meter, int64_t amount)
{
    const char *text;
    PyObject *segment = argument_segment(user, &text);
    if (segment == NULL)
        return NULL;
    bool done = amount <= 0 || store_charge(store_of(self), text, meter, amount);
    Py_DECREF(segment);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *used(PyObject *self, PyObject *user, const char *limit)
{
    struct store *store = store_of(self);
    const char *text;
    PyObject *segment = argument_segment(user, &text);
    if (segment == NULL)
        return NULL;
    PyObject *result = NULL;
    struct ql_verdict verdict;
    if (store_begin(store)) {
        enum ql_status status = ql_check(store->ql, text, limit, &verdict);
        if (status < 0)
            failure_raise(status);
        else
            result = PyLong_FromLongLong(verdict.limits[0].used);
        store_end(store);
    }
    Py_DECREF(segment);
    return result;
}

/* ---- as methods -------------------------------------------------------- */

static const char *const user_only[] = {"user", NULL};

#define USER_METHOD(name, call, limit)                                                             \
    static PyObject *tracker_##name(PyObject *self, PyObject *const *args, Py_ssize_t count,       \
                                    PyObject *keywords)                                            \
    {                                                                                              \
        PyObject *in[1];                                                                           \
        if (!argument_parse(#name, user_only, 1, args, count, keywords, in))                       \
            return NULL;                                                                           \
        return call(self, in[0], limit);                                                           \
    }

USER_METHOD(check_daily_budget, check, DAILY_BYTES)
USER_METHOD(check_daily_estimates, check, DAILY_ESTIMATES)
USER_METHOD(bytes_used_today, used, DAILY_BYTES)
USER_METHOD(estimates_used_today, used, DAILY_ESTIMATES)

static PyObject *tracker_record_bytes(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                      PyObject *keywords)
{
    static const char *const names[] = {"user", "n", NULL};
    PyObject *in[2];
    int64_t amount;
    if (!argument_parse("record_bytes", names, 2, args, count, keywords, in) ||
        !argument_amount(in[1], &amount))
        return NULL;
    return charge(self, in[0], BYTES, amount);
}

static PyObject *tracker_record_estimate(PyObject *self, PyObject *const *args, Py_ssize_t count,
                                         PyObject *keywords)
{
    static const char *const names[] = {"user", "n", NULL};
    PyObject *in[2];
    int64_t amount = 1;
    if (!argument_parse("record_estimate", names, 1, args, count, keywords, in) ||
        (in[1] != NULL && !argument_amount(in[1], &amount)))
        return NULL;
    return charge(self, in[0], STATEMENTS, amount);
}

static PyObject *tracker_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *store = (PyObject *)store_of(self);
    if (store == NULL)
        Py_RETURN_NONE;
    return PyObject_CallMethod(store, "close", NULL);
}

static PyObject *tracker_get_store(PyObject *self, void *unused)
{
    (void)unused;
    PyObject *store = (PyObject *)store_of(self);
    if (store == NULL)
        store = Py_None;
    Py_INCREF(store);
    return store;
}

#define FASTCALL (METH_FASTCALL | METH_KEYWORDS)
#define METHOD(name, doc)                                                                          \
    {                                                                                              \
#name, (PyCFunction)(void (*)(void))tracker_##name, FASTCALL, doc                          \
    }

static PyMethodDef methods[] = {
    METHOD(acquire,
           "acquire($self, user)\n--\n\nA slot for one request of the user, to be entered with "
           "`with` or `async with`.\nEntering it raises QuotaExceededError when the "
           "user has too many at once."),
    METHOD(check_daily_budget,
           "check_daily_budget($self, user)\n--\n\nRaises QuotaExceededError when the "
           "user's bytes of today are used up.\nCall it before the work."),
    METHOD(record_bytes,
           "record_bytes($self, user, n)\n--\n\nCharges n bytes, past the cap if need be; "
           "n <= 0 does nothing.\nCall it after the work. Raises for wrong "
           "arguments only."),
    METHOD(bytes_used_today,
           "bytes_used_today($self, user)\n--\n\nThe bytes charged in this UTC day."),
    METHOD(check_daily_estimates,
           "check_daily_estimates($self, user)\n--\n\nRaises QuotaExceededError when "
           "the user's statements of today are used up."),
    METHOD(record_estimate,
           "record_estimate($self, user, n=1)\n--\n\nCharges n statements; n <= 0 does "
           "nothing.\nRaises for wrong arguments only."),
    METHOD(estimates_used_today,
           "estimates_used_today($self, user)\n--\n\nThe statements charged in this UTC day."),
    {"close", tracker_close, METH_NOARGS, "close($self)\n--\n\nCloses the store."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"store", tracker_get_store, NULL, "The Store underneath.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, tracker_init},
    {Py_tp_dealloc, tracker_dealloc},
    {Py_tp_traverse, tracker_traverse},
    {Py_tp_clear, tracker_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_doc, "Tracker(store)\n--\n\nThe calls of quotalite.QuotaTracker."},
    {0, NULL},
};

PyType_Spec tracker_spec = {
    .name = "quotalite._quotalite.Tracker",
    .basicsize = sizeof(struct tracker),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
