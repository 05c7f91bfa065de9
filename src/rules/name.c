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

size_t qli_name_subject(const char *subject, uint32_t *levels)
{
    if (subject == NULL)
        return 0;
    const unsigned char *text = (const unsigned char *)subject;
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

bool qli_name_valid(const char *text)
{
    if (text == NULL)
        return false;
    size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-.");
    return length >= 1 && length <= QL_NAME_MAX && text[length] == '\0';
}
