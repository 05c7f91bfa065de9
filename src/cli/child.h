/* SPDX-License-Identifier: Apache-2.0
 *
 * A command that the program runs and waits for.
 */
#ifndef CLI_CHILD_H
#define CLI_CHILD_H

#include <signal.h>
#include <sys/types.h>

struct cli_child {
    pid_t pid;
    sigset_t watched;
};

/* Starts the command, found by PATH, with the signals as they were given to this
 * program. From then on SIGINT and SIGQUIT are the command's alone to answer: a
 * terminal sends them to both. 0, or the errno that tells why it cannot start. */
int cli_child_start(struct cli_child *child, char **command);

/* Waits for its end, and passes on the SIGTERM and SIGHUP that are sent to this
 * program. The command's exit status; 128 + N if signal N ended it. */
int cli_child_wait(const struct cli_child *child);

#endif
