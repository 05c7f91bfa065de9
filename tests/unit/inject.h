/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a function in a thread of its own and makes its Nth system call, or its
 * Nth allocation, fail.
 */
#ifndef TESTS_UNIT_INJECT_H
#define TESTS_UNIT_INJECT_H

#include <stddef.h>

/* Runs run(context); its system call number `nth` (from 1; 0: none) fails with
 * `error` and is not made. Returns how many calls could have failed. Calls of a
 * sanitizer's runtime do not count; nor do those that only give something back
 * (close, munmap), since that is not what a machine refuses. */
size_t inject_system_call(size_t nth, int error, void (*run)(void *context), void *context);

/* The number of the system call that failed last, as in <sys/syscall.h>. */
long inject_failed_call(void);

/* From now on allocation number nth (from 1; 0: none) of the library gives NULL. */
void inject_allocation(size_t nth);

/* Allocations since then. */
size_t inject_allocations(void);

/* From now on the kernel refuses this process and its children a system call so. */
void inject_refusal(long number, int error);

#endif
