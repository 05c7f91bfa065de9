/* SPDX-License-Identifier: Apache-2.0
 *
 * A program with a store, for the tests of the command line tool: it does what
 * its standard input says, a line at a time, words parted by tabs, and answers
 * each line with one line: the status, and a lease's or an error's text where there
 * is one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quotalite.h"

static struct ql *ql;

static void take_kind(const char *kind, struct ql_options *options)
{
    if (strcmp(kind, "one-limit") == 0) {
        options->limits = &options->limits[2];
        options->limit_count = 1;
        options->replace_limits = true;
    } else if (strcmp(kind, "no-ledger") == 0) {
        options->durability = QL_DURABILITY_NONE;
    } else if (strcmp(kind, "slow") == 0) { /* nothing is flushed but by who is asked to */
        options->flush_interval_ms = 86400000;
    }
}

static enum ql_status open_store(char **words, int count, struct ql_error *error)
{
    static const struct ql_limit limits[] = {
        {"concurrent_scans", NULL, QL_WINDOW_NONE, 2},
        {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
        {"daily_statements", "statements", QL_WINDOW_DAY, INT64_MAX},
    };
    struct ql_options options = QL_OPTIONS_INIT;
    options.limits = limits;
    options.limit_count = 3;
    options.max_subjects = 64;
    if (count == 3) {
        take_kind(words[2], &options);
    }
    return ql_open(words[1], &options, &ql, error);
}

static enum ql_status settle(char **words, int count)
{
    struct ql_lease lease;
    struct ql_charge charge = {"bytes", 0};
    enum ql_status status = ql_lease_parse(words[1], &lease);
    if (status != QL_OK) {
        return status;
    }
    if (count == 2) {
        return ql_release(ql, lease);
    }
    charge.amount = strtoll(words[2], NULL, 10);
    return ql_settle(ql, lease, &charge, 1);
}

static void obey(char **words, int count)
{
    enum ql_status status = QL_E_INVALID;
    char lease_text[QL_LEASE_TEXT_MAX] = "";
    const char *text = lease_text;
    struct ql_error error = {.text = ""};
    if (strcmp(words[0], "open") == 0) {
        status = open_store(words, count, &error);
        text = error.text;
    } else if (strcmp(words[0], "flush") == 0) {
        status = ql_flush(ql, &error);
        text = error.text;
    } else if (strcmp(words[0], "acquire") == 0) {
        struct ql_lease lease;
        struct ql_request request = QL_REQUEST_INIT;
        request.max_age_ms = count == 3 ? strtoll(words[2], NULL, 10) : 0;
        status = count == 3 ? ql_admit(ql, words[1], &request, &lease, NULL)
                            : ql_acquire(ql, words[1], &lease, NULL);
        ql_lease_format(lease, lease_text);
    } else if (strcmp(words[0], "settle") == 0) {
        status = settle(words, count);
    } else if (strcmp(words[0], "charge") == 0 && count == 4) {
        status = ql_charge(ql, words[1], words[2], strtoll(words[3], NULL, 10), NULL);
    } else if (strcmp(words[0], "close") == 0) {
        ql_close(ql);
        ql = NULL;
        status = QL_OK;
    }
    printf("%s\t%s\n", ql_status_name(status), text);
    fflush(stdout);
}

int main(void)
{
    char line[1024];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        char *words[4];
        int count = 0;
        char *rest = line;
        line[strcspn(line, "\n")] = '\0';
        while (count < 4 && rest != NULL) {
            words[count++] = strsep(&rest, "\t");
        }
        obey(words, count);
    }
    ql_close(ql);
    return 0;
}
