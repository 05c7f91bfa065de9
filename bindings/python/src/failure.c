/* SPDX-License-Identifier: Apache-2.0
 *
 * Turns answers into exceptions. None of it is on the way of a success.
 */
#include "binding.h"

/* Raises the exception that a function of quotalite._support made. */
static PyObject *raise_made(PyObject *exception)
{
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return NULL;
}

PyObject *failure_raise_text(enum ql_status status, const char *text)
{
    return raise_made(
        PyObject_CallMethod(quotalite.support, "failure", "ss", ql_status_name(status), text));
}

PyObject *failure_raise(enum ql_status status)
{
    return raise_made(PyObject_CallMethod(quotalite.support, "failure_with_hint", "ss",
                                          ql_status_name(status), ql_status_text(status)));
}

PyObject *failure_refused(const struct ql_verdict *verdict)
{
    PyObject *limits = store_limit_states(verdict->limits, verdict->limit_count);
    if (limits == NULL)
        return NULL;
    return raise_made(PyObject_CallMethod(quotalite.support, "refusal", "sLLLIN", verdict->kind,
                                          (long long)verdict->current, (long long)verdict->limit,
                                          (long long)verdict->retry_after_seconds,
                                          (unsigned int)verdict->level, limits));
}

PyObject *failure_no_store(void)
{
    PyErr_SetString(PyExc_RuntimeError, "the tracker has no store: call its __init__ first");
    return NULL;
}

void failure_report(const char *function, const char *detail, int64_t amount)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *done =
        PyObject_CallMethod(quotalite.support, function, "sL", detail, (long long)amount);
    if (done == NULL)
        PyErr_WriteUnraisable(quotalite.support);
    Py_XDECREF(done);
    PyErr_Restore(type, value, traceback);
}
