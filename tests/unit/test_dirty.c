/* SPDX-License-Identifier: Apache-2.0
 *
 * Which totals are dirty, how they become clean, and what waits for that; and
 * restoring them.
 */
#include <stdio.h>

#include "ledgered.h"

/* ---- marking, copying, clearing ------------------------------------------ */

static void a_charge_makes_its_window_dirty(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    charged("alice", BYTES, 1);
    take("bob");
    assert_int_equal(check("carol"), QL_OK);
    charged(LONG_NAME, STATEMENTS, 3);
    charged(LONG_NAME, BYTES, 2);
    assert_int_equal(copy_all(found), 2);
    assert_string_equal(found[0].key, "alice");
    assert_int_equal(found[0].count, 1);
    expect_total(&found[0], 0, BYTES, TODAY, 8);
    assert_string_equal(found[1].key, LONG_NAME);
    assert_int_equal(found[1].count, 2);
    expect_total(&found[1], 0, BYTES, TODAY, 2);
    expect_total(&found[1], 1, STATEMENTS, TODAY, 3);
}

static void a_settle_makes_its_windows_dirty(void **state)
{
    (void)state;
    struct ql_lease lease = take("alice");
    const struct qli_amount amounts[] = {{BYTES, 0}, {STATEMENTS, 4}};
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QL_OK);
    expect_dirty("alice", STATEMENTS, TODAY, 4);
}

static void a_store_without_a_ledger_marks_too(void **state)
{
    (void)state;
    scene.engine->ledger_page->durability = QL_DURABILITY_NONE;
    charged("alice", BYTES, 7);
    expect_dirty("alice", BYTES, TODAY, 7);
}

static void what_is_copied_stays_dirty_until_it_is_cleared(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    expect_dirty("alice", BYTES, TODAY, 7);
    struct snapshot before = look();
    expect_dirty("alice", BYTES, TODAY, 7);
    expect_unchanged(before);
    assert_int_equal(flush(), 1);
    assert_int_equal(flush(), 0);
    charged("alice", BYTES, 1);
    expect_dirty("alice", BYTES, TODAY, 8);
}

static void what_was_raised_since_the_copy_stays_dirty(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    charged("alice", STATEMENTS, 1);
    charged("bob", BYTES, 5);
    assert_int_equal(copy_all(found), 2);
    charged("alice", BYTES, 1);
    clear(found, 2);
    expect_dirty("alice", BYTES, TODAY, 8);
}

/* Of a subject that is dirty for another meter. */
static void a_clean_window_of_a_dirty_subject_becomes_dirty(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    charged("alice", STATEMENTS, 1);
    assert_int_equal(flush(), 1);
    charged("alice", BYTES, 1);
    charged("alice", STATEMENTS, 1);
    assert_int_equal(copy_all(found), 1);
    assert_int_equal(found[0].count, 2);
    expect_total(&found[0], 0, BYTES, TODAY, 8);
    expect_total(&found[0], 1, STATEMENTS, TODAY, 2);
}

static void a_slot_that_has_another_subject_is_not_cleared(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    assert_int_equal(copy_all(found), 1);
    struct qli_dirty_subject other = found[0];
    other.hash ^= 1;
    struct qli_dirty_subject free_slot = found[0];
    free_slot.index = 7;
    struct qli_dirty_subject no_slot = found[0];
    no_slot.index = 9;
    const struct qli_dirty_subject written[] = {other, free_slot, no_slot};
    struct snapshot before = look();
    clear(written, 3);
    expect_unchanged(before);
}

static void a_window_that_rolled_over_is_cleared_where_it_is_now(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    assert_int_equal(copy_all(found), 1);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
    struct qli_dirty_subject both[8];
    assert_int_equal(copy_all(both), 1);
    assert_int_equal(both[0].count, 2);
    expect_total(&both[0], 0, BYTES, TODAY, 7);
    expect_total(&both[0], 1, BYTES, TODAY + 1, 2);
    clear(found, 1);
    expect_dirty("alice", BYTES, TODAY + 1, 2);
}

static void a_clean_window_rolls_over_clean(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    assert_int_equal(flush(), 1);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
    expect_dirty("alice", BYTES, TODAY + 1, 2);
    expect_usage("alice", BYTES, 2, 7);
}

static void an_amount_that_is_full_is_dirty_anew(void **state)
{
    (void)state;
    charged("alice", BYTES, INT64_MAX - 1);
    charged("alice", BYTES, 5);
    expect_dirty("alice", BYTES, TODAY, INT64_MAX);
    assert_int_equal(flush(), 1);
    charged("alice", BYTES, 5);
    assert_true(flush() <= 1);
    assert_int_equal(flush(), 0);
}

/* ---- many ---------------------------------------------------------------- */

static const char *subject_of(unsigned number)
{
    static char subject[16];
    snprintf(subject, sizeof subject, "s%u", number);
    return subject;
}

/* Copies all in small pieces, with what is cleared meanwhile. How many; each has
 * charged its number. */
static unsigned copy_in_pieces(bool clears)
{
    struct qli_dirty_subject found[7];
    unsigned char seen[MANY] = {0};
    unsigned all = 0;
    for (uint64_t shard = 0; shard < scene.engine->geometry.shard_count; shard++) {
        uint64_t cursor = 0;
        size_t count;
        do {
            assert_int_equal(qli_dirty_copy(&scene.call, shard, &cursor, found, 7, &count), QL_OK);
            for (size_t i = 0; i < count; i++) {
                unsigned number = (unsigned)found[i].totals[0].amount;
                assert_string_equal(found[i].key, subject_of(number));
                assert_int_equal(seen[number]++, 0);
            }
            all += (unsigned)count;
            if (clears)
                assert_int_equal(qli_dirty_clear(&scene.call, shard, found, count), QL_OK);
        } while (count > 0);
    }
    return all;
}

static void all_are_copied_once(void **state)
{
    (void)state;
    assert_true(scene.engine->geometry.shard_count > 1);
    for (unsigned i = 1; i < MANY; i++)
        charged(subject_of(i), BYTES, i);
    assert_int_equal(copy_in_pieces(false), MANY - 1);
    assert_int_equal(copy_in_pieces(true), MANY - 1);
    expect_sound();
    assert_int_equal(copy_in_pieces(true), 0);
    for (unsigned i = 1; i < MANY; i++) {
        charged(subject_of(i), STATEMENTS, i);
        assert_int_equal(copy_in_pieces(true), 1);
    }
}

static void all_totals_are_made_dirty(void **state)
{
    (void)state;
    for (unsigned i = 1; i < MANY - 1; i++)
        charged(subject_of(i), BYTES, i);
    take("idle");
    assert_int_equal(copy_in_pieces(true), MANY - 2);
    charged(subject_of(1), STATEMENTS, 1);
    assert_int_equal(qli_dirty_mark_all(&scene.call), QL_OK);
    expect_sound();
    assert_int_equal(copy_in_pieces(true), MANY - 2);
}

static void only_totals_are_made_dirty(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    go_to(TODAY + 1);
    charged("alice", STATEMENTS, 3);
    charged("bob", BYTES, 5);
    go_to(TODAY + 2);
    charged("bob", BYTES, 6);
    assert_int_equal(flush(), 2);
    take("carol");
    assert_int_equal(qli_dirty_mark_all(&scene.call), QL_OK);
    assert_int_equal(copy_all(found), 2);
    assert_int_equal(found[0].count, 2);
    expect_total(&found[0], 0, BYTES, TODAY, 7);
    expect_total(&found[0], 1, STATEMENTS, TODAY + 1, 3);
    assert_int_equal(found[1].count, 2);
    expect_total(&found[1], 0, BYTES, TODAY + 1, 5);
    expect_total(&found[1], 1, BYTES, TODAY + 2, 6);
}

/* ---- what waits for a flush ---------------------------------------------- */

/* Both windows of alice's bytes are dirty. */
static void fill_both_windows(void)
{
    charged("alice", BYTES, 7);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
}

static void a_roll_over_drops_no_dirty_window(void **state)
{
    (void)state;
    fill_both_windows();
    go_to(TODAY + 2);
    struct snapshot before = look();
    assert_int_equal(charge("alice", BYTES, 1), QLI_MUST_FLUSH);
    expect_unchanged(before);
    charged("alice", STATEMENTS, 1);
    assert_int_equal(check("alice"), QL_OK);
    expect_usage("alice", BYTES, 0, 2);
    assert_int_equal(flush(), 1);
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 1, 2);
    expect_dirty("alice", BYTES, TODAY + 2, 1);
}

static void a_settle_looks_at_all_cells_first(void **state)
{
    (void)state;
    const struct qli_amount amounts[] = {{STATEMENTS, 1}, {BYTES, 1}};
    fill_both_windows();
    go_to(TODAY + 2);
    struct ql_lease lease = take("alice");
    struct snapshot before = look();
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QLI_MUST_FLUSH);
    expect_unchanged(before);
    assert_int_equal(flush(), 1);
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QL_OK);
    expect_usage("alice", STATEMENTS, 1, 0);
    expect_usage("alice", BYTES, 1, 2);
}

static void what_adds_nothing_waits_for_nothing(void **state)
{
    (void)state;
    const struct qli_amount nothing = {BYTES, 0};
    fill_both_windows();
    go_to(TODAY + 2);
    struct ql_lease lease = take("alice");
    assert_int_equal(qli_operation_settle(&scene.call, &lease, &nothing, 1), QL_OK);
}

static void a_dirty_window_waits_behind_an_empty_one(void **state)
{
    (void)state;
    assert_int_equal(restore("alice", BYTES, TODAY - 1, 7), QL_OK);
    assert_int_equal(qli_dirty_mark_all(&scene.call), QL_OK);
    expect_dirty("alice", BYTES, TODAY - 1, 7);
    go_to(TODAY + 1);
    assert_int_equal(charge("alice", BYTES, 1), QLI_MUST_FLUSH);
    assert_int_equal(flush(), 1);
    charged("alice", BYTES, 1);
}

static void without_a_ledger_nothing_waits(void **state)
{
    (void)state;
    scene.engine->ledger_page->durability = QL_DURABILITY_NONE;
    fill_both_windows();
    go_to(TODAY + 2);
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 1, 2);
    go_to(TODAY + 9);
    charged("alice", BYTES, 4);
    expect_usage("alice", BYTES, 4, 0);
}

static void a_dirty_window_that_is_dropped_leaves_no_bit(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    scene.engine->ledger_page->durability = QL_DURABILITY_NONE;
    fill_both_windows();
    assert_int_equal(copy_all(found), 1);
    found[0].totals[0] = found[0].totals[--found[0].count]; /* today's */
    clear(found, 1);
    expect_dirty("alice", BYTES, TODAY, 7);
    go_to(TODAY + 2);
    charged("alice", BYTES, 1);
    expect_dirty("alice", BYTES, TODAY + 2, 1);
}

static void a_dirty_subject_is_not_evicted(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    charged("bob", BYTES, 5);
    go_to(TODAY + 1);
    assert_int_equal(charge("carol", BYTES, 1), QL_E_FULL);
    assert_int_equal(copy_all(found), 2);
    assert_string_equal(found[1].key, "bob");
    clear(&found[1], 1);
    charged("carol", BYTES, 1);
    expect_usage("bob", BYTES, 0, 0);
    expect_usage("alice", BYTES, 0, 7);
}

static void without_a_ledger_a_dirty_subject_is_evicted(void **state)
{
    (void)state;
    scene.engine->ledger_page->durability = QL_DURABILITY_NONE;
    charged("alice", BYTES, 7);
    charged("bob", BYTES, 5);
    go_to(TODAY + 1);
    take("carol");
    expect_sound();
    take("dave");
    expect_sound();
    assert_int_equal(flush(), 0);
}

/* ---- restoring ----------------------------------------------------------- */

static void restored_totals_are_there_and_clean(void **state)
{
    (void)state;
    assert_int_equal(restore("alice", BYTES, TODAY, 7), QL_OK);
    assert_int_equal(restore("alice", BYTES, TODAY - 1, 5), QL_OK);
    assert_int_equal(restore("bob", BYTES, TODAY - 1, 4), QL_OK);
    assert_int_equal(restore("bob", BYTES, TODAY, 3), QL_OK);
    assert_int_equal(restore(LONG_NAME, STATEMENTS, TODAY - 1, 2), QL_OK);
    expect_sound();
    expect_usage("alice", BYTES, 7, 5);
    expect_usage("bob", BYTES, 3, 4);
    expect_usage(LONG_NAME, STATEMENTS, 0, 2);
    assert_int_equal(flush(), 0);
    charged("bob", BYTES, 1);
    expect_dirty("bob", BYTES, TODAY, 4);
    go_to(TODAY + 1);
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 1, 7);
}

static void only_what_has_a_place_is_restored(void **state)
{
    (void)state;
    struct snapshot before = look();
    assert_int_equal(restore("alice", BYTES, TODAY + 1, 1), QL_E_INVALID);
    assert_int_equal(restore("alice", BYTES, TODAY - 2, 1), QL_E_INVALID);
    assert_int_equal(restore("alice", BYTES, TODAY, -1), QL_E_INVALID);
    assert_int_equal(restore("alice", QL_METERS_MAX, TODAY, 1), QL_E_INVALID);
    expect_unchanged(before);
}

static void restoring_ends_where_the_store_is_full(void **state)
{
    (void)state;
    assert_int_equal(restore("alice", BYTES, TODAY - 1, 1), QL_OK);
    assert_int_equal(restore("bob", BYTES, TODAY, 1), QL_OK);
    assert_int_equal(restore("carol", BYTES, TODAY, 1), QL_OK); /* in alice's place */
    assert_int_equal(restore("dave", BYTES, TODAY, 1), QL_E_FULL);
    expect_usage("bob", BYTES, 1, 0);
    expect_usage("carol", BYTES, 1, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_charge_makes_its_window_dirty),
        TEST(a_settle_makes_its_windows_dirty),
        TEST(a_store_without_a_ledger_marks_too),
        TEST(what_is_copied_stays_dirty_until_it_is_cleared),
        TEST(what_was_raised_since_the_copy_stays_dirty),
        TEST(a_clean_window_of_a_dirty_subject_becomes_dirty),
        TEST(a_slot_that_has_another_subject_is_not_cleared),
        TEST(a_window_that_rolled_over_is_cleared_where_it_is_now),
        TEST(a_clean_window_rolls_over_clean),
        TEST(an_amount_that_is_full_is_dirty_anew),
        TEST_IN(all_are_copied_once, set_up_many),
        TEST_IN(all_totals_are_made_dirty, set_up_many),
        TEST(only_totals_are_made_dirty),
        TEST(a_roll_over_drops_no_dirty_window),
        TEST(a_settle_looks_at_all_cells_first),
        TEST(what_adds_nothing_waits_for_nothing),
        TEST(a_dirty_window_waits_behind_an_empty_one),
        TEST(without_a_ledger_nothing_waits),
        TEST(a_dirty_window_that_is_dropped_leaves_no_bit),
        TEST_IN(a_dirty_subject_is_not_evicted, set_up_two),
        TEST_IN(without_a_ledger_a_dirty_subject_is_evicted, set_up_two),
        TEST(restored_totals_are_there_and_clean),
        TEST(only_what_has_a_place_is_restored),
        TEST_IN(restoring_ends_where_the_store_is_full, set_up_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
