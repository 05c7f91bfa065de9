/* SPDX-License-Identifier: Apache-2.0 */
#include "rules/window.h"

int64_t qli_window_end(int64_t day)
{
    return (day + 1) * QLI_SECONDS_PER_DAY;
}

int64_t qli_window_seconds_left(int64_t day, int64_t calendar_ns)
{
    int64_t left_ns = qli_window_end(day) * QLI_NS_PER_SECOND - calendar_ns;
    return left_ns > 0 ? left_ns / QLI_NS_PER_SECOND : 0;
}
