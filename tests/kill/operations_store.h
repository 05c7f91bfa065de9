/* SPDX-License-Identifier: Apache-2.0
 *
 * The store of an operation: what its set-up opened, its run calls, and the recovery
 * opens again in a process of its own.
 */
#ifndef KILL_OPERATIONS_STORE_H
#define KILL_OPERATIONS_STORE_H

#include "harness.h"

#define KT_STORE_SLOTS 2
#define KT_STORE_ROOM 8

struct kt_store {
    int64_t *clock_ns; /* shared with forked children */
    enum ql_durability durability;
    struct ql *ql;
    struct ql_lease lease; /* the last one that was taken */
};

extern struct kt_store kt_store;

bool kt_store_has_ledger(void);

void kt_store_open(const char *directory);
void kt_store_open_for(const char *directory, uint32_t holders);
void kt_store_charge(const char *subject, int64_t amount); /* bytes */
void kt_store_take(const char *subject);

#endif
