/* SPDX-License-Identifier: Apache-2.0
 *
 * How the program prints: safe text, aligned tables, JSON, messages. Whatever
 * comes from a store or from the command line passes cli_safe() before it is
 * printed as text, so that no subject can write to a terminal. Out of memory
 * ends the program.
 */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cli.h"

/* ---- text (output.c) --------------------------------------------------- */

/* Memory that is there; without memory the program ends with a message. */
void *cli_resize(void *memory, size_t size);
char *cli_copy(const char *text);

/* A copy in which control characters, characters that turn the direction of
 * writing, and bytes that are no UTF-8 are visible escapes, and a backslash is
 * two. The caller frees it. */
char *cli_safe(const char *text);

/* A message on standard error: what is wrong and what to do. Returns CLI_ERROR.
 * With --json it is an object with the status' name and the text. */
enum cli_exit cli_fail(const struct cli *cli, enum ql_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a call about a thing that the caller named. */
enum cli_exit cli_fail_on(const struct cli *cli, enum ql_status status, const char *thing);

/* ---- tables (table.c) -------------------------------------------------- */

struct cli_column {
    const char *heading;
    bool number; /* flush right */
};

/* Rows are printed once all are there, so that the columns are aligned. */
struct cli_table {
    const struct cli_column *columns;
    size_t column_count;
    size_t row_count;
    size_t room;
    char **rows; /* each one allocation: the cells, each with its NUL */
};

void cli_table_add(struct cli_table *table, const char *const *cells);
void cli_table_print(const struct cli_table *table);
void cli_table_free(struct cli_table *table);

/* Texts for cells, written into the cell, which is returned. */
#define CLI_CELL_MAX 32
const char *cli_cell_number(char cell[CLI_CELL_MAX], int64_t number);
const char *cli_cell_time(char cell[CLI_CELL_MAX], int64_t unix_seconds);
const char *cli_cell_age(char cell[CLI_CELL_MAX], int64_t age_ms);

/* The table of limits that usage and check share: a row's own subject first. */
#define CLI_LIMIT_COLUMNS 7
extern const struct cli_column cli_limit_columns[CLI_LIMIT_COLUMNS];
void cli_limit_row(struct cli_table *table, const char *safe_subject,
                   const struct ql_limit_state *limit);

/* ---- JSON (json.c) ----------------------------------------------------- */

/* A text that is no UTF-8 becomes its safe form. */
json_t *cli_json_text(const char *text);
json_t *cli_json_limits(const struct ql_limit_state *limits, uint32_t count);

/* Prints the value and releases it. Pure ASCII, nothing that a terminal acts on. */
void cli_json_put(FILE *file, json_t *value);

/* The list that a command prints as {"name": [one item a line]}. */
void cli_json_list_begin(const char *name);
void cli_json_list_item(bool first, json_t *value);
void cli_json_list_end(bool empty);

/* ---- verdicts (check.c) ------------------------------------------------ */

void cli_refusal_line(FILE *file, const struct ql_verdict *verdict);
void cli_json_verdict(FILE *file, const char *subject, bool allowed,
                      const struct ql_verdict *verdict);

#endif
