/* SPDX-License-Identifier: Apache-2.0
 *
 * Ending the leases that nobody will give back: those of dead holders, and
 * those over their maximum age. Each end is a commit of its own, so a death in
 * between leaves the rest to the next one.
 */
#include "engine/lease.h"
#include "engine/operation.h"

static enum ql_status reap_shard(const struct qli_call *call, uint64_t shard, uint64_t slot,
                                 uint64_t up_to_generation)
{
    struct qli_section section;
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    for (uint64_t i = 1; i <= section.shard->lease_top; i++) {
        const struct qli_lease *lease = qli_lease_at(&section, i);
        if (lease == NULL)
            return qli_section_abandon(&section, QL_E_CORRUPT);
        if (qli_lease_state(lease) != QLI_LEASE_HELD || qli_word_slot(lease->holder) != slot ||
            qli_word_generation(lease->holder) > up_to_generation)
            continue;
        status = qli_lease_end_locked(&section, i, QLI_LEASE_REAPED);
        if (status != QL_OK)
            return qli_section_abandon(&section, status);
        qli_section_commit(&section);
    }
    qli_section_leave(&section);
    return QL_OK;
}

enum ql_status qli_operation_reap(const struct qli_call *call, uint64_t slot,
                                  uint64_t up_to_generation, uint64_t *waited)
{
    struct qli_call hasty = *call;
    hasty.wait_ms = -1;
    enum ql_status answer = QL_OK;
    for (uint64_t shard = 0; shard < call->engine->geometry.shard_count; shard++) {
        bool waits = waited == NULL || *waited == shard;
        enum ql_status status = reap_shard(waits ? call : &hasty, shard, slot, up_to_generation);
        if (status == QL_E_CORRUPT)
            return status;
        if (status == QL_OK)
            continue;
        answer = status; /* a lock that is taken: the other shards need not wait for it */
        if (waits && waited != NULL)
            *waited = QLI_NO_SHARD;
    }
    return answer;
}

/* Whether the kernel had to be asked is told by *asked. */
static enum ql_status reap_if_dead(const struct qli_call *call, uint64_t slot, uint64_t *waited,
                                   bool *asked)
{
    struct qli_region *region = &call->engine->region;
    struct qli_holder *holder = &region->holders[slot];
    uint64_t attached = __atomic_load_n(&holder->attached, __ATOMIC_ACQUIRE);
    *asked = attached != 0;
    if (attached == 0 || qli_holder_alive(region, call->self, qli_word_make(slot, attached)))
        return QL_OK;
    enum ql_status status = qli_operation_reap(call, slot, attached, waited);
    if (status == QL_OK)
        __atomic_compare_exchange_n(&holder->attached, &attached, 0, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED);
    return status;
}

enum ql_status qli_operation_reap_dead(const struct qli_call *call, uint64_t shard)
{
    bool asked;
    uint64_t waited = shard;
    for (uint64_t slot = 0; slot < call->engine->region.holder_count; slot++) {
        enum ql_status status = reap_if_dead(call, slot, &waited, &asked);
        if (status != QL_OK && status != QL_E_BUSY)
            return status;
    }
    return waited == shard ? QL_OK : QL_E_BUSY;
}

uint64_t qli_operation_reap_some(const struct qli_call *call, uint64_t slot, unsigned looks)
{
    uint64_t count = call->engine->region.holder_count;
    uint64_t none = QLI_NO_SHARD;
    for (uint64_t i = 0; i < count && looks > 0; i++) {
        bool asked;
        slot = (slot + 1) % count;
        (void)reap_if_dead(call, slot, &none, &asked);
        looks -= asked;
    }
    return slot;
}

static enum ql_status expire_shard(const struct qli_call *call, uint64_t shard)
{
    struct qli_section section;
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    for (uint64_t i = 1; status == QL_OK && i <= section.shard->lease_top; i++) {
        const struct qli_lease *lease = qli_lease_at(&section, i);
        if (lease == NULL)
            status = QL_E_CORRUPT;
        else if (qli_lease_state(lease) == QLI_LEASE_HELD && qli_lease_over_age(lease, call)) {
            status = qli_lease_end_locked(&section, i, QLI_LEASE_EXPIRED);
            if (status == QL_OK)
                qli_section_commit(&section);
        }
    }
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    qli_section_leave(&section);
    return QL_OK;
}

enum ql_status qli_operation_make_room(const struct qli_call *call, uint64_t shard)
{
    enum ql_status status = qli_operation_reap_dead(call, shard);
    if (status != QL_OK)
        return status;
    return call->boot_ns != 0 ? expire_shard(call, shard) : QL_OK;
}
