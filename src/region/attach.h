/* SPDX-License-Identifier: Apache-2.0
 *
 * The way into a store: which region is the store's, and whether there has to
 * be a new one.
 */
#ifndef QLI_REGION_ATTACH_H
#define QLI_REGION_ATTACH_H

#include "region/holder.h"
#include "region/region.h"

/* Opens the directory (made if only its last component is missing) and its lock
 * file into region->lock_fd. Nothing is locked or mapped yet. *directory_fd is
 * the caller's to close, also after a failure if it is not -1. */
enum ql_status qli_attach_open(const char *path, bool any_filesystem, int *directory_fd,
                               struct qli_region *region, struct ql_error *error);

/* Maps the store's region, made anew by plan if there is none or if it is an
 * earlier boot's. check() looks at the mapped region and may refuse it. On
 * success region is mapped and this process is a holder. On failure region is
 * still to be unmapped. */
struct qli_attach_hooks {
    enum ql_status (*check)(void *context, struct ql_error *error);
    qli_holder_reaper reap;
    void *context;
};

enum ql_status qli_attach_region(int directory_fd, const struct qli_region_plan *plan,
                                 const struct qli_attach_hooks *hooks, struct qli_region *region,
                                 struct ql_error *error);

/* The same for a store in memory: a region of its own. */
enum ql_status qli_attach_memory(const struct qli_region_plan *plan,
                                 const struct qli_attach_hooks *hooks, struct qli_region *region,
                                 struct ql_error *error);

/* Makes a forked child a holder of its parent's region. The caller has the
 * mutex of region->self. */
enum ql_status qli_attach_child(struct qli_region *region, qli_holder_reaper reap, void *context);

#endif
