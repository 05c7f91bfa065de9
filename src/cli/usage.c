/* SPDX-License-Identifier: Apache-2.0
 *
 * quotalite usage: what subjects hold and have used.
 */
#include <stdlib.h>
#include <string.h>

#include "output.h"

struct names {
    char **items;
    size_t count;
    size_t room;
};

/* Only the names are kept: a store may have millions of subjects. */
static int collect(void *context, const struct ql_subject_info *subject)
{
    struct names *names = context;
    if (names->count == names->room) {
        names->room = names->room == 0 ? 64 : names->room * 2;
        names->items = cli_resize(names->items, names->room * sizeof(*names->items));
    }
    names->items[names->count++] = cli_copy(subject->subject);
    return 0;
}

static int by_name(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void free_names(struct names *names)
{
    for (size_t i = 0; i < names->count; i++) {
        free(names->items[i]);
    }
    free(names->items);
}

static json_t *json_usage(const char *subject, const struct ql_usage *usage)
{
    json_t *meters = json_array();
    for (uint32_t i = 0; i < usage->meter_count; i++) {
        const struct ql_meter_state *meter = &usage->meters[i];
        json_array_append_new(meters, json_pack("{s:s, s:I, s:I}", "name", meter->name, "total",
                                                (json_int_t)meter->total, "yesterday",
                                                (json_int_t)meter->yesterday));
    }
    return json_pack("{s:o, s:I, s:o, s:o}", "subject", cli_json_text(subject), "leases",
                     (json_int_t)usage->leases, "limits",
                     cli_json_limits(usage->limits, usage->limit_count), "meters", meters);
}

static bool has_limit(const struct ql_usage *usage, const char *meter)
{
    for (uint32_t i = 0; i < usage->limit_count; i++) {
        const char *of = usage->limits[i].meter;
        if ((meter == NULL && of == NULL) ||
            (meter != NULL && of != NULL && strcmp(of, meter) == 0)) {
            return true;
        }
    }
    return false;
}

/* What is counted although no limit names it any more. */
static void add_unlimited(struct cli_table *table, const char *subject, const char *meter,
                          int64_t used)
{
    char cell[CLI_CELL_MAX];
    const char *const cells[CLI_LIMIT_COLUMNS] = {
        subject, "-", meter, cli_cell_number(cell, used), "none", "-", "-",
    };
    cli_table_add(table, cells);
}

static void add_rows(struct cli_table *table, const char *subject, const struct ql_usage *usage)
{
    char *safe = cli_safe(subject);
    for (uint32_t i = 0; i < usage->limit_count; i++) {
        cli_limit_row(table, safe, &usage->limits[i]);
    }
    if (usage->leases > 0 && !has_limit(usage, NULL)) {
        add_unlimited(table, safe, "-", usage->leases);
    }
    for (uint32_t i = 0; i < usage->meter_count; i++) {
        if (!has_limit(usage, usage->meters[i].name)) {
            add_unlimited(table, safe, usage->meters[i].name, usage->meters[i].total);
        }
    }
    free(safe);
}

/* Prints subjects in the order given, each as it stands now. */
static enum cli_exit print_subjects(const struct cli *cli, char *const *subjects, size_t count)
{
    struct cli_table table = {.columns = cli_limit_columns, .column_count = CLI_LIMIT_COLUMNS};
    struct ql_usage usage;
    enum ql_status status = QL_OK;
    size_t i;
    for (i = 0; i < count; i++) {
        status = ql_usage(cli->ql, subjects[i], &usage);
        if (status != QL_OK) {
            break;
        }
        if (!cli->json) {
            add_rows(&table, subjects[i], &usage);
            continue;
        }
        if (i == 0) {
            cli_json_list_begin("subjects");
        }
        cli_json_list_item(i == 0, json_usage(subjects[i], &usage));
    }
    if (status != QL_OK) {
        cli_table_free(&table);
        return cli_fail_on(cli, status, subjects[i]);
    }
    if (!cli->json) {
        cli_table_print(&table);
    } else {
        if (count == 0) {
            cli_json_list_begin("subjects");
        }
        cli_json_list_end(count == 0);
    }
    cli_table_free(&table);
    return CLI_OK;
}

static enum cli_exit run(struct cli *cli)
{
    if (cli->arg_count == 1) {
        return print_subjects(cli, cli->args, 1);
    }
    struct names names = {0};
    enum ql_status status = ql_each_subject(cli->ql, collect, &names, NULL);
    enum cli_exit result;
    if (status != QL_OK) {
        result = cli_fail_on(cli, status, cli->store);
    } else {
        if (names.count > 0) {
            qsort(names.items, names.count, sizeof(*names.items), by_name);
        }
        result = print_subjects(cli, names.items, names.count);
    }
    free_names(&names);
    return result;
}

const struct cli_command cli_usage_command = {
    .name = "usage",
    .arguments = " [SUBJECT]",
    .summary = "what subjects hold and have used today",
    .help = "Prints a line for each limit of SUBJECT, or of all subjects, sorted by name:\n"
            "what is used, the cap, what remains, and when the window ends (UTC). A subject\n"
            "that was never seen has used nothing; it is not created. JSON also has each\n"
            "meter's total of today and yesterday; resets_at is in Unix seconds.\n"
            "\n"
            "Examples:\n"
            "  quotalite usage --store /var/lib/app/quota\n"
            "  quotalite usage acme/alice --json | jq '.subjects[0].meters'\n",
    .max_args = 1,
    .run = run,
};
