/* SPDX-License-Identifier: Apache-2.0
 *
 * A store with some of everything in it, in which a case breaks one invariant, for
 * ql_verify to find.
 */
#ifndef TESTS_UNIT_BROKEN_H
#define TESTS_UNIT_BROKEN_H

#include "plant.h"

struct scene {
    struct ql *ql;
    struct kt_view view;
    struct plant plant;
    struct qli_subject *alice; /* two leases, two meters */
    struct qli_subject *bob;   /* one meter */
    struct qli_subject *wide;  /* a name with an extension */
    struct qli_shard *shard;
    struct qli_store_page *page;
    uint64_t first; /* alice's first lease */
};

/* Makes the store, sound; *state is its scene. */
int broken_set_up(void **state);
int broken_tear_down(void **state);

struct fault {
    const char *name; /* begins with the tag */
    void (*plant)(struct scene *s);
};

#define FAULT(function)                                                                            \
    {                                                                                              \
#function, function                                                                        \
    }

/* Plants each in a store of its own: ql_verify names the fault's tag, and no other. */
void broken_expect_each_named(const struct fault *faults, size_t count);

#endif
