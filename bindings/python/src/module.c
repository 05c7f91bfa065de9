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
     "segment(id)\n\nThe id as one segment of a subject: '%' and '/' become %25 and %2F."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "quotalite._quotalite",
    .m_doc = "The library behind the package quotalite.",
    .m_size = -1,
    .m_methods = functions,
};

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) != 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

static bool add_types(PyObject *module)
{
    return (quotalite.store_type = add_type(module, &store_spec)) != NULL &&
           (quotalite.lease_type = add_type(module, &lease_spec)) != NULL &&
           (quotalite.tracker_type = add_type(module, &tracker_spec)) != NULL &&
           (quotalite.slot_type = add_type(module, &slot_spec)) != NULL;
}

static bool make_done(void)
{
    PyObject *type = PyType_FromSpec(&done_spec);
    if (type != NULL)
        quotalite.done = PyObject_CallObject(type, NULL);
    Py_XDECREF(type);
    return quotalite.done != NULL;
}

PyMODINIT_FUNC PyInit__quotalite(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    quotalite.support = PyImport_ImportModule("quotalite._support");
    if (quotalite.support == NULL || !add_types(module) || !make_done() ||
        PyModule_AddStringConstant(module, "__version__", ql_version()) != 0)
        Py_CLEAR(module);
    return module;
}
