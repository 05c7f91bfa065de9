/* SPDX-License-Identifier: Apache-2.0
 *
 * In which day a store works: a rule that makes new words of the words that all
 * its processes share and of one reading of the clocks. Clocks do not refill
 * budgets:
 *
 * ahead   Calendar time runs as CLOCK_BOOTTIME does, which nobody sets and which
 *         goes on in a suspend: the words know the offset. A reading that is more
 *         than a minute ahead of it is a leap, and moves nothing before leaps
 *         have been seen for a minute of CLOCK_BOOTTIME and nothing else.
 * back    The offset follows at once. The day stays where the reading is at most
 *         an hour before it began; where it is further back the earlier day is
 *         opened again, if there is a ledger that knows what it had.
 *
 * A store with an injected clock has no offset: each reading ahead is believed.
 */
#ifndef QLI_RULES_TIMELINE_H
#define QLI_RULES_TIMELINE_H

#include <stdbool.h>
#include <stdint.h>

/* A reading so long before the day still is of it. */
#define QLI_TIMELINE_BACK_SECONDS 3600

/* As the words of the same names in the store page (engine/layout.h). */
struct qli_timeline {
    uint64_t day;
    uint64_t ask_until;
    uint64_t clock_offset_ns;
    uint64_t leap_since_ns;
};

struct qli_reading {
    int64_t calendar_ns; /* >= 0 */
    int64_t boot_ns; /* CLOCK_BOOTTIME at the same moment; not looked at if leaps are believed */
    bool believes_leaps; /* the clock is an injected one */
    bool steps_back;     /* there is a ledger, of which an earlier day can be asked */
};

/* day is afterwards one that a clock can name, whatever it was. */
void qli_timeline_follow(struct qli_timeline *words, const struct qli_reading *reading);

#endif
