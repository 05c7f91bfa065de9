/* SPDX-License-Identifier: Apache-2.0
 *
 * The stores that this process has open. All handles of one directory share
 * one mapping, one holder's slot and one token; a store in memory belongs to
 * one handle.
 */
#ifndef QLI_API_STORE_H
#define QLI_API_STORE_H

#include "base/clock.h"
#include "engine/engine.h"

#define QLI_TICK_NS (100 * QLI_NS_PER_MS)

struct qli_store {
    struct qli_engine engine;
    bool injected_clock;
    unsigned handles;
    int64_t last_tick_ns; /* atomic */
    uint64_t tick_slot;   /* atomic; the holder that the last tick looked at last */
    int lost;             /* atomic; why calls fail: QL_OK, QL_E_GONE or QL_E_DETACHED */
    struct qli_store *next;
};

enum ql_status qli_store_open(const char *path, const struct ql_options *options,
                              struct qli_store **store, struct ql_error *error);
void qli_store_close(struct qli_store *store);

/* This process's word; a forked child registers here. */
enum ql_status qli_store_self(struct qli_store *store, int64_t wait_ms, uint64_t *self);

/* Now and then: is the token still held, is the region still there, who died?
 * calendar_ns is the system's clock. QL_E_GONE or QL_E_DETACHED: the call must
 * not go on. */
enum ql_status qli_store_tick(struct qli_store *store, uint64_t self, int64_t calendar_ns);

#endif
