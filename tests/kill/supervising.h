/* SPDX-License-Identifier: Apache-2.0
 *
 * What the programs share that kill workers at random: a page that the supervisor and
 * its workers have in common, workers that are executed anew, and a watchdog.
 */
#ifndef KILL_SUPERVISING_H
#define KILL_SUPERVISING_H

#include "harness.h"

/* What a worker is told that is executed. */
struct kt_order {
    int number;
    uint64_t seed;
    int page_fd;
    int setting; /* of the program: what its workers have to know besides */
    const char *store;
};

/* Executes this program again, as a worker. */
_Noreturn void kt_order_execute(const struct kt_order *order);

/* Whether this program was executed so; the order then. */
bool kt_order_read(int argc, char **argv, struct kt_order *order);

/* A zeroed page that its descriptor maps in executed workers too. */
void *kt_page_make(size_t size, int *fd);
void *kt_page_map(int fd, size_t size);

/* Ends the program as a failure if it is not called again for two minutes. */
void kt_watch(void);

/* Kills a worker. One that has ended alone is a failure, with the error that it left. */
void kt_bury(pid_t pid, int number, const char *error);

#endif
