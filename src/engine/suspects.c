/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/suspects.h"

#include "engine/operation.h"

static void suspect(struct qli_suspects *suspects, uint64_t word)
{
    for (size_t i = 0; i < suspects->count; i++) {
        if (suspects->words[i] == word)
            return;
    }
    if (suspects->count == QLI_SUSPECTS_MAX)
        suspects->more = true;
    else
        suspects->words[suspects->count++] = word;
}

enum ql_status qli_suspects_note_locked(const struct qli_section *section,
                                        const struct qli_subject *subject,
                                        struct qli_suspects *suspects)
{
    uint64_t steps = qli_lease_list_bound(section, subject);
    for (uint64_t index = qli_subject_first_lease(subject); index != 0; steps--) {
        const struct qli_lease *lease = qli_lease_at(section, index);
        if (lease == NULL || steps == 0)
            return QL_E_CORRUPT;
        if (lease->holder != 0)
            suspect(suspects, lease->holder);
        index = qli_lease_next(lease);
    }
    return QL_OK;
}

static enum ql_status reap_each(const struct qli_call *call, uint64_t shard,
                                const struct qli_suspects *suspects, bool *reaped)
{
    uint64_t waited = shard;
    for (size_t i = 0; i < suspects->count; i++) {
        uint64_t word = suspects->words[i];
        if (qli_holder_alive(&call->engine->region, call->self, word))
            continue;
        enum ql_status status =
            qli_operation_reap(call, qli_word_slot(word), qli_word_generation(word), &waited);
        if (status != QL_OK && status != QL_E_BUSY)
            return status;
        *reaped = true;
    }
    return waited == shard ? QL_OK : QL_E_BUSY;
}

enum ql_status qli_suspects_reap(const struct qli_call *call, uint64_t shard,
                                 const struct qli_suspects *suspects, bool *reaped)
{
    *reaped = suspects->more;
    return suspects->more ? qli_operation_reap_dead(call, shard)
                          : reap_each(call, shard, suspects, reaped);
}
