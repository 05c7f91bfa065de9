/* SPDX-License-Identifier: Apache-2.0
 *
 * The program: parses the command line, opens the store, runs one command.
 */
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

static const struct cli_command *const commands[] = {
    &cli_usage_command, &cli_leases_command,  &cli_check_command,  &cli_charge_command,
    &cli_run_command,   &cli_history_command, &cli_verify_command, &cli_backup_command,
};
#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))
#define WAIT_MS 5000

static const char common_help[] =
    "Options of every command:\n"
    "  -s, --store DIR   the store's directory; default: $QUOTALITE_STORE\n"
    "  -j, --json        print JSON\n"
    "  -h, --help        print this and exit\n"
    "  -V, --version     print the version and exit\n"
    "\n"
    "Exit status:\n"
    "   0  done, or allowed\n"
    "   1  error; a message on standard error says which\n"
    "   2  the command line is wrong\n"
    "  75  refused: a limit is reached\n";

static void print_program_help(void)
{
    puts("Usage: quotalite COMMAND [ARGUMENTS] [OPTIONS]\n"
         "\n"
         "Looks into a quotalite store and works on it while programs use it.\n"
         "It never makes a store: the program whose quotas it holds does.\n"
         "\n"
         "Commands:");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        printf("  %-8s  %s\n", commands[i]->name, commands[i]->summary);
    }
    printf("\n%s\n", common_help);
    puts("Data goes to standard output, messages to standard error. In text, characters\n"
         "that a terminal would act on are shown as \\xHH or \\u{H}, a backslash as two;\n"
         "--json has the exact names.\n"
         "\n"
         "Examples:\n"
         "  quotalite usage --store /var/lib/app/quota\n"
         "  export QUOTALITE_STORE=/var/lib/app/quota\n"
         "  quotalite usage alice --json\n"
         "  quotalite check alice --limit daily_bytes || echo over budget\n"
         "  quotalite charge alice bytes 1048576\n"
         "  quotalite run alice -- make export\n"
         "\n"
         "'quotalite COMMAND --help' tells more about a command.");
}

static void print_command_help(const struct cli_command *command)
{
    printf("Usage: quotalite %s%s [OPTIONS]%s\n\n%s\n%s", command->name, command->arguments,
           command->takes_work ? " -- COMMAND [ARGUMENT...]" : "", command->help, common_help);
}

/* A wrong command line. what may be NULL. */
static enum cli_exit wrong(const char *message, const char *what)
{
    char *safe = cli_safe(what == NULL ? "" : what);
    fprintf(stderr, "quotalite: %s%s%s%s; see quotalite --help\n", message, what ? " '" : "", safe,
            what ? "'" : "");
    free(safe);
    return CLI_USAGE;
}

static bool parse_option(int option, struct cli *cli)
{
    switch (option) {
    case 's':
        cli->store = optarg;
        break;
    case 'j':
        cli->json = true;
        break;
    case 'l':
        cli->limit = optarg;
        break;
    case 'r':
        cli->revoke = optarg;
        break;
    case 'w':
        cli->wait = optarg;
        break;
    case 'c':
        if (cli->charge_count <= QL_METERS_MAX) {
            cli->charges[cli->charge_count++] = optarg;
        }
        break;
    case 'S':
        cli->slot_only = true;
        break;
    case 'm':
        cli->meter = optarg;
        break;
    case 'f':
        cli->from = optarg;
        break;
    case 't':
        cli->to = optarg;
        break;
    case 'C':
        cli->csv = true;
        break;
    case 'h':
        cli->help = true;
        break;
    case 'V':
        cli->version = true;
        break;
    default:
        return false;
    }
    return true;
}

/* What stands behind "--" is no option, and may be a command line of its own. */
static enum cli_exit parse_options(int argc, char **argv, struct cli *cli)
{
    static const struct option options[] = {
        {"store", required_argument, NULL, 's'}, {"json", no_argument, NULL, 'j'},
        {"limit", required_argument, NULL, 'l'}, {"revoke", required_argument, NULL, 'r'},
        {"wait", required_argument, NULL, 'w'},  {"charge", required_argument, NULL, 'c'},
        {"slot-only", no_argument, NULL, 'S'},   {"meter", required_argument, NULL, 'm'},
        {"from", required_argument, NULL, 'f'},  {"to", required_argument, NULL, 't'},
        {"csv", no_argument, NULL, 'C'},         {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},     {NULL, 0, NULL, 0},
    };
    int option;
    opterr = 0; /* getopt would print the argument as it is */
    cli->args = cli_resize(NULL, ((size_t)argc + 1) * sizeof(*cli->args));
    while ((option = getopt_long(argc, argv, "-:s:jl:r:w:c:ShV", options, NULL)) != -1) {
        if (option == 1) {
            cli->args[cli->arg_count++] = optarg;
        } else if (option == ':') {
            return wrong("the option needs a value:", argv[optind - 1]);
        } else if (!parse_option(option, cli)) {
            return wrong("unknown option", argv[optind - 1]);
        }
    }
    cli->work_count = argc - optind;
    memcpy(&cli->args[cli->arg_count], &argv[optind],
           ((size_t)cli->work_count + 1) * sizeof(*argv)); /* the NULL, too */
    cli->work = &cli->args[cli->arg_count];
    cli->arg_count += cli->work_count;
    return CLI_OK;
}

static const struct cli_command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

static enum cli_exit check_arguments(const struct cli_command *command, const struct cli *cli)
{
    if (cli->limit != NULL && !command->takes_limit) {
        return wrong("--limit does not belong to the command", command->name);
    }
    if (cli->revoke != NULL && !command->takes_revoke) {
        return wrong("--revoke does not belong to the command", command->name);
    }
    if ((cli->meter != NULL || cli->from != NULL || cli->to != NULL || cli->csv) &&
        !command->takes_period) {
        return wrong("--meter, --from, --to and --csv do not belong to the command", command->name);
    }
    if ((cli->wait != NULL || cli->charge_count > 0 || cli->slot_only) && !command->takes_work) {
        return wrong("--wait, --charge and --slot-only do not belong to the command",
                     command->name);
    }
    if (cli->arg_count < command->min_args) {
        return wrong("arguments are missing for the command", command->name);
    }
    if (command->takes_work && cli->work_count == 0) {
        return wrong("no command to run: it stands behind '--'", NULL);
    }
    if (cli->arg_count > command->max_args) {
        return wrong("one argument too many:", cli->args[command->max_args]);
    }
    if (cli->store == NULL || cli->store[0] == '\0') {
        return wrong("no store: give --store DIR or set QUOTALITE_STORE", NULL);
    }
    return CLI_OK;
}

static enum cli_exit run(const struct cli_command *command, struct cli *cli)
{
    struct ql_error error;
    struct ql_options options = QL_OPTIONS_INIT;
    options.must_exist = true; /* a store has the size that its program wants */
    options.no_thread = true;
    options.any_clock = command->any_clock;
    options.admit_wait_ms = WAIT_MS; /* nobody waits for an answer of ours in a request */
    enum ql_status status = ql_open(cli->store, &options, &cli->ql, &error);
    if (status != QL_OK) {
        return command->open_failed != NULL ? command->open_failed(cli, &error)
                                            : cli_fail(cli, status, "%s", error.text);
    }
    enum cli_exit result = command->run(cli);
    ql_close(cli->ql);
    return result;
}

/* Output that was lost (a full disk, a closed pipe) is an error. */
static enum cli_exit finish(enum cli_exit result)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "quotalite: cannot write the output: %s\n", strerror(errno));
        return CLI_ERROR;
    }
    return result;
}

/* Does what the command line says. */
static enum cli_exit obey(struct cli *cli)
{
    if (cli->version) {
        printf("quotalite %s\n", ql_version());
        return CLI_OK;
    }
    if (cli->arg_count == 0 && cli->help) {
        print_program_help();
        return CLI_OK;
    }
    if (cli->arg_count == 0) {
        return wrong("no command", NULL);
    }
    const struct cli_command *command = find_command(cli->args[0]);
    if (command == NULL) {
        return wrong("unknown command", cli->args[0]);
    }
    if (cli->help) {
        print_command_help(command);
        return CLI_OK;
    }
    cli->args++;
    cli->arg_count -= 1 + (command->takes_work ? cli->work_count : 0);
    enum cli_exit result = check_arguments(command, cli);
    return result == CLI_OK ? run(command, cli) : result;
}

int main(int argc, char **argv)
{
    struct cli cli = {.store = getenv("QUOTALITE_STORE")};
    setlocale(LC_CTYPE, "C.UTF-8"); /* subjects are UTF-8 wherever the program runs */

    enum cli_exit result = parse_options(argc, argv, &cli);
    char **words = cli.args;
    if (result == CLI_OK) {
        result = finish(obey(&cli));
    }
    free(words);
    return (int)result;
}
