/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "quotalite.h"
#include "rules/name.h"

static void valid_subjects(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint32_t levels;
    } table[] = {
        {"a", 1},        {"alice@x.com", 1},  {"acme/data/alice", 3},
        {"a/b/c/d", 4},  {"a b", 1},          {"50%25", 1},
        {"a%2Fb", 1},    {"\xc3\xa9", 1},     {"\xe2\x82\xac/\xf0\x9f\x98\x80", 2},
        {"\xc2\xa0", 1}, {"\xed\x9f\xbf", 1}, {"\xf4\x8f\xbf\xbf", 1},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        uint32_t levels = 0;
        assert_int_equal(qli_name_subject(table[i].text, &levels), strlen(table[i].text));
        assert_int_equal(levels, table[i].levels);
    }
}

static void invalid_subjects(void **state)
{
    (void)state;
    static const char *const table[] = {
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "a/b/c/d/e",
        "a\nb",
        "\x7f",
        "\x1f",
        "\xc2\x80",
        "\xc2\x9f",
        "\x80",
        "\xc0\xaf",
        "\xc1\xbf",
        "\xe0\x80\x80",
        "\xed\xa0\x80",
        "\xf5\x80\x80\x80",
        "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80",
        "\xe2\x82",
        "\xc3",
        "%",
        "%2",
        "%2f",
        "%41",
        "a%",
    };
    uint32_t levels;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        assert_int_equal(qli_name_subject(table[i], &levels), 0);
    assert_int_equal(qli_name_subject(NULL, &levels), 0);
}

/* Whatever the length, and wherever in it the byte stands. */
static void each_byte_is_looked_at(void **state)
{
    (void)state;
    uint32_t levels;
    for (size_t length = 1; length <= 70; length++) {
        for (size_t at = 0; at < length; at++) {
            char text[71];
            memset(text, 'x', length);
            text[length] = '\0';
            assert_int_equal(qli_name_subject(text, &levels), length);
            const char bad[] = {'\x1f', '\x01', '\x7f', '\xff', '\x80', '%'};
            for (size_t i = 0; i < sizeof bad; i++) {
                text[at] = bad[i];
                assert_int_equal(qli_name_subject(text, &levels), 0);
            }
            text[at] = '/';
            bool inside = at > 0 && at + 1 < length;
            assert_int_equal(qli_name_subject(text, &levels), inside ? length : 0);
            assert_true(!inside || levels == 2);
        }
    }
}

static void length_is_bounded(void **state)
{
    (void)state;
    static char text[65537];
    uint32_t levels;
    memset(text, 'x', sizeof text - 1);
    assert_int_equal(qli_name_subject(text, &levels), 0);
    text[QL_SUBJECT_MAX + 1] = '\0';
    assert_int_equal(qli_name_subject(text, &levels), 0);
    text[QL_SUBJECT_MAX] = '\0';
    assert_int_equal(qli_name_subject(text, &levels), QL_SUBJECT_MAX);
    memcpy(text + QL_SUBJECT_MAX - 1, "\xc3\xa9", 3); /* ends one past the bound */
    assert_int_equal(qli_name_subject(text, &levels), 0);
}

static void names(void **state)
{
    (void)state;
    assert_true(qli_name_valid("daily_bytes"));
    assert_true(qli_name_valid("abcdefghijklmnopqrstuvwxyz01234"));
    assert_false(qli_name_valid("abcdefghijklmnopqrstuvwxyz012345"));
    assert_false(qli_name_valid(""));
    assert_false(qli_name_valid(NULL));
    assert_false(qli_name_valid("Daily"));
    assert_false(qli_name_valid("a b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_subjects),
        cmocka_unit_test(invalid_subjects),
        cmocka_unit_test(each_byte_is_looked_at),
        cmocka_unit_test(length_is_bounded),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
