/* SPDX-License-Identifier: Apache-2.0 */
#include "api/attempt.h"

#include "engine/operation.h"

#define CONSULTATIONS_MAX 8 /* of the ledger by one call */

static void tell(struct ql *ql, struct qli_attempt *attempt)
{
    attempt->wait_ms = attempt->patience_ms;
    if (ql->options.wait_begin == NULL || attempt->told)
        return;
    attempt->token = qli_handle_begins_to_wait(ql);
    attempt->told = true;
}

/* Asks or writes the ledger. QL_OK: what the operation needed is there. */
static enum ql_status consult(struct ql *ql, struct qli_attempt *attempt,
                              const struct qli_call *call, const char *subject,
                              enum ql_status status)
{
    struct qli_name name;
    struct qli_call patient = *call;
    struct qli_flusher *flusher = &ql->store->flusher;
    if (++attempt->consultations > CONSULTATIONS_MAX)
        return QL_E_BUSY;
    if (qli_subject_name(call->engine, subject, &name) != QL_OK)
        return QL_E_SUBJECT;
    tell(ql, attempt);
    patient.wait_ms = attempt->wait_ms;
    uint64_t shard = qli_engine_shard_of(call->engine, name.hash);
    if (status == QLI_MUST_FLUSH)
        return qli_flusher_flush_shard(flusher, call->self, shard, patient.wait_ms);
    status = qli_flusher_reopen(flusher, &patient, &name);
    if (status != QL_E_FULL)
        return status;
    status = qli_operation_make_room(&patient, shard);
    return status == QL_OK ? qli_flusher_reopen(flusher, &patient, &name) : status;
}

bool qli_attempt_again_slow(struct ql *ql, struct qli_attempt *attempt, const struct qli_call *call,
                            const char *subject, enum ql_status *status)
{
    bool again = false;
    if (*status >= QLI_ASK_LEDGER) {
        *status = consult(ql, attempt, call, subject, *status);
        again = *status == QL_OK;
    } else if (*status == QL_E_BUSY && attempt->wait_ms < attempt->patience_ms) {
        tell(ql, attempt);
        again = true;
    }
    if (!again && attempt->told)
        qli_handle_ends_to_wait(ql, attempt->token);
    return again;
}

enum ql_status qli_attempt_begin(struct ql *ql, int64_t patience_ms, struct qli_call *call)
{
    enum ql_status status;
    struct qli_attempt attempt = qli_attempt_first(ql, patience_ms);
    do
        status = qli_handle_begin(ql, attempt.wait_ms, call);
    while (qli_attempt_again(ql, &attempt, NULL, NULL, &status));
    call->wait_ms = patience_ms;
    return status;
}
