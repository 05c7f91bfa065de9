/* SPDX-License-Identifier: Apache-2.0
 *
 * Walking over everything. A batch of slots is copied under the lock, the
 * caller's function is called without it. It may do what it likes, fork
 * included: so each batch is a call of its own, which asks anew who we are.
 */
#include <string.h>

#include "api/attempt.h"
#include "base/clock.h"
#include "base/error.h"
#include "engine/lease.h"
#include "engine/operation.h"
#include "engine/verify.h"
#include "ledger/compare.h"

#define BATCH 16

/* One that is visited. */
struct copy {
    char key[QL_SUBJECT_MAX + 1];
    union {
        struct ql_usage usage;
        struct ql_lease_info lease;
    } of;
};

struct walk {
    struct ql *ql;
    uint64_t shard_slots;
    /* Copies the slot, if *found. The shard's lock is held. */
    enum ql_status (*copy_locked)(const struct qli_call *call, struct qli_section *section,
                                  uint64_t index, struct copy *copy, bool *found);
    int (*show)(const struct walk *walk, const struct copy *copy);
    union {
        ql_subject_visitor subject;
        ql_lease_visitor lease;
    } visit;
    void *context;
};

static enum ql_status try_batch(const struct walk *walk, int64_t wait_ms, uint64_t shard,
                                uint64_t *next, struct copy copies[BATCH], size_t *count)
{
    struct qli_call call;
    struct qli_section section;
    *count = 0;
    enum ql_status status = qli_handle_begin(walk->ql, wait_ms, &call);
    if (status == QL_OK)
        status = qli_section_enter(&call, shard, &section);
    if (status != QL_OK)
        return status;
    for (; *count < BATCH && *next <= walk->shard_slots; ++*next) {
        bool found = false;
        status = walk->copy_locked(&call, &section, *next, &copies[*count], &found);
        if (status != QL_OK)
            return qli_section_abandon(&section, status);
        *count += found;
    }
    qli_section_leave(&section);
    return QL_OK;
}

/* Copies the slots from *next on; *next is then the first not looked at. */
static enum ql_status copy_batch(const struct walk *walk, uint64_t shard, uint64_t *next,
                                 struct copy copies[BATCH], size_t *count)
{
    enum ql_status status;
    struct qli_attempt attempt = qli_attempt_first(walk->ql, walk->ql->options.admit_wait_ms);
    do
        status = try_batch(walk, attempt.wait_ms, shard, next, copies, count);
    while (qli_attempt_again(walk->ql, &attempt, NULL, NULL, &status));
    return status;
}

static enum ql_status walk_shard(const struct walk *walk, uint64_t shard, int *stopped)
{
    struct copy copies[BATCH];
    size_t count;
    for (uint64_t next = 1; next <= walk->shard_slots && *stopped == 0;) {
        enum ql_status status = copy_batch(walk, shard, &next, copies, &count);
        if (status != QL_OK)
            return status;
        for (size_t i = 0; i < count && *stopped == 0; i++)
            *stopped = walk->show(walk, &copies[i]);
    }
    return QL_OK;
}

static enum ql_status walk_all(const struct walk *walk, int *stopped)
{
    int unused;
    struct qli_call call;
    stopped = stopped != NULL ? stopped : &unused;
    *stopped = 0;
    enum ql_status status = qli_attempt_begin(walk->ql, walk->ql->options.admit_wait_ms, &call);
    if (status == QL_OK)
        status = qli_operation_reap_dead(&call, QLI_NO_SHARD);
    uint64_t shards = walk->ql->store->engine.geometry.shard_count;
    for (uint64_t shard = 0; status == QL_OK && shard < shards && *stopped == 0; shard++)
        status = walk_shard(walk, shard, stopped);
    return status;
}

/* ---- subjects ------------------------------------------------------------ */

static enum ql_status copy_subject_locked(const struct qli_call *call, struct qli_section *section,
                                          uint64_t index, struct copy *copy, bool *found)
{
    struct qli_subject *subject = qli_subject_at(section, index);
    *found = qli_subject_kind(subject) == QLI_SUBJECT_USED;
    if (!*found)
        return QL_OK;
    enum ql_status status = qli_operation_report_locked(section, call, subject, &copy->of.usage);
    return status == QL_OK ? qli_subject_key(section, subject, copy->key) : status;
}

static int show_subject(const struct walk *walk, const struct copy *copy)
{
    struct ql_subject_info info = {copy->key, copy->of.usage};
    return walk->visit.subject(walk->context, &info);
}

enum ql_status ql_each_subject(struct ql *ql, ql_subject_visitor visit, void *context, int *stopped)
{
    if (ql == NULL || visit == NULL)
        return QL_E_INVALID;
    const struct walk walk = {
        .ql = ql,
        .shard_slots = ql->store->engine.geometry.shard_subjects,
        .copy_locked = copy_subject_locked,
        .show = show_subject,
        .visit.subject = visit,
        .context = context,
    };
    return walk_all(&walk, stopped);
}

/* ---- leases -------------------------------------------------------------- */

static void describe_lease(const struct qli_call *call, const struct qli_section *section,
                           uint64_t index, struct ql_lease_info *info)
{
    const struct qli_engine *engine = call->engine;
    const struct qli_lease *lease = qli_lease_at(section, index);
    uint64_t slot = qli_word_slot(lease->holder);
    int64_t since_ns = qli_engine_amount(lease->since_ns);
    int64_t age_ns = call->now_ns - since_ns;
    *info = (struct ql_lease_info){
        .lease = {engine->epoch, qli_lease_generation(lease), qli_lease_number(section, index)},
        .since = since_ns / QLI_NS_PER_SECOND,
        .age_ms = age_ns > 0 ? age_ns / QLI_NS_PER_MS : 0,
        .pid = slot < engine->region.holder_count ? (int64_t)engine->region.holders[slot].pid : 0,
        .own = lease->holder == call->self,
        .timed = lease->holder == 0,
    };
    /* It is not over, so something is left; 0 would say that it has no deadline. */
    if (lease->deadline_ns != 0) {
        int64_t boot_ns = call->boot_ns != 0 ? call->boot_ns : qli_clock_boot_ns();
        info->expires_in_ms =
            1 + (qli_engine_amount(lease->deadline_ns) - boot_ns - 1) / QLI_NS_PER_MS;
    }
}

static enum ql_status copy_lease_locked(const struct qli_call *call, struct qli_section *section,
                                        uint64_t index, struct copy *copy, bool *found)
{
    const struct qli_lease *lease = qli_lease_at(section, index);
    *found = qli_lease_state(lease) == QLI_LEASE_HELD && !qli_lease_over_age(lease, call);
    if (!*found)
        return QL_OK;
    describe_lease(call, section, index, &copy->of.lease);
    const struct qli_subject *subject = qli_subject_at(section, lease->subject);
    return subject != NULL ? qli_subject_key(section, subject, copy->key) : QL_E_CORRUPT;
}

static int show_lease(const struct walk *walk, const struct copy *copy)
{
    struct ql_lease_info info = copy->of.lease;
    info.subject = copy->key;
    return walk->visit.lease(walk->context, &info);
}

enum ql_status ql_each_lease(struct ql *ql, ql_lease_visitor visit, void *context, int *stopped)
{
    if (ql == NULL || visit == NULL)
        return QL_E_INVALID;
    const struct walk walk = {
        .ql = ql,
        .shard_slots = ql->store->engine.geometry.shard_leases,
        .copy_locked = copy_lease_locked,
        .show = show_lease,
        .visit.lease = visit,
        .context = context,
    };
    return walk_all(&walk, stopped);
}

/* ---- limits, verify ------------------------------------------------------- */

enum ql_status ql_limits(struct ql *ql, struct ql_limit *limits, size_t *count)
{
    struct qli_call call;
    if (ql == NULL || limits == NULL || count == NULL)
        return QL_E_INVALID;
    enum ql_status status = qli_attempt_begin(ql, ql->options.admit_wait_ms, &call);
    if (status != QL_OK)
        return status;
    *count = call.limits->count;
    memcpy(limits, call.limits->limits, *count * sizeof *limits);
    return QL_OK;
}

/* Verifying looks at no time: see options.any_clock. */
static enum ql_status begin_verifying(struct ql *ql, int64_t wait_ms, struct qli_call *call,
                                      struct ql_error *error)
{
    enum ql_status status = qli_handle_begin(ql, wait_ms, call);
    if (status == QL_OK || (status == QL_E_CLOCK && ql->options.any_clock))
        return QL_OK;
    return qli_error(error, status, 0, "%s", ql_status_text(status));
}

/* *call is then a begun one. */
static enum ql_status verify_region(struct ql *ql, struct qli_call *call,
                                    struct ql_verify_report *report, struct ql_error *error)
{
    enum ql_status status;
    struct qli_attempt attempt = qli_attempt_first(ql, ql->options.charge_wait_ms);
    do {
        status = begin_verifying(ql, attempt.wait_ms, call, error);
        if (status != QL_OK)
            continue;
        int64_t lag_ms =
            qli_engine_has_ledger(call->engine) ? qli_flusher_lag_ms(&ql->store->flusher) : 0;
        status = qli_verify(call, report, error); /* fills in all of the report */
        report->flush_lag_ms = lag_ms;
    } while (qli_attempt_again(ql, &attempt, NULL, NULL, &status));
    return status;
}

static enum ql_status verify_ledger(struct ql *ql, struct qli_call *call, struct ql_error *error)
{
    if (!qli_engine_has_ledger(call->engine))
        return QL_OK;
    call->wait_ms = ql->options.charge_wait_ms;
    void *token = qli_handle_begins_to_wait(ql);
    enum ql_status status = qli_compare(&ql->store->flusher, call, error);
    qli_handle_ends_to_wait(ql, token);
    return status;
}

enum ql_status ql_verify(struct ql *ql, struct ql_verify_report *report, struct ql_error *error)
{
    struct qli_call call;
    struct ql_verify_report unused;
    if (ql == NULL)
        return qli_error(error, QL_E_INVALID, 0, "the handle is NULL");
    enum ql_status status = verify_region(ql, &call, report != NULL ? report : &unused, error);
    return status == QL_OK ? verify_ledger(ql, &call, error) : status;
}
