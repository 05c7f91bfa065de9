/* SPDX-License-Identifier: Apache-2.0
 *
 * Safe text and messages.
 */
#include "output.h"

#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

void *cli_resize(void *memory, size_t size)
{
    void *resized = realloc(memory, size);
    if (resized == NULL) {
        fputs("quotalite: out of memory\n", stderr);
        exit(CLI_ERROR);
    }
    return resized;
}

char *cli_copy(const char *text)
{
    size_t size = strlen(text) + 1;
    return memcpy(cli_resize(NULL, size), text, size);
}

/* Characters that show nothing themselves but change how others are shown. */
static bool turns_writing(wchar_t c)
{
    return (c >= 0x200b && c <= 0x200f) || (c >= 0x202a && c <= 0x202e) ||
           (c >= 0x2060 && c <= 0x206f) || c == 0x061c || c == 0xfeff;
}

/* Writes one character's visible form, returns its length. 16 bytes suffice. */
static size_t visible(char *out, const char *text, size_t length, wchar_t c)
{
    if (length == 0) {
        return (size_t)sprintf(out, "\\x%02x", (unsigned char)text[0]);
    }
    if (c == L'\\') {
        return (size_t)sprintf(out, "\\\\");
    }
    if (iswcntrl((wint_t)c) || turns_writing(c)) {
        return (size_t)sprintf(out, "\\u{%x}", (unsigned)c);
    }
    memcpy(out, text, length);
    return length;
}

char *cli_safe(const char *text)
{
    size_t left = strlen(text);
    char *safe = cli_resize(NULL, left * 8 + 1);
    char *out = safe;
    while (left > 0) {
        mbstate_t state = {0};
        wchar_t c = 0;
        size_t length = mbrtowc(&c, text, left, &state);
        if (length > MB_LEN_MAX) {
            length = 0;
        }
        out += visible(out, text, length, c);
        length = length == 0 ? 1 : length;
        text += length;
        left -= length;
    }
    *out = '\0';
    return safe;
}

enum cli_exit cli_fail(const struct cli *cli, enum ql_status status, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);

    fflush(stdout);
    if (cli->json) {
        json_t *error =
            json_pack("{s:s, s:o}", "status", ql_status_name(status), "text", cli_json_text(text));
        cli_json_put(stderr, json_pack("{s:o}", "error", error));
        fputc('\n', stderr);
    } else {
        char *safe = cli_safe(text);
        fprintf(stderr, "quotalite: %s\n", safe);
        free(safe);
    }
    return CLI_ERROR;
}

/* What there is instead of the name that is not there. */
static void list_names(const struct cli *cli, bool meters, char *list, size_t size)
{
    struct ql_limit limits[QL_LIMITS_MAX];
    size_t count = 0;
    list[0] = '\0';
    if (ql_limits(cli->ql, limits, &count) != QL_OK) {
        return;
    }
    const char *before = "; there is: ";
    for (size_t i = 0; i < count; i++) {
        const char *name = meters ? limits[i].meter : limits[i].name;
        if (limits[i].meter == NULL) {
            continue;
        }
        size_t used = strlen(list);
        snprintf(list + used, size - used, "%s%s", before, name);
        before = ", ";
    }
}

enum cli_exit cli_fail_on(const struct cli *cli, enum ql_status status, const char *thing)
{
    char list[QL_LIMITS_MAX * (QL_NAME_MAX + 2) + 16] = "";
    if (status == QL_E_METER || status == QL_E_LIMIT) {
        list_names(cli, status == QL_E_METER, list, sizeof(list));
    }
    return cli_fail(cli, status, "'%s': %s%s", thing, ql_status_text(status), list);
}
