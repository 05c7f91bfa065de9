/* SPDX-License-Identifier: Apache-2.0
 *
 * What the commands of the program share: the parsed command line, the table of
 * commands, and how a command ends.
 */
#ifndef CLI_H
#define CLI_H

#include <stdbool.h>

#include "quotalite.h"

enum cli_exit {
    CLI_OK = 0,
    CLI_ERROR = 1,
    CLI_USAGE = 2,
    CLI_REFUSED = 75, /* EX_TEMPFAIL of sysexits.h: try again later */
};

struct cli {
    const char *store;
    const char *limit;
    const char *revoke;
    const char *meter;
    const char *from;
    const char *to;
    bool csv;
    const char *wait;
    char *charges[QL_METERS_MAX + 1]; /* METER=AMOUNT; one too many is seen */
    size_t charge_count;
    bool slot_only;
    bool json;
    bool help;
    bool version;
    int arg_count;
    char **args;
    int work_count; /* of what stands behind "--", for a command that takes it */
    char **work;    /* with a NULL behind it */
    struct ql *ql;
};

struct cli_command {
    const char *name;
    const char *arguments; /* for the usage line */
    const char *summary;
    const char *help;
    int min_args;
    int max_args;
    bool takes_limit;
    bool takes_revoke;
    bool any_clock;    /* opens a store of tests, with a clock of theirs, too */
    bool takes_period; /* --meter, --from, --to, --csv */
    bool takes_work;   /* and its options */
    enum cli_exit (*run)(struct cli *cli);
    /* Says why the store could not be opened, where that is the command's
     * answer; NULL: the common message. */
    enum cli_exit (*open_failed)(const struct cli *cli, const struct ql_error *error);
};

extern const struct cli_command cli_usage_command;
extern const struct cli_command cli_leases_command;
extern const struct cli_command cli_check_command;
extern const struct cli_command cli_charge_command;
extern const struct cli_command cli_run_command;
extern const struct cli_command cli_verify_command;
extern const struct cli_command cli_history_command;
extern const struct cli_command cli_backup_command;

/* Digits and nothing else, up to 2^63-1. */
bool cli_parse_amount(const char *text, int64_t *amount);

#endif
