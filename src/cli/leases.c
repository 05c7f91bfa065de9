/* SPDX-License-Identifier: Apache-2.0
 *
 * quotalite leases: who holds slots, and the end of one that is stuck.
 */
#include <stdlib.h>
#include <string.h>

#include "output.h"

struct held {
    char id[QL_LEASE_TEXT_MAX];
    char *subject;
    int64_t since;
    int64_t age_ms;
    int64_t expires_in_ms;
    int64_t pid;
    bool timed;
};

struct held_list {
    const char *subject; /* of whom; NULL: of all */
    struct held *items;
    size_t count;
    size_t room;
};

static int collect(void *context, const struct ql_lease_info *lease)
{
    struct held_list *list = context;
    if (list->subject != NULL && strcmp(list->subject, lease->subject) != 0) {
        return 0;
    }
    if (list->count == list->room) {
        list->room = list->room == 0 ? 64 : list->room * 2;
        list->items = cli_resize(list->items, list->room * sizeof(*list->items));
    }
    struct held *held = &list->items[list->count++];
    ql_lease_format(lease->lease, held->id);
    held->subject = cli_copy(lease->subject);
    held->since = lease->since;
    held->age_ms = lease->age_ms;
    held->expires_in_ms = lease->expires_in_ms;
    held->pid = lease->pid;
    held->timed = lease->timed;
    return 0;
}

/* By subject, the oldest first. */
static int in_order(const void *left, const void *right)
{
    const struct held *a = left;
    const struct held *b = right;
    int names = strcmp(a->subject, b->subject);
    if (names != 0) {
        return names;
    }
    if (a->age_ms != b->age_ms) {
        return a->age_ms > b->age_ms ? -1 : 1;
    }
    return strcmp(a->id, b->id);
}

static void print_table(const struct held_list *list)
{
    static const struct cli_column columns[] = {
        {"LEASE", false}, {"SUBJECT", false}, {"SINCE", false},
        {"AGE", true},    {"EXPIRES", true},  {"PID", true},
    };
    struct cli_table table = {.columns = columns, .column_count = 6};
    for (size_t i = 0; i < list->count; i++) {
        const struct held *held = &list->items[i];
        char since[CLI_CELL_MAX];
        char age[CLI_CELL_MAX];
        char expires[CLI_CELL_MAX] = "-";
        char pid[CLI_CELL_MAX];
        char *safe = cli_safe(held->subject);
        if (held->expires_in_ms != 0) {
            cli_cell_age(expires, held->expires_in_ms);
        }
        const char *const cells[] = {
            held->id,
            safe,
            cli_cell_time(since, held->since),
            cli_cell_age(age, held->age_ms),
            expires,
            held->timed ? "-" : cli_cell_number(pid, held->pid),
        };
        cli_table_add(&table, cells);
        free(safe);
    }
    cli_table_print(&table);
    cli_table_free(&table);
}

static json_t *json_lease(const struct held *held)
{
    bool expires = held->expires_in_ms != 0;
    return json_pack("{s:s, s:o, s:I, s:I, s:o, s:o, s:b}", "lease", held->id, "subject",
                     cli_json_text(held->subject), "since", (json_int_t)held->since, "age_ms",
                     (json_int_t)held->age_ms, "expires_in_ms",
                     expires ? json_integer(held->expires_in_ms) : json_null(), "pid",
                     held->timed ? json_null() : json_integer(held->pid), "timed", held->timed);
}

static void print_json(const struct held_list *list)
{
    cli_json_list_begin("leases");
    for (size_t i = 0; i < list->count; i++) {
        const struct held *held = &list->items[i];
        cli_json_list_item(i == 0, json_lease(held));
    }
    cli_json_list_end(list->count == 0);
}

static enum cli_exit revoke(struct cli *cli)
{
    struct ql_lease lease;
    enum ql_status status = ql_lease_parse(cli->revoke, &lease);
    if (status != QL_OK) {
        return cli_fail(cli, status,
                        "'%s' is no lease; 'quotalite leases' prints those that there are",
                        cli->revoke);
    }
    status = ql_revoke(cli->ql, lease);
    if (status == QL_E_SETTLED || status == QL_E_EXPIRED) {
        return cli_fail(cli, status, "the lease '%s' is not held any more", cli->revoke);
    }
    if (status != QL_OK) {
        return cli_fail_on(cli, status, cli->revoke);
    }
    if (cli->json) {
        cli_json_put(stdout, json_pack("{s:s}", "revoked", cli->revoke));
        putchar('\n');
    } else {
        printf("revoked %s\n", cli->revoke);
    }
    return CLI_OK;
}

/* An unknown subject holds nothing; a bad one is an error as everywhere. */
static enum ql_status read_leases(struct cli *cli, struct held_list *list)
{
    struct ql_usage usage;
    enum ql_status status = QL_OK;
    if (list->subject != NULL) {
        status = ql_usage(cli->ql, list->subject, &usage);
    }
    if (status == QL_OK) {
        status = ql_each_lease(cli->ql, collect, list, NULL);
    }
    if (list->count > 0) {
        qsort(list->items, list->count, sizeof(*list->items), in_order);
    }
    return status;
}

static enum cli_exit run(struct cli *cli)
{
    if (cli->revoke != NULL) {
        return revoke(cli);
    }
    struct held_list list = {.subject = cli->arg_count == 1 ? cli->args[0] : NULL};
    enum ql_status status = read_leases(cli, &list);
    if (status != QL_OK) {
        cli_fail_on(cli, status, list.subject != NULL ? list.subject : cli->store);
    } else if (cli->json) {
        print_json(&list);
    } else {
        print_table(&list);
    }
    for (size_t i = 0; i < list.count; i++) {
        free(list.items[i].subject);
    }
    free(list.items);
    return status == QL_OK ? CLI_OK : CLI_ERROR;
}

const struct cli_command cli_leases_command = {
    .name = "leases",
    .arguments = " [SUBJECT | --revoke ID]",
    .summary = "who holds slots; --revoke frees one that is stuck",
    .help = "Prints the leases that are held, by SUBJECT or by all, sorted by subject and\n"
            "age. EXPIRES is the time to a lease's maximum age or deadline, if it has one.\n"
            "PID is the holder's in its own pid namespace: in a container it may differ from\n"
            "what is seen outside. A timed lease, which no process holds, has none.\n"
            "\n"
            "  -r, --revoke ID   end this lease and free its slot; the work itself is not\n"
            "                    stopped, and a settle of the lease still charges, late\n"
            "\n"
            "Examples:\n"
            "  quotalite leases alice\n"
            "  quotalite leases --json | jq -r '.leases[] | select(.age_ms > 3600000).lease'\n"
            "  quotalite leases --revoke ID\n",
    .max_args = 1,
    .takes_revoke = true,
    .run = run,
};
