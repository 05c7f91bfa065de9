/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything that chooses, makes or discards a region happens under the lock
 * of the ATTACH byte, which is kept until this process has a holder's byte: so
 * whoever has ATTACH and sees every holder's byte free is alone.
 *
 * Making a region stores, in this order:
 *   1. the record with the store's UUID and no region (also where the region that it named was
 *      removed: a death between 3 and 4 must not leave it naming another than there is)
 *   2. the file NAME.new, whole, filled a death up to here: the next one removes it
 *   3. its new name                     a death after it: a region that no record names and
 *                                       no holder uses; the next one replaces it
 *   4. the record that names it
 */
#include "region/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/system.h"
#include "region/guard.h"
#include "region/lockfile.h"

#define ATTACH_WAIT_MS 5000
#define MAKING_WAIT_MS 60000
#define TAKE_OVER_WAIT_MS 1000 /* well below what others wait for ATTACH, which is ours meanwhile */

int qli_attach_reopen_lock(const struct qli_region *region, int access)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", region->lock_fd);
    return qli_system_open(AT_FDCWD, path, access, 0);
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

/* Whether the region that the record names belongs to an earlier boot, or the
 * record names none. Only then may a region be made over another. */
static enum ql_status is_stale(const struct qli_lock_record *record, bool *stale,
                               struct ql_error *error)
{
    char boot_id[QLI_BOOT_ID_SIZE];
    enum ql_status status = qli_region_boot_id(boot_id, error);
    *stale = is_zero(record->region_uuid, sizeof record->region_uuid) ||
             memcmp(record->boot_id, boot_id, sizeof boot_id) != 0;
    return status;
}

/* Whether it takes long because there is a region to be made out of a ledger. */
static bool is_being_made(int lock_fd)
{
    struct qli_lock_record record;
    bool empty;
    bool stale = false;
    if (qli_lockfile_read(lock_fd, &record, &empty, NULL) != QL_OK || empty)
        return false;
    return is_stale(&record, &stale, NULL) == QL_OK && stale;
}

static enum ql_status enter_store(const struct qli_region *region, int64_t wait_ms, int *token_fd,
                                  struct ql_error *error)
{
    if (!qli_holder_is_lock_file(region, region->lock_fd))
        return qli_error(error, QL_E_DETACHED, 0, "%s", ql_status_text(QL_E_DETACHED));
    *token_fd = qli_attach_reopen_lock(region, O_RDWR);
    if (*token_fd < 0)
        return qli_place_refused(error, errno, "the lock file", " through /proc");
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    while (!qli_lockfile_take(*token_fd, QLI_BYTE_ATTACH)) {
        if (errno != EAGAIN && errno != EACCES)
            return qli_error(error, QL_E_STORE, errno, "cannot lock the lock file: %s",
                             strerror(errno));
        if (qli_clock_boot_ns() >= deadline_ns && wait_ms == ATTACH_WAIT_MS &&
            is_being_made(*token_fd)) {
            deadline_ns += (MAKING_WAIT_MS - wait_ms) * QLI_NS_PER_MS;
            wait_ms = MAKING_WAIT_MS;
        }
        if (!qli_clock_nap(deadline_ns))
            return qli_error(error, QL_E_BUSY, 0,
                             "another process has been opening the store for %lld ms: is it "
                             "stopped?",
                             (long long)wait_ms);
    }
    return QL_OK;
}

/* ---- choosing the region ------------------------------------------------ */

/* By holders, or by leases that are kept for one. */
static bool in_use(int token_fd)
{
    return qli_lockfile_locked(token_fd, QLI_BYTE_HOLDERS, 2 * QLI_HOLDERS_MAX);
}

/* A new store's record, which says where its region will be for ever. */
static enum ql_status begin_store(struct qli_place *place, const struct qli_region *region,
                                  int token_fd, struct qli_lock_record *record,
                                  struct ql_error *error)
{
    if (place->request->must_exist)
        return qli_error(error, QL_E_STORE, 0,
                         "'%.200s' is no store yet: its file 'lock' is empty; " QLI_PLACE_ADVICE,
                         place->request->path);
    memset(record, 0, sizeof *record);
    if (getrandom(record->store_uuid, sizeof record->store_uuid, 0) < 0)
        return qli_error(error, QL_E_SYSTEM, errno, "the kernel gave no random numbers");
    enum ql_status status = qli_place_choose(place, record, error);
    if (status == QL_OK)
        status = qli_place_find(place, region, record, error);
    if (status == QL_OK)
        status = qli_lockfile_write(token_fd, record, error);
    if (status == QL_OK && qli_system_sync(place->directory_fd) != 0)
        return qli_place_refused(error, errno, "the store's ", "directory");
    return status;
}

static enum ql_status read_record(struct qli_place *place, const struct qli_region *region,
                                  int token_fd, struct qli_lock_record *record,
                                  struct ql_error *error)
{
    bool empty;
    enum ql_status status = qli_lockfile_read(token_fd, record, &empty, error);
    if (status != QL_OK)
        return status;
    return empty ? begin_store(place, region, token_fd, record, error)
                 : qli_place_find(place, region, record, error);
}

static enum ql_status record_region(const struct qli_region *region, int token_fd, int region_fd,
                                    const struct qli_region_header *header,
                                    struct qli_lock_record *record, struct ql_error *error)
{
    struct stat info;
    if (fstat(region_fd, &info) != 0)
        return qli_error(error, QL_E_SYSTEM, errno, "cannot read the region: %s", strerror(errno));
    memcpy(record->region_uuid, header->uuid, sizeof record->region_uuid);
    memcpy(record->boot_id, header->boot_id, sizeof record->boot_id);
    record->region_device = info.st_dev;
    record->region_inode = info.st_ino;
    record->lock_device = region->lock_file.device;
    record->lock_inode = region->lock_file.inode;
    return qli_lockfile_write(token_fd, record, error);
}

static enum ql_status may_make_region(const struct qli_place *place, int token_fd,
                                      struct ql_error *error)
{
    if (in_use(token_fd))
        return qli_error(error, QL_E_BUSY, 0,
                         "the store's region is gone or of another boot, but processes of another "
                         "boot or mount namespace still use the store: stop them first");
    if (place->request->must_exist)
        return qli_error(error, QL_E_STORE, 0,
                         "'%.200s' has no region: it was removed, or it ended with the machine's "
                         "last boot; start the program, which makes the store's region anew",
                         place->request->path);
    return QL_OK;
}

/* See the file's head for the order. */
static enum ql_status make_region(const struct qli_place *place, const struct qli_region *region,
                                  int token_fd, const struct qli_attach_hooks *hooks,
                                  struct qli_lock_record *record, int *region_fd,
                                  struct qli_region_header *header, struct ql_error *error)
{
    struct qli_region_plan plan;
    enum ql_status status = may_make_region(place, token_fd, error);
    if (status == QL_OK)
        status = hooks->plan(hooks->context, place->directory_fd, token_fd, &plan, error);
    if (status != QL_OK)
        return status;
    int directory_fd = place->region_directory_fd;
    memset(record->region_uuid, 0, sizeof record->region_uuid);
    status = qli_lockfile_write(token_fd, record, error);
    if (status != QL_OK)
        return status;
    unlinkat(directory_fd, place->new_name, 0);
    *region_fd = qli_place_open_region(place, place->new_name, O_CREAT | O_EXCL);
    if (*region_fd < 0)
        return qli_place_refused(error, errno, qli_place_region_directory(place, record),
                                 "'s file for the region");
    status = qli_region_create(*region_fd, &plan, error);
    if (status == QL_OK)
        status = qli_region_inspect(*region_fd, hooks->stamp, header, error);
    if (status == QL_OK)
        status = hooks->fill(hooks->context, *region_fd, header, error);
    if (status == QL_OK &&
        renameat(directory_fd, place->new_name, directory_fd, place->region_name) != 0)
        status = qli_place_refused(error, errno, "the region ", place->region_name);
    if (status == QL_OK)
        return record_region(region, token_fd, *region_fd, header, record, error);
    unlinkat(directory_fd, place->new_name, 0);
    return status;
}

/* A copied directory brings no region with it that is elsewhere: what its record
 * names is the original's, whose processes lock another file. */
static enum ql_status refuse_copy(const struct qli_place *place, const struct qli_region *region,
                                  const struct qli_lock_record *record, struct ql_error *error)
{
    if (!qli_place_elsewhere(place) || (record->lock_device == region->lock_file.device &&
                                        record->lock_inode == region->lock_file.inode))
        return QL_OK;
    return qli_error(error, QL_E_STORE, 0,
                     "%.200s is a copy of a store, or was mounted anew: its region in %.160s "
                     "belongs to the original; empty this directory to begin a store of its own",
                     place->request->path, record->region_directory);
}

/* The region's file of this boot must be the one that the record names. A copy
 * of the whole directory is one that nobody uses: it becomes the copy's own. */
static enum ql_status match_region(const struct qli_place *place, const struct qli_region *region,
                                   int token_fd, int region_fd,
                                   const struct qli_region_header *header,
                                   struct qli_lock_record *record, struct ql_error *error)
{
    struct stat info;
    if (fstat(region_fd, &info) != 0)
        return qli_error(error, QL_E_SYSTEM, errno, "cannot read the region: %s", strerror(errno));
    if (memcmp(header->uuid, record->region_uuid, sizeof header->uuid) != 0 ||
        memcmp(header->boot_id, record->boot_id, sizeof header->boot_id) != 0)
        return qli_error(error, QL_E_CORRUPT, 0,
                         "the file '%s' in %.200s is not the one that 'lock' names%s: stop all "
                         "processes of the store and put the right one back, or remove both",
                         place->region_name, qli_place_region_directory(place, record),
                         qli_place_elsewhere(place) ? " (another mount namespace may have its own)"
                                                    : "");
    if (info.st_ino == record->region_inode && info.st_dev == record->region_device)
        return QL_OK;
    if (in_use(token_fd))
        return qli_error(error, QL_E_BUSY, 0,
                         "the file '%s' was replaced while processes use the store: stop them "
                         "first",
                         place->region_name);
    return record_region(region, token_fd, region_fd, header, record, error);
}

static enum ql_status find_region(struct qli_place *place, const struct qli_region *region,
                                  int token_fd, const struct qli_attach_hooks *hooks,
                                  int *region_fd, struct qli_region_header *header,
                                  struct ql_error *error)
{
    struct qli_lock_record record;
    bool stale = true;
    enum ql_status status = read_record(place, region, token_fd, &record, error);
    if (status == QL_OK)
        status = is_stale(&record, &stale, error);
    if (status == QL_OK && !stale)
        status = refuse_copy(place, region, &record, error);
    if (status != QL_OK)
        return status;
    if (!stale)
        *region_fd = qli_place_open_region(place, place->region_name, 0);
    if (stale || (*region_fd < 0 && errno == ENOENT))
        return make_region(place, region, token_fd, hooks, &record, region_fd, header, error);
    if (*region_fd < 0)
        return qli_place_refused(error, errno, "the region ", place->region_name);
    status = qli_region_inspect(*region_fd, hooks->stamp, header, error);
    if (status != QL_OK)
        return status;
    return match_region(place, region, token_fd, *region_fd, header, &record, error);
}

enum ql_status qli_attach_compare(struct qli_place *place, const struct qli_region *region,
                                  struct ql_error *error)
{
    struct qli_lock_record record;
    bool empty;
    enum ql_status status = qli_lockfile_read(region->lock_fd, &record, &empty, error);
    return status == QL_OK && !empty ? qli_place_find(place, region, &record, error) : status;
}

/* ---- in memory ------------------------------------------------------------ */

enum ql_status qli_attach_memory(struct qli_region *region, struct ql_error *error)
{
    region->lock_fd = memfd_create("quotalite-lock", MFD_CLOEXEC);
    if (region->lock_fd < 0)
        return qli_error(error, QL_E_SYSTEM, errno, "cannot make a memory file: %s",
                         strerror(errno));
    return qli_place_know_lock(region, error);
}

static enum ql_status make_in_memory(const struct qli_attach_hooks *hooks, int *region_fd,
                                     struct qli_region_header *header, struct ql_error *error)
{
    struct qli_region_plan plan;
    enum ql_status status = hooks->plan(hooks->context, -1, -1, &plan, error);
    if (status != QL_OK)
        return status;
    *region_fd = memfd_create("quotalite-region", MFD_CLOEXEC);
    if (*region_fd < 0)
        return qli_error(error, QL_E_SYSTEM, errno, "cannot make a memory file: %s",
                         strerror(errno));
    status = qli_region_create(*region_fd, &plan, error);
    if (status == QL_OK)
        status = qli_region_inspect(*region_fd, hooks->stamp, header, error);
    return status == QL_OK ? hooks->fill(hooks->context, *region_fd, header, error) : status;
}

/* ---- becoming a holder --------------------------------------------------- */

/* Maps the region (which takes region_fd over) and registers (which takes
 * token_fd over). Closes what is not taken over. */
static enum ql_status join(struct qli_region *region, int region_fd, int token_fd,
                           const struct qli_region_header *header,
                           const struct qli_attach_hooks *hooks, struct ql_error *error)
{
    enum ql_status status = qli_region_map(region, region_fd, header, error);
    if (region->region_fd != region_fd)
        close(region_fd);
    if (status == QL_OK)
        status = hooks->check(hooks->context, error);
    if (status == QL_OK)
        status = qli_holder_register(region, token_fd, TAKE_OVER_WAIT_MS, hooks->reap,
                                     hooks->context, error);
    if (status == QL_OK)
        qli_lockfile_give(token_fd, QLI_BYTE_ATTACH);
    else
        close(token_fd);
    return status;
}

enum ql_status qli_attach(struct qli_place *place, const struct qli_attach_hooks *hooks,
                          struct qli_region *region, struct ql_error *error)
{
    int token_fd = -1;
    int region_fd = -1;
    struct qli_region_header header;
    enum ql_status status = enter_store(region, ATTACH_WAIT_MS, &token_fd, error);
    if (status == QL_OK && region->has_name)
        status = find_region(place, region, token_fd, hooks, &region_fd, &header, error);
    else if (status == QL_OK)
        status = make_in_memory(hooks, &region_fd, &header, error);
    if (status == QL_OK)
        return join(region, region_fd, token_fd, &header, hooks, error);
    if (region_fd >= 0)
        close(region_fd);
    if (token_fd >= 0)
        close(token_fd);
    return status;
}

/* Whether the mapped region still is the store's. A process that has no byte yet
 * keeps nobody from making another where this one was removed or moved away. */
static enum ql_status look_if_current(const struct qli_region *region, int lock_fd)
{
    struct qli_lock_record record;
    bool empty;
    enum ql_status status = qli_region_look(region);
    if (status != QL_OK || !region->has_name)
        return status;
    status = qli_lockfile_read(lock_fd, &record, &empty, NULL);
    if (status != QL_OK)
        return status;
    bool named =
        !empty && memcmp(record.region_uuid, region->header->uuid, sizeof record.region_uuid) == 0;
    return named ? QL_OK : QL_E_GONE;
}

bool qli_attach_is_current(const struct qli_region *region)
{
    return look_if_current(region, region->lock_fd) == QL_OK;
}

enum ql_status qli_attach_child(struct qli_region *region, int64_t wait_ms, qli_holder_reaper reap,
                                void *context)
{
    /* After a raw clone the parent's token is still open here and would keep
     * the parent alive for ever; after fork() it has been closed. */
    qli_holder_close_token(region);
    int token_fd = -1;
    enum ql_status status = enter_store(region, wait_ms, &token_fd, NULL);
    if (status == QL_OK)
        status = look_if_current(region, token_fd);
    if (status == QL_OK)
        status = qli_holder_register(region, token_fd, wait_ms, reap, context, NULL);
    if (status == QL_OK)
        qli_lockfile_give(token_fd, QLI_BYTE_ATTACH);
    else if (token_fd >= 0)
        close(token_fd);
    return status;
}

enum ql_status qli_attach_keep(struct qli_region *region, int *fd)
{
    *fd = -1;
    if (!qli_holder_token_held(region))
        return QL_E_DETACHED;
    int token_fd = qli_attach_reopen_lock(region, O_RDONLY);
    if (token_fd < 0)
        return QL_E_SYSTEM;
    if (!qli_lockfile_share(token_fd, QLI_BYTE_KEPT + qli_word_slot(qli_holder_self(region)))) {
        close(token_fd);
        return QL_E_SYSTEM;
    }
    *fd = token_fd;
    return QL_OK;
}
