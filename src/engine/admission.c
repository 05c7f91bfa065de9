/* SPDX-License-Identifier: Apache-2.0
 *
 * Check, acquire and admit: one look at the limits, one slot.
 *
 * Before a refusal for concurrency, slots that nobody will give back are
 * looked for: leases over their maximum age end at once; whether holders are
 * alive is asked of the kernel without the lock, then the look is repeated.
 */
#include "engine/cell.h"
#include "engine/lease.h"
#include "engine/operation.h"
#include "engine/suspects.h"
#include "rules/limit.h"
#include "rules/window.h"

#define NOTHING_REFUSES SIZE_MAX

static inline __attribute__((always_inline)) int64_t
limit_used(const struct qli_call *call, size_t i, const struct qli_subject *subject)
{
    if (subject == NULL)
        return 0;
    if (call->limits->concurrent >> i & 1)
        return (int64_t)qli_subject_lease_count(subject);
    return qli_cell_total(call, &subject->cells[call->limits->meter_of[i]]);
}

static int64_t limit_day(const struct qli_call *call, size_t i, const struct qli_subject *subject)
{
    if (subject == NULL)
        return call->day;
    return qli_cell_day(call, &subject->cells[call->limits->meter_of[i]]);
}

/* Whether a window that is looked at is known to the ledger alone. */
static bool asks_ledger(const struct qli_call *call, const struct qli_subject *subject,
                        const struct qli_admission *admission)
{
    uint32_t left = admission->limits & call->limits->windowed;
    if (subject == NULL)
        return left != 0 && qli_cell_new_day_asks(call);
    for (; left != 0; left &= left - 1) {
        if (qli_cell_asks(call, &subject->cells[call->limits->meter_of[__builtin_ctz(left)]]))
            return true;
    }
    return false;
}

/* The first limit, in declared order, that refuses; or NOTHING_REFUSES. */
static size_t first_refusing(const struct qli_call *call, const struct qli_subject *subject,
                             const struct qli_admission *admission)
{
    for (uint32_t left = admission->limits; left != 0; left &= left - 1) {
        size_t i = (size_t)__builtin_ctz(left);
        if (qli_limit_refuses(&call->limits->limits[i], limit_used(call, i, subject)))
            return i;
    }
    return NOTHING_REFUSES;
}

static void fill_verdict(const struct qli_call *call, const struct qli_subject *subject,
                         const struct qli_name *name, const struct qli_admission *admission,
                         size_t refusing, struct ql_verdict *verdict)
{
    const struct qli_limits *limits = call->limits;
    uint32_t count = 0;
    for (uint32_t left = admission->limits; left != 0; left &= left - 1) {
        size_t i = (size_t)__builtin_ctz(left);
        bool windowed = limits->windowed >> i & 1;
        int64_t resets_at = windowed ? qli_window_end(limit_day(call, i, subject)) : 0;
        verdict->limits[count++] =
            qli_limit_state(&limits->limits[i], limit_used(call, i, subject), resets_at);
    }
    verdict->limit_count = count;
    verdict->level = name->levels;
    verdict->kind = NULL;
    verdict->current = 0;
    verdict->limit = 0;
    verdict->retry_after_seconds = 0;
    if (refusing == NOTHING_REFUSES)
        return;
    const struct ql_limit *limit = &limits->limits[refusing];
    verdict->kind = limit->name;
    verdict->current = limit_used(call, refusing, subject);
    verdict->limit = limit->cap;
    if (limit->window != QL_WINDOW_NONE)
        verdict->retry_after_seconds =
            qli_window_seconds_left(limit_day(call, refusing, subject), call->now_ns);
}

/* ---- admission ----------------------------------------------------------- */

static struct ql_lease lease_handle(const struct qli_section *section, uint64_t index)
{
    const struct qli_engine *engine = section->engine;
    return (struct ql_lease){
        .epoch = engine->epoch,
        .generation = qli_lease_generation(qli_lease_at(section, index)),
        .index = qli_lease_number(section, index),
    };
}

static struct qli_lease_terms terms_of(const struct qli_call *call,
                                       const struct qli_admission *admission)
{
    int64_t life_ns = admission->age_ns + admission->ttl_ns; /* one of them is 0 */
    return (struct qli_lease_terms){
        .holder = admission->ttl_ns > 0 ? 0 : call->self,
        .deadline_ns = life_ns > 0 ? (uint64_t)(call->boot_ns + life_ns) : 0,
        .ttl_ns = (uint64_t)admission->ttl_ns,
    };
}

/* Stores: the subject's, if it is new; the lease's; the commit. */
static enum ql_status take_slot(struct qli_section *section, const struct qli_call *call,
                                const struct qli_name *name, uint64_t subject,
                                const struct qli_admission *admission, struct ql_lease *lease)
{
    const struct qli_lease_terms terms = terms_of(call, admission);
    uint64_t index;
    enum ql_status status = qli_lease_make_room_locked(section);
    if (status == QL_OK && subject == 0)
        status = qli_subject_insert_locked(section, name, call->day, &subject);
    if (status == QL_OK)
        status = qli_lease_take_locked(section, call, subject, &terms, &index);
    if (status != QL_OK)
        return status;
    qli_section_commit(section);
    *lease = lease_handle(section, index);
    return QL_OK;
}

/* One look. QL_REFUSED with suspects: worth another after their reaping. */
static enum ql_status admit_once(const struct qli_call *call, const struct qli_name *name,
                                 const struct qli_admission *admission, struct ql_lease *lease,
                                 struct ql_verdict *verdict, struct qli_suspects *suspects)
{
    struct qli_section section;
    uint64_t index;
    enum ql_status status = qli_subject_enter(call, name, &section, &index);
    if (status != QL_OK)
        return status;
    struct qli_subject *subject = qli_subject_at(&section, index);
    if (__builtin_expect(asks_ledger(call, subject, admission), 0))
        return qli_section_abandon(&section, QLI_ASK_LEDGER);
    size_t refusing = first_refusing(call, subject, admission);
    if (refusing != NOTHING_REFUSES && subject != NULL &&
        (call->limits->concurrent >> refusing & 1)) {
        status = qli_lease_expire_locked(&section, call, subject);
        if (status == QL_OK)
            status = qli_suspects_note_locked(&section, subject, suspects);
        refusing = first_refusing(call, subject, admission);
    }
    if (status == QL_OK && verdict != NULL)
        fill_verdict(call, subject, name, admission, refusing, verdict);
    if (status == QL_OK && refusing != NOTHING_REFUSES)
        status = QL_REFUSED;
    if (status == QL_OK && admission->slot)
        status = take_slot(&section, call, name, index, admission, lease);
    if (status != QL_OK)
        return qli_section_abandon(&section, status);
    qli_section_leave(&section);
    return QL_OK;
}

enum ql_status qli_operation_admit(const struct qli_call *call, const struct qli_name *name,
                                   const struct qli_admission *admission, struct ql_lease *lease,
                                   struct ql_verdict *verdict)
{
    struct qli_suspects suspects;
    qli_suspects_none(&suspects);
    enum ql_status answer = admit_once(call, name, admission, lease, verdict, &suspects);
    enum ql_status status = QL_OK;
    uint64_t shard = qli_engine_shard_of(call->engine, name->hash);
    bool again = false;
    if (answer == QL_REFUSED) {
        status = qli_suspects_reap(call, shard, &suspects, &again);
    } else if (answer == QL_E_FULL) {
        status = qli_operation_make_room(call, shard);
        again = true;
    }
    if (status != QL_OK)
        return status;
    return again ? admit_once(call, name, admission, lease, verdict, &suspects) : answer;
}
