/* SPDX-License-Identifier: Apache-2.0
 *
 * A holder is one attached process, with a slot in the region. It lives as
 * long as an open-file-description lock on its byte of the lock file: the
 * kernel drops that when the process dies, in any pid namespace. Nothing is
 * ever decided from a pid.
 */
#ifndef QLI_REGION_HOLDER_H
#define QLI_REGION_HOLDER_H

#include "region/region.h"

/* Called while a slot is taken over: ends what earlier generations of self's
 * slot still hold. Does not wait for a lock: QL_E_BUSY says that one is taken,
 * and then it is called again, for this slot or another. */
typedef enum ql_status (*qli_holder_reaper)(void *context, uint64_t self);

/* Makes this process a holder: token_fd (a descriptor of the lock file of its
 * own, which becomes the region's on success) takes a free byte; then the
 * slot's generation rises, the guards that the slot's former owner died in are
 * repaired, its leases are reaped, and the process is known. The caller has the
 * mutex of region->self. QL_E_FULL: all slots are taken. QL_E_BUSY: all free
 * ones have leases that cannot be reaped now, as somebody stays in a lock. */
enum ql_status qli_holder_register(struct qli_region *region, int token_fd, int64_t wait_ms,
                                   qli_holder_reaper reap, void *context, struct ql_error *error);

/* Gives the slot up. What it held must have been released. */
void qli_holder_detach(struct qli_region *region);

/* This process's word, or 0 if it is no holder (a forked child). */
static inline uint64_t qli_holder_self(const struct qli_region *region)
{
    return __atomic_load_n(&region->self->word, __ATOMIC_ACQUIRE);
}

/* Whether the holder that word names can still act. self always can. One that is
 * dead stays dead; one that was alive may have died since. */
bool qli_holder_runs(const struct qli_region *region, uint64_t self, uint64_t word);

/* Whether its leases are held: it runs, or somebody keeps them (qli_attach_keep).
 * The locks of one that does not run are not kept. */
bool qli_holder_alive(const struct qli_region *region, uint64_t self, uint64_t word);

/* Whether the descriptor is the store's lock file. A host may have closed it and
 * got the number again for a file of its own, which proves nobody dead. */
bool qli_holder_is_lock_file(const struct qli_region *region, int fd);

/* Closes the token, if it is still ours to close. */
void qli_holder_close_token(struct qli_region *region);

/* Whether this process still has its byte: a host may close descriptors that
 * are not its own. */
bool qli_holder_token_held(struct qli_region *region);

#endif
