/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls on one subject or lease.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/attempt.h"
#include "base/clock.h"
#include "engine/lease.h"
#include "engine/limits.h"
#include "engine/operation.h"

#define UNCOUNTED_INDEX UINT64_MAX

static enum ql_status begin_with_subject(struct ql *ql, int64_t wait_ms, const char *subject,
                                         struct qli_call *call, struct qli_name *name)
{
    enum ql_status status = qli_handle_begin(ql, wait_ms, call);
    return status == QL_OK ? qli_subject_name(call->engine, subject, name) : status;
}

/* ---- check, acquire, admit ------------------------------------------------ */

/* The flag is raised before any lease has a deadline, so that whoever meets one
 * looks at the clock. */
static void announce_deadlines(struct qli_call *call)
{
    __atomic_store_n(&call->engine->page->deadlines, 1, __ATOMIC_RELAXED);
    call->boot_ns = qli_clock_boot_ns();
}

/* What a call takes; the limits that it looks at are found in each try. */
struct wish {
    bool budgets;
    int64_t age_ns;
    int64_t ttl_ns;
};

/* The windowed limit of that name; all of them for NULL. */
static enum ql_status find_budgets(const struct qli_limits *limits, const char *name,
                                   uint32_t *budgets)
{
    *budgets = limits->windowed;
    if (name == NULL)
        return QL_OK;
    for (uint32_t left = limits->windowed; left != 0; left &= left - 1) {
        int i = __builtin_ctz(left);
        *budgets = 1u << i;
        if (strcmp(limits->names[i], name) == 0)
            return QL_OK;
    }
    return QL_E_LIMIT;
}

enum ql_status ql_check(struct ql *ql, const char *subject, const char *limit,
                        struct ql_verdict *verdict)
{
    struct qli_call call;
    struct qli_name name;
    struct qli_admission admission = {0};
    enum ql_status status;
    if (ql == NULL)
        return QL_E_INVALID;
    struct qli_attempt attempt = qli_attempt_first(ql, ql->options.admit_wait_ms);
    do {
        status = begin_with_subject(ql, attempt.wait_ms, subject, &call, &name);
        if (status == QL_OK)
            status = find_budgets(call.limits, limit, &admission.limits);
        if (status == QL_OK)
            status = qli_operation_admit(&call, &name, &admission, NULL, verdict);
    } while (qli_attempt_again(ql, &attempt, &call, subject, &status));
    return status;
}

/* Whatever fails from here on, the caller has no lease. */
static bool clear_lease(struct ql_lease *lease)
{
    if (lease != NULL)
        *lease = (struct ql_lease){0};
    return lease != NULL;
}

static enum ql_status admit_uncounted(const struct qli_call *call, struct ql_lease *lease)
{
    __atomic_fetch_add(&call->engine->page->omissions, 1, __ATOMIC_RELAXED);
    *lease = (struct ql_lease){.epoch = call->engine->epoch, .index = UNCOUNTED_INDEX};
    return QL_OK;
}

static enum ql_status take_lease(struct ql *ql, const char *subject, const struct wish *wish,
                                 struct ql_lease *lease, struct ql_verdict *verdict)
{
    struct qli_call call;
    struct qli_name name;
    enum ql_status status;
    bool begun;
    struct qli_attempt attempt = qli_attempt_first(ql, ql->options.admit_wait_ms);
    do {
        status = begin_with_subject(ql, attempt.wait_ms, subject, &call, &name);
        begun = status == QL_OK;
        if (!begun)
            continue;
        if (wish->age_ns + wish->ttl_ns > 0 && call.boot_ns == 0)
            announce_deadlines(&call);
        const struct qli_admission admission = {
            .limits = call.limits->concurrent | (wish->budgets ? call.limits->windowed : 0),
            .slot = true,
            .age_ns = wish->age_ns,
            .ttl_ns = wish->ttl_ns,
        };
        status = qli_operation_admit(&call, &name, &admission, lease, verdict);
    } while (qli_attempt_again(ql, &attempt, &call, subject, &status));
    if (begun && status == QL_E_FULL && ql->options.when_full == QL_FULL_ADMIT)
        return admit_uncounted(&call, lease);
    return status;
}

enum ql_status ql_acquire(struct ql *ql, const char *subject, struct ql_lease *lease,
                          struct ql_verdict *verdict)
{
    if (!clear_lease(lease) || ql == NULL)
        return QL_E_INVALID;
    const struct wish wish = {.age_ns = ql->options.lease_max_age_ms * QLI_NS_PER_MS};
    return take_lease(ql, subject, &wish, lease, verdict);
}

static bool request_valid(const struct ql_request *request)
{
    return request->size == sizeof *request && request->max_age_ms >= 0 &&
           request->max_age_ms <= QLI_AGE_MS_MAX && request->ttl_ms >= 0 &&
           request->ttl_ms <= QLI_AGE_MS_MAX && (request->max_age_ms == 0 || request->ttl_ms == 0);
}

enum ql_status ql_admit(struct ql *ql, const char *subject, const struct ql_request *request,
                        struct ql_lease *lease, struct ql_verdict *verdict)
{
    if (!clear_lease(lease) || ql == NULL || (request != NULL && !request_valid(request)))
        return QL_E_INVALID;
    struct wish wish = {.budgets = true, .age_ns = ql->options.lease_max_age_ms * QLI_NS_PER_MS};
    if (request != NULL && request->ttl_ms > 0)
        wish = (struct wish){.budgets = true, .ttl_ns = request->ttl_ms * QLI_NS_PER_MS};
    else if (request != NULL && request->max_age_ms > 0)
        wish.age_ns = request->max_age_ms * QLI_NS_PER_MS;
    return take_lease(ql, subject, &wish, lease, verdict);
}

/* ---- settle, release, revoke, charge -------------------------------------- */

static enum ql_status find_meters(const struct qli_call *call, const struct ql_charge *charges,
                                  size_t count, struct qli_amount amounts[QL_METERS_MAX])
{
    for (size_t i = 0; i < count; i++) {
        if (charges[i].meter == NULL || charges[i].amount < 0)
            return QL_E_INVALID;
        int meter = qli_limits_meter(call->limits, charges[i].meter);
        if (meter < 0)
            return QL_E_METER;
        amounts[i] = (struct qli_amount){(uint32_t)meter, charges[i].amount};
    }
    return QL_OK;
}

static bool is_uncounted(const struct qli_call *call, const struct ql_lease *lease)
{
    return lease->index == UNCOUNTED_INDEX && lease->epoch == call->engine->epoch;
}

/* qli_attempt_again, of a settle of the lease. */
static __attribute__((noinline)) bool settle_again(struct ql *ql, struct qli_attempt *attempt,
                                                   const struct qli_call *call,
                                                   const struct ql_lease *lease,
                                                   enum ql_status *status)
{
    char subject[QL_SUBJECT_MAX + 1];
    enum ql_status known = QL_OK;
    if (*status >= QLI_ASK_LEDGER)
        known = qli_operation_lease_subject(call, lease, subject);
    if (known != QL_OK)
        *status = known;
    return qli_attempt_again(ql, attempt, call, subject, status);
}

static bool charges_anything(const struct ql_charge *charges, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (charges[i].amount > 0)
            return true;
    }
    return false;
}

enum ql_status ql_settle(struct ql *ql, struct ql_lease lease, const struct ql_charge *charges,
                         size_t count)
{
    struct qli_call call;
    struct qli_amount amounts[QL_METERS_MAX];
    enum ql_status status;
    if (ql == NULL || count > QL_METERS_MAX || (count > 0 && charges == NULL))
        return QL_E_INVALID;
    struct qli_attempt attempt = qli_attempt_first(ql, ql->options.charge_wait_ms);
    do {
        status = qli_handle_begin(ql, attempt.wait_ms, &call);
        if (status == QL_OK)
            status = find_meters(&call, charges, count, amounts);
        if (status == QL_OK && __builtin_expect(is_uncounted(&call, &lease), 0))
            status = count > 0 ? QL_E_FULL : QL_OK;
        else if (status == QL_OK)
            status = qli_operation_settle(&call, &lease, amounts, count);
    } while (!qli_attempt_answered(&attempt, status) &&
             settle_again(ql, &attempt, &call, &lease, &status));
    if (status >= QL_OK && qli_handle_is_sync(ql) && charges_anything(charges, count))
        return qli_handle_make_durable(ql, qli_lease_number_shard(lease.index), status);
    return status;
}

enum ql_status ql_release(struct ql *ql, struct ql_lease lease)
{
    return ql_settle(ql, lease, NULL, 0);
}

/* Renews or revokes. */
static enum ql_status call_on_lease(struct ql *ql, const struct ql_lease *lease,
                                    enum ql_status (*operation)(const struct qli_call *,
                                                                const struct ql_lease *))
{
    struct qli_call call;
    enum ql_status status;
    if (ql == NULL)
        return QL_E_INVALID;
    struct qli_attempt attempt = qli_attempt_first(ql, ql->options.charge_wait_ms);
    do {
        status = qli_handle_begin(ql, attempt.wait_ms, &call);
        if (status == QL_OK)
            status = operation(&call, lease);
    } while (qli_attempt_again(ql, &attempt, NULL, NULL, &status));
    return status;
}

enum ql_status ql_renew(struct ql *ql, struct ql_lease lease)
{
    return call_on_lease(ql, &lease, qli_operation_renew);
}

enum ql_status ql_revoke(struct ql *ql, struct ql_lease lease)
{
    return call_on_lease(ql, &lease, qli_operation_revoke);
}

enum ql_status ql_charge(struct ql *ql, const char *subject, const char *meter, int64_t amount,
                         const char *operation_id)
{
    struct qli_call call;
    struct qli_name name;
    uint64_t shard = 0;
    enum ql_status status;
    if (ql == NULL || meter == NULL || amount < 0 || operation_id != NULL)
        return QL_E_INVALID;
    struct qli_attempt attempt = qli_attempt_first(ql, ql->options.charge_wait_ms);
    do {
        status = begin_with_subject(ql, attempt.wait_ms, subject, &call, &name);
        if (status != QL_OK)
            continue;
        shard = qli_engine_shard_of(call.engine, name.hash);
        int index = qli_limits_meter(call.limits, meter);
        if (index < 0)
            status = QL_E_METER;
        else if (amount > 0)
            status =
                qli_operation_charge(&call, &name, (struct qli_amount){(uint32_t)index, amount});
    } while (qli_attempt_again(ql, &attempt, &call, subject, &status));
    if (status == QL_OK && amount > 0 && qli_handle_is_sync(ql))
        return qli_handle_make_durable(ql, shard, status);
    return status;
}

enum ql_status ql_usage(struct ql *ql, const char *subject, struct ql_usage *usage)
{
    struct qli_call call;
    struct qli_name name;
    enum ql_status status;
    if (ql == NULL || usage == NULL)
        return QL_E_INVALID;
    struct qli_attempt attempt = qli_attempt_first(ql, ql->options.admit_wait_ms);
    do {
        status = begin_with_subject(ql, attempt.wait_ms, subject, &call, &name);
        if (status == QL_OK)
            status = qli_operation_usage(&call, &name, usage);
    } while (qli_attempt_again(ql, &attempt, &call, subject, &status));
    return status;
}

/* ---- a lease as text ------------------------------------------------------ */

void ql_lease_format(struct ql_lease lease, char text[QL_LEASE_TEXT_MAX])
{
    snprintf(text, QL_LEASE_TEXT_MAX, "%" PRIx64 ".%" PRIx64 ".%" PRIx64, lease.index,
             lease.generation, lease.epoch);
}

enum ql_status ql_lease_parse(const char *text, struct ql_lease *lease)
{
    char again[QL_LEASE_TEXT_MAX];
    struct ql_lease parsed;
    if (text == NULL || lease == NULL || strlen(text) >= QL_LEASE_TEXT_MAX ||
        sscanf(text, "%" SCNx64 ".%" SCNx64 ".%" SCNx64, &parsed.index, &parsed.generation,
               &parsed.epoch) != 3)
        return QL_E_INVALID;
    ql_lease_format(parsed, again);
    if (strcmp(text, again) != 0)
        return QL_E_INVALID;
    *lease = parsed;
    return QL_OK;
}
