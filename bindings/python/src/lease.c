/* SPDX-License-Identifier: Apache-2.0
 *
 * Lease: what Store.acquire and Store.admit give. Ends by settle or release,
 * at the end of a with block, or, if it is held, when the object is dropped. A
 * timed lease belongs to no process and so to no object: whoever has its text
 * may go on with it.
 */
#include "binding.h"

struct lease {
    PyObject_HEAD struct store *store;
    PyObject *subject; /* None if it was made from a text */
    struct ql_lease lease;
    bool owned; /* dropping the object gives the slot back */
    bool ended; /* settled, released, or being so */
};

static PyObject *make(struct store *store, struct ql_lease lease, PyObject *subject, bool owned)
{
    struct lease *self = PyObject_New(struct lease, quotalite.lease_type);
    if (self == NULL)
        return NULL;
    Py_INCREF((PyObject *)store);
    Py_INCREF(subject);
    self->store = store;
    self->subject = subject;
    self->lease = lease;
    self->owned = owned;
    self->ended = false;
    return (PyObject *)self;
}

/* Where there is no object there is nobody who knows a timed lease either. */
PyObject *lease_new(struct store *store, struct ql_lease lease, PyObject *subject, bool held)
{
    PyObject *self = make(store, lease, subject, held);
    if (self == NULL)
        store_release(store, lease);
    return self;
}

static bool parse(PyObject *text, struct ql_lease *lease)
{
    const char *bytes = argument_subject(text);
    return bytes != NULL && ql_lease_parse(bytes, lease) == QL_OK;
}

PyObject *lease_from_text(PyObject *store, PyObject *text)
{
    struct ql_lease lease;
    if (PyUnicode_Check(text) && parse(text, &lease))
        return make((struct store *)store, lease, Py_None, false);
    if (!PyErr_Occurred())
        PyErr_Format(PyUnicode_Check(text) ? PyExc_ValueError : PyExc_TypeError,
                     "%R is no lease's text: give what Lease.text or leases() gave", text);
    return NULL;
}

bool lease_value(PyObject *lease_or_text, struct ql_lease *lease)
{
    if (Py_TYPE(lease_or_text) == quotalite.lease_type) {
        *lease = ((struct lease *)lease_or_text)->lease;
        return true;
    }
    if (PyUnicode_Check(lease_or_text) && parse(lease_or_text, lease))
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
    if (self->owned)
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

/* Whether the lease is over for this object. After QL_E_BUSY it is not. */
static bool ends(enum ql_status status)
{
    return status >= QL_OK || status == QL_E_SETTLED || status == QL_E_EXPIRED ||
           status == QL_E_NOT_DURABLE;
}

static PyObject *settle_failed(enum ql_status status)
{
    if (status == QL_E_EXPIRED)
        return failure_raise_text(
            status, "the lease ended, and the store no longer knows whether it was settled; "
                    "nothing was charged now: unless it was settled, charge the subject with "
                    "Store.charge()");
    return failure_raise(status);
}

static PyObject *settle(struct lease *self, const struct ql_charge *charges, size_t count)
{
    if (!store_begin(self->store))
        return NULL;
    enum ql_status status = ql_settle(self->store->ql, self->lease, charges, count);
    if (ends(status))
        self->ended = true;
    store_end(self->store);
    if (status < QL_OK)
        return settle_failed(status);
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

static PyObject *lease_renew(PyObject *object, PyObject *unused)
{
    (void)unused;
    struct lease *self = (struct lease *)object;
    if (!store_begin(self->store))
        return NULL;
    enum ql_status status = ql_renew(self->store->ql, self->lease);
    store_end(self->store);
    switch (status) {
    case QL_OK:
        Py_RETURN_NONE;
    case QL_E_INVALID:
        return failure_raise_text(status, "a held lease has nothing to renew: take a timed one "
                                          "with admit(subject, ttl_ms=...)");
    case QL_E_EXPIRED:
        return failure_raise_text(status, "the lease is over and does not come back: stop the "
                                          "work, or admit it anew; settle() still charges what it "
                                          "cost");
    default:
        return failure_raise(status);
    }
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
     "back, as one step,\nonce. True: it was late, the lease had ended before. Error with status "
     "QL_E_NOT_DURABLE:\nit is done, and only not in the ledger yet; do not repeat it."},
    {"release", lease_release, METH_NOARGS, "release($self)\n--\n\nSettle with no charge."},
    {"renew", lease_renew, METH_NOARGS,
     "renew($self)\n--\n\nMoves a timed lease's deadline to its ttl_ms from now. Error with "
     "status\nQL_E_EXPIRED: it is over, and does not come back."},
    {"__enter__", lease_enter, METH_NOARGS, "__enter__($self)\n--\n\nThe lease."},
    {"__exit__", (PyCFunction)(void (*)(void))lease_exit, METH_FASTCALL,
     "__exit__($self, kind, error, traceback, /)\n--\n\nGives the slot back."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"text", lease_text, NULL, "The lease as text, as Store.lease() and revoke() take it.", NULL},
    {"subject", lease_subject, NULL,
     "The subject that it was taken for; None if it was made from a text.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, lease_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_doc, "A slot that is taken. Any thread may settle it; dropping it releases it, unless "
                "it is\ntimed or was made from a text."},
    {0, NULL},
};

PyType_Spec lease_spec = {
    .name = "quotalite._quotalite.Lease",
    .basicsize = sizeof(struct lease),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};
