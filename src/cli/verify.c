/* SPDX-License-Identifier: Apache-2.0
 *
 * quotalite verify: is the store sound?
 */
#include <inttypes.h>

#include "output.h"

/* That the store is damaged is this command's answer, so it goes to standard
 * output, whether ql_open or ql_verify found it. */
static enum cli_exit print_failure(const struct cli *cli, const struct ql_error *error)
{
    if (error->status == QL_E_CORRUPT && cli->json) {
        cli_json_put(stdout,
                     json_pack("{s:b, s:s, s:o}", "sound", 0, "status",
                               ql_status_name(error->status), "text", cli_json_text(error->text)));
        putchar('\n');
        return CLI_ERROR;
    }
    return cli_fail(cli, error->status, "%s", error->text);
}

static const char *percent_of(char cell[CLI_CELL_MAX], uint64_t part, uint64_t whole)
{
    snprintf(cell, CLI_CELL_MAX, "%.1f %%",
             whole == 0 ? 0.0 : 100.0 * (double)part / (double)whole);
    return cell;
}

static void print_text(const struct ql_verify_report *report)
{
    char cell[CLI_CELL_MAX];
    puts("sound");
    printf("subjects   %" PRIu64 " of %" PRIu64 " (%s)\n", report->subjects, report->max_subjects,
           percent_of(cell, report->subjects, report->max_subjects));
    printf("leases     %" PRIu64 " of %" PRIu64 " (%s)\n", report->leases, report->max_leases,
           percent_of(cell, report->leases, report->max_leases));
    printf("holders    %" PRIu64 ", this command included\n", report->holders);
    printf("omissions  %" PRIu64 "\n", report->omissions);
    printf("bytes      %" PRIu64 "\n", report->region_bytes);
    printf("flush lag  %" PRId64 " ms\n", report->flush_lag_ms);
}

static void print_json(const struct ql_verify_report *report)
{
    cli_json_put(stdout,
                 json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "sound", 1, "subjects",
                           (json_int_t)report->subjects, "max_subjects",
                           (json_int_t)report->max_subjects, "leases", (json_int_t)report->leases,
                           "max_leases", (json_int_t)report->max_leases, "holders",
                           (json_int_t)report->holders, "omissions", (json_int_t)report->omissions,
                           "region_bytes", (json_int_t)report->region_bytes, "flush_lag_ms",
                           (json_int_t)report->flush_lag_ms));
    putchar('\n');
}

static enum cli_exit run(struct cli *cli)
{
    struct ql_verify_report report;
    struct ql_error error;
    enum ql_status status = ql_verify(cli->ql, &report, &error);
    if (status != QL_OK) {
        return print_failure(cli, &error);
    }
    if (cli->json) {
        print_json(&report);
    } else {
        print_text(&report);
    }
    return CLI_OK;
}

const struct cli_command cli_verify_command = {
    .name = "verify",
    .arguments = "",
    .summary = "whether the store is sound",
    .help = "Checks every invariant of the store while others use it, then writes to the\n"
            "ledger what it lacks, has SQLite check it, and compares the two. Exit status 0:\n"
            "sound, and how full it is, and the flush lag: how long ago the last completed\n"
            "flush began (well under a second, where the ledger can be written; 0 without\n"
            "one). 1: damaged, and the first invariant that does not hold.\n"
            "\n"
            "Examples:\n"
            "  quotalite verify --store /var/lib/app/quota\n"
            "  quotalite verify --json\n",
    .any_clock = true,
    .run = run,
    .open_failed = print_failure,
};
