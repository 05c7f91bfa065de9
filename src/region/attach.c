/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything that chooses, makes or discards a region happens under the lock
 * of the ATTACH byte, which is kept until this process has a holder's byte: so
 * whoever has ATTACH and sees every holder's byte free is alone.
 *
 * Making a region stores, in this order:
 *   1. the record with the store's UUID and no region (also where the region that it named was
 *      removed: a death between 3 and 4 must not leave it naming another than there is)
 *   2. the file region.new, whole       a death up to here: the next one removes it
 *   3. its new name, region             a death after it: a region that no record names and
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
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/system.h"
#include "region/guard.h"
#include "region/lockfile.h"

#define REGION_NAME "region"
#define REGION_NEW_NAME "region.new"
#define LOCK_NAME "lock"
#define ATTACH_WAIT_NS (5 * QLI_NS_PER_SECOND)

/* statfs(2) magic numbers of local file systems on which allocated blocks stay
 * writable when the disk is full. */
static bool local_filesystem(int fd)
{
    static const unsigned long known[] = {
        0xef53,     /* ext2, ext3, ext4 */
        0x58465342, /* xfs */
        0x01021994, /* tmpfs */
        0x794c7630, /* overlay */
    };
    struct statfs info;
    if (fstatfs(fd, &info) != 0)
        return false;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if ((unsigned long)info.f_type == known[i])
            return true;
    }
    return false;
}

/* The machine, not the caller's choice of a place, is what says no here. */
static enum ql_status refused(struct ql_error *error, int cause, const char *path, const char *what)
{
    const char *advice = "";
    enum ql_status status = QL_E_SYSTEM;
    if (cause == ENOSPC || cause == EDQUOT)
        advice = "; free some space and inodes";
    else if (cause == EMFILE || cause == ENFILE)
        advice = "; close some files or raise the limit on open files";
    else if (cause != ENOMEM && cause != EIO && cause != EINTR)
        status = QL_E_STORE;
    return qli_error(error, status, cause, "cannot open or make %s%s: %s%s", path, what,
                     strerror(cause), advice);
}

static enum ql_status open_failed(struct ql_error *error, const char *path, const char *what)
{
    int cause = errno;
    struct stat info;
    if ((cause == EACCES || cause == EPERM) && stat(path, &info) == 0)
        return qli_error(error, QL_E_STORE, cause,
                         "cannot open %s%s: it belongs to uid %u with mode %03o; run as that user "
                         "or give its group read, write and search permission",
                         path, what, (unsigned)info.st_uid, (unsigned)info.st_mode & 0777);
    if (cause == ENOENT)
        return qli_error(error, QL_E_STORE, cause,
                         "cannot make %s: its parent directory does not exist; make it first",
                         path);
    if (cause == ENOTDIR)
        return qli_error(error, QL_E_STORE, cause, "%s is not a directory; name one", path);
    if (cause == EROFS)
        return qli_error(error, QL_E_STORE, cause,
                         "%s%s is on a read-only file system; a store needs to be written", path,
                         what);
    return refused(error, cause, path, what);
}

static int open_directory(const char *path)
{
    int flags = O_RDONLY | O_DIRECTORY;
    int fd = qli_system_open(AT_FDCWD, path, flags, 0);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return -1;
    return qli_system_open(AT_FDCWD, path, flags, 0);
}

/* A new file gets the directory's mode and, from root, its owner, so that
 * whoever may use the directory may use the store. */
static int open_file(int directory_fd, const char *name, int flags)
{
    struct stat info;
    if (fstat(directory_fd, &info) != 0)
        return -1;
    int fd = qli_system_open(directory_fd, name, O_RDWR | O_NOFOLLOW | flags, 0600);
    struct stat made;
    if (fd < 0 || fstat(fd, &made) != 0 || made.st_size != 0 || made.st_uid != geteuid())
        return fd;
    bool shown = fchmod(fd, info.st_mode & 0666) == 0;
    if (shown && geteuid() == 0)
        shown = fchown(fd, info.st_uid, info.st_gid) == 0;
    if (shown)
        return fd;
    close(fd);
    return -1;
}

static enum ql_status know_lock_file(struct qli_region *region, struct ql_error *error)
{
    struct stat info;
    if (fstat(region->lock_fd, &info) != 0) {
        int cause = errno;
        close(region->lock_fd); /* qli_region_unmap closes only files that it knows */
        region->lock_fd = -1;
        return qli_error(error, QL_E_SYSTEM, cause, "cannot read the lock file: %s",
                         strerror(cause));
    }
    region->lock_device = info.st_dev;
    region->lock_inode = info.st_ino;
    return QL_OK;
}

enum ql_status qli_attach_open(const char *path, bool any_filesystem, int *directory_fd,
                               struct qli_region *region, struct ql_error *error)
{
    *directory_fd = open_directory(path);
    if (*directory_fd < 0)
        return open_failed(error, path, "");
    if (!any_filesystem && !local_filesystem(*directory_fd))
        return qli_error(error, QL_E_STORE, 0,
                         "%s is not on ext4, xfs, tmpfs or overlay: locks or memory maps of other "
                         "file systems may not be shared; choose another place, or set "
                         "allow_any_filesystem",
                         path);
    region->lock_fd = open_file(*directory_fd, LOCK_NAME, O_CREAT);
    if (region->lock_fd < 0)
        return open_failed(error, path, "/" LOCK_NAME);
    region->has_name = true;
    return know_lock_file(region, error);
}

/* A second description of the lock file, which can own locks of its own. */
static int reopen_lock(const struct qli_region *region)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", region->lock_fd);
    return qli_system_open(AT_FDCWD, path, O_RDWR, 0);
}

static enum ql_status enter_store(const struct qli_region *region, int *token_fd,
                                  struct ql_error *error)
{
    if (!qli_holder_is_lock_file(region, region->lock_fd))
        return qli_error(error, QL_E_DETACHED, 0, "%s", ql_status_text(QL_E_DETACHED));
    *token_fd = reopen_lock(region);
    if (*token_fd < 0)
        return refused(error, errno, "the lock file", " through /proc");
    int64_t deadline_ns = qli_clock_boot_ns() + ATTACH_WAIT_NS;
    while (!qli_lockfile_take(*token_fd, QLI_BYTE_ATTACH)) {
        if (errno != EAGAIN && errno != EACCES)
            return qli_error(error, QL_E_STORE, errno, "cannot lock the lock file: %s",
                             strerror(errno));
        if (qli_clock_boot_ns() > deadline_ns)
            return qli_error(error, QL_E_BUSY, 0,
                             "another process has been opening the store for 5 s: is it stopped?");
        struct timespec nap = {.tv_sec = 0, .tv_nsec = QLI_NS_PER_MS};
        nanosleep(&nap, NULL);
    }
    return QL_OK;
}

/* ---- choosing the region ------------------------------------------------ */

static bool in_use(int token_fd)
{
    return qli_lockfile_locked(token_fd, QLI_BYTE_HOLDERS, QLI_HOLDERS_MAX);
}

static enum ql_status read_record(int directory_fd, int token_fd, struct qli_lock_record *record,
                                  struct ql_error *error)
{
    bool empty;
    enum ql_status status = qli_lockfile_read(token_fd, record, &empty, error);
    if (status != QL_OK || !empty)
        return status;
    memset(record, 0, sizeof *record);
    if (getrandom(record->store_uuid, sizeof record->store_uuid, 0) < 0)
        return qli_error(error, QL_E_SYSTEM, errno, "the kernel gave no random numbers");
    status = qli_lockfile_write(token_fd, record, error);
    if (status == QL_OK && qli_system_sync(directory_fd) != 0)
        return refused(error, errno, "the store's ", "directory");
    return status;
}

static enum ql_status record_region(int token_fd, int region_fd,
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
    return qli_lockfile_write(token_fd, record, error);
}

static enum ql_status make_region(int directory_fd, int token_fd,
                                  const struct qli_region_plan *plan,
                                  struct qli_lock_record *record, int *region_fd,
                                  struct qli_region_header *header, struct ql_error *error)
{
    if (in_use(token_fd))
        return qli_error(error, QL_E_BUSY, 0,
                         "the store's region is gone or of another boot, but processes of another "
                         "boot or mount namespace still use the store: stop them first");
    memset(record->region_uuid, 0, sizeof record->region_uuid);
    enum ql_status status = qli_lockfile_write(token_fd, record, error);
    if (status != QL_OK)
        return status;
    unlinkat(directory_fd, REGION_NEW_NAME, 0);
    *region_fd = open_file(directory_fd, REGION_NEW_NAME, O_CREAT | O_EXCL);
    if (*region_fd < 0)
        return refused(error, errno, "the file ", REGION_NEW_NAME);
    status = qli_region_create(*region_fd, plan, error);
    if (status == QL_OK)
        status = qli_region_inspect(*region_fd, plan->stamp, header, error);
    if (status == QL_OK && renameat(directory_fd, REGION_NEW_NAME, directory_fd, REGION_NAME) != 0)
        status = refused(error, errno, "the file ", REGION_NAME);
    if (status == QL_OK)
        return record_region(token_fd, *region_fd, header, record, error);
    unlinkat(directory_fd, REGION_NEW_NAME, 0);
    return status;
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

/* The file 'region' of this boot must be the one that the record names. A copy
 * of the whole directory is one that nobody uses: it becomes the copy's own. */
static enum ql_status match_region(int token_fd, int region_fd,
                                   const struct qli_region_header *header,
                                   struct qli_lock_record *record, struct ql_error *error)
{
    struct stat info;
    if (fstat(region_fd, &info) != 0)
        return qli_error(error, QL_E_SYSTEM, errno, "cannot read the region: %s", strerror(errno));
    if (memcmp(header->uuid, record->region_uuid, sizeof header->uuid) != 0 ||
        memcmp(header->boot_id, record->boot_id, sizeof header->boot_id) != 0)
        return qli_error(error, QL_E_CORRUPT, 0,
                         "the file 'region' is not the one that 'lock' names: stop all processes "
                         "of the store and put the right one back, or remove both");
    if (info.st_ino == record->region_inode && info.st_dev == record->region_device)
        return QL_OK;
    if (in_use(token_fd))
        return qli_error(error, QL_E_BUSY, 0,
                         "the file 'region' was replaced while processes use the store: stop them "
                         "first");
    return record_region(token_fd, region_fd, header, record, error);
}

static enum ql_status find_region(int directory_fd, int token_fd,
                                  const struct qli_region_plan *plan, int *region_fd,
                                  struct qli_region_header *header, struct ql_error *error)
{
    struct qli_lock_record record;
    bool stale;
    enum ql_status status = read_record(directory_fd, token_fd, &record, error);
    if (status == QL_OK)
        status = is_stale(&record, &stale, error);
    if (status != QL_OK)
        return status;
    if (stale)
        return make_region(directory_fd, token_fd, plan, &record, region_fd, header, error);
    *region_fd = open_file(directory_fd, REGION_NAME, 0);
    if (*region_fd < 0 && errno == ENOENT)
        return make_region(directory_fd, token_fd, plan, &record, region_fd, header, error);
    if (*region_fd < 0)
        return refused(error, errno, "the file ", REGION_NAME);
    status = qli_region_inspect(*region_fd, plan->stamp, header, error);
    return status == QL_OK ? match_region(token_fd, *region_fd, header, &record, error) : status;
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
        status = qli_holder_register(region, token_fd, hooks->reap, hooks->context, error);
    if (status == QL_OK)
        qli_lockfile_give(token_fd, QLI_BYTE_ATTACH);
    else
        close(token_fd);
    return status;
}

enum ql_status qli_attach_region(int directory_fd, const struct qli_region_plan *plan,
                                 const struct qli_attach_hooks *hooks, struct qli_region *region,
                                 struct ql_error *error)
{
    int token_fd = -1;
    int region_fd = -1;
    struct qli_region_header header;
    enum ql_status status = enter_store(region, &token_fd, error);
    if (status == QL_OK)
        status = find_region(directory_fd, token_fd, plan, &region_fd, &header, error);
    if (status == QL_OK)
        return join(region, region_fd, token_fd, &header, hooks, error);
    if (region_fd >= 0)
        close(region_fd);
    if (token_fd >= 0)
        close(token_fd);
    return status;
}

enum ql_status qli_attach_memory(const struct qli_region_plan *plan,
                                 const struct qli_attach_hooks *hooks, struct qli_region *region,
                                 struct ql_error *error)
{
    int region_fd = -1;
    int token_fd = -1;
    struct qli_region_header header;
    enum ql_status status = QL_OK;
    region->lock_fd = memfd_create("quotalite-lock", MFD_CLOEXEC);
    if (region->lock_fd >= 0)
        status = know_lock_file(region, error);
    if (status == QL_OK && region->lock_fd >= 0)
        region_fd = memfd_create("quotalite-region", MFD_CLOEXEC);
    if (status == QL_OK && region_fd < 0)
        status =
            qli_error(error, QL_E_SYSTEM, errno, "cannot make a memory file: %s", strerror(errno));
    if (status == QL_OK)
        status = enter_store(region, &token_fd, error);
    if (status == QL_OK)
        status = qli_region_create(region_fd, plan, error);
    if (status == QL_OK)
        status = qli_region_inspect(region_fd, plan->stamp, &header, error);
    if (status == QL_OK)
        return join(region, region_fd, token_fd, &header, hooks, error);
    if (region_fd >= 0)
        close(region_fd);
    if (token_fd >= 0)
        close(token_fd);
    return status;
}

enum ql_status qli_attach_child(struct qli_region *region, qli_holder_reaper reap, void *context)
{
    /* After a raw clone the parent's token is still open here and would keep
     * the parent alive for ever; after fork() it has been closed. */
    qli_holder_close_token(region);
    int token_fd = -1;
    struct stat info;
    enum ql_status status = enter_store(region, &token_fd, NULL);
    if (status == QL_OK && (fstat(region->region_fd, &info) != 0))
        status = QL_E_DETACHED;
    if (status == QL_OK && region->has_name && info.st_nlink == 0)
        status = QL_E_GONE;
    if (status == QL_OK)
        status = qli_holder_register(region, token_fd, reap, context, NULL);
    if (status == QL_OK)
        qli_lockfile_give(token_fd, QLI_BYTE_ATTACH);
    else if (token_fd >= 0)
        close(token_fd);
    return status;
}
