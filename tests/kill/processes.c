/* SPDX-License-Identifier: Apache-2.0
 *
 * Several processes on one store, each case by its name; see processes.h.
 *
 *   processes CASE
 */
#include "processes.h"

static const struct kt_case cases[] = {
    {"stopped_holder", kt_process_stopped_holder},
    {"stopped_lease", kt_process_stopped_lease},
    {"stopped_open", kt_process_stopped_open},
    {"no_clean_slot", kt_process_no_clean_slot},
    {"other_shard", kt_process_other_shard},
    {"limits_lock", kt_process_limits_lock},
    {"host_told", kt_process_host_told},
    {"four_holders", kt_process_four_holders},
    {"late_reaper", kt_process_late_reaper},
    {"row_13_dead_slot_free", kt_process_dead_slot_free},
    {"full", kt_process_full},
    {"fork_parent_killed", kt_process_fork_parent_killed},
    {"fork_threaded", kt_process_fork_threaded},
    {"exec", kt_process_exec},
    {"raw_clone", kt_process_raw_clone},
    {"closefrom", kt_process_closefrom},
    {"descriptors_reused", kt_process_descriptors_reused},
    {"descriptors_reopened", kt_process_descriptors_reopened},
    {"token_inherited", kt_process_token_inherited},
    {"token_memory", kt_process_token_memory},
    {"token_in_lock", kt_process_token_in_lock},
    {"token_closed", kt_process_token_closed},
    {"token_slot", kt_process_token_slot},
    {"token_removed", kt_process_token_removed},
    {"token_exec", kt_process_token_exec},
    {"token_refused", kt_process_token_refused},
    {"stale_region", kt_process_stale_region},
    {"stale_killed", kt_process_stale_killed},
    {"stale_in_use", kt_process_stale_in_use},
    {"attach_exit", kt_process_attach_exit},
    {"last_close", kt_process_last_close},
    {"removed", kt_process_removed},
    {"removed_lock", kt_process_removed_lock},
    {"moved", kt_process_moved},
    {"time_namespace", kt_process_time_namespace},
    {"containers", kt_process_containers},
    {"ledger_closefrom", kt_process_ledger_closefrom},
    {"ledger_host_sqlite", kt_process_ledger_host_sqlite},
    {"ledger_removed", kt_process_ledger_removed},
    {"clock_opens", kt_process_clock_opens},
};

int main(int argc, char **argv)
{
    return kt_case_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}
