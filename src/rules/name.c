/* SPDX-License-Identifier: Apache-2.0 */
#include "rules/name.h"

#include <string.h>

#include "quotalite.h"

#define SEGMENTS_MAX 4

/* Bytes of the UTF-8 sequence at text, or 0 if it is malformed, overlong, a
 * surrogate, past U+10FFFF (RFC 3629) or a C1 control. text ends with a NUL,
 * which is no continuation byte: no read passes it. */
static size_t utf8_sequence(const unsigned char *text)
{
    unsigned lead = text[0];
    if (lead >= 0xc2 && lead <= 0xdf) {
        if ((text[1] & 0xc0) != 0x80 || (lead == 0xc2 && text[1] < 0xa0))
            return 0;
        return 2;
    }
    if (lead >= 0xe0 && lead <= 0xef) {
        unsigned low = lead == 0xe0 ? 0xa0 : 0x80;
        unsigned high = lead == 0xed ? 0x9f : 0xbf;
        if (text[1] < low || text[1] > high || (text[2] & 0xc0) != 0x80)
            return 0;
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        unsigned low = lead == 0xf0 ? 0x90 : 0x80;
        unsigned high = lead == 0xf4 ? 0x8f : 0xbf;
        if (text[1] < low || text[1] > high || (text[2] & 0xc0) != 0x80 || (text[3] & 0xc0) != 0x80)
            return 0;
        return 4;
    }
    return 0;
}

/* The only escapes are %25 and %2F, so that nobody has two spellings. */
static bool valid_escape(const unsigned char *text)
{
    return text[1] == '2' && (text[2] == '5' || text[2] == 'F');
}

/* ASCII that needs no second look: most subjects are nothing else. */
static bool is_plain(unsigned char byte)
{
    return byte >= 0x20 && byte < 0x7f && byte != '/' && byte != '%';
}

/* Sixteen bytes at a time, by the compiler's vectors. */
typedef signed char vector __attribute__((vector_size(16)));

static bool is_plain_vector(vector bytes)
{
    vector other = (bytes < 0x20) | (bytes == 0x7f) | (bytes == '/') | (bytes == '%');
    uint64_t halves[2];
    memcpy(halves, &other, sizeof halves);
    return (halves[0] | halves[1]) == 0;
}

/* Two times size bytes at most, of which the two halves may overlap. */
static bool ends_are_plain(const char *first, const char *last, size_t size)
{
    vector bytes;
    memset(&bytes, 'a', sizeof bytes);
    memcpy(&bytes, first, size);
    memcpy((char *)&bytes + sizeof bytes - size, last, size);
    return is_plain_vector(bytes);
}

static bool text_is_plain(const char *text, size_t length)
{
    const char *end = text + length;
    vector bytes;
    if (length < 4)
        return ends_are_plain(text, text, length);
    if (length < 8)
        return ends_are_plain(text, end - 4, 4);
    if (length < 16)
        return ends_are_plain(text, end - 8, 8);
    for (; end - text > 16; text += 16) {
        memcpy(&bytes, text, sizeof bytes);
        if (!is_plain_vector(bytes))
            return false;
    }
    memcpy(&bytes, end - 16, sizeof bytes);
    return is_plain_vector(bytes);
}

static size_t parse_subject(const unsigned char *text, uint32_t *levels)
{
    size_t length = 0;
    size_t segment = 0;
    uint32_t segments = 1;
    while (length <= QL_SUBJECT_MAX && text[length] != '\0') {
        if (is_plain(text[length])) {
            length++;
        } else if (text[length] == '/') {
            if (length == segment || ++segments > SEGMENTS_MAX)
                return 0;
            segment = ++length;
        } else if (text[length] == '%') {
            if (!valid_escape(text + length))
                return 0;
            length += 3;
        } else {
            size_t sequence = utf8_sequence(text + length);
            if (sequence == 0)
                return 0;
            length += sequence;
        }
    }
    if (length == segment || length > QL_SUBJECT_MAX)
        return 0;
    *levels = segments;
    return length;
}

size_t qli_name_subject(const char *subject, uint32_t *levels)
{
    if (subject == NULL)
        return 0;
    size_t whole = strnlen(subject, QL_SUBJECT_MAX + 1);
    *levels = 1;
    if (whole <= QL_SUBJECT_MAX && text_is_plain(subject, whole))
        return whole;
    return parse_subject((const unsigned char *)subject, levels);
}

bool qli_name_valid(const char *text)
{
    if (text == NULL)
        return false;
    size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-.");
    return length >= 1 && length <= QL_NAME_MAX && text[length] == '\0';
}
