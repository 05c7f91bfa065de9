/* SPDX-License-Identifier: Apache-2.0
 *
 * The methods of Store that read and report, apart from those that take.
 */
#ifndef QUOTALITE_REPORT_H
#define QUOTALITE_REPORT_H

#include "binding.h"

PyObject *store_usage(PyObject *self, PyObject *subject);
PyObject *store_limits(PyObject *self, PyObject *unused);
PyObject *store_subjects(PyObject *self, PyObject *unused);
PyObject *store_leases(PyObject *self, PyObject *unused);
PyObject *store_history(PyObject *self, PyObject *const *args, Py_ssize_t count,
                        PyObject *keywords);
PyObject *store_verify(PyObject *self, PyObject *unused);

#endif
