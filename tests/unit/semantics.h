/* SPDX-License-Identifier: Apache-2.0
 *
 * A store in memory with two slots, 1000 bytes a day, and a clock that the test
 * sets.
 */
#ifndef TESTS_UNIT_SEMANTICS_H
#define TESTS_UNIT_SEMANTICS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <time.h>

#include "quotalite.h"

#define DAY INT64_C(86400)
#define SECOND_NS INT64_C(1000000000)
#define NOON (INT64_C(20000) * DAY + DAY / 2)

#define DEADLINE_S 30 /* what has not happened by then never will */

struct fixture {
    struct ql *ql;
    int64_t now_ns;
};

static inline time_t seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static inline int64_t fixture_clock(void *context)
{
    return ((const struct fixture *)context)->now_ns;
}

static inline struct ql *fixture_open(struct fixture *fixture, const char *store,
                                      struct ql_options options, const struct ql_limit *limits,
                                      size_t count)
{
    struct ql_error error;
    struct ql *ql = NULL;
    fixture->now_ns = NOON * SECOND_NS;
    options.limits = limits;
    options.limit_count = count;
    options.clock = fixture_clock;
    options.context = fixture;
    if (ql_open(store, &options, &ql, &error) != QL_OK)
        fail_msg("%s", error.text);
    return ql;
}

static inline int fixture_setup(void **state)
{
    static struct fixture fixture;
    const struct ql_limit limits[] = {
        {"concurrent_scans", NULL, QL_WINDOW_NONE, 2},
        {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
    };
    fixture.ql = fixture_open(&fixture, "memory:", (struct ql_options)QL_OPTIONS_INIT, limits, 2);
    *state = &fixture;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    ql_close(((struct fixture *)*state)->ql);
    return 0;
}

static inline int64_t used_bytes(struct ql *ql, const char *subject)
{
    struct ql_usage usage;
    assert_int_equal(ql_usage(ql, subject, &usage), QL_OK);
    return usage.meters[0].total;
}

#endif
