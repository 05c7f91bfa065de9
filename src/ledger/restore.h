/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a region out of the ledger: after a reboot, or where the region was
 * removed. The caller has ATTACH, and no process is a holder.
 */
#ifndef QLI_LEDGER_RESTORE_H
#define QLI_LEDGER_RESTORE_H

#include "engine/engine.h"
#include "ledger/ledger.h"

struct qli_restore {
    struct qli_ledger ledger;
    int lock_fd;          /* has the FLUSHER byte until the end; -1: does not */
    int64_t day;          /* which the region begins with */
    int64_t last_day;     /* that the ledger has */
    int64_t durability;   /* what the ledger says, or 0 */
    int64_t history_days; /* meant only with durability */
    struct qli_ledger_limits limits;
    struct qli_ledger_meters meters; /* that there has to be room for */
};

/* Opens the ledger, made if there is none, and finds out what is to be restored:
 * raises plan's max_subjects and max_meters to it. calendar_ns is the time of the
 * store's clock. restore is to be ended whatever the answer is. QL_E_LEDGER,
 * QL_E_VERSION, QL_E_SYSTEM, QL_E_BUSY (another process stays in the ledger). */
enum ql_status qli_restore_begin(struct qli_restore *restore, int directory_fd, int lock_fd,
                                 int64_t calendar_ns, struct ql_options *plan,
                                 struct ql_error *error);

/* Fills a region that nobody else has seen, and makes the ledger its own. The
 * lock file's record names no region by now. */
enum ql_status qli_restore_fill(struct qli_restore *restore, struct qli_engine *engine,
                                struct ql_error *error);

void qli_restore_end(struct qli_restore *restore);

#endif
