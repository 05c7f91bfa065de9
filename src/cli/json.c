/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON. Lists are printed item by item: a store may have millions of subjects.
 */
#include <stdlib.h>

#include "output.h"

json_t *cli_json_text(const char *text)
{
    json_t *value = json_string(text);
    if (value == NULL) {
        char *safe = cli_safe(text);
        value = json_string(safe);
        free(safe);
    }
    return value;
}

static json_t *json_limit(const struct ql_limit_state *limit)
{
    bool windowed = limit->window != QL_WINDOW_NONE;
    return json_pack("{s:s, s:s?, s:s?, s:I, s:I, s:I, s:o}", "name", limit->name, "meter",
                     limit->meter, "window", windowed ? "day" : NULL, "cap", (json_int_t)limit->cap,
                     "used", (json_int_t)limit->used, "remaining", (json_int_t)limit->remaining,
                     "resets_at", windowed ? json_integer(limit->resets_at) : json_null());
}

json_t *cli_json_limits(const struct ql_limit_state *limits, uint32_t count)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++) {
        json_array_append_new(list, json_limit(&limits[i]));
    }
    return list;
}

void cli_json_put(FILE *file, json_t *value)
{
    char *text = json_dumps(value, JSON_ENSURE_ASCII | JSON_COMPACT);
    json_decref(value);
    if (text == NULL) {
        fputs("quotalite: out of memory\n", stderr);
        exit(CLI_ERROR);
    }
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == 0x7f) { /* the one control character that JSON lets through */
            fputs("\\u007f", file);
        } else {
            fputc(*c, file);
        }
    }
    free(text);
}

void cli_json_list_begin(const char *name)
{
    printf("{\"%s\":[", name);
}

void cli_json_list_item(bool first, json_t *value)
{
    fputs(first ? "\n" : ",\n", stdout);
    cli_json_put(stdout, value);
}

void cli_json_list_end(bool empty)
{
    fputs(empty ? "]}\n" : "\n]}\n", stdout);
}
