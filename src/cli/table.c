/* SPDX-License-Identifier: Apache-2.0
 *
 * Aligned tables.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wchar.h>

#include "output.h"

#define COLUMNS_MAX 8

const struct cli_column cli_limit_columns[CLI_LIMIT_COLUMNS] = {
    {"SUBJECT", false}, {"LIMIT", false},    {"METER", false},  {"USED", true},
    {"CAP", true},      {"REMAINING", true}, {"RESETS", false},
};

void cli_table_add(struct cli_table *table, const char *const *cells)
{
    size_t size = 0;
    for (size_t i = 0; i < table->column_count; i++) {
        size += strlen(cells[i]) + 1;
    }
    char *row = cli_resize(NULL, size);
    if (table->row_count == table->room) {
        table->room = table->room == 0 ? 64 : table->room * 2;
        table->rows = cli_resize(table->rows, table->room * sizeof(*table->rows));
    }
    table->rows[table->row_count++] = row;
    for (size_t i = 0; i < table->column_count; i++) {
        row = stpcpy(row, cells[i]) + 1;
    }
}

/* Columns of a terminal that the text takes. */
static size_t width_of(const char *text)
{
    size_t width = 0;
    size_t left = strlen(text);
    while (left > 0) {
        mbstate_t state = {0};
        wchar_t c = 0;
        size_t length = mbrtowc(&c, text, left, &state);
        if (length == 0 || length > left) {
            return width + left;
        }
        int columns = wcwidth(c);
        width += columns < 0 ? 1 : (size_t)columns;
        text += length;
        left -= length;
    }
    return width;
}

static void print_padding(size_t count)
{
    printf("%*s", (int)count, "");
}

static void print_cell(const char *cell, size_t width, bool number, bool last)
{
    size_t padding = width - width_of(cell);
    if (number) {
        print_padding(padding);
    }
    fputs(cell, stdout);
    if (!number && !last) {
        print_padding(padding);
    }
    fputs(last ? "\n" : "  ", stdout);
}

static void widen(size_t *width, const char *cell)
{
    size_t needed = width_of(cell);
    *width = needed > *width ? needed : *width;
}

void cli_table_print(const struct cli_table *table)
{
    size_t widths[COLUMNS_MAX] = {0};
    size_t count = table->column_count;
    for (size_t i = 0; i < count; i++) {
        widths[i] = width_of(table->columns[i].heading);
    }
    for (size_t r = 0; r < table->row_count; r++) {
        const char *cell = table->rows[r];
        for (size_t i = 0; i < count; i++, cell += strlen(cell) + 1) {
            widen(&widths[i], cell);
        }
    }
    for (size_t i = 0; i < count; i++) {
        const struct cli_column *column = &table->columns[i];
        print_cell(column->heading, widths[i], column->number, i + 1 == count);
    }
    for (size_t r = 0; r < table->row_count; r++) {
        const char *cell = table->rows[r];
        for (size_t i = 0; i < count; i++, cell += strlen(cell) + 1) {
            print_cell(cell, widths[i], table->columns[i].number, i + 1 == count);
        }
    }
}

void cli_table_free(struct cli_table *table)
{
    for (size_t r = 0; r < table->row_count; r++) {
        free(table->rows[r]);
    }
    free(table->rows);
    table->rows = NULL;
    table->row_count = table->room = 0;
}

const char *cli_cell_number(char cell[CLI_CELL_MAX], int64_t number)
{
    snprintf(cell, CLI_CELL_MAX, "%" PRId64, number);
    return cell;
}

const char *cli_cell_time(char cell[CLI_CELL_MAX], int64_t unix_seconds)
{
    struct tm calendar;
    time_t seconds = (time_t)unix_seconds;
    if (gmtime_r(&seconds, &calendar) == NULL ||
        strftime(cell, CLI_CELL_MAX, "%Y-%m-%dT%H:%M:%SZ", &calendar) == 0) {
        return cli_cell_number(cell, unix_seconds);
    }
    return cell;
}

const char *cli_cell_age(char cell[CLI_CELL_MAX], int64_t age_ms)
{
    int64_t seconds = age_ms / 1000;
    int64_t minutes = seconds / 60;
    int64_t hours = minutes / 60;
    if (minutes == 0) {
        snprintf(cell, CLI_CELL_MAX, "%" PRId64 ".%" PRId64 "s", seconds, age_ms % 1000 / 100);
    } else if (hours == 0) {
        snprintf(cell, CLI_CELL_MAX, "%" PRId64 "m%02" PRId64 "s", minutes, seconds % 60);
    } else if (hours < 24) {
        snprintf(cell, CLI_CELL_MAX, "%" PRId64 "h%02" PRId64 "m", hours, minutes % 60);
    } else {
        snprintf(cell, CLI_CELL_MAX, "%" PRId64 "d%02" PRId64 "h", hours / 24, hours % 24);
    }
    return cell;
}

void cli_limit_row(struct cli_table *table, const char *safe_subject,
                   const struct ql_limit_state *limit)
{
    char used[CLI_CELL_MAX];
    char cap[CLI_CELL_MAX] = "none";
    char remaining[CLI_CELL_MAX] = "-";
    char resets[CLI_CELL_MAX] = "-";
    if (limit->cap != INT64_MAX) {
        cli_cell_number(cap, limit->cap);
        cli_cell_number(remaining, limit->remaining);
    }
    if (limit->resets_at != 0) {
        cli_cell_time(resets, limit->resets_at);
    }
    const char *const cells[CLI_LIMIT_COLUMNS] = {
        safe_subject,
        limit->name,
        limit->meter == NULL ? "-" : limit->meter,
        cli_cell_number(used, limit->used),
        cap,
        remaining,
        resets,
    };
    cli_table_add(table, cells);
}
