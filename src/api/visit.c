/* SPDX-License-Identifier: Apache-2.0
 *
 * Walking over everything. A batch of slots is copied under the lock, the
 * caller's function is called without it.
 */
#include <stdlib.h>
#include <string.h>

#include "api/handle.h"
#include "base/clock.h"
#include "base/error.h"
#include "engine/lease.h"
#include "engine/limits.h"
#include "engine/operation.h"
#include "engine/verify.h"

#define BATCH 16

struct subject_copy {
    char key[QL_SUBJECT_MAX + 1];
    struct ql_usage usage;
};

struct lease_copy {
    char key[QL_SUBJECT_MAX + 1];
    struct ql_lease_info info;
};

static enum ql_status begin_visit(struct ql *ql, struct qli_call *call)
{
    if (ql == NULL)
        return QL_E_INVALID;
    enum ql_status status = qli_handle_begin(ql, ql->options.admit_wait_ms, call);
    if (status == QL_OK && qli_operation_reap_dead(call) == QL_E_CORRUPT)
        status = QL_E_CORRUPT;
    return status;
}

/* ---- subjects ------------------------------------------------------------ */

/* Copies the used slots from *next on; *next is then the first not looked at. */
static enum ql_status copy_subjects(const struct qli_call *call, uint64_t shard, uint64_t *next,
                                    struct subject_copy copies[BATCH], size_t *count)
{
    struct qli_section section;
    *count = 0;
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    for (; *count < BATCH && *next <= call->engine->geometry.shard_subjects; ++*next) {
        struct qli_subject *subject = qli_subject_at(&section, *next);
        if (qli_subject_kind(subject) != QLI_SUBJECT_USED)
            continue;
        status = qli_subject_key(&section, subject, copies[*count].key);
        if (status == QL_OK)
            status = qli_operation_report_locked(&section, call, subject, &copies[*count].usage);
        if (status != QL_OK)
            return qli_section_abandon(&section, status);
        ++*count;
    }
    qli_section_leave(&section);
    return QL_OK;
}

static enum ql_status visit_shard_subjects(const struct qli_call *call, uint64_t shard,
                                           ql_subject_visitor visit, void *context, int *stopped)
{
    struct subject_copy copies[BATCH];
    size_t count;
    for (uint64_t next = 1; next <= call->engine->geometry.shard_subjects;) {
        enum ql_status status = copy_subjects(call, shard, &next, copies, &count);
        if (status != QL_OK)
            return status;
        for (size_t i = 0; i < count && *stopped == 0; i++) {
            struct ql_subject_info info = {copies[i].key, copies[i].usage};
            *stopped = visit(context, &info);
        }
        if (*stopped != 0)
            break;
    }
    return QL_OK;
}

enum ql_status ql_each_subject(struct ql *ql, ql_subject_visitor visit, void *context, int *stopped)
{
    int unused;
    struct qli_call call;
    stopped = stopped != NULL ? stopped : &unused;
    *stopped = 0;
    enum ql_status status = visit != NULL ? begin_visit(ql, &call) : QL_E_INVALID;
    if (status != QL_OK)
        return status;
    for (uint64_t shard = 0; shard < call.engine->geometry.shard_count && *stopped == 0; shard++) {
        status = visit_shard_subjects(&call, shard, visit, context, stopped);
        if (status != QL_OK)
            return status;
    }
    return QL_OK;
}

/* ---- leases -------------------------------------------------------------- */

static void describe_lease(const struct qli_call *call, const struct qli_section *section,
                           uint64_t index, int64_t boot_ns, struct ql_lease_info *info)
{
    const struct qli_engine *engine = call->engine;
    const struct qli_lease *lease = qli_lease_at(section, index);
    uint64_t slot = qli_word_slot(lease->holder);
    int64_t age_ns = call->now_ns - (int64_t)lease->since_ns;
    *info = (struct ql_lease_info){
        .lease = {engine->epoch, qli_lease_generation(lease), qli_lease_number(section, index)},
        .since = (int64_t)lease->since_ns / QLI_NS_PER_SECOND,
        .age_ms = age_ns > 0 ? age_ns / QLI_NS_PER_MS : 0,
        .pid = slot < engine->region.holder_count ? (int64_t)engine->region.holders[slot].pid : 0,
        .own = lease->holder == call->self,
    };
    if (lease->deadline_ns != 0)
        info->expires_in_ms = ((int64_t)lease->deadline_ns - boot_ns) / QLI_NS_PER_MS;
}

static enum ql_status copy_leases(const struct qli_call *call, uint64_t shard, uint64_t *next,
                                  struct lease_copy copies[BATCH], size_t *count)
{
    struct qli_section section;
    *count = 0;
    enum ql_status status = qli_section_enter(call, shard, &section);
    if (status != QL_OK)
        return status;
    for (; *count < BATCH && *next <= call->engine->geometry.shard_leases; ++*next) {
        const struct qli_lease *lease = qli_lease_at(&section, *next);
        if (qli_lease_state(lease) != QLI_LEASE_HELD || qli_lease_over_age(lease, call))
            continue;
        const struct qli_subject *subject = qli_subject_at(&section, lease->subject);
        status =
            subject != NULL ? qli_subject_key(&section, subject, copies[*count].key) : QL_E_CORRUPT;
        if (status != QL_OK)
            return qli_section_abandon(&section, status);
        describe_lease(call, &section, *next, call->boot_ns, &copies[*count].info);
        copies[*count].info.subject = copies[*count].key;
        ++*count;
    }
    qli_section_leave(&section);
    return QL_OK;
}

static enum ql_status visit_shard_leases(const struct qli_call *call, uint64_t shard,
                                         ql_lease_visitor visit, void *context, int *stopped)
{
    struct lease_copy copies[BATCH];
    size_t count;
    for (uint64_t next = 1; next <= call->engine->geometry.shard_leases && *stopped == 0;) {
        enum ql_status status = copy_leases(call, shard, &next, copies, &count);
        if (status != QL_OK)
            return status;
        for (size_t i = 0; i < count && *stopped == 0; i++)
            *stopped = visit(context, &copies[i].info);
    }
    return QL_OK;
}

enum ql_status ql_each_lease(struct ql *ql, ql_lease_visitor visit, void *context, int *stopped)
{
    int unused;
    struct qli_call call;
    stopped = stopped != NULL ? stopped : &unused;
    *stopped = 0;
    enum ql_status status = visit != NULL ? begin_visit(ql, &call) : QL_E_INVALID;
    if (status != QL_OK)
        return status;
    for (uint64_t shard = 0; shard < call.engine->geometry.shard_count && *stopped == 0; shard++) {
        status = visit_shard_leases(&call, shard, visit, context, stopped);
        if (status != QL_OK)
            return status;
    }
    return QL_OK;
}

/* ---- limits, verify ------------------------------------------------------- */

enum ql_status ql_limits(struct ql *ql, struct ql_limit *limits, size_t *count)
{
    struct qli_call call;
    if (ql == NULL || limits == NULL || count == NULL)
        return QL_E_INVALID;
    enum ql_status status = qli_handle_begin(ql, ql->options.admit_wait_ms, &call);
    if (status != QL_OK)
        return status;
    *count = call.limits->count;
    memcpy(limits, call.limits->limits, *count * sizeof *limits);
    return QL_OK;
}

enum ql_status ql_verify(struct ql *ql, struct ql_verify_report *report, struct ql_error *error)
{
    struct qli_call call;
    struct ql_verify_report unused;
    if (ql == NULL)
        return qli_error(error, QL_E_INVALID, 0, "the handle is NULL");
    enum ql_status status = qli_handle_begin(ql, ql->options.charge_wait_ms, &call);
    if (status != QL_OK)
        return qli_error(error, status, 0, "%s", ql_status_text(status));
    return qli_verify(&call, report != NULL ? report : &unused, error);
}
