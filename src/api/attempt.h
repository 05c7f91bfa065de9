/* SPDX-License-Identifier: Apache-2.0
 *
 * One call of the host, as often as it has to be made: again after the host was told
 * that it may sleep, where a lock is taken (QL_E_BUSY has done nothing, so the last one
 * is the one that counts); again after the ledger was asked or written for it. No lock
 * is held while the host's functions run: they may wait for one of its own.
 */
#ifndef QLI_API_ATTEMPT_H
#define QLI_API_ATTEMPT_H

#include "api/handle.h"

struct qli_attempt {
    int64_t wait_ms;        /* how long this one waits for a lock */
    int64_t patience_ms;    /* how long the call may wait */
    unsigned consultations; /* of the ledger, so far */
    bool told;
    void *token; /* of the host, if told */
};

static inline struct qli_attempt qli_attempt_first(const struct ql *ql, int64_t patience_ms)
{
    bool tells = __builtin_expect(ql->options.wait_begin != NULL, 0);
    return (struct qli_attempt){.wait_ms = tells ? -1 : patience_ms, .patience_ms = patience_ms};
}

/* Whether the status is one for the caller, and the host is not to be told of an end. */
static inline bool qli_attempt_answered(const struct qli_attempt *attempt, enum ql_status status)
{
    return __builtin_expect(status != QL_E_BUSY && status < QLI_ASK_LEDGER && !attempt->told, 1);
}

bool qli_attempt_again_slow(struct ql *ql, struct qli_attempt *attempt, const struct qli_call *call,
                            const char *subject, enum ql_status *status);

/* After each: whether the call has to be made again, and as one that begins anew.
 * Otherwise *status is an answer for the caller. subject is whose the call is; it and
 * call are NULL where no windows are looked at. No lock is held. */
static inline bool qli_attempt_again(struct ql *ql, struct qli_attempt *attempt,
                                     const struct qli_call *call, const char *subject,
                                     enum ql_status *status)
{
    return !qli_attempt_answered(attempt, *status) &&
           qli_attempt_again_slow(ql, attempt, call, subject, status);
}

/* Begins a call that is patient from then on. */
enum ql_status qli_attempt_begin(struct ql *ql, int64_t patience_ms, struct qli_call *call);

#endif
