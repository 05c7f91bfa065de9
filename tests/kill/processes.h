/* SPDX-License-Identifier: Apache-2.0
 *
 * The cases of `processes`.
 */
#ifndef KILL_PROCESSES_H
#define KILL_PROCESSES_H

#include "scenario.h"

/* processes_stopped.c: holders that are stopped inside a lock. */
int kt_process_stopped_holder(void);
int kt_process_stopped_lease(void);
int kt_process_stopped_open(void);
int kt_process_no_clean_slot(void);
int kt_process_other_shard(void);
int kt_process_limits_lock(void);
int kt_process_host_told(void);

/* processes_holders.c: holders that die, or find no room. */
int kt_process_four_holders(void);
int kt_process_late_reaper(void);
int kt_process_dead_slot_free(void);
int kt_process_full(void);

/* processes_forks.c: fork, exec, clone, and descriptors that are closed. */
int kt_process_fork_parent_killed(void);
int kt_process_fork_threaded(void);
int kt_process_exec(void);
int kt_process_raw_clone(void);
int kt_process_closefrom(void);
int kt_process_descriptors_reused(void);
int kt_process_descriptors_reopened(void);

/* processes_tokens.c: those who keep the leases of a process that died. */
int kt_process_token_inherited(void);
int kt_process_token_memory(void);
int kt_process_token_in_lock(void);
int kt_process_token_closed(void);
int kt_process_token_slot(void);
int kt_process_token_removed(void);
int kt_process_token_exec(void);
int kt_process_token_refused(void);

/* processes_opening.c: races of opening, stores that are removed or shared. */
int kt_process_stale_region(void);
int kt_process_stale_killed(void);
int kt_process_stale_in_use(void);
int kt_process_attach_exit(void);
int kt_process_last_close(void);
int kt_process_removed(void);
int kt_process_removed_lock(void);
int kt_process_moved(void);
int kt_process_time_namespace(void);
int kt_process_containers(void);

/* processes_ledger.c: what hosts do to a store with a ledger. */
int kt_process_ledger_closefrom(void);
int kt_process_ledger_host_sqlite(void);
int kt_process_ledger_removed(void);
int kt_process_clock_opens(void);

#endif
