/* SPDX-License-Identifier: Apache-2.0
 *
 * quotalite check: do the budgets allow work now?
 */
#include <inttypes.h>
#include <stdlib.h>

#include "output.h"

void cli_refusal_line(FILE *file, const struct ql_verdict *verdict)
{
    fprintf(file,
            "refused: %s: %" PRId64 "/%" PRId64 ", level %" PRIu32 ", retry after %" PRId64 " s\n",
            verdict->kind, verdict->current, verdict->limit, verdict->level,
            verdict->retry_after_seconds);
}

void cli_json_verdict(FILE *file, const char *subject, bool allowed,
                      const struct ql_verdict *verdict)
{
    json_t *answer =
        json_pack("{s:o, s:b}", "subject", cli_json_text(subject), "allowed", (int)allowed);
    if (!allowed) {
        json_t *refusal =
            json_pack("{s:s, s:I, s:I, s:I, s:I}", "kind", verdict->kind, "current",
                      (json_int_t)verdict->current, "limit", (json_int_t)verdict->limit,
                      "retry_after_seconds", (json_int_t)verdict->retry_after_seconds, "level",
                      (json_int_t)verdict->level);
        json_object_update_missing(answer, refusal);
        json_decref(refusal);
    }
    json_object_set_new(answer, "limits", cli_json_limits(verdict->limits, verdict->limit_count));
    cli_json_put(file, answer);
    fputc('\n', file);
}

static void print_text(const char *subject, bool allowed, const struct ql_verdict *verdict)
{
    struct cli_table table = {.columns = cli_limit_columns, .column_count = CLI_LIMIT_COLUMNS};
    char *safe = cli_safe(subject);
    if (allowed) {
        puts("allowed");
    } else {
        cli_refusal_line(stdout, verdict);
    }
    for (uint32_t i = 0; i < verdict->limit_count; i++) {
        cli_limit_row(&table, safe, &verdict->limits[i]);
    }
    cli_table_print(&table);
    cli_table_free(&table);
    free(safe);
}

static enum cli_exit run(struct cli *cli)
{
    struct ql_verdict verdict;
    const char *subject = cli->args[0];
    enum ql_status status = ql_check(cli->ql, subject, cli->limit, &verdict);
    if (status < 0) {
        return cli_fail_on(cli, status, status == QL_E_LIMIT ? cli->limit : subject);
    }
    if (cli->json) {
        cli_json_verdict(stdout, subject, status == QL_OK, &verdict);
    } else {
        print_text(subject, status == QL_OK, &verdict);
    }
    return status == QL_OK ? CLI_OK : CLI_REFUSED;
}

const struct cli_command cli_check_command = {
    .name = "check",
    .arguments = " SUBJECT",
    .summary = "whether the budgets allow SUBJECT work now",
    .help = "Looks at the windowed limits (not at how many leases are held) and takes\n"
            "nothing. Exit status 0: allowed; 75: refused, with the limit that refuses, what\n"
            "is used, its cap, and the seconds until its window ends.\n"
            "\n"
            "  -l, --limit NAME   look at this limit only\n"
            "\n"
            "Examples:\n"
            "  quotalite check alice\n"
            "  quotalite check alice --limit daily_bytes --json\n",
    .min_args = 1,
    .max_args = 1,
    .takes_limit = true,
    .run = run,
};
