/* SPDX-License-Identifier: Apache-2.0
 *
 * Clocks do not refill budgets: row 18 of the contract, on a store with the
 * system's clock. The two clocks that the library reads are replaced when this is
 * linked: time is what the test says it is, and calendar time is off by what the thread says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/handle.h"
#include "rules/timeline.h"
#include "stepper.h"

#define DAY INT64_C(86400)
#define HOUR INT64_C(3600)
#define SECOND_NS QLI_NS_PER_SECOND
#define START_DAY INT64_C(20000)
#define NOON (START_DAY * DAY + DAY / 2)
#define BOOT_AT (INT64_C(19000) * DAY)
#define DAWDLE_EVERY 64 /* readings: on a busy machine it takes milliseconds */

static int64_t now_ns; /* atomic */
static _Thread_local int64_t skew_ns;
static _Thread_local bool dawdles; /* gives way to others between the clocks, now and then */
static _Thread_local unsigned readings;
static int reads_until_stop; /* of the calendar; then the thread is stopped for two days */

int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __real_clock_gettime(clockid_t clock, struct timespec *now);

static int64_t read_calendar_ns(void)
{
    int64_t reading_ns = __atomic_load_n(&now_ns, __ATOMIC_RELAXED) + skew_ns;
    if (reads_until_stop > 0 && --reads_until_stop == 0)
        now_ns += 2 * DAY * SECOND_NS;
    if (dawdles && ++readings % DAWDLE_EVERY == 0)
        sched_yield();
    return reading_ns;
}

static int64_t read_boot_ns(void)
{
    return __atomic_load_n(&now_ns, __ATOMIC_RELAXED) - BOOT_AT * SECOND_NS;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    if (clock != CLOCK_REALTIME_COARSE && clock != CLOCK_BOOTTIME)
        return __real_clock_gettime(clock, now);
    int64_t reading_ns = clock == CLOCK_BOOTTIME ? read_boot_ns() : read_calendar_ns();
    now->tv_sec = reading_ns / SECOND_NS;
    now->tv_nsec = reading_ns % SECOND_NS;
    return 0;
}

/* ---- one thread ---------------------------------------------------------- */

static void set_time(int64_t seconds)
{
    __atomic_store_n(&now_ns, seconds * SECOND_NS, __ATOMIC_RELAXED);
}

static void pass_seconds(int64_t seconds)
{
    now_ns += seconds * SECOND_NS;
}

static void set_skew(int64_t seconds)
{
    skew_ns = seconds * SECOND_NS;
}

static struct ql *open_store(const char *store)
{
    struct ql *ql = NULL;
    struct ql_options options = QL_OPTIONS_INIT;
    const struct ql_limit limit = {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000};
    options.limits = &limit;
    options.limit_count = 1;
    options.max_subjects = 8;
    options.max_holders = 4;
    options.durability = QL_DURABILITY_NONE;
    set_time(NOON);
    set_skew(0);
    assert_int_equal(ql_open(store, &options, &ql, NULL), QL_OK);
    return ql;
}

/* A store in which alice has spent the day's budget. */
static int set_up(void **state)
{
    struct ql *ql = open_store("memory:");
    assert_int_equal(ql_charge(ql, "alice", "bytes", 1000, NULL), QL_OK);
    *state = ql;
    return 0;
}

static int tear_down(void **state)
{
    ql_close(*state);
    return 0;
}

static int64_t used_bytes(struct ql *ql)
{
    struct ql_usage usage;
    assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
    return usage.meters[0].total;
}

/* Returns retry_after_seconds of the refusal. */
static int64_t assert_spent(struct ql *ql)
{
    struct ql_verdict verdict;
    assert_int_equal(ql_check(ql, "alice", NULL, &verdict), QL_REFUSED);
    assert_true(verdict.current >= 1000);
    return verdict.retry_after_seconds;
}

static void assert_new_day(struct ql *ql)
{
    assert_int_equal(ql_check(ql, "alice", NULL, NULL), QL_OK);
    assert_int_equal(used_bytes(ql), 0);
}

/* The store's day, counted from the first one, and whether its windows are asked for. */
static int64_t find_day(struct ql *ql, bool *asks)
{
    struct qli_call call;
    assert_int_equal(qli_handle_begin(ql, 100, &call), QL_OK);
    *asks = call.asks;
    return call.day - START_DAY;
}

static void assert_day(struct ql *ql, int64_t day, bool asked)
{
    bool asks;
    assert_int_equal(find_day(ql, &asks), day);
    assert_int_equal(asks, asked);
}

static void pretend_ledger(struct ql *ql)
{
    __atomic_store_n(&ql->store->engine.ledger_page->durability, QL_DURABILITY_ASYNC,
                     __ATOMIC_RELAXED);
}

static void midnight_is_one_reset(void **state)
{
    struct ql *ql = *state;
    set_time(NOON + DAY / 2 - 1);
    assert_int_equal(assert_spent(ql), 1);
    pass_seconds(1);
    assert_new_day(ql);
    assert_day(ql, 1, false);
}

static void a_leap_of_a_day_refills_nothing_for_a_minute(void **state)
{
    struct ql *ql = *state;
    set_skew(DAY);
    assert_int_equal(assert_spent(ql), 0);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 1, NULL), QL_OK);
    pass_seconds(59);
    assert_spent(ql);
    assert_int_equal(used_bytes(ql), 1001);
    pass_seconds(1);
    assert_new_day(ql);
}

static void a_leap_that_ends_refills_nothing(void **state)
{
    struct ql *ql = *state;
    for (int i = 0; i < 20; i++) {
        set_skew(i % 2 == 0 ? 30 * DAY : 0);
        pass_seconds(50);
        assert_spent(ql);
    }
    assert_int_equal(used_bytes(ql), 1000);
}

static void a_suspend_over_midnight_resets(void **state)
{
    pass_seconds(DAY);
    assert_new_day(*state);
}

static void readers_a_second_apart_reset_once(void **state)
{
    struct ql *ql = *state;
    set_time(NOON + DAY / 2 - 1);
    assert_spent(ql);
    set_skew(1);
    assert_new_day(ql);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 1000, NULL), QL_OK);
    for (int64_t second = -1; second <= 2; second++) {
        set_skew(second);
        assert_int_equal(used_bytes(ql), 1000);
        assert_spent(ql);
    }
}

static void an_hour_back_keeps_the_day(void **state)
{
    struct ql *ql = *state;
    pass_seconds(DAY / 2);
    assert_new_day(ql);
    pretend_ledger(ql);
    set_skew(-HOUR);
    assert_day(ql, 1, false);
    set_skew(-HOUR - 1);
    assert_day(ql, 0, true);
}

static void days_back_without_a_ledger_keep_the_day(void **state)
{
    struct ql *ql = *state;
    set_skew(-5 * DAY);
    assert_int_equal(assert_spent(ql), 5 * DAY + DAY / 2);
    assert_day(ql, 0, false);
    pass_seconds(2 * DAY);
    assert_spent(ql);
}

static void days_back_with_a_ledger_are_asked_of_it(void **state)
{
    struct ql *ql = *state;
    pretend_ledger(ql);
    set_skew(-5 * DAY);
    assert_day(ql, -5, true);
    set_skew(0);
    assert_day(ql, -5, true);
    pass_seconds(60);
    assert_day(ql, 0, true);
    pass_seconds(DAY);
    assert_day(ql, 1, true); /* for the day before it */
    pass_seconds(DAY);
    assert_day(ql, 2, false);
}

/* Each call within the day is on the fast path: the tick has to see the leap, and
 * what the clock is slewed by. */
static void what_happens_within_a_day_is_noticed(void **state)
{
    struct ql *ql = *state;
    set_skew(2 * HOUR);
    assert_spent(ql);
    pass_seconds(60);
    assert_spent(ql);
    set_time(NOON + DAY / 2 - 2 * HOUR);
    assert_new_day(ql);
    for (int64_t second = 1; second < 900; second++) {
        pass_seconds(60);
        set_skew(2 * HOUR + second);
        assert_day(ql, 1, false);
    }
    set_time(NOON + DAY + DAY / 2 - 2 * HOUR - 900);
    set_skew(2 * HOUR + 900);
    assert_day(ql, 2, false);
}

/* Two days pass after the call has read the calendar for the second time, which is
 * to move the day. */
static void a_thread_stopped_between_two_clocks_reads_them_again(void **state)
{
    struct ql *ql = *state;
    assert_spent(ql);
    set_time(NOON + DAY / 2);
    __atomic_store_n(&ql->store->last_tick_ns, now_ns, __ATOMIC_RELAXED);
    reads_until_stop = 2;
    assert_day(ql, 3, false);
    assert_int_equal(reads_until_stop, 0);
    assert_day(ql, 3, false);
}

static void a_clock_without_time_moves_nothing(void **state)
{
    struct ql *ql = *state;
    struct ql *unused = open_store("memory:");
    pretend_ledger(ql);
    set_skew(-NOON - 1);
    assert_int_equal(ql_check(ql, "alice", NULL, NULL), QL_E_CLOCK);
    assert_int_equal(ql_check(unused, "alice", NULL, NULL), QL_E_CLOCK);
    set_skew(0);
    assert_day(ql, 0, false);
    assert_day(unused, 0, false);
    ql_close(unused);
}

/* ---- several threads ----------------------------------------------------- */

#define THREADS 4
#define MIDNIGHTS 100
#define TURNS 500 /* of each thread, from 10 s before midnight to 10 s after it */

struct walker {
    struct ql *ql;
    unsigned seed;
    int64_t mistakes;
};

static void walk(void *(*step)(void *), struct ql *ql, unsigned seed)
{
    pthread_t threads[THREADS];
    struct walker walkers[THREADS];
    for (unsigned t = 0; t < THREADS; t++) {
        walkers[t] = (struct walker){.ql = ql, .seed = seed * THREADS + t};
        assert_int_equal(pthread_create(&threads[t], NULL, step, &walkers[t]), 0);
    }
    int64_t mistakes = 0;
    for (unsigned t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(threads[t], NULL), 0);
        mistakes += walkers[t].mistakes;
    }
    assert_int_equal(mistakes, 0);
}

/* Each call reads a clock that is up to 3 s off. */
static void *cross_midnight(void *context)
{
    struct walker *walker = context;
    const struct qli_store_page *page = walker->ql->store->engine.page;
    dawdles = true;
    for (int i = 0; i < TURNS; i++) {
        struct qli_call call;
        uint64_t before = __atomic_load_n(&page->day, __ATOMIC_ACQUIRE);
        skew_ns = (rand_r(&walker->seed) % 6001 - 3000) * QLI_NS_PER_MS;
        if (qli_handle_begin(walker->ql, 100, &call) != QL_OK || (uint64_t)call.day < before ||
            (uint64_t)call.day > before + 1 || call.asks)
            walker->mistakes++;
        __atomic_fetch_add(&now_ns, 20 * SECOND_NS / (THREADS * TURNS), __ATOMIC_RELAXED);
    }
    return NULL;
}

static void at_midnight_the_day_moves_once_and_never_back(void **state)
{
    struct ql *ql = *state;
    pretend_ledger(ql);
    for (unsigned day = 0; day < MIDNIGHTS; day++) {
        set_time(NOON + DAY / 2 + day * DAY - 10);
        assert_day(ql, day, false);
        walk(cross_midnight, ql, 1800 + day);
        assert_day(ql, day + 1, false);
    }
}

/* Days pass quickly; the clock is set back and put right again, over and over. Who finds a day
 * earlier than one that has been open has to find that it is asked for. */
static void *turn_clocks(void *context)
{
    struct walker *walker = context;
    int64_t latest = 0;
    for (int i = 0; i < TURNS * 20; i++) {
        struct qli_call call;
        skew_ns = -(rand_r(&walker->seed) % 4) * DAY * SECOND_NS;
        if (qli_handle_begin(walker->ql, 100, &call) != QL_OK)
            walker->mistakes++;
        if (call.day > latest)
            latest = call.day;
        if (call.day < latest && !call.asks)
            walker->mistakes++;
        __atomic_fetch_add(&now_ns, HOUR * SECOND_NS, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void an_earlier_day_is_always_asked_for(void **state)
{
    struct ql *ql = *state;
    pretend_ledger(ql);
    walk(turn_clocks, ql, 1838);
}

/* ---- death --------------------------------------------------------------- */

static struct ql *stepped;

static void open_stepped(const char *directory)
{
    stepped = open_store(directory);
    pretend_ledger(stepped);
    assert_day(stepped, 0, false);
}

static void open_before_leap_lasts(const char *directory)
{
    open_stepped(directory);
    set_skew(DAY);
    assert_day(stepped, 0, false);
    pass_seconds(60);
}

static void step_back(const char *directory)
{
    (void)directory;
    set_skew(-5 * DAY);
    assert_day(stepped, -5, true);
}

static void believe_leap(const char *directory)
{
    (void)directory;
    assert_day(stepped, 1, false);
}

static struct qli_timeline words_of(const struct kt_state *state)
{
    int region = 0;
    while (strcmp(state->files[region].name, "region") != 0)
        region++;
    struct qli_region_header header;
    struct qli_store_page page;
    const unsigned char *bytes = state->files[region].bytes;
    memcpy(&header, bytes, sizeof header);
    memcpy(&page, bytes + header.body_offset, sizeof page);
    return (struct qli_timeline){page.day, page.ask_until, page.clock_offset_ns,
                                 page.leap_since_ns};
}

/* Each store but the last is followed by the same reading, of somebody else; before
 * the day has stepped back it is known that the later one is to be asked for. */
static void assert_puts_right(const struct kt_script *script, struct qli_reading reading)
{
    char directory[KT_PATH];
    kt_directory_make(directory, NULL);
    struct kt_states states = kt_states_record(directory, script);
    kt_directory_remove(directory);
    struct qli_timeline after = words_of(&states.items[states.count - 1]);
    assert_true(states.count > 3);
    for (size_t i = 0; i < states.count; i++) {
        struct qli_timeline words = words_of(&states.items[i]);
        assert_true(words.day >= (uint64_t)START_DAY || words.ask_until >= (uint64_t)START_DAY);
        qli_timeline_follow(&words, &reading);
        assert_memory_equal(&words, &after, sizeof words);
    }
    kt_states_free(&states);
}

static void a_death_at_any_instruction_is_put_right(void **state)
{
    (void)state;
    static const struct kt_script back = {open_stepped, step_back, false};
    static const struct kt_script leap = {open_before_leap_lasts, believe_leap, false};
    struct qli_reading reading = {.boot_ns = (NOON - BOOT_AT) * SECOND_NS, .steps_back = true};
    reading.calendar_ns = (NOON - 5 * DAY) * SECOND_NS;
    assert_puts_right(&back, reading);
    reading.boot_ns += 60 * SECOND_NS;
    reading.calendar_ns = (NOON + DAY + 60) * SECOND_NS;
    assert_puts_right(&leap, reading);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(midnight_is_one_reset),
        CASE(a_leap_of_a_day_refills_nothing_for_a_minute),
        CASE(a_leap_that_ends_refills_nothing),
        CASE(a_suspend_over_midnight_resets),
        CASE(readers_a_second_apart_reset_once),
        CASE(an_hour_back_keeps_the_day),
        CASE(days_back_without_a_ledger_keep_the_day),
        CASE(days_back_with_a_ledger_are_asked_of_it),
        CASE(what_happens_within_a_day_is_noticed),
        CASE(a_thread_stopped_between_two_clocks_reads_them_again),
        CASE(a_clock_without_time_moves_nothing),
        CASE(at_midnight_the_day_moves_once_and_never_back),
        CASE(an_earlier_day_is_always_asked_for),
        cmocka_unit_test(a_death_at_any_instruction_is_put_right),
    };
    printf("seeds 1800 to %d, 1838\n", 1800 + MIDNIGHTS - 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
