/* SPDX-License-Identifier: Apache-2.0 */
#include "rules/window.h"

#define DAY_NS (QLI_SECONDS_PER_DAY * QLI_NS_PER_SECOND)

int64_t qli_window_end(int64_t day)
{
    const int64_t last = INT64_MAX / DAY_NS; /* that a calendar_ns can name; beyond it is damage */
    return ((day < last ? day : last) + 1) * QLI_SECONDS_PER_DAY;
}

int64_t qli_window_seconds_left(int64_t day, int64_t calendar_ns)
{
    int64_t begun_seconds =
        calendar_ns / QLI_NS_PER_SECOND + (calendar_ns % QLI_NS_PER_SECOND != 0);
    int64_t left_seconds = qli_window_end(day) - begun_seconds;
    return left_seconds > 0 ? left_seconds : 0;
}
