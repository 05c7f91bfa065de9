/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads arguments: names, user ids, amounts.
 */
#include "binding.h"

#include <string.h>

static int find_name(const char *const *names, PyObject *keyword)
{
    for (int i = 0; names[i] != NULL; i++)
        if (PyUnicode_CompareWithASCIIString(keyword, names[i]) == 0)
            return i;
    return -1;
}

static bool take_keywords(const char *function, const char *const *names, PyObject *const *values,
                          PyObject *keywords, PyObject **out)
{
    Py_ssize_t count = PyTuple_Size(keywords);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *keyword = PyTuple_GetItem(keywords, i);
        int at = find_name(names, keyword);
        if (at < 0) {
            PyErr_Format(PyExc_TypeError, "%s() has no argument '%U'", function, keyword);
            return false;
        }
        if (out[at] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got '%U' twice", function, keyword);
            return false;
        }
        out[at] = values[i];
    }
    return true;
}

bool argument_parse_slowly(const char *function, const char *const *names, int required,
                           PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                           PyObject **out)
{
    int most = 0;
    for (; names[most] != NULL; most++)
        out[most] = most < count ? args[most] : NULL;
    if (count > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes %d arguments, not %zd", function, most, count);
        return false;
    }
    if (keywords != NULL && !take_keywords(function, names, args + count, keywords, out))
        return false;
    for (int i = 0; i < required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() needs the argument '%s'", function, names[i]);
            return false;
        }
    }
    return true;
}

/* Says what to do about an object that has no UTF-8. */
static __attribute__((cold)) void explain(PyObject *text, const char *what)
{
    if (!PyUnicode_Check(text)) {
        PyErr_Format(PyExc_TypeError, "%s must be a str, not %R", what, (PyObject *)Py_TYPE(text));
    } else if (PyErr_ExceptionMatches(PyExc_UnicodeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError,
                     "%s has a lone surrogate, which is no text: decode it properly first", what);
    }
}

/* The bytes of a str, or NULL with an exception. */
static const char *utf8(PyObject *text, const char *what, Py_ssize_t *length)
{
    const char *bytes = PyUnicode_AsUTF8AndSize(text, length);
    if (bytes == NULL)
        explain(text, what);
    return bytes;
}

#define EIGHT(byte) (0x0101010101010101u * (byte))

/* Not 0 if any of the eight bytes is 0; the same for any of them below n, which
 * is at most 128. */
static uint64_t any_below(uint64_t word, uint64_t n)
{
    return (word - EIGHT(n)) & ~word & EIGHT(0x80);
}

/* Not 0 if any of the eight bytes is more than a printable ASCII character that
 * stands for itself. */
static uint64_t any_special(uint64_t word)
{
    uint64_t delete_or_wide = ((word + EIGHT(1)) | word) & EIGHT(0x80);
    return delete_or_wide | any_below(word, 0x20) | any_below(word ^ EIGHT('%'), 1) |
           any_below(word ^ EIGHT('/'), 1);
}

static uint64_t eight_at(const char *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* Eight bytes at a time, since every call looks at its user. false may also
 * mean that this did not look. */
static bool is_plain(const char *bytes, size_t length)
{
    if (length < 8)
        return false;
    uint64_t found = any_special(eight_at(bytes + length - 8));
    for (size_t i = 0; i + 8 < length; i += 8)
        found |= any_special(eight_at(bytes + i));
    return found == 0;
}

enum { PLAIN = 0, ESCAPE = 1, CONTROL = 2 };

static int worst_byte(const unsigned char *bytes, Py_ssize_t length)
{
    int worst = PLAIN;
    for (Py_ssize_t i = 0; i < length; i++) {
        unsigned char byte = bytes[i];
        bool c1 = byte == 0xc2 && bytes[i + 1] < 0xa0; /* U+0080 to U+009F */
        if (byte < 0x20 || byte == 0x7f || c1)
            return CONTROL;
        if (byte == '%' || byte == '/')
            worst = ESCAPE;
    }
    return worst;
}

/* Writes at most QL_SUBJECT_MAX bytes; 0 if there are more. */
static size_t escape(const char *bytes, Py_ssize_t length, char *out)
{
    size_t n = 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        bool special = bytes[i] == '%' || bytes[i] == '/';
        if (n + (special ? 3 : 1) > QL_SUBJECT_MAX)
            return 0;
        if (special) {
            memcpy(out + n, bytes[i] == '%' ? "%25" : "%2F", 3);
            n += 3;
        } else {
            out[n++] = bytes[i];
        }
    }
    return n;
}

static PyObject *too_long(void)
{
    PyErr_Format(PyExc_ValueError,
                 "the user id is longer than %d bytes (UTF-8, '%%' and '/' count three): "
                 "use a shorter one, or a digest of it",
                 QL_SUBJECT_MAX);
    return NULL;
}

/* The same for an id with characters that is_plain does not pass. */
static __attribute__((noinline)) PyObject *segment_slowly(PyObject *user, const char **text,
                                                          Py_ssize_t length)
{
    if (length == 0) {
        PyErr_SetString(PyExc_ValueError, "the user id is empty: give the id of who is charged");
        return NULL;
    }
    switch (worst_byte((const unsigned char *)*text, length)) {
    case PLAIN:
        Py_INCREF(user);
        return user;
    case CONTROL:
        PyErr_SetString(PyExc_ValueError,
                        "the user id has a control character: strip or encode it first");
        return NULL;
    default:
        break;
    }
    char escaped[QL_SUBJECT_MAX];
    size_t size = escape(*text, length, escaped);
    if (size == 0)
        return too_long();
    PyObject *segment = PyUnicode_FromStringAndSize(escaped, (Py_ssize_t)size);
    if (segment == NULL)
        return NULL;
    *text = PyUnicode_AsUTF8AndSize(segment, &length);
    if (*text == NULL)
        Py_CLEAR(segment);
    return segment;
}

PyObject *argument_segment(PyObject *user, const char **text)
{
    Py_ssize_t length;
    *text = utf8(user, "the user id", &length);
    if (*text == NULL)
        return NULL;
    if (length > QL_SUBJECT_MAX)
        return too_long();
    if (!is_plain(*text, (size_t)length))
        return segment_slowly(user, text, length);
    Py_INCREF(user);
    return user;
}

const char *argument_subject(PyObject *subject)
{
    Py_ssize_t length;
    const char *bytes = utf8(subject, "the subject", &length);
    if (bytes != NULL && strlen(bytes) != (size_t)length) {
        PyErr_SetString(PyExc_ValueError, "the subject has a NUL character: strip it first");
        return NULL;
    }
    return bytes;
}

bool argument_amount(PyObject *amount, int64_t *value)
{
    int overflow;
    *value = PyLong_AsLongLongAndOverflow(amount, &overflow);
    if (*value >= 0)
        return true;
    if (*value == -1 && overflow == 0 && PyErr_Occurred())
        return false;
    *value = overflow > 0 ? INT64_MAX : -1;
    return true;
}
