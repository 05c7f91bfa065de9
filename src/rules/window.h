/* SPDX-License-Identifier: Apache-2.0
 *
 * Calendar windows, as numbers: a window is the count of windows since the
 * Unix epoch, so that the one before is one less. UTC has no daylight saving
 * and Unix time no leap seconds: a day is 86,400 s.
 */
#ifndef QLI_RULES_WINDOW_H
#define QLI_RULES_WINDOW_H

#include <stdint.h>

#include "base/clock.h"

#define QLI_SECONDS_PER_DAY INT64_C(86400)

/* The day of a time >= 0. */
static inline int64_t qli_window_day(int64_t calendar_ns)
{
    return calendar_ns / (QLI_SECONDS_PER_DAY * QLI_NS_PER_SECOND);
}

/* Unix seconds at which the day is over. */
int64_t qli_window_end(int64_t day);

/* Whole seconds from the time to the end of the day, truncated; 0 if it is over. */
int64_t qli_window_seconds_left(int64_t day, int64_t calendar_ns);

#endif
