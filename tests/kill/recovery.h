/* SPDX-License-Identifier: Apache-2.0
 *
 * Whoever comes after an operation that was killed: repairs, and tells what it finds.
 */
#ifndef KILL_RECOVERY_H
#define KILL_RECOVERY_H

#include <stddef.h>

/* Attaches and repairs as whoever comes next does. */
void kt_recover(const char *directory);

/* The same, then verifies and describes what the store holds: subjects that
 * are not all zero, and how each lease slot's last lease ended. The ledger has the
 * same by then. */
void kt_recover_dump(const char *directory, char *dump, size_t size);

#endif
