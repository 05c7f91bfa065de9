/* SPDX-License-Identifier: Apache-2.0 */
#include "rules/limit.h"

#include <string.h>

#include "base/error.h"
#include "rules/name.h"

static const char *limit_fault(const struct ql_limit *limit)
{
    if (!qli_name_valid(limit->name))
        return "its name is not 1 to 31 of a-z, 0-9, '_', '-', '.'";
    if (limit->cap < 0)
        return "its cap is negative; 0 refuses everything";
    if (limit->window == QL_WINDOW_NONE)
        return limit->meter != NULL ? "a concurrent limit has no meter" : NULL;
    if (limit->window != QL_WINDOW_DAY)
        return "its window is neither QL_WINDOW_NONE nor QL_WINDOW_DAY";
    if (!qli_name_valid(limit->meter))
        return "its meter's name is not 1 to 31 of a-z, 0-9, '_', '-', '.'";
    return NULL;
}

static const char *pair_fault(const struct ql_limit *a, const struct ql_limit *b)
{
    if (strcmp(a->name, b->name) == 0)
        return "the name stands twice";
    if (a->window == QL_WINDOW_NONE && b->window == QL_WINDOW_NONE)
        return "there is a concurrent limit already";
    return NULL;
}

enum ql_status qli_limit_validate(const struct ql_limit *limits, size_t count,
                                  struct ql_error *error)
{
    if (count > QL_LIMITS_MAX)
        return qli_error(error, QL_E_INVALID, 0, "%zu limits are too many; a store has up to %d",
                         count, QL_LIMITS_MAX);
    if (count > 0 && limits == NULL)
        return qli_error(error, QL_E_INVALID, 0, "limit_count is %zu but limits is NULL", count);
    for (size_t i = 0; i < count; i++) {
        const char *fault = limit_fault(&limits[i]);
        for (size_t j = 0; fault == NULL && j < i; j++)
            fault = pair_fault(&limits[j], &limits[i]);
        if (fault != NULL)
            return qli_error(error, QL_E_INVALID, 0, "limit %zu (%.31s): %s", i + 1,
                             limits[i].name != NULL ? limits[i].name : "NULL", fault);
    }
    return QL_OK;
}

struct ql_limit_state qli_limit_state(const struct ql_limit *limit, int64_t used, int64_t resets_at)
{
    return (struct ql_limit_state){
        .name = limit->name,
        .meter = limit->meter,
        .window = limit->window,
        .cap = limit->cap,
        .used = used,
        .remaining = used < limit->cap ? limit->cap - used : 0,
        .resets_at = resets_at,
    };
}
