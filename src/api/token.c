/* SPDX-License-Identifier: Apache-2.0
 *
 * The token that a process hands to those who do its work.
 */
#include "api/handle.h"
#include "region/attach.h"

/* Its own mutex: another thread's tick may give the holder up. */
static enum ql_status make_token(struct qli_store *store, int *fd)
{
    struct qli_region *region = &store->engine.region;
    pthread_mutex_lock(&region->self->mutex);
    enum ql_status status = (enum ql_status)__atomic_load_n(&store->lost, __ATOMIC_RELAXED);
    if (status == QL_OK)
        status = qli_attach_keep(region, fd);
    pthread_mutex_unlock(&region->self->mutex);
    return status;
}

enum ql_status ql_token_fd(struct ql *ql, int *fd)
{
    if (fd != NULL)
        *fd = -1;
    if (ql == NULL || fd == NULL)
        return QL_E_INVALID;
    uint64_t self;
    enum ql_status status = qli_store_self(ql->store, ql->options.admit_wait_ms, &self);
    return status == QL_OK ? make_token(ql->store, fd) : status;
}
