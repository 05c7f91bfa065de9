/* SPDX-License-Identifier: Apache-2.0
 *
 * Small stores in a folder that each case has for itself, and options to change one
 * thing of.
 */
#ifndef TESTS_UNIT_SMALL_STORE_H
#define TESTS_UNIT_SMALL_STORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "harness.h"

extern char base[KT_PATH];
extern const struct ql_limit two_limits[2]; /* 5 leases, 1000 bytes a day */

int set_up(void **state);
int tear_down(void **state);

/* A path below base; until the next call. */
const char *path_of(const char *name);

/* Both limits, room for 16 subjects and 4 holders, the system's clock. */
struct ql_options small_options(void);

/* ql_open, whose answers have to agree. */
enum ql_status open_at(const char *path, struct ql_options options, struct ql **ql);

/* A store in which alice has used 41 bytes. */
void make_store(const char *path, struct ql_options options);

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
