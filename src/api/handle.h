/* SPDX-License-Identifier: Apache-2.0
 *
 * A handle: what one ql_open returned. It adds the caller's clock, waits and
 * choices to a store.
 */
#ifndef QLI_API_HANDLE_H
#define QLI_API_HANDLE_H

#include "api/store.h"

struct ql {
    struct qli_store *store;
    struct ql_options options; /* with defaults filled in; limits are not kept */
};

/* Prepares a call: who we are, what time it is, which limits hold. */
enum ql_status qli_handle_begin(struct ql *ql, int64_t wait_ms, struct qli_call *call);

#endif
