/* SPDX-License-Identifier: Apache-2.0
 *
 * Slot: what QuotaTracker.acquire gives. Nothing is taken until it is
 * entered, with `with` or `async with`; leaving it, or dropping it, gives the
 * slot back. May be entered on one thread and left on another.
 */
#include "binding.h"

#include <string.h>

enum slot_state { SLOT_NEW, SLOT_HELD, SLOT_OVER };

struct slot {
    PyObject_HEAD struct store *store;
    PyObject *subject; /* the str that text points into */
    const char *text;
    struct ql_lease lease;
    enum slot_state state;
};

PyObject *slot_new(struct store *store, PyObject *subject, const char *text)
{
    struct slot *self = PyObject_New(struct slot, quotalite.slot_type);
    if (self == NULL)
        return NULL;
    Py_INCREF((PyObject *)store);
    Py_INCREF(subject);
    self->store = store;
    self->subject = subject;
    self->text = text;
    self->state = SLOT_NEW;
    return (PyObject *)self;
}

/* The state is set before the call, which may give up the GIL, so that no
 * second thread can enter meanwhile. */
static bool enter(struct slot *self)
{
    struct store *store = self->store;
    struct ql_verdict verdict;
    if (self->state != SLOT_NEW) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this slot was entered before: call acquire() for each use");
        return false;
    }
    self->state = SLOT_OVER;
    if (!store_begin(store))
        return false;
    enum ql_status status = ql_acquire(store->ql, self->text, &self->lease, &verdict);
    if (status == QL_OK)
        self->state = SLOT_HELD;
    else if (status == QL_REFUSED)
        failure_refused(&verdict);
    else
        failure_raise(status);
    store_end(store);
    return status == QL_OK;
}

static void leave(struct slot *self)
{
    if (self->state != SLOT_HELD)
        return;
    self->state = SLOT_OVER;
    store_release(self->store, self->lease);
}

static void slot_dealloc(PyObject *object)
{
    struct slot *self = (struct slot *)object;
    PyTypeObject *type = Py_TYPE(object);
    leave(self);
    Py_DECREF((PyObject *)self->store);
    Py_DECREF(self->subject);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *slot_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    if (!enter((struct slot *)object))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *slot_exit(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    (void)args;
    (void)count;
    leave((struct slot *)object);
    Py_RETURN_NONE;
}

static PyObject *done(void)
{
    Py_INCREF(quotalite.done);
    return quotalite.done;
}

static PyObject *slot_aenter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return enter((struct slot *)object) ? done() : NULL;
}

static PyObject *slot_aexit(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    (void)args;
    (void)count;
    leave((struct slot *)object);
    return done();
}

#define ENTER "($self)\n--\n\nTakes the slot, or raises QuotaExceededError."
#define EXIT "($self, kind, error, traceback, /)\n--\n\nGives the slot back."

static PyMethodDef methods[] = {
    {"__enter__", slot_enter, METH_NOARGS, "__enter__" ENTER},
    {"__exit__", (PyCFunction)(void (*)(void))slot_exit, METH_FASTCALL, "__exit__" EXIT},
    {"__aenter__", slot_aenter, METH_NOARGS, "__aenter__" ENTER},
    {"__aexit__", (PyCFunction)(void (*)(void))slot_aexit, METH_FASTCALL, "__aexit__" EXIT},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, slot_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_doc, "A slot that is taken when it is entered and given back when it is left."},
    {0, NULL},
};

PyType_Spec slot_spec = {
    .name = "quotalite._quotalite.Slot",
    .basicsize = sizeof(struct slot),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

/* ---- the awaitable that is done ---------------------------------------- */

static PyObject *done_self(PyObject *object)
{
    Py_INCREF(object);
    return object;
}

/* NULL with no exception set: the await ends with None. */
static PyObject *done_next(PyObject *object)
{
    (void)object;
    return NULL;
}

static PyType_Slot done_slots[] = {
    {Py_am_await, done_self},
    {Py_tp_iter, done_self},
    {Py_tp_iternext, done_next},
    {Py_tp_doc, "An awaitable that is done."},
    {0, NULL},
};

PyType_Spec done_spec = {
    .name = "quotalite._quotalite.Done",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = done_slots,
};
