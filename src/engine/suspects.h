/* SPDX-License-Identifier: Apache-2.0
 *
 * Who holds the leases of one subject: noted under the shard's lock, asked about
 * without it. So a call finds the dead that it cares for without looking at
 * every holder of the store.
 */
#ifndef QLI_ENGINE_SUSPECTS_H
#define QLI_ENGINE_SUSPECTS_H

#include "engine/lease.h"

#define QLI_SUSPECTS_MAX 64

struct qli_suspects {
    uint64_t words[QLI_SUSPECTS_MAX];
    size_t count;
    bool more; /* than there is room for */
};

static inline void qli_suspects_none(struct qli_suspects *suspects)
{
    suspects->count = 0;
    suspects->more = false;
}

/* Notes the holders of the subject's leases. */
enum ql_status qli_suspects_note_locked(const struct qli_section *section,
                                        const struct qli_subject *subject,
                                        struct qli_suspects *suspects);

/* Reaps those that are dead. *reaped: there was one, or there are too many to
 * tell. For shard alone its lock is waited for: QL_E_BUSY, as the look that this is
 * for has to be made again. Another one that is taken does not matter here. */
enum ql_status qli_suspects_reap(const struct qli_call *call, uint64_t shard,
                                 const struct qli_suspects *suspects, bool *reaped);

#endif
