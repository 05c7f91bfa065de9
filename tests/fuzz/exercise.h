/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls everything on a store that may be damaged. What the calls answer is not
 * looked at, only that they do, with a code that there is.
 */
#ifndef TESTS_FUZZ_EXERCISE_H
#define TESTS_FUZZ_EXERCISE_H

#include <stdint.h>

#include "quotalite.h"

/* Options of a store so small that damage hits something: 16 subjects, 16
 * leases, 2 meters, 4 holders, no waiting, the clock at *clock_ns. */
struct ql_options exercise_options(int64_t *clock_ns);

/* Charges and leases of several subjects, with short and long names. */
void exercise_fill(struct ql *ql);

/* Every call once or more, in an order that random decides. */
void exercise_all(struct ql *ql, uint64_t *random);

#endif
