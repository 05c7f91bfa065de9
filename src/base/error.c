/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

enum ql_status qli_error(struct ql_error *error, enum ql_status status, int system_errno,
                         const char *format, ...)
{
    if (error == NULL)
        return status;
    error->status = status;
    error->system_errno = system_errno;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return status;
}
