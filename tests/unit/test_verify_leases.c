/* SPDX-License-Identifier: Apache-2.0
 *
 * ql_verify finds each broken invariant of leases, their lists and their holders, and
 * names that one alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broken.h"

static void l1_a_link_back_is_wrong(struct scene *s)
{
    plant_link_lease_back(&s->plant, plant_lease_next(&s->plant, s->first), 0);
}

static void l1_a_list_goes_round(struct scene *s)
{
    plant_link_lease(&s->plant, s->first, s->first);
}

static void l1_a_list_has_a_lease_that_ended(struct scene *s)
{
    plant_set_lease_state(&s->plant, s->first, QLI_LEASE_SETTLED);
}

static void l1_a_lease_names_another_subject(struct scene *s)
{
    plant_lease(&s->plant, s->first)->subject = plant_index(&s->plant, s->bob);
}

static void l1_a_free_lease_is_held(struct scene *s)
{
    plant_set_lease_state(&s->plant, s->shard->lease_free, QLI_LEASE_HELD);
}

static void l1_the_free_list_goes_round(struct scene *s)
{
    plant_link_lease(&s->plant, s->shard->lease_free, s->shard->lease_free);
}

static void l1_a_kept_lease_is_held(struct scene *s)
{
    plant_set_lease_state(&s->plant, s->shard->kept_first, QLI_LEASE_HELD);
}

static void l1_a_kept_lease_was_settled(struct scene *s)
{
    plant_set_lease_state(&s->plant, s->shard->kept_first, QLI_LEASE_SETTLED);
}

static void l1_the_queue_goes_round(struct scene *s)
{
    plant_link_lease(&s->plant, s->shard->kept_last, s->shard->kept_first);
}

static void l1_the_queue_is_linked_back_wrongly(struct scene *s)
{
    plant_link_lease_back(&s->plant, s->shard->kept_last, 0);
}

static void l1_the_queue_ends_elsewhere(struct scene *s)
{
    s->shard->kept_last = s->shard->kept_first;
}

static void l1_a_free_lease_is_kept(struct scene *s)
{
    plant_set_lease_state(&s->plant, s->shard->lease_free, QLI_LEASE_REVOKED);
}

static void l1_a_lease_is_on_no_list(struct scene *s)
{
    s->shard->lease_free = plant_lease_next(&s->plant, s->shard->lease_free);
}

static void l2_a_subjects_count_is_wrong(struct scene *s)
{
    s->alice->leases = qli_subject_leases(s->first, 3);
}

static void l1_a_lease_was_never_taken_into_use(struct scene *s)
{
    s->shard->lease_top--;
}

static void l3_the_holder_has_no_slot(struct scene *s)
{
    plant_lease(&s->plant, s->first)->holder = qli_word_make(s->view.region.holder_count, 1);
}

static void l3_the_holder_never_was(struct scene *s)
{
    uint64_t *holder = &plant_lease(&s->plant, s->first)->holder;
    *holder = qli_word_make(qli_word_slot(*holder), qli_word_generation(*holder) + 1);
}

static void l3_there_is_no_holder(struct scene *s)
{
    plant_lease(&s->plant, s->first)->holder = 0;
}

/* ---- all of them --------------------------------------------------------- */

static const struct fault faults[] = {
    FAULT(l1_a_link_back_is_wrong),
    FAULT(l1_a_list_goes_round),
    FAULT(l1_a_list_has_a_lease_that_ended),
    FAULT(l1_a_lease_names_another_subject),
    FAULT(l1_a_free_lease_is_held),
    FAULT(l1_the_free_list_goes_round),
    FAULT(l1_a_kept_lease_is_held),
    FAULT(l1_a_kept_lease_was_settled),
    FAULT(l1_the_queue_goes_round),
    FAULT(l1_the_queue_is_linked_back_wrongly),
    FAULT(l1_the_queue_ends_elsewhere),
    FAULT(l1_a_free_lease_is_kept),
    FAULT(l1_a_lease_is_on_no_list),
    FAULT(l2_a_subjects_count_is_wrong),
    FAULT(l1_a_lease_was_never_taken_into_use),
    FAULT(l3_the_holder_has_no_slot),
    FAULT(l3_the_holder_never_was),
    FAULT(l3_there_is_no_holder),
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
