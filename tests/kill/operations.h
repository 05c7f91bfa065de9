/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations that are killed at every state. A new operation is a new row.
 */
#ifndef KILL_OPERATIONS_H
#define KILL_OPERATIONS_H

#include "stepper.h"

struct kt_operation {
    const char *name;
    void (*prepare)(const char *directory); /* in a process that dies after it; may be NULL */
    struct kt_script script;
    const char *before; /* what the dump holds before it and not after it, or NULL */
    const char *after;  /* what the dump holds after it and not before it, or NULL */
};

extern const struct kt_operation kt_operations[];
extern const size_t kt_operation_count;

/* The clock of the operations' stores; call once, before any fork. */
void kt_operations_begin(void);
void kt_operations_reset_clock(void);

/* The store is the operation's from now on; whether it has a ledger. */
bool kt_operations_choose(const struct kt_operation *operation);

/* Attaches and repairs as whoever comes next does. */
void kt_recover(const char *directory);

/* The same, then verifies and describes what the store holds: subjects that
 * are not all zero, and how each lease slot's last lease ended. The ledger has the
 * same by then. */
void kt_recover_dump(const char *directory, char *dump, size_t size);

#endif
