/* SPDX-License-Identifier: Apache-2.0
 *
 * A store whose ledger is on a disk whose power can be cut. The directory, the
 * lock file and the region are real: after a cut the region is one of an earlier
 * boot.
 */
#ifndef TESTS_LEDGER_POWER_H
#define TESTS_LEDGER_POWER_H

#include "disk.h"
#include "harness.h"

struct power {
    /* Set before power_begin. */
    enum ql_durability durability;
    bool has_thread;           /* the store's own; otherwise only calls write */
    int64_t flush_interval_ms; /* 0: a day */

    struct disk *disk;
    char directory[KT_PATH];
    int64_t clock_ns;
    struct ql *ql; /* NULL: closed */
};

/* A new disk and an empty directory. */
void power_begin(struct power *power, uint64_t seed);
void power_end(struct power *power);

/* Opens a small store, whose calls wait for nothing but its thread. */
enum ql_status power_open(struct power *power, struct ql_error *error);
void power_close(struct power *power);

/* Cuts the power, if it is not cut, and boots: the store is closed, its region
 * stale, and the disk has what is found on the platter. */
void power_boot(struct power *power);

#endif
