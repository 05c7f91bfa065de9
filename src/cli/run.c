/* SPDX-License-Identifier: Apache-2.0
 *
 * quotalite run: hold a slot while a command runs. The command inherits the
 * token (ql_token_fd), so the slot stays where this program is killed and the
 * command goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "output.h"

#define TOKEN_VARIABLE "QUOTALITE_TOKEN_FD"
#define TOKEN_FD_MIN 10 /* scripts use the numbers below for files of their own */
#define RETRY_NS INT64_C(100000000)
#define WAIT_SECONDS_MAX (INT64_C(366) * 86400)

enum { CANNOT_START = 126, NOT_FOUND = 127 };

struct job {
    const char *subject;
    int64_t wait_ns;
    struct ql_charge charges[QL_METERS_MAX];
    struct ql_lease lease;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* ---- what is wanted ------------------------------------------------------ */

static bool parse_charge(char *text, struct ql_charge *charge)
{
    char *equals = strchr(text, '=');
    if (equals == NULL || !cli_parse_amount(equals + 1, &charge->amount)) {
        return false;
    }
    *equals = '\0';
    charge->meter = text;
    return true;
}

static enum cli_exit parse(const struct cli *cli, struct job *job)
{
    int64_t seconds = 0;
    if (cli->wait != NULL &&
        (!cli_parse_amount(cli->wait, &seconds) || seconds > WAIT_SECONDS_MAX)) {
        cli_fail(cli, QL_E_INVALID, "'%s' is no time to wait: whole seconds, to one year",
                 cli->wait);
        return CLI_USAGE;
    }
    job->wait_ns = seconds * INT64_C(1000000000);
    if (cli->charge_count > QL_METERS_MAX) {
        cli_fail(cli, QL_E_INVALID, "--charge is given more than %d times", QL_METERS_MAX);
        return CLI_USAGE;
    }
    for (size_t i = 0; i < cli->charge_count; i++) {
        if (!parse_charge(cli->charges[i], &job->charges[i])) {
            cli_fail(cli, QL_E_INVALID,
                     "'%s' is no charge: METER=AMOUNT, a whole number from 0 to %" PRId64,
                     cli->charges[i], INT64_MAX);
            return CLI_USAGE;
        }
    }
    return CLI_OK;
}

static bool has_meter(const struct ql_usage *usage, const char *name)
{
    for (uint32_t i = 0; i < usage->meter_count; i++) {
        if (strcmp(usage->meters[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Before the work: after it a charge to no meter would be lost. */
static enum cli_exit check_meters(const struct cli *cli, const struct job *job)
{
    struct ql_usage usage;
    enum ql_status status = ql_usage(cli->ql, job->subject, &usage);
    if (status != QL_OK) {
        return cli_fail_on(cli, status, job->subject);
    }
    for (size_t i = 0; i < cli->charge_count; i++) {
        if (!has_meter(&usage, job->charges[i].meter)) {
            return cli_fail_on(cli, QL_E_METER, job->charges[i].meter);
        }
    }
    return CLI_OK;
}

/* ---- the slot ------------------------------------------------------------ */

/* Whether it was a slot that was missing, and not money. */
static bool lacks_slot(const struct ql_verdict *verdict)
{
    for (uint32_t i = 0; i < verdict->limit_count; i++) {
        if (strcmp(verdict->limits[i].name, verdict->kind) == 0) {
            return verdict->limits[i].window == QL_WINDOW_NONE;
        }
    }
    return false;
}

static enum ql_status try_slot(const struct cli *cli, struct job *job, struct ql_verdict *verdict)
{
    return cli->slot_only ? ql_acquire(cli->ql, job->subject, &job->lease, verdict)
                          : ql_admit(cli->ql, job->subject, NULL, &job->lease, verdict);
}

static enum ql_status take_slot(const struct cli *cli, struct job *job, struct ql_verdict *verdict)
{
    int64_t deadline_ns = now_ns() + job->wait_ns;
    for (;;) {
        enum ql_status status = try_slot(cli, job, verdict);
        int64_t left_ns = deadline_ns - now_ns();
        if (status != QL_REFUSED || left_ns <= 0 || !lacks_slot(verdict)) {
            return status;
        }
        struct timespec nap = {.tv_nsec = left_ns < RETRY_NS ? left_ns : RETRY_NS};
        nanosleep(&nap, NULL);
    }
}

static enum cli_exit refuse(const struct cli *cli, const struct job *job,
                            const struct ql_verdict *verdict)
{
    if (cli->json) {
        cli_json_verdict(stderr, job->subject, false, verdict);
    } else {
        fputs("quotalite: ", stderr);
        cli_refusal_line(stderr, verdict);
    }
    return CLI_REFUSED;
}

/* The token as the command gets it: with a number that is told to it. */
static enum ql_status open_token(const struct cli *cli, int *token_fd)
{
    char number[16];
    int fd;
    enum ql_status status = ql_token_fd(cli->ql, &fd);
    if (status != QL_OK) {
        return status;
    }
    *token_fd = fcntl(fd, F_DUPFD, TOKEN_FD_MIN); /* the copy stays open over an exec */
    close(fd);
    snprintf(number, sizeof(number), "%d", *token_fd);
    return *token_fd < 0 || setenv(TOKEN_VARIABLE, number, 1) != 0 ? QL_E_SYSTEM : QL_OK;
}

/* ---- the work ------------------------------------------------------------ */

static int fail_to_start(const struct cli *cli, int cause)
{
    cli_fail(cli, QL_E_SYSTEM, "cannot run '%s': %s", cli->work[0], strerror(cause));
    if (cause == ENOENT) {
        return NOT_FOUND;
    }
    return cause == EAGAIN || cause == ENOMEM ? CLI_ERROR : CANNOT_START;
}

/* Without a charge nothing is lost: the slot ends with this program. */
static int settle(const struct cli *cli, const struct job *job, int result)
{
    enum ql_status status = ql_settle(cli->ql, job->lease, job->charges, cli->charge_count);
    if (status >= 0 || cli->charge_count == 0) {
        return result;
    }
    cli_fail_on(cli, status, job->subject);
    return result == 0 ? CLI_ERROR : result;
}

static int work(const struct cli *cli, const struct job *job)
{
    struct cli_child child;
    int token_fd = -1;
    enum ql_status status = open_token(cli, &token_fd);
    if (status != QL_OK) {
        return cli_fail(cli, status, "cannot hand the slot to the command: %s",
                        status == QL_E_SYSTEM ? strerror(errno) : ql_status_text(status));
    }
    int cause = cli_child_start(&child, cli->work);
    close(token_fd);
    return cause == 0 ? settle(cli, job, cli_child_wait(&child)) : fail_to_start(cli, cause);
}

static enum cli_exit run(struct cli *cli)
{
    struct job job = {.subject = cli->args[0]};
    struct ql_verdict verdict;
    enum cli_exit result = parse(cli, &job);
    if (result == CLI_OK) {
        result = check_meters(cli, &job);
    }
    if (result != CLI_OK) {
        return result;
    }
    enum ql_status status = take_slot(cli, &job, &verdict);
    if (status == QL_REFUSED) {
        return refuse(cli, &job, &verdict);
    }
    return status == QL_OK ? (enum cli_exit)work(cli, &job) : cli_fail_on(cli, status, job.subject);
}

const struct cli_command cli_run_command = {
    .name = "run",
    .arguments = " SUBJECT",
    .summary = "hold a slot of SUBJECT while a command runs",
    .help = "Takes a slot if all limits allow it, runs the command, and gives the slot back\n"
            "when the command ends. Refused: the limit that refuses goes to standard error,\n"
            "and nothing is run. The slot stays while the command runs even if quotalite is\n"
            "killed; it is then free once the command, and every process that inherited the\n"
            "descriptor $QUOTALITE_TOKEN_FD from it, has ended or closed it.\n"
            "SIGTERM and SIGHUP are passed on to the command; SIGINT and SIGQUIT are left to\n"
            "it.\n"
            "\n"
            "  -w, --wait SECONDS         try for so long to get a slot, 10 times a second;\n"
            "                             a budget that is spent refuses at once\n"
            "  -S, --slot-only            look at no budget\n"
            "  -c, --charge METER=AMOUNT  charge this when the command has ended, however\n"
            "                             it did; may be repeated\n"
            "\n"
            "The exit status is the command's, 128 + N if signal N ended it, 127 if it was\n"
            "not found, 126 if it cannot be run. 1 stands also for a charge that failed\n"
            "after the command had ended with 0.\n"
            "\n"
            "Examples:\n"
            "  quotalite run alice -- make export\n"
            "  quotalite run alice --wait 60 --charge statements=1 -- psql -f report.sql\n",
    .min_args = 1,
    .max_args = 1,
    .takes_work = true,
    .run = run,
};
