/* SPDX-License-Identifier: Apache-2.0
 *
 * The words of the ledger page and of a shard's flushed: each is right after its
 * single store, and who sees it sees what was stored before it.
 */
#ifndef QLI_LEDGER_PAGE_H
#define QLI_LEDGER_PAGE_H

#include <stdint.h>

static inline uint64_t qli_page_load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void qli_page_store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* What the ledger's settings are compared by; never 0 where there is a ledger. */
static inline uint64_t qli_page_settings(uint64_t durability, uint64_t history_days)
{
    return durability | history_days << 8;
}

#endif
