/* SPDX-License-Identifier: Apache-2.0
 *
 * quotalite charge: add an amount to a meter.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

bool cli_parse_amount(const char *text, int64_t *amount)
{
    if (text[0] == '\0' || text[strspn(text, "0123456789")] != '\0') {
        return false;
    }
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    *amount = value;
    return errno == 0;
}

static enum cli_exit run(struct cli *cli)
{
    const char *subject = cli->args[0];
    const char *meter = cli->args[1];
    int64_t amount;
    if (!cli_parse_amount(cli->args[2], &amount)) {
        cli_fail(cli, QL_E_INVALID, "'%s' is no amount: a whole number from 0 to %" PRId64,
                 cli->args[2], INT64_MAX);
        return CLI_USAGE;
    }
    enum ql_status status = ql_charge(cli->ql, subject, meter, amount, NULL);
    if (status == QL_E_NOT_DURABLE) {
        fprintf(stderr, "quotalite: %s\n", ql_status_text(status));
    } else if (status != QL_OK) {
        return cli_fail_on(cli, status, status == QL_E_METER ? meter : subject);
    }
    if (cli->json) {
        cli_json_put(stdout,
                     json_pack("{s:o, s:o, s:I}", "subject", cli_json_text(subject), "meter",
                               cli_json_text(meter), "charged", (json_int_t)amount));
        putchar('\n');
    } else {
        char *safe = cli_safe(subject);
        printf("charged %s %s %" PRId64 "\n", safe, meter, amount);
        free(safe);
    }
    return CLI_OK;
}

const struct cli_command cli_charge_command = {
    .name = "charge",
    .arguments = " SUBJECT METER AMOUNT",
    .summary = "add an amount to a meter of SUBJECT",
    .help = "Adds AMOUNT (a whole number, not negative) to the meter's total of today. A\n"
            "charge is never refused for a cap: what it counts is spent. Exit status 0 means\n"
            "that the charge is made, once (a message says so if it is not in the ledger\n"
            "yet); any other that it is not.\n"
            "\n"
            "Examples:\n"
            "  quotalite charge alice bytes 1048576\n"
            "  quotalite charge acme/data/alice statements 1 --json\n",
    .min_args = 3,
    .max_args = 3,
    .run = run,
};
