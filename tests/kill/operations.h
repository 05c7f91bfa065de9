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
    const char *before;            /* what the dump holds before it and not after it, or NULL */
    const char *after;             /* what the dump holds after it and not before it, or NULL */
    enum ql_durability durability; /* of its store; 0: that has no ledger */
};

extern const struct kt_operation kt_operations[];
extern const size_t kt_operation_count;

#endif
