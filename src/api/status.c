/* SPDX-License-Identifier: Apache-2.0 */
#include "quotalite.h"

#define STRING(x) #x
#define EXPANDED(x) STRING(x)

const char *ql_status_name(enum ql_status status)
{
    switch (status) {
#define NAME_CASE(name, value, text)                                                               \
    case name:                                                                                     \
        return #name;
        QL_STATUS_TABLE(NAME_CASE)
#undef NAME_CASE
    }
    return "QL_E_UNKNOWN";
}

const char *ql_status_text(enum ql_status status)
{
    switch (status) {
#define TEXT_CASE(name, value, text)                                                               \
    case name:                                                                                     \
        return text;
        QL_STATUS_TABLE(TEXT_CASE)
#undef TEXT_CASE
    }
    return "no code of quotalite";
}

const char *ql_version(void)
{
    return EXPANDED(QL_VERSION_MAJOR) "." EXPANDED(QL_VERSION_MINOR) "." EXPANDED(QL_VERSION_PATCH);
}
