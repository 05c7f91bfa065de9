/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations on quota state. What one does to a subject or a lease is one
 * change under one shard's lock, ended by one commit; QL_E_BUSY: it is not done.
 * Each lease that it ends and each slot that it frees on the way is a change of
 * its own. Those that look at windows, of a check, an admission, a charge, a
 * settle and the usage, may answer QLI_ASK_LEDGER; a charge and a settle
 * QLI_MUST_FLUSH.
 */
#ifndef QLI_ENGINE_OPERATION_H
#define QLI_ENGINE_OPERATION_H

#include "engine/subject.h"

/* What an admission looks at and takes. */
struct qli_admission {
    uint32_t limits; /* bit i: look at limits[i] */
    bool slot;       /* take a lease */
    int64_t age_ns;  /* the lease's maximum age, or 0 */
    int64_t ttl_ns;  /* of a timed lease, or 0 */
};

enum ql_status qli_operation_admit(const struct qli_call *call, const struct qli_name *name,
                                   const struct qli_admission *admission, struct ql_lease *lease,
                                   struct ql_verdict *verdict);

/* A charge with its meter found. */
struct qli_amount {
    uint32_t meter;
    int64_t amount;
};

enum ql_status qli_operation_charge(const struct qli_call *call, const struct qli_name *name,
                                    struct qli_amount amount);

/* QL_LATE: charged, though the lease had ended. */
enum ql_status qli_operation_settle(const struct qli_call *call, const struct ql_lease *lease,
                                    const struct qli_amount *amounts, size_t count);

/* The name of the subject that its settle would charge. */
enum ql_status qli_operation_lease_subject(const struct qli_call *call,
                                           const struct ql_lease *lease,
                                           char key[QL_SUBJECT_MAX + 1]);

enum ql_status qli_operation_renew(const struct qli_call *call, const struct ql_lease *lease);

enum ql_status qli_operation_revoke(const struct qli_call *call, const struct ql_lease *lease);

enum ql_status qli_operation_usage(const struct qli_call *call, const struct qli_name *name,
                                   struct ql_usage *usage);

/* Fills in what a subject has used, after ending its leases that are over their
 * age; NULL is a subject that nobody knows. Never QLI_ASK_LEDGER: what the cells do
 * not know is 0. */
enum ql_status qli_operation_report_locked(struct qli_section *section, const struct qli_call *call,
                                           struct qli_subject *subject, struct ql_usage *usage);

#define QLI_NO_SHARD UINT64_MAX

/* Ends the leases of a slot's generations up to the given one. QL_E_BUSY: but
 * for shards whose lock is taken. Each is waited for, if waited is NULL. Else
 * only the lock of shard *waited is, and that once: after it was in vain,
 * *waited is QLI_NO_SHARD. So a call that has many to reap keeps its deadline. */
enum ql_status qli_operation_reap(const struct qli_call *call, uint64_t slot,
                                  uint64_t up_to_generation, uint64_t *waited);

/* Reaps every holder that is found dead; but for shards whose lock is taken, which
 * the next one looks at again. Only that of the given shard is waited for, and then
 * in vain is QL_E_BUSY; QLI_NO_SHARD: none. */
enum ql_status qli_operation_reap_dead(const struct qli_call *call, uint64_t shard);

/* The same for the next holders behind a slot, as many as looks, which is what one
 * costs: the kernel walks a list of all locks of the file. Returns the last slot
 * looked at. A lock that is taken leaves the dead to the next one who looks. */
uint64_t qli_operation_reap_some(const struct qli_call *call, uint64_t slot, unsigned looks);

/* Ends the leases of a full shard that nobody will give back. QL_E_BUSY: its lock is
 * taken. */
enum ql_status qli_operation_make_room(const struct qli_call *call, uint64_t shard);

#endif
