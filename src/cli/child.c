/* SPDX-License-Identifier: Apache-2.0
 *
 * Signals are blocked before the command starts and waited for after: none is
 * lost in between, and no handler is needed.
 */
#include "child.h"

#include <spawn.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

static bool is_ignored(int signal_number)
{
    struct sigaction action;
    return sigaction(signal_number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

/* What this program was told to ignore (nohup) it does not pass on either: a
 * blocked signal would be seen though it is ignored. */
static void watch_signals(sigset_t *watched, sigset_t *before)
{
    static const int passed_on[] = {SIGTERM, SIGHUP};
    sigemptyset(watched);
    sigaddset(watched, SIGCHLD);
    signal(SIGCHLD, SIG_DFL); /* ignored, there would be no status to wait for */
    for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++) {
        if (!is_ignored(passed_on[i])) {
            sigaddset(watched, passed_on[i]);
        }
    }
    sigprocmask(SIG_BLOCK, watched, before);
}

/* to_default: what the command does not ignore, though this program now does. */
static void leave_to_command(sigset_t *to_default)
{
    static const int of_terminal[] = {SIGINT, SIGQUIT};
    sigemptyset(to_default);
    for (size_t i = 0; i < sizeof(of_terminal) / sizeof(of_terminal[0]); i++) {
        if (!is_ignored(of_terminal[i])) {
            sigaddset(to_default, of_terminal[i]);
            signal(of_terminal[i], SIG_IGN);
        }
    }
}

int cli_child_start(struct cli_child *child, char **command)
{
    sigset_t before;
    sigset_t to_default;
    posix_spawnattr_t attributes;
    watch_signals(&child->watched, &before);
    leave_to_command(&to_default);
    int cause = posix_spawnattr_init(&attributes);
    if (cause != 0) {
        return cause;
    }
    posix_spawnattr_setsigmask(&attributes, &before);
    posix_spawnattr_setsigdefault(&attributes, &to_default);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    cause = posix_spawnp(&child->pid, command[0], NULL, &attributes, command, environ);
    posix_spawnattr_destroy(&attributes);
    return cause;
}

int cli_child_wait(const struct cli_child *child)
{
    int status;
    for (;;) {
        siginfo_t info;
        int seen = sigwaitinfo(&child->watched, &info);
        if (seen == SIGCHLD && waitpid(child->pid, &status, WNOHANG) == child->pid) {
            break;
        }
        if (seen > 0 && seen != SIGCHLD && info.si_code <= 0) { /* sent, not by a terminal */
            kill(child->pid, seen);
        }
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
