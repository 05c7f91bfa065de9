/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine's clocks. Calendar time is coarse (a kernel tick, 1 to 4 ms,
 * behind the fine clock): a call reads it each time and needs days, not
 * nanoseconds.
 */
#ifndef QLI_BASE_CLOCK_H
#define QLI_BASE_CLOCK_H

#include <stdint.h>

#define QLI_NS_PER_SECOND INT64_C(1000000000)
#define QLI_NS_PER_MS INT64_C(1000000)

/* Nanoseconds since the Unix epoch. */
int64_t qli_clock_calendar_ns(void);

/* Nanoseconds since boot, suspend included; the same in every time namespace. */
int64_t qli_clock_boot_ns(void);

#endif
