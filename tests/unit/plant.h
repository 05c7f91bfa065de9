/* SPDX-License-Identifier: Apache-2.0
 *
 * Pokes at the body of a store with one shard, as seen from outside: the only
 * place in the tests that knows where the engine's records lie.
 */
#ifndef TESTS_UNIT_PLANT_H
#define TESTS_UNIT_PLANT_H

#include "engine/lease.h"
#include "harness.h"

struct plant {
    struct qli_engine engine; /* bound to the view's mapping; takes no locks */
    struct qli_section section;
};

struct plant plant_open(const struct kt_view *view);

/* The records of a subject that is there, of a slot's index, of a lease. */
struct qli_subject *plant_subject(struct plant *plant, const char *name);
struct qli_subject *plant_slot(struct plant *plant, uint64_t index);
uint64_t plant_index(struct plant *plant, const struct qli_subject *subject);
struct qli_lease *plant_lease(struct plant *plant, uint64_t index);

/* Links and states of leases. */
uint64_t plant_lease_next(struct plant *plant, uint64_t index);
void plant_link_lease(struct plant *plant, uint64_t index, uint64_t next);
void plant_link_lease_back(struct plant *plant, uint64_t index, uint64_t previous);
void plant_set_lease_state(struct plant *plant, uint64_t index, enum qli_lease_state state);

#endif
