/* SPDX-License-Identifier: Apache-2.0
 *
 * The way into a store: which region is the store's, and whether there has to
 * be a new one.
 */
#ifndef QLI_REGION_ATTACH_H
#define QLI_REGION_ATTACH_H

#include "region/holder.h"
#include "region/place.h"
#include "region/region.h"

/* What the region does not know itself. */
struct qli_attach_hooks {
    uint64_t stamp; /* that the region has to have */
    /* Where a region has to be made, says how. Nobody is a holder; lock_fd is a
     * descriptor of the lock file that has ATTACH. Both are -1 in memory. */
    enum ql_status (*plan)(void *context, int directory_fd, int lock_fd,
                           struct qli_region_plan *plan, struct ql_error *error);
    /* Then fills it. Nobody else has seen it, and the record names no region. */
    enum ql_status (*fill)(void *context, int region_fd, const struct qli_region_header *header,
                           struct ql_error *error);
    /* Looks at the mapped region and may refuse it. */
    enum ql_status (*check)(void *context, struct ql_error *error);
    qli_holder_reaper reap;
    void *context;
};

/* Maps the region of the store at the place, made anew if there is none or if it
 * is an earlier boot's. On success region is mapped and this process is a holder.
 * On failure region is still to be unmapped. */
enum ql_status qli_attach(struct qli_place *place, const struct qli_attach_hooks *hooks,
                          struct qli_region *region, struct ql_error *error);

/* Begins a store in memory: in the stead of qli_place_open. qli_attach then
 * makes a region of its own, and looks at no place. */
enum ql_status qli_attach_memory(struct qli_region *region, struct ql_error *error);

/* Of a store that this process has attached already: whether the place's
 * request goes with it. */
enum ql_status qli_attach_compare(struct qli_place *place, const struct qli_region *region,
                                  struct ql_error *error);

/* A second description of the lock file, which can own locks of its own; access is
 * O_RDWR or O_RDONLY. -1 and errno. */
int qli_attach_reopen_lock(const struct qli_region *region, int access);

/* Whether the mapped region still is the store's, and its lock file still there. */
bool qli_attach_is_current(const struct qli_region *region);

/* Makes a forked child a holder of its parent's region. The caller has the
 * mutex of region->self. */
enum ql_status qli_attach_child(struct qli_region *region, int64_t wait_ms, qli_holder_reaper reap,
                                void *context);

/* A new description of the lock file that keeps this holder's leases for as long
 * as anybody has it open: they are not reaped, and nobody takes the slot. It has
 * its own byte of the lock file, so the holder's own tells as ever whether the
 * process runs, and a lock that it dies in is taken from it. Close-on-exec, and
 * not for writing: it goes to programs that know nothing of the file. The caller
 * has the mutex of region->self and is a holder. QL_E_DETACHED, QL_E_SYSTEM. */
enum ql_status qli_attach_keep(struct qli_region *region, int *fd);

#endif
