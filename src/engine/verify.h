/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads a whole store and checks its invariants, shard by shard.
 */
#ifndef QLI_ENGINE_VERIFY_H
#define QLI_ENGINE_VERIFY_H

#include "engine/engine.h"

/* QL_E_CORRUPT and a text with the tag of the first invariant that does not
 * hold. Does not poison the region: verifying changes nothing. */
enum ql_status qli_verify(const struct qli_call *call, struct ql_verify_report *report,
                          struct ql_error *error);

#endif
