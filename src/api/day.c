/* SPDX-License-Identifier: Apache-2.0
 *
 * The store's day is moved here, by whoever reads the clock; the rule is in
 * rules/timeline.h. Its four words have no lock. Each is stored by itself, only
 * where it still is what the rule was given, else the rule begins anew; and each
 * is right as soon as it is stored. In this order, with what a death after it leaves:
 *
 *   ask_until        raised before the day steps back: a question too many
 *   clock_offset_ns  the next reading agrees with it and does the rest
 *   leap_since_ns    the same; or a leap that has begun, until a reading agrees
 *   day              nothing is left to do
 *
 * The words are loaded before the clock is read: a thread that was stopped in
 * between is not behind the day that it wants to move. One that is stopped after
 * that, until the words have come round to the same values, stores what was
 * right then; the next reading of anybody puts it right, and what was opened on
 * the way is asked of the ledger. Words of different moments may be loaded
 * together: a leap may be seen where none is (the next reading ends it), or the
 * day moved to one that has just been left, as by a call that came earlier.
 */
#include "api/day.h"

#include "base/clock.h"
#include "rules/timeline.h"

#define READING_NS_MAX QLI_NS_PER_SECOND /* from the first to the last clock of one reading */

/* The day first: who sees one that was opened again sees what was stored before it. */
static struct qli_timeline load_timeline(const struct qli_store_page *page)
{
    struct qli_timeline words;
    words.day = __atomic_load_n(&page->day, __ATOMIC_ACQUIRE);
    words.ask_until = __atomic_load_n(&page->ask_until, __ATOMIC_RELAXED);
    words.clock_offset_ns = __atomic_load_n(&page->clock_offset_ns, __ATOMIC_RELAXED);
    words.leap_since_ns = __atomic_load_n(&page->leap_since_ns, __ATOMIC_RELAXED);
    return words;
}

static bool replace_word(uint64_t *word, uint64_t old, uint64_t new)
{
    return old == new ||
           __atomic_compare_exchange_n(word, &old, new, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

/* Stores: what has changed, in the order of the file's head. False: another one
 * has changed a word meanwhile. */
static bool store_timeline(struct qli_store_page *page, const struct qli_timeline *old,
                           const struct qli_timeline *new)
{
    return replace_word(&page->ask_until, old->ask_until, new->ask_until) &&
           replace_word(&page->clock_offset_ns, old->clock_offset_ns, new->clock_offset_ns) &&
           replace_word(&page->leap_since_ns, old->leap_since_ns, new->leap_since_ns) &&
           replace_word(&page->day, old->day, new->day);
}

/* Both clocks at one moment: a thread that is stopped between them tries again. */
static void read_clocks(struct qli_reading *reading)
{
    int64_t begun_ns;
    do {
        begun_ns = qli_clock_boot_ns();
        reading->calendar_ns = qli_clock_calendar_ns();
        reading->boot_ns = qli_clock_boot_ns();
    } while (reading->boot_ns - begun_ns > READING_NS_MAX);
}

enum ql_status qli_day_follow_clock(struct qli_store *store, int64_t *now_ns, int64_t *day)
{
    const struct qli_engine *engine = &store->engine;
    struct qli_timeline old;
    struct qli_timeline new;
    struct qli_reading reading = {
        .calendar_ns = *now_ns,
        .believes_leaps = store->injected_clock,
        .steps_back = qli_engine_has_ledger(engine),
    };
    do {
        old = load_timeline(engine->page);
        if (!store->injected_clock)
            read_clocks(&reading);
        if (reading.calendar_ns < 0)
            return QL_E_CLOCK;
        new = old;
        qli_timeline_follow(&new, &reading);
    } while (!store_timeline(engine->page, &old, &new));
    *now_ns = reading.calendar_ns;
    *day = (int64_t) new.day;
    return QL_OK;
}
