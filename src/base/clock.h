/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine's clocks. Calendar time is coarse (a kernel tick, 1 to 4 ms,
 * behind the fine clock): a call reads it each time and needs days, not
 * nanoseconds.
 */
#ifndef QLI_BASE_CLOCK_H
#define QLI_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define QLI_NS_PER_SECOND INT64_C(1000000000)
#define QLI_NS_PER_MS INT64_C(1000000)

/* Nanoseconds, of a clock of clock_gettime(2). */
static inline int64_t qli_clock_read_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * QLI_NS_PER_SECOND + now.tv_nsec;
}

/* Nanoseconds since the Unix epoch. */
static inline int64_t qli_clock_calendar_ns(void)
{
    return qli_clock_read_ns(CLOCK_REALTIME_COARSE);
}

/* Sleeps for a millisecond, between two tries of something. false: it did not, as the
 * deadline (in nanoseconds since boot) is over. */
bool qli_clock_nap(int64_t deadline_ns);

/* Nanoseconds since boot, suspend included; the same in every time namespace. */
int64_t qli_clock_boot_ns(void);

#endif
