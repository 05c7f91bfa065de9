/* SPDX-License-Identifier: Apache-2.0
 *
 * Limits: which lists of them are valid, and the arithmetic of a verdict.
 */
#ifndef QLI_RULES_LIMIT_H
#define QLI_RULES_LIMIT_H

#include "quotalite.h"

/* QL_OK, or QL_E_INVALID with a text that names the limit at fault. */
enum ql_status qli_limit_validate(const struct ql_limit *limits, size_t count,
                                  struct ql_error *error);

/* a + b for amounts >= 0, at most 2^63-1. */
static inline int64_t qli_limit_add(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

/* How one limit stands. A windowed one has resets_at > 0. */
struct ql_limit_state qli_limit_state(const struct ql_limit *limit, int64_t used,
                                      int64_t resets_at);

/* At the cap counts as over. */
static inline bool qli_limit_refuses(const struct ql_limit *limit, int64_t used)
{
    return used >= limit->cap;
}

#endif
