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

/* The high bit of each byte of the result is set where the word has the byte
 * (bytes above the first hit may be set too). */
static uint64_t has_byte(uint64_t word, unsigned char byte)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t zero_where_equal = word ^ ones * byte;
    return (zero_where_equal - ones) & ~zero_where_equal;
}

/* High bits are set where a byte of the eight is not plain; see has_byte. */
static uint64_t not_plain(const char *text)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t word;
    memcpy(&word, text, sizeof word);
    uint64_t control = (word - ones * 0x20) & ~word;
    uint64_t delete_or_high = word | (word + ones);
    return control | delete_or_high | has_byte(word, '/') | has_byte(word, '%');
}

static bool text_is_plain(const char *text, size_t length)
{
    size_t i = 0;
    if (length < sizeof(uint64_t)) {
        while (i < length && is_plain((unsigned char)text[i]))
            i++;
        return i == length;
    }
    uint64_t found = not_plain(text + length - sizeof(uint64_t));
    for (; i + sizeof(uint64_t) < length; i += sizeof(uint64_t))
        found |= not_plain(text + i);
    return (found & UINT64_C(0x8080808080808080)) == 0;
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
