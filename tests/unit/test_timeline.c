/* SPDX-License-Identifier: Apache-2.0
 *
 * The rule of the store's day, as data: what the clocks read, one after the
 * other, and the day that the store is in then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "rules/timeline.h"
#include "rules/window.h"

#define D INT64_C(86400)
#define HOUR INT64_C(3600)
#define DAY_ZERO INT64_C(20000)
#define BOOT_SECONDS (INT64_C(100) * D) /* since boot, at the start of day zero */
#define NONE (-DAY_ZERO)
#define STEPS_MAX 12

/* Seconds since the start of day zero, as CLOCK_BOOTTIME has them; what calendar
 * time shows more than that; and the day and ask_until that follow, as days since
 * day zero. */
struct step {
    int64_t at;
    int64_t skew;
    int64_t day;
    int64_t ask_until;
};

enum kind { SYSTEM, SYSTEM_LEDGER, INJECTED, INJECTED_LEDGER };

struct row {
    const char *name;
    enum kind kind;
    struct step steps[STEPS_MAX]; /* to the first that is all zero */
};

static const struct row rows[] = {
    {"the first reading is the day", SYSTEM, {{5 * D + 1, 0, 5, NONE}}},
    {"midnight", SYSTEM, {{-D, 0, -1, NONE}, {-1, 0, -1, NONE}, {0, 0, 0, NONE}, {1, 0, 0, NONE}}},
    {"a second ahead at midnight",
     SYSTEM,
     {{-9, 0, -1, NONE}, {-2, 1, -1, NONE}, {-1, 1, 0, NONE}, {-1, 0, 0, NONE}, {1, 0, 0, NONE}}},
    {"a second behind at midnight",
     SYSTEM_LEDGER,
     {{-9, 0, -1, NONE}, {0, -1, -1, NONE}, {1, 0, 0, NONE}, {0, -1, 0, NONE}, {2, 0, 0, NONE}}},
    {"59 s ahead is no leap", SYSTEM, {{-900, 0, -1, NONE}, {-30, 59, 0, NONE}, {-29, 0, 0, NONE}}},
    {"60 s ahead is none either", SYSTEM, {{-900, 0, -1, NONE}, {-30, 60, 0, NONE}}},
    {"61 s ahead is a leap",
     SYSTEM,
     {{-900, 0, -1, NONE}, {-30, 61, -1, NONE}, {-1, 0, -1, NONE}, {1, 0, 0, NONE}}},
    {"59 s behind is of the day", SYSTEM_LEDGER, {{0, 0, 0, NONE}, {9, -59, 0, NONE}}},
    {"61 s behind is a step, and of the day",
     SYSTEM_LEDGER,
     {{1, 0, 0, NONE}, {9, -61, 0, NONE}, {70, -61, 0, NONE}}},
    {"an hour before the day is of it",
     SYSTEM_LEDGER,
     {{1, 0, 0, NONE}, {9, -HOUR - 9, 0, NONE}, {10, -HOUR - 11, -1, 0}, {11, -HOUR - 10, -1, 0}}},
    {"a leap of a day that lasts",
     SYSTEM,
     {{100, 0, 0, NONE}, {200, D, 0, NONE}, {259, D, 0, NONE}, {260, D, 1, NONE}, {D, D, 2, NONE}}},
    {"a leap of a day that ends after 59 s",
     SYSTEM,
     {{100, 0, 0, NONE}, {200, D, 0, NONE}, {259, D, 0, NONE}, {260, 0, 0, NONE}, {D, 0, 1, NONE}}},
    {"a leap that a reading interrupts lasts from then",
     SYSTEM,
     {{100, 0, 0, NONE},
      {200, D, 0, NONE},
      {255, 0, 0, NONE},
      {260, D, 0, NONE},
      {319, D, 0, NONE},
      {320, D, 1, NONE}}},
    {"leaps that differ last together",
     SYSTEM,
     {{100, 0, 0, NONE}, {200, D, 0, NONE}, {230, 9 * D, 0, NONE}, {260, 2 * D, 2, NONE}}},
    {"a leap within the day moves its end when it has lasted",
     SYSTEM,
     {{D / 2, 0, 0, NONE},
      {D / 2 + 10, 2 * HOUR, 0, NONE},
      {D / 2 + 70, 2 * HOUR, 0, NONE},
      {D - 2 * HOUR, 2 * HOUR, 1, NONE}}},
    {"a leap over midnight waits, an old clock does not",
     SYSTEM,
     {{-300, 0, -1, NONE}, {-20, 120, -1, NONE}, {-10, 120, -1, NONE}, {0, 0, 0, NONE}}},
    {"a day back and forward again",
     SYSTEM_LEDGER,
     {{100, 0, 0, NONE},
      {110, -D, -1, 0},
      {120, 0, -1, 0},
      {179, 0, -1, 0},
      {180, 0, 0, 0},
      {D, 0, 1, 0}}},
    {"back twice: asked up to the latest day",
     SYSTEM_LEDGER,
     {{100, 0, 0, NONE},
      {110, -D, -1, 0},
      {120, -5 * D, -5, 0},
      {130 + 4 * D, -5 * D, -1, 0},
      {140 + 4 * D, -9 * D, -5, 0}}},
    {"a day back without a ledger keeps the day",
     SYSTEM,
     {{100, 0, 0, NONE}, {110, -D, 0, NONE}, {D + 99, -D, 0, NONE}, {2 * D, -D, 1, NONE}}},
    {"a suspend is no leap", SYSTEM, {{100, 0, 0, NONE}, {3 * D + 100, 0, 3, NONE}}},
    {"2038", SYSTEM, {{4855 * D, 0, 4855, NONE}, {4855 * D + 11648, 0, 4855, NONE}}},
    {"a boot without a clock, so with an offset of 0",
     SYSTEM,
     {{10, -19900 * D, -19900, NONE},
      {20, 0, -19900, NONE},
      {79, 0, -19900, NONE},
      {80, 0, 0, NONE}}},
    {"an injected clock leaps",
     INJECTED,
     {{100, 0, 0, NONE}, {100, D, 1, NONE}, {100, 90 * D, 90, NONE}, {100, 0, 90, NONE}}},
    {"an injected clock steps back",
     INJECTED_LEDGER,
     {{100, 0, 0, NONE}, {100, -100 - HOUR, 0, NONE}, {100, -101 - HOUR, -1, 0}, {100, 0, 0, 0}}},
};

static struct qli_reading read_step(const struct step *step, enum kind kind)
{
    return (struct qli_reading){
        .calendar_ns = (DAY_ZERO * D + step->at + step->skew) * QLI_NS_PER_SECOND,
        .boot_ns = (BOOT_SECONDS + step->at) * QLI_NS_PER_SECOND,
        .believes_leaps = kind == INJECTED || kind == INJECTED_LEDGER,
        .steps_back = kind == SYSTEM_LEDGER || kind == INJECTED_LEDGER,
    };
}

static bool is_last(const struct step *step)
{
    return step->at == 0 && step->skew == 0 && step->day == 0 && step->ask_until == 0;
}

static int count_wrong(const struct row *row)
{
    int wrong = 0;
    struct qli_timeline words = {0};
    for (size_t i = 0; i < STEPS_MAX && !is_last(&row->steps[i]); i++) {
        const struct step *step = &row->steps[i];
        struct qli_reading reading = read_step(step, row->kind);
        qli_timeline_follow(&words, &reading);
        if ((int64_t)words.day == DAY_ZERO + step->day &&
            (int64_t)words.ask_until == DAY_ZERO + step->ask_until)
            continue;
        print_error("%s, step %zu: day %+lld, ask until %+lld\n", row->name, i,
                    (long long)((int64_t)words.day - DAY_ZERO),
                    (long long)((int64_t)words.ask_until - DAY_ZERO));
        wrong++;
    }
    return wrong;
}

static void the_day_follows_the_table(void **state)
{
    (void)state;
    int wrong = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        wrong += count_wrong(&rows[i]);
    assert_int_equal(wrong, 0);
}

/* The words of a store that has worked in day zero since its start. */
static struct qli_timeline in_day_zero(void)
{
    struct qli_timeline words = {0};
    struct qli_reading reading = read_step(&(struct step){.at = 0}, SYSTEM_LEDGER);
    qli_timeline_follow(&words, &reading);
    return words;
}

static uint64_t day_after(struct qli_timeline words, int64_t at_ns, int64_t skew_ns)
{
    struct qli_reading reading = read_step(&(struct step){.at = 0}, SYSTEM_LEDGER);
    reading.boot_ns += at_ns;
    reading.calendar_ns += at_ns + skew_ns;
    qli_timeline_follow(&words, &reading);
    return words.day;
}

static void limits_are_met_to_the_nanosecond(void **state)
{
    (void)state;
    const int64_t minute_ns = 60 * QLI_NS_PER_SECOND;
    const int64_t evening_ns = (D - 30) * QLI_NS_PER_SECOND;
    struct qli_timeline words = in_day_zero();
    assert_int_equal(day_after(words, D * QLI_NS_PER_SECOND - 1, 0), DAY_ZERO);
    assert_int_equal(day_after(words, D * QLI_NS_PER_SECOND, 0), DAY_ZERO + 1);
    assert_int_equal(day_after(words, evening_ns, minute_ns), DAY_ZERO + 1);
    assert_int_equal(day_after(words, evening_ns, minute_ns + 1), DAY_ZERO);
    assert_int_equal(day_after(words, 0, -HOUR * QLI_NS_PER_SECOND), DAY_ZERO);
    assert_int_equal(day_after(words, 0, -HOUR * QLI_NS_PER_SECOND - 1), DAY_ZERO - 1);
    words.leap_since_ns = (uint64_t)(BOOT_SECONDS * QLI_NS_PER_SECOND);
    assert_int_equal(day_after(words, minute_ns - 1, D * QLI_NS_PER_SECOND), DAY_ZERO);
    assert_int_equal(day_after(words, minute_ns, D * QLI_NS_PER_SECOND), DAY_ZERO + 1);
}

/* A clock that is slewed all the time stays believed; small changes store nothing. */
static void a_slewed_clock_is_followed(void **state)
{
    (void)state;
    struct qli_timeline words = in_day_zero();
    struct qli_timeline first = words;
    struct qli_reading reading = read_step(&(struct step){.at = 1}, SYSTEM);
    reading.calendar_ns += QLI_NS_PER_SECOND;
    qli_timeline_follow(&words, &reading);
    assert_memory_equal(&words, &first, sizeof words);
    for (int64_t i = 1; i <= 30; i++) {
        const struct step step = {.at = i * HOUR, .skew = i * 30};
        reading = read_step(&step, SYSTEM);
        qli_timeline_follow(&words, &reading);
        assert_int_equal(words.day, DAY_ZERO + (step.at + step.skew) / D);
        assert_int_equal(words.leap_since_ns, 0);
    }
}

/* Of two readers that contradict each other all the time the one ahead is not believed. */
static void flapping_readers_move_nothing(void **state)
{
    (void)state;
    struct qli_timeline words = in_day_zero();
    for (int64_t at = 0; at < 3600; at++) {
        const struct step step = {.at = at, .skew = at % 2 * D};
        struct qli_reading reading = read_step(&step, SYSTEM_LEDGER);
        qli_timeline_follow(&words, &reading);
        assert_int_equal(words.day, DAY_ZERO);
        assert_int_equal(words.ask_until, 0);
    }
}

static void a_leap_seen_in_the_future_is_seen_now(void **state)
{
    (void)state;
    struct qli_timeline words = in_day_zero();
    words.leap_since_ns = UINT64_MAX;
    for (int64_t at = 0; at <= 60; at += 30) {
        const struct step step = {.at = at, .skew = D};
        struct qli_reading reading = read_step(&step, SYSTEM);
        qli_timeline_follow(&words, &reading);
        assert_int_equal(words.day, DAY_ZERO + at / 60);
    }
}

/* Words of any value: the first reading makes a day of them, those of another
 * minute and an hour the right one. */
static void any_words_are_put_right(void **state)
{
    (void)state;
    const unsigned seed = 20381;
    printf("seed %u\n", seed);
    srandom(seed);
    for (int i = 0; i < 20000; i++) {
        uint64_t word[4];
        for (size_t w = 0; w < 4; w++)
            word[w] = (uint64_t)random() << 33 ^ (uint64_t)random() << 11 ^ (uint64_t)random();
        struct qli_timeline words = {word[0] >> random() % 64, word[1] >> random() % 64,
                                     word[2] >> random() % 64, word[3] >> random() % 64};
        for (int64_t at = 100; at < 2 * HOUR; at += 60) {
            struct qli_reading reading = read_step(&(struct step){.at = at}, SYSTEM_LEDGER);
            qli_timeline_follow(&words, &reading);
            assert_true(words.day <= (uint64_t)qli_window_day(INT64_MAX));
        }
        assert_int_equal(words.day, DAY_ZERO);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_day_follows_the_table),
        cmocka_unit_test(limits_are_met_to_the_nanosecond),
        cmocka_unit_test(a_slewed_clock_is_followed),
        cmocka_unit_test(flapping_readers_move_nothing),
        cmocka_unit_test(a_leap_seen_in_the_future_is_seen_now),
        cmocka_unit_test(any_words_are_put_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
