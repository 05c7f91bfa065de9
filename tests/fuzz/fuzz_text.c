/* SPDX-License-Identifier: Apache-2.0
 *
 * Texts that callers bring, subjects and leases, against oracles that are
 * written another way: the subject's decodes code points and encodes them
 * again, the lease's goes by the grammar.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quotalite.h"
#include "rules/name.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Noreturn void differ(const char *what, const char *text)
{
    fprintf(stderr, "%s differs from its oracle for '%s'\n", what, text);
    abort();
}

/* ---- subjects ------------------------------------------------------------ */

/* The code point at text, *length bytes long; UINT32_MAX if there is none. */
static uint32_t decode(const unsigned char *text, size_t *length)
{
    uint32_t point = text[0];
    *length = point < 0x80 ? 1 : point < 0xe0 ? 2 : point < 0xf0 ? 3 : 4;
    if (*length == 1)
        return point;
    if (point < 0xc0 || point > 0xf7)
        return UINT32_MAX;
    point &= 0x7fu >> *length;
    for (size_t i = 1; i < *length; i++) {
        if (text[i] >> 6 != 2)
            return UINT32_MAX;
        point = point << 6 | (text[i] & 0x3f);
    }
    return point;
}

static size_t encoded_length(uint32_t point)
{
    return point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
}

static bool allowed(uint32_t point)
{
    bool control = point < 0x20 || (point >= 0x7f && point <= 0x9f);
    bool surrogate = point >= 0xd800 && point <= 0xdfff;
    return !control && !surrogate && point <= 0x10ffff;
}

static bool segment_allowed(const char *segment, size_t length)
{
    for (size_t i = 0; i < length;) {
        size_t step;
        uint32_t point = decode((const unsigned char *)segment + i, &step);
        if (point == UINT32_MAX || step != encoded_length(point) || !allowed(point))
            return false;
        if (point == '%' && strncmp(segment + i, "%25", 3) != 0 &&
            strncmp(segment + i, "%2F", 3) != 0)
            return false;
        i += step;
    }
    return length > 0;
}

/* The number of segments, or 0. */
static uint32_t levels_of(const char *subject)
{
    uint32_t levels = 0;
    if (strlen(subject) > QL_SUBJECT_MAX)
        return 0;
    for (const char *segment = subject;; segment++) {
        size_t length = strcspn(segment, "/");
        if (!segment_allowed(segment, length) || ++levels > 4)
            return 0;
        segment += length;
        if (*segment == '\0')
            return levels;
    }
}

static void check_subject(const char *text)
{
    uint32_t levels = 0;
    uint32_t expected = levels_of(text);
    size_t length = qli_name_subject(text, &levels);
    if (length != (expected != 0 ? strlen(text) : 0) || (expected != 0 && levels != expected))
        differ("a subject", text);
}

/* ---- names and leases ---------------------------------------------------- */

static void check_name(const char *text)
{
    size_t length = 0;
    while ((text[length] >= 'a' && text[length] <= 'z') ||
           (text[length] >= '0' && text[length] <= '9') ||
           (text[length] != '\0' && strchr("_-.", text[length]) != NULL))
        length++;
    bool expected = text[length] == '\0' && length > 0 && length <= QL_NAME_MAX;
    if (qli_name_valid(text) != expected)
        differ("a name", text);
}

/* A hexadecimal number as printf writes it, ended by `end`. NULL: there is none. */
static const char *read_number(const char *text, char end, uint64_t *number)
{
    size_t digits = strspn(text, "0123456789abcdef");
    if (digits == 0 || digits > 16 || (text[0] == '0' && digits > 1) || text[digits] != end)
        return NULL;
    *number = 0;
    for (size_t i = 0; i < digits; i++)
        *number = *number * 16 + (uint64_t)(text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
    return text + digits + 1;
}

static bool read_lease(const char *text, struct ql_lease *lease)
{
    text = read_number(text, '.', &lease->index);
    if (text != NULL)
        text = read_number(text, '.', &lease->generation);
    return text != NULL && read_number(text, '\0', &lease->epoch) != NULL;
}

static void check_lease(const char *text)
{
    struct ql_lease expected;
    struct ql_lease lease;
    bool valid = read_lease(text, &expected);
    enum ql_status status = ql_lease_parse(text, &lease);
    if (status != (valid ? QL_OK : QL_E_INVALID) ||
        (valid && memcmp(&lease, &expected, sizeof lease) != 0))
        differ("a lease", text);
}

/* Whatever three numbers are written comes back. */
static void check_written_lease(const uint8_t *data, size_t size)
{
    char text[QL_LEASE_TEXT_MAX];
    struct ql_lease lease = {0};
    struct ql_lease again;
    memcpy(&lease, data, size < sizeof lease ? size : sizeof lease);
    ql_lease_format(lease, text);
    if (ql_lease_parse(text, &again) != QL_OK || memcmp(&lease, &again, sizeof lease) != 0)
        differ("a written lease", text);
    check_lease(text);
}

/* The copy ends where the text does, so that a read behind it is seen. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (text == NULL)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    check_subject(text);
    check_name(text);
    check_lease(text);
    check_written_lease(data, size);
    free(text);
    return 0;
}
