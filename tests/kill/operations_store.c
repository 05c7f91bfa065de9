/* SPDX-License-Identifier: Apache-2.0 */
#include "operations_store.h"

struct kt_store kt_store;

bool kt_store_has_ledger(void)
{
    return kt_store.durability != QL_DURABILITY_NONE;
}

void kt_store_open_for(const char *directory, uint32_t holders)
{
    struct ql_options options = kt_options(kt_store.clock_ns, KT_STORE_SLOTS, KT_STORE_ROOM);
    options.max_holders = holders;
    options.durability = kt_store.durability;
    options.no_thread = true;
    options.flush_interval_ms = KT_DAY_NS / 1000000;
    options.replace_limits = true; /* whoever comes after a change of limits takes it back */
    kt_store.ql = kt_open(directory, &options);
}

void kt_store_open(const char *directory)
{
    kt_store_open_for(directory, KT_STORE_ROOM);
}

void kt_store_charge(const char *subject, int64_t amount)
{
    enum ql_status status = ql_charge(kt_store.ql, subject, "bytes", amount, NULL);
    KT_CHECK(status == QL_OK, "charge: %s", ql_status_name(status));
}

void kt_store_take(const char *subject)
{
    enum ql_status status = ql_acquire(kt_store.ql, subject, &kt_store.lease, NULL);
    KT_CHECK(status == QL_OK, "acquire: %s", ql_status_name(status));
}
