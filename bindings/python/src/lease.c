/* SPDX-License-Identifier: Apache-2.0
 *
 * Lease: what Store.acquire and Store.admit give. Ends by settle or release,
 * at the end of a with block, or when the object is dropped.
 */
#include "binding.h"

struct lease {
    PyObject_HEAD struct store *store;
    PyObject *subject;
    struct ql_lease lease;
    bool ended; /* settled, released, or being so */
};

PyObject *lease_new(struct store *store, struct ql_lease lease, PyObject *subject)
{
    struct lease *self = PyObject_New(struct lease, quotalite.lease_type);
    if (self == NULL) {
        store_release(store, lease);
        return NULL;
    }
    Py_INCREF((PyObject *)store);
    Py_INCREF(subject);
    self->store = store;
    self->subject = subject;
    self->lease = lease;
    self->ended = false;
    return (PyObject *)self;
}

bool lease_value(PyObject *lease_or_text, struct ql_lease *lease)
{
    if (Py_TYPE(lease_or_text) == quotalite.lease_type) {
        *lease = ((struct lease *)lease_or_text)->lease;
        return true;
    }
    const char *text = PyUnicode_Check(lease_or_text) ? argument_subject(lease_or_text) : NULL;
    if (text != NULL && ql_lease_parse(text, lease) == QL_OK)
        return true;
    if (!PyErr_Occurred())
        PyErr_Format(PyUnicode_Check(lease_or_text) ? PyExc_ValueError : PyExc_TypeError,
                     "%R is no lease: give a Lease, or its text as leases() lists it",
                     lease_or_text);
    return false;
}

static void end_quietly(struct lease *self)
{
    if (self->ended)
        return;
    self->ended = true;
    store_release(self->store, self->lease);
}

static void lease_dealloc(PyObject *object)
{
    struct lease *self = (struct lease *)object;
    PyTypeObject *type = Py_TYPE(object);
    end_quietly(self);
    Py_DECREF((PyObject *)self->store);
    Py_DECREF(self->subject);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* charges is a dict of meter to amount. A negative amount is left to the
 * library, which refuses it. */
static bool read_charges(PyObject *charges, struct ql_charge *out, size_t *count)
{
    Py_ssize_t position = 0;
    PyObject *meter, *amount;
    *count = 0;
    if (charges == NULL || charges == Py_None)
        return true;
    if (!PyDict_Check(charges)) {
        PyErr_SetString(PyExc_TypeError, "charges must be a dict of meter to amount");
        return false;
    }
    while (PyDict_Next(charges, &position, &meter, &amount)) {
        if (*count == QL_METERS_MAX) {
            PyErr_Format(PyExc_ValueError, "more than %d meters", QL_METERS_MAX);
            return false;
        }
        out[*count].meter = argument_subject(meter);
        if (out[*count].meter == NULL || !argument_amount(amount, &out[*count].amount))
            return false;
        ++*count;
    }
    return true;
}

/* Ended only once the library says so: after QL_E_BUSY it is still held. */
static PyObject *settle(struct lease *self, const struct ql_charge *charges, size_t count)
{
    if (!store_begin(self->store))
        return NULL;
    enum ql_status status = ql_settle(self->store->ql, self->lease, charges, count);
    if (status >= QL_OK || status == QL_E_SETTLED || status == QL_E_EXPIRED)
        self->ended = true;
    store_end(self->store);
    if (status < QL_OK)
        return failure_raise(status);
    return PyBool_FromLong(status == QL_LATE);
}

static PyObject *lease_settle(PyObject *object, PyObject *const *args, Py_ssize_t count,
                              PyObject *keywords)
{
    static const char *const names[] = {"charges", NULL};
    struct ql_charge charges[QL_METERS_MAX];
    PyObject *in[1];
    size_t charge_count;
    if (!argument_parse("settle", names, 0, args, count, keywords, in) ||
        !read_charges(in[0], charges, &charge_count))
        return NULL;
    return settle((struct lease *)object, charges, charge_count);
}

static PyObject *lease_release(PyObject *object, PyObject *unused)
{
    (void)unused;
    return settle((struct lease *)object, NULL, 0);
}

static PyObject *lease_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    Py_INCREF(object);
    return object;
}

static PyObject *lease_exit(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    (void)args;
    (void)count;
    end_quietly((struct lease *)object);
    Py_RETURN_NONE;
}

static PyObject *lease_text(PyObject *object, void *unused)
{
    (void)unused;
    char text[QL_LEASE_TEXT_MAX];
    ql_lease_format(((struct lease *)object)->lease, text);
    return PyUnicode_FromString(text);
}

static PyObject *lease_subject(PyObject *object, void *unused)
{
    (void)unused;
    PyObject *subject = ((struct lease *)object)->subject;
    Py_INCREF(subject);
    return subject;
}

static PyMethodDef methods[] = {
    {"settle", (PyCFunction)(void (*)(void))lease_settle, METH_FASTCALL | METH_KEYWORDS,
     "settle($self, charges=None)\n--\n\nCharges a dict of meter to amount and gives the slot "
     "back, as one step,\nonce. True: it was late, the lease had ended before."},
    {"release", lease_release, METH_NOARGS, "release($self)\n--\n\nSettle with no charge."},
    {"__enter__", lease_enter, METH_NOARGS, "__enter__($self)\n--\n\nThe lease."},
    {"__exit__", (PyCFunction)(void (*)(void))lease_exit, METH_FASTCALL,
     "__exit__($self, kind, error, traceback, /)\n--\n\nGives the slot back."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"text", lease_text, NULL, "The lease as text, as revoke() takes it.", NULL},
    {"subject", lease_subject, NULL, "The subject that it was taken for.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, lease_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_doc, "A slot that is held. Any thread may settle it; dropping it releases it."},
    {0, NULL},
};

PyType_Spec lease_spec = {
    .name = "quotalite._quotalite.Lease",
    .basicsize = sizeof(struct lease),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};
