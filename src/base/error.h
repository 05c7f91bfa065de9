/* SPDX-License-Identifier: Apache-2.0
 *
 * Fills the struct ql_error of an open or verify. Only paths that a person
 * reads use it; the hot path has codes alone.
 */
#ifndef QLI_BASE_ERROR_H
#define QLI_BASE_ERROR_H

#include "quotalite.h"

/* Writes status, errno and text into *error (which may be NULL), returns status. */
enum ql_status qli_error(struct ql_error *error, enum ql_status status, int system_errno,
                         const char *format, ...) __attribute__((format(printf, 4, 5)));

#endif
