/* SPDX-License-Identifier: Apache-2.0
 *
 * Puts the extension quotalite._quotalite together.
 */
#include "binding.h"

struct quotalite quotalite;

static PyObject *segment(PyObject *module, PyObject *user)
{
    (void)module;
    const char *text;
    return argument_segment(user, &text);
}

static PyMethodDef functions[] = {
    {"segment", segment, METH_O,
     "segment($module, id, /)\n--\n\nThe id as one segment of a subject: '%' and '/' become %25 "
     "and %2F."},
    {NULL, NULL, 0, NULL},
};

static bool make_type(PyTypeObject **type, PyType_Spec *spec)
{
    if (*type == NULL)
        *type = (PyTypeObject *)PyType_FromSpec(spec);
    return *type != NULL;
}

static bool make_done(void)
{
    PyTypeObject *type = NULL;
    if (quotalite.done == NULL && make_type(&type, &done_spec))
        quotalite.done = PyObject_CallObject((PyObject *)type, NULL);
    Py_XDECREF((PyObject *)type);
    return quotalite.done != NULL;
}

/* An import that comes again, after the module was taken out of sys.modules,
 * finds the types that there are, and from then on they raise the exceptions
 * of the quotalite._support that it has imported. */
static bool make_all(void)
{
    PyObject *former = quotalite.support;
    PyObject *support = PyImport_ImportModule("quotalite._support");
    if (support == NULL)
        return false;
    quotalite.support = support;
    Py_XDECREF(former);
    return make_type(&quotalite.store_type, &store_spec) &&
           make_type(&quotalite.lease_type, &lease_spec) &&
           make_type(&quotalite.tracker_type, &tracker_spec) &&
           make_type(&quotalite.slot_type, &slot_spec) && make_done();
}

/* What is global belongs to the interpreter that comes first. Interpreters may
 * have a GIL each, hence the exchange. */
static bool claim(void)
{
    static int64_t owner = -1;
    int64_t nobody = -1;
    int64_t self = PyInterpreterState_GetID(PyInterpreterState_Get());
    if (__atomic_compare_exchange_n(&owner, &nobody, self, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST) ||
        nobody == self)
        return true;
    PyErr_SetString(PyExc_ImportError,
                    "quotalite works in one interpreter of a process, and another one has it: "
                    "import it in the main interpreter only (with mod_wsgi: "
                    "WSGIApplicationGroup %{GLOBAL})");
    return false;
}

static int execute(PyObject *module)
{
    if (!claim() || !make_all())
        return -1;
    if (PyModule_AddType(module, quotalite.store_type) != 0 ||
        PyModule_AddType(module, quotalite.lease_type) != 0 ||
        PyModule_AddType(module, quotalite.tracker_type) != 0 ||
        PyModule_AddType(module, quotalite.slot_type) != 0)
        return -1;
    return PyModule_AddStringConstant(module, "__version__", ql_version());
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "quotalite._quotalite",
    .m_doc = "The library behind the package quotalite.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__quotalite(void)
{
    return PyModuleDef_Init(&definition);
}
