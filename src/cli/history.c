/* SPDX-License-Identifier: Apache-2.0
 *
 * quotalite history: what a subject was charged, window by window.
 */
#include <string.h>
#include <time.h>

#include "output.h"

#define SECONDS_PER_DAY INT64_C(86400)
#define FIRST_DAY "1970-01-01"
#define LAST_DAY "9999-12-31"

/* YYYY-MM-DD, a day that there is. */
static bool parse_day(const char *text, int64_t *start)
{
    struct tm day = {0};
    char again[sizeof LAST_DAY];
    const char *end = strptime(text, "%Y-%m-%d", &day);
    if (end == NULL || *end != '\0') {
        return false;
    }
    *start = timegm(&day);
    return strftime(again, sizeof again, "%Y-%m-%d", &day) == sizeof again - 1 &&
           strcmp(again, text) == 0 && *start >= 0;
}

static const char *day_of(char cell[CLI_CELL_MAX], int64_t start)
{
    time_t seconds = (time_t)start;
    struct tm day;
    gmtime_r(&seconds, &day);
    strftime(cell, CLI_CELL_MAX, "%Y-%m-%d", &day);
    return cell;
}

/* The entries as they come; a table is printed once all are there. */
struct printing {
    const struct cli *cli;
    struct cli_table table;
    size_t count;
};

static void begin(const struct printing *printing)
{
    if (printing->cli->json) {
        cli_json_list_begin("history");
    } else if (printing->cli->csv) {
        puts("day,meter,amount");
    }
}

static void print_json(const struct ql_history_entry *entry, bool first)
{
    cli_json_list_item(first, json_pack("{s:I, s:I, s:s, s:I}", "start", (json_int_t)entry->start,
                                        "end", (json_int_t)entry->end, "meter", entry->meter,
                                        "amount", (json_int_t)entry->amount));
}

static int print_entry(void *context, const struct ql_history_entry *entry)
{
    struct printing *printing = context;
    char day[CLI_CELL_MAX];
    char amount[CLI_CELL_MAX];
    const char *const cells[] = {
        day_of(day, entry->start),
        entry->meter,
        cli_cell_number(amount, entry->amount),
    };
    if (printing->count == 0) {
        begin(printing);
    }
    if (printing->cli->json) {
        print_json(entry, printing->count == 0);
    } else if (printing->cli->csv) {
        printf("%s,%s,%s\n", cells[0], cells[1], cells[2]);
    } else {
        cli_table_add(&printing->table, cells);
    }
    printing->count++;
    return 0;
}

static void finish(struct printing *printing)
{
    if (printing->count == 0) {
        begin(printing);
    }
    if (printing->cli->json) {
        cli_json_list_end(printing->count == 0);
    } else if (!printing->cli->csv) {
        cli_table_print(&printing->table);
    }
}

/* What is the matter with a ledger, ql_flush says. */
static enum cli_exit fail(const struct cli *cli, enum ql_status status)
{
    struct ql_error error;
    if ((status == QL_E_LEDGER || status == QL_E_VERSION) && ql_flush(cli->ql, &error) == status) {
        return cli_fail(cli, status, "%s", error.text);
    }
    return cli_fail_on(cli, status, cli->args[0]);
}

static enum cli_exit run(struct cli *cli)
{
    static const struct cli_column columns[] = {
        {"DAY", false},
        {"METER", false},
        {"AMOUNT", true},
    };
    int64_t from;
    int64_t last;
    if (!parse_day(cli->from != NULL ? cli->from : FIRST_DAY, &from) ||
        !parse_day(cli->to != NULL ? cli->to : LAST_DAY, &last) || last < from) {
        cli_fail(cli, QL_E_INVALID,
                 "--from and --to are days (UTC) like 2026-03-31, the first not after the second");
        return CLI_USAGE;
    }
    if (cli->json && cli->csv) {
        cli_fail(cli, QL_E_INVALID, "choose one of --json and --csv");
        return CLI_USAGE;
    }
    struct printing printing = {.cli = cli, .table = {.columns = columns, .column_count = 3}};
    enum ql_status status = ql_history(cli->ql, cli->args[0], cli->meter, from,
                                       last + SECONDS_PER_DAY, print_entry, &printing, NULL);
    if (status == QL_OK) {
        finish(&printing);
    }
    cli_table_free(&printing.table);
    return status == QL_OK ? CLI_OK : fail(cli, status);
}

const struct cli_command cli_history_command = {
    .name = "history",
    .arguments = " SUBJECT",
    .summary = "what SUBJECT was charged, day by day",
    .help = "Prints a line for each day (UTC) and meter that SUBJECT was charged for, the\n"
            "oldest first: what the ledger has, and what is not yet written to it. A store\n"
            "without a ledger knows today and yesterday. start and end of JSON are the Unix\n"
            "seconds at which a day begins and ends.\n"
            "\n"
            "      --meter NAME   of this meter alone\n"
            "      --from DAY     from this day on, as YYYY-MM-DD\n"
            "      --to DAY       up to this day and with it\n"
            "      --csv          comma-separated, with a heading\n"
            "\n"
            "Examples:\n"
            "  quotalite history alice --from 2026-03-01 --to 2026-03-31\n"
            "  quotalite history acme/alice --meter bytes --csv >alice.csv\n",
    .min_args = 1,
    .max_args = 1,
    .takes_period = true,
    .run = run,
};
