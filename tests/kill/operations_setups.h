/* SPDX-License-Identifier: Apache-2.0
 *
 * What is there before an operation: a store that others have left, and what the
 * process that is stepped has done on its own.
 */
#ifndef KILL_OPERATIONS_SETUPS_H
#define KILL_OPERATIONS_SETUPS_H

/* In a process that dies after it. */
void kt_prepare_store(const char *directory);
void kt_prepare_dead_owner(const char *directory);
void kt_prepare_dead_neighbour(const char *directory);
void kt_prepare_removed_region(const char *directory);
void kt_prepare_stale_region(const char *directory);

/* In the process of the operation, with its store open after it. */
void kt_set_up_charged(const char *directory);
void kt_set_up_lease(const char *directory);
void kt_set_up_late(const char *directory);
void kt_set_up_timed(const char *directory);
void kt_set_up_over(const char *directory);
void kt_set_up_all_kept(const char *directory);
void kt_set_up_dead_leases(const char *directory);
void kt_set_up_dead_lock(const char *directory);
void kt_set_up_live_lock(const char *directory);
void kt_set_up_next_day(const char *directory);
void kt_set_up_room_for_meters(const char *directory);
void kt_set_up_full(const char *directory);
void kt_set_up_flushed(const char *directory);
void kt_set_up_raised(const char *directory);
void kt_set_up_flushed_next_day(const char *directory);
void kt_set_up_full_of_charged(const char *directory);
void kt_set_up_no_ledger(const char *directory);

#endif
