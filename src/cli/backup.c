/* SPDX-License-Identifier: Apache-2.0
 *
 * quotalite backup: a copy of the ledger.
 */
#include <stdlib.h>

#include "output.h"

static enum cli_exit run(struct cli *cli)
{
    struct ql_error error;
    const char *path = cli->args[0];
    enum ql_status status = ql_backup(cli->ql, path, &error);
    if (status != QL_OK) {
        return cli_fail(cli, status, "%s", error.text);
    }
    if (cli->json) {
        cli_json_put(stdout, json_pack("{s:o}", "backup", cli_json_text(path)));
        putchar('\n');
    } else {
        char *safe = cli_safe(path);
        printf("%s\n", safe);
        free(safe);
    }
    return CLI_OK;
}

const struct cli_command cli_backup_command = {
    .name = "backup",
    .arguments = " FILE",
    .summary = "copy the ledger to a new FILE",
    .help = "Copies the ledger, with all that was charged before, into FILE, while programs\n"
            "use the store. FILE is an SQLite database; one that exists is not touched. Do\n"
            "not copy ledger.db by other means: a part of it is in ledger.db-wal. How to go\n"
            "back to a backup is in quotalite(1).\n"
            "\n"
            "Examples:\n"
            "  quotalite backup /var/backups/quota-$(date +%F).db\n",
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
