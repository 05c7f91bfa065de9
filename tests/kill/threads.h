/* SPDX-License-Identifier: Apache-2.0
 *
 * The cases of `threads`: each scenario of the kill tests with threads in the
 * place of processes, for ThreadSanitizer, which sees threads over one mapping
 * and nothing across processes.
 */
#ifndef KILL_THREADS_H
#define KILL_THREADS_H

#include "scenario.h"

#define KT_THREADS 4

/* Runs body in KT_THREADS threads, numbered from 0, which begin together. */
void kt_threads(void (*body)(void *context, int number), void *context);

/* Waits until all threads of kt_threads are there. */
void kt_meet(void);

/* threads_calls.c: calls on one store that stays open. */
int kt_thread_mixed(void);
int kt_thread_revoke_across(void);
int kt_thread_roll_over(void);
int kt_thread_max_age(void);
int kt_thread_full(void);
int kt_thread_limits(void);
int kt_thread_visits(void);

/* threads_holders.c: opening and closing, forking, losing the store. */
int kt_thread_open_first(void);
int kt_thread_open_close(void);
int kt_thread_register_race(void);
int kt_thread_fork_while_calling(void);
int kt_thread_closefrom(void);
int kt_thread_removed(void);

/* threads_locks.c: locks that are held, the dead. */
int kt_thread_held_lock(void);
int kt_thread_contended(void);
int kt_thread_steal(void);
int kt_thread_dead_slots(void);
int kt_thread_late_reaper(void);

#endif
