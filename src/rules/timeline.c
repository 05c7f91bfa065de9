/* SPDX-License-Identifier: Apache-2.0
 *
 * Words of a damaged region may be anything: sums wrap, a day that no clock can
 * name is none, and a wrong offset is put right as a step is.
 */
#include "rules/timeline.h"

#include "rules/window.h"

#define LEAP_NS (60 * QLI_NS_PER_SECOND)    /* a reading that is further ahead is a leap */
#define LASTING_NS (60 * QLI_NS_PER_SECOND) /* leaps that are seen for so long are the time */
#define REFRESH_NS QLI_NS_PER_SECOND        /* less than this is not worth a store that all share */

/* Whether leaps have lasted; notes the first. One that was seen in the future is damage. */
static bool leaps_have_lasted(struct qli_timeline *words, uint64_t boot_ns)
{
    if (words->leap_since_ns == 0 || words->leap_since_ns > boot_ns)
        words->leap_since_ns = boot_ns;
    return boot_ns - words->leap_since_ns >= LASTING_NS;
}

/* Whether the reading is the time. If it is, the offset is its own. */
static bool believe(struct qli_timeline *words, const struct qli_reading *reading)
{
    uint64_t boot_ns = (uint64_t)reading->boot_ns;
    uint64_t offset_ns = (uint64_t)reading->calendar_ns - boot_ns;
    int64_t ahead_ns = (int64_t)(offset_ns - words->clock_offset_ns);
    bool known = words->clock_offset_ns != 0;
    if (known && ahead_ns > LEAP_NS && !leaps_have_lasted(words, boot_ns))
        return false;
    if (!known || ahead_ns > REFRESH_NS || ahead_ns < -REFRESH_NS)
        words->clock_offset_ns = offset_ns != 0 ? offset_ns : 1; /* 0 would be none */
    words->leap_since_ns = 0;
    return true;
}

static bool far_before(uint64_t day, int64_t calendar_ns)
{
    return calendar_ns / QLI_NS_PER_SECOND <
           qli_window_end((int64_t)day - 1) - QLI_TIMELINE_BACK_SECONDS;
}

static void move_day(struct qli_timeline *words, const struct qli_reading *reading, uint64_t day)
{
    if (day > words->day) {
        words->day = day;
    } else if (day < words->day && reading->steps_back &&
               far_before(words->day, reading->calendar_ns)) {
        if (words->ask_until < words->day)
            words->ask_until = words->day;
        words->day = day;
    }
}

void qli_timeline_follow(struct qli_timeline *words, const struct qli_reading *reading)
{
    uint64_t day = (uint64_t)qli_window_day(reading->calendar_ns);
    bool believed = reading->believes_leaps || believe(words, reading);
    if (words->day == 0 || words->day > (uint64_t)qli_window_day(INT64_MAX))
        words->day = day;
    else if (believed)
        move_day(words, reading, day);
}
