/* SPDX-License-Identifier: Apache-2.0
 *
 * ql_verify finds each invariant that is broken, and names that one alone; those of
 * leases are in test_verify_leases.c. What locking repairs, [R3] and [R4], is repaired
 * and then found sound.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "broken.h"

/* ---- subjects ------------------------------------------------------------ */

static uint64_t *bucket_of(struct scene *s, const struct qli_subject *subject)
{
    return qli_subject_bucket(&s->plant.section,
                              subject->hash & (s->plant.engine.geometry.shard_buckets - 1));
}

/* Takes the subject out of its chain. */
static void unlink_subject(struct scene *s, struct qli_subject *subject)
{
    uint64_t index = plant_index(&s->plant, subject);
    uint64_t *link = bucket_of(s, subject);
    while (*link != index)
        link = &plant_slot(&s->plant, *link)->next;
    *link = subject->next;
}

static void s1_a_free_slot_is_used(struct scene *s)
{
    plant_slot(&s->plant, s->shard->subject_free)->meta = QLI_SUBJECT_USED;
}

static void s1_a_subject_was_never_taken_into_use(struct scene *s)
{
    s->shard->subject_top--;
}

static void s1_the_free_list_goes_round(struct scene *s)
{
    plant_slot(&s->plant, s->shard->subject_free)->next = s->shard->subject_free;
}

static void s1_the_free_list_leads_nowhere(struct scene *s)
{
    s->shard->subject_free = 1000;
}

static void s1_a_chain_has_a_free_slot(struct scene *s)
{
    s->bob->next = s->shard->subject_free;
}

static void s1_a_chain_goes_round(struct scene *s)
{
    s->alice->next = plant_index(&s->plant, s->alice);
}

static void s1_a_slot_is_on_no_list(struct scene *s)
{
    unlink_subject(s, s->bob);
    s->shard->subject_count--;
}

static void s1_an_extension_is_none(struct scene *s)
{
    s->wide->meta = (s->wide->meta & UINT32_MAX) | s->shard->subject_free << 32;
}

static void s1_a_short_name_has_an_extension(struct scene *s)
{
    s->bob->meta |= (s->wide->meta >> 32) << 32;
}

static void s2_the_hash_is_another(struct scene *s)
{
    s->bob->hash ^= UINT64_C(1) << 63;
}

static void s2_the_name_is_another(struct scene *s)
{
    s->bob->key[0] = 'r';
}

static void s2_the_name_is_none(struct scene *s)
{
    s->bob->key[1] = '\n';
}

static void s2_the_rest_of_a_name_is_another(struct scene *s)
{
    struct qli_subject *slot = plant_slot(&s->plant, s->wide->meta >> 32);
    ((struct qli_extension *)slot)->key[0] ^= 1;
}

static void s2_two_subjects_have_one_name(struct scene *s)
{
    unlink_subject(s, s->bob);
    s->bob->hash = s->alice->hash;
    s->bob->meta = s->alice->meta;
    memcpy(s->bob->key, s->alice->key, sizeof s->bob->key);
    s->bob->next = s->alice->next;
    s->alice->next = plant_index(&s->plant, s->bob);
}

static void s3_the_count_of_subjects_is_wrong(struct scene *s)
{
    s->shard->subject_count++;
}

/* ---- dirty subjects ------------------------------------------------------ */

static void set_dirty(struct qli_subject *subject, uint64_t dirty)
{
    subject->meta = (subject->meta & ~(UINT64_C(0xffff) << 16)) | dirty << 16;
}

static uint64_t *dirty_word(struct scene *s, uint64_t index)
{
    return qli_subject_bitmap_word(&s->plant.section, index);
}

static void d1_a_dirty_subject_is_not_in_the_bitmap(struct scene *s)
{
    uint64_t index = plant_index(&s->plant, s->bob);
    *dirty_word(s, index) &= ~qli_subject_bitmap_bit(index);
    s->shard->dirty_count--;
}

static void d1_a_clean_subject_is_in_the_bitmap(struct scene *s)
{
    set_dirty(s->bob, 0);
}

static void d1_the_count_of_dirty_subjects_is_wrong(struct scene *s)
{
    s->shard->dirty_count++;
}

static void d1_a_free_slot_is_in_the_bitmap(struct scene *s)
{
    uint64_t index = s->shard->subject_free;
    *dirty_word(s, index) |= qli_subject_bitmap_bit(index);
}

static void d1_the_bitmap_has_a_free_slot_for_a_subject(struct scene *s)
{
    uint64_t index = plant_index(&s->plant, s->bob);
    *dirty_word(s, index) &= ~qli_subject_bitmap_bit(index);
    d1_a_free_slot_is_in_the_bitmap(s);
}

static void d1_the_bitmap_has_what_is_no_slot(struct scene *s)
{
    *dirty_word(s, s->plant.engine.geometry.shard_subjects) |= UINT64_C(1) << 63;
}

static void d1_an_extension_is_dirty(struct scene *s)
{
    set_dirty(plant_slot(&s->plant, s->wide->meta >> 32), 1);
}

static void d1_a_meter_without_room_is_dirty(struct scene *s)
{
    set_dirty(s->bob, 1 | qli_subject_previous_bit(QL_METERS_MAX - 1));
}

/* ---- totals, limits ------------------------------------------------------ */

static void u1_days_are_out_of_order(struct scene *s)
{
    s->alice->cells[1].previous_day = s->alice->cells[1].day;
}

static void u1_a_total_is_no_amount(struct scene *s)
{
    s->alice->cells[0].total = (uint64_t)INT64_MAX + 1;
}

static void u1_the_day_befores_total_is_no_amount(struct scene *s)
{
    s->alice->cells[0].previous_total = UINT64_MAX;
}

static struct qli_shared_limits *live_list(struct scene *s)
{
    return &s->page->lists[s->page->sequence & 1];
}

static void c1_too_many_limits(struct scene *s)
{
    live_list(s)->count = QL_LIMITS_MAX + 1;
}

static void c1_a_limit_without_a_meter(struct scene *s)
{
    live_list(s)->limits[1].meter = live_list(s)->meter_count;
}

static void c1_a_limit_is_none(struct scene *s)
{
    live_list(s)->limits[1].cap = UINT64_MAX;
}

static void c1_too_many_meters(struct scene *s)
{
    live_list(s)->meter_count = s->plant.engine.geometry.meter_capacity + 1;
}

static void c1_two_meters_have_one_name(struct scene *s)
{
    memcpy(s->page->meters[1], s->page->meters[0], sizeof s->page->meters[1]);
}

/* ---- the undo log -------------------------------------------------------- */

static void log_entry(struct scene *s, uint64_t guard, uint64_t offset)
{
    s->view.region.guards[guard].undo[0].offset = offset;
    s->view.region.guards[guard].undo_count = 1;
}

static void r5_too_many_entries(struct scene *s)
{
    s->view.region.guards[1].undo_count = QLI_UNDO_MAX + 1;
}

static void r5_an_entry_between_words(struct scene *s)
{
    log_entry(s, 1, s->view.region.body_offset + 4);
}

static void r5_an_entry_before_the_body(struct scene *s)
{
    log_entry(s, 1, s->view.region.body_offset - 8);
}

static void r5_an_entry_behind_the_end(struct scene *s)
{
    log_entry(s, 1, s->view.region.size);
}

static void r5_an_entry_far_behind_the_end(struct scene *s)
{
    log_entry(s, 0, UINT64_MAX - 7);
}

/* Undone by whoever takes the lock; word names nobody who is alive. */
static void what_the_dead_left_is_repaired(void **state)
{
    struct scene *s = *state;
    struct ql_usage usage;
    struct qli_guard *guard = &s->view.region.guards[1];
    uint64_t *total = &s->alice->cells[0].total;
    log_entry(s, 1, (uint64_t)((unsigned char *)total - s->view.region.base));
    guard->undo[0].old = *total;
    *total = 1000000;
    guard->word = qli_word_make(s->view.region.holder_count + 1, 5);
    assert_int_equal(ql_verify(s->ql, NULL, NULL), QL_OK);
    assert_int_equal(guard->word, 0);
    assert_int_equal(guard->undo_count, 0);
    assert_int_equal(ql_usage(s->ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.meters[0].total, 7);
}

/* ---- all of them --------------------------------------------------------- */

static const struct fault faults[] = {
    FAULT(s1_a_free_slot_is_used),
    FAULT(s1_the_free_list_goes_round),
    FAULT(s1_the_free_list_leads_nowhere),
    FAULT(s1_a_chain_has_a_free_slot),
    FAULT(s1_a_chain_goes_round),
    FAULT(s1_a_slot_is_on_no_list),
    FAULT(s1_an_extension_is_none),
    FAULT(s1_a_short_name_has_an_extension),
    FAULT(s2_the_hash_is_another),
    FAULT(s2_the_name_is_another),
    FAULT(s2_the_name_is_none),
    FAULT(s2_the_rest_of_a_name_is_another),
    FAULT(s2_two_subjects_have_one_name),
    FAULT(s3_the_count_of_subjects_is_wrong),
    FAULT(s1_a_subject_was_never_taken_into_use),
    FAULT(d1_a_dirty_subject_is_not_in_the_bitmap),
    FAULT(d1_a_clean_subject_is_in_the_bitmap),
    FAULT(d1_the_count_of_dirty_subjects_is_wrong),
    FAULT(d1_a_free_slot_is_in_the_bitmap),
    FAULT(d1_the_bitmap_has_a_free_slot_for_a_subject),
    FAULT(d1_the_bitmap_has_what_is_no_slot),
    FAULT(d1_an_extension_is_dirty),
    FAULT(d1_a_meter_without_room_is_dirty),
    FAULT(u1_days_are_out_of_order),
    FAULT(u1_a_total_is_no_amount),
    FAULT(u1_the_day_befores_total_is_no_amount),
    FAULT(c1_too_many_limits),
    FAULT(c1_a_limit_without_a_meter),
    FAULT(c1_a_limit_is_none),
    FAULT(c1_too_many_meters),
    FAULT(c1_two_meters_have_one_name),
    FAULT(r5_too_many_entries),
    FAULT(r5_an_entry_between_words),
    FAULT(r5_an_entry_before_the_body),
    FAULT(r5_an_entry_behind_the_end),
    FAULT(r5_an_entry_far_behind_the_end),
};

static void each_broken_invariant_is_named(void **state)
{
    (void)state;
    broken_expect_each_named(faults, sizeof faults / sizeof faults[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_broken_invariant_is_named),
        cmocka_unit_test_setup_teardown(what_the_dead_left_is_repaired, broken_set_up,
                                        broken_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
