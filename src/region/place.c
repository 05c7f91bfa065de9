/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens and makes directories and files; which region is the store's is the
 * business of attach.c. A death here leaves at most an empty directory, or an
 * empty lock file, which the next one goes on with.
 *
 * The name of a region elsewhere holds the store's UUID and which file its lock
 * is, so that a copy of the directory, which has the UUID but another lock,
 * never names the file that the original's processes have mapped.
 */
#include "region/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/system.h"

#define LOCK_NAME "lock"

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

static enum ql_status check_filesystem(const struct qli_place *place, int fd, const char *path,
                                       struct ql_error *error)
{
    if (place->request->any_filesystem || local_filesystem(fd))
        return QL_OK;
    return qli_error(error, QL_E_STORE, 0,
                     "%.200s is not on ext4, xfs, tmpfs or overlay: locks or memory maps of other "
                     "file systems may not be shared; choose another place, or set "
                     "allow_any_filesystem",
                     path);
}

/* ---- the store's directory ------------------------------------------------ */

enum ql_status qli_place_refused(struct ql_error *error, int cause, const char *what,
                                 const char *name)
{
    const char *advice = "";
    enum ql_status status = QL_E_SYSTEM;
    if (cause == ENOSPC || cause == EDQUOT)
        advice = "; free some space and inodes";
    else if (cause == EMFILE || cause == ENFILE)
        advice = "; close some files or raise the limit on open files";
    else if (cause != ENOMEM && cause != EIO && cause != EINTR)
        status = QL_E_STORE;
    return qli_error(error, status, cause, "cannot open or make %.200s%s: %s%s", what, name,
                     strerror(cause), advice);
}

static enum ql_status open_failed(struct ql_error *error, const char *path, const char *what)
{
    int cause = errno;
    struct stat info;
    if ((cause == EACCES || cause == EPERM) && stat(path, &info) == 0)
        return qli_error(error, QL_E_STORE, cause,
                         "cannot open %.200s%s: it belongs to uid %u with mode %03o; run as that "
                         "user or give its group read, write and search permission",
                         path, what, (unsigned)info.st_uid, (unsigned)info.st_mode & 0777);
    if (cause == ENOENT)
        return qli_error(error, QL_E_STORE, cause,
                         "cannot make %.200s: its parent directory does not exist; make it first",
                         path);
    if (cause == ENOTDIR)
        return qli_error(error, QL_E_STORE, cause, "%.200s is not a directory; name one", path);
    if (cause == EROFS)
        return qli_error(error, QL_E_STORE, cause,
                         "%.200s%s is on a read-only file system; a store needs to be written",
                         path, what);
    return qli_place_refused(error, cause, path, what);
}

static int open_directory(const char *path, bool must_exist)
{
    int flags = O_RDONLY | O_DIRECTORY;
    int fd = qli_system_open(AT_FDCWD, path, flags, 0);
    if (fd >= 0 || errno != ENOENT || must_exist)
        return fd;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return -1;
    return qli_system_open(AT_FDCWD, path, flags, 0);
}

/* Whoever may use the store's directory may use its files: a new one gets the
 * directory's mode and group and, from root, its owner. */
static bool follow_directory(int directory_fd, int fd)
{
    struct stat directory;
    struct stat made;
    if (fstat(directory_fd, &directory) != 0 || fstat(fd, &made) != 0)
        return false;
    if (made.st_size != 0 || made.st_uid != geteuid())
        return true;
    bool root = geteuid() == 0;
    bool shared = root || (directory.st_mode & 0060) != 0;
    if (fchown(fd, root ? directory.st_uid : (uid_t)-1, directory.st_gid) != 0 && shared)
        return false;
    return fchmod(fd, directory.st_mode & 0666) == 0;
}

/* Opens a file in a directory, with the mode that the store's directory wants. */
static int open_file(const struct qli_place *place, int directory_fd, const char *name, int flags)
{
    int fd = qli_system_open(directory_fd, name, O_RDWR | O_NOFOLLOW | flags, 0600);
    if (fd < 0 || follow_directory(place->directory_fd, fd))
        return fd;
    int cause = errno;
    close(fd);
    errno = cause;
    return -1;
}

enum ql_status qli_place_know_lock(struct qli_region *region, struct ql_error *error)
{
    if (!qli_system_identify(region->lock_fd, "", &region->lock_file)) {
        int cause = errno;
        close(region->lock_fd); /* qli_region_unmap closes only files that it knows */
        region->lock_fd = -1;
        return qli_error(error, QL_E_SYSTEM, cause, "cannot read the lock file: %s",
                         strerror(cause));
    }
    return QL_OK;
}

enum ql_status qli_place_open(struct qli_place *place, const struct qli_place_request *request,
                              struct qli_region *region, struct ql_error *error)
{
    const char *path = request->path;
    *place = (struct qli_place){.request = request, .directory_fd = -1, .region_directory_fd = -1};
    place->directory_fd = open_directory(path, request->must_exist);
    if (place->directory_fd < 0 && errno == ENOENT && request->must_exist)
        return qli_error(error, QL_E_STORE, ENOENT,
                         "there is no store '%.200s': no such directory; " QLI_PLACE_ADVICE, path);
    if (place->directory_fd < 0)
        return open_failed(error, path, "");
    enum ql_status status = check_filesystem(place, place->directory_fd, path, error);
    if (status != QL_OK)
        return status;
    region->lock_fd =
        open_file(place, place->directory_fd, LOCK_NAME, request->must_exist ? 0 : O_CREAT);
    if (region->lock_fd < 0 && errno == ENOENT && request->must_exist)
        return qli_error(error, QL_E_STORE, ENOENT,
                         "'%.200s' is no store: it has no file 'lock'; " QLI_PLACE_ADVICE, path);
    if (region->lock_fd < 0)
        return open_failed(error, path, "/" LOCK_NAME);
    region->has_name = true;
    return qli_place_know_lock(region, error);
}

void qli_place_close(struct qli_place *place)
{
    if (place->region_directory_fd >= 0 && qli_place_elsewhere(place))
        close(place->region_directory_fd);
    if (place->directory_fd >= 0)
        close(place->directory_fd);
    place->region_directory_fd = -1;
    place->directory_fd = -1;
}

/* ---- the region's directory ----------------------------------------------- */

static bool is_own_directory(const struct qli_place *place, const char *path)
{
    struct stat own;
    struct stat other;
    return fstat(place->directory_fd, &own) == 0 && stat(path, &other) == 0 &&
           own.st_dev == other.st_dev && own.st_ino == other.st_ino;
}

/* The absolute path of the directory that the request names; empty if that is
 * the store's own, or if it names none. */
static enum ql_status resolve(const struct qli_place *place, char path[QLI_PATH_SIZE],
                              struct ql_error *error)
{
    const char *asked = place->request->region_directory;
    memset(path, 0, QLI_PATH_SIZE);
    if (asked == NULL || is_own_directory(place, asked))
        return QL_OK;
    char *real = realpath(asked, NULL);
    if (real == NULL)
        return qli_error(error, QL_E_STORE, errno,
                         "cannot find the region_directory %.200s: %s; make it first", asked,
                         strerror(errno));
    size_t length = strlen(real);
    if (length < QLI_PATH_SIZE)
        memcpy(path, real, length + 1);
    free(real);
    if (length < QLI_PATH_SIZE)
        return QL_OK;
    return qli_error(error, QL_E_STORE, ENAMETOOLONG,
                     "the path of region_directory has %zu bytes; it may have %u", length,
                     QLI_PATH_SIZE - 1);
}

enum ql_status qli_place_choose(const struct qli_place *place, struct qli_lock_record *record,
                                struct ql_error *error)
{
    return resolve(place, record->region_directory, error);
}

const char *qli_place_region_directory(const struct qli_place *place,
                                       const struct qli_lock_record *record)
{
    return record->region_directory[0] != '\0' ? record->region_directory : place->request->path;
}

static enum ql_status check_request(const struct qli_place *place,
                                    const struct qli_lock_record *record, struct ql_error *error)
{
    char asked[QLI_PATH_SIZE];
    if (place->request->region_directory == NULL)
        return QL_OK;
    enum ql_status status = resolve(place, asked, error);
    if (status != QL_OK || strcmp(asked, record->region_directory) == 0)
        return status;
    return qli_error(error, QL_E_STORE, 0,
                     "the store keeps its region in %.160s, but region_directory is %.160s: a "
                     "store stays where it was made; give that directory, or none",
                     qli_place_region_directory(place, record), place->request->region_directory);
}

static void name_elsewhere(struct qli_place *place, const struct qli_region *region,
                           const struct qli_lock_record *record)
{
    char uuid[2 * QLI_UUID_SIZE + 1];
    for (size_t i = 0; i < QLI_UUID_SIZE; i++)
        snprintf(&uuid[2 * i], 3, "%02x", record->store_uuid[i]);
    snprintf(place->region_name, sizeof place->region_name, "quotalite-%s-%llx-%llx", uuid,
             (unsigned long long)region->lock_file.device,
             (unsigned long long)region->lock_file.inode);
}

enum ql_status qli_place_find(struct qli_place *place, const struct qli_region *region,
                              const struct qli_lock_record *record, struct ql_error *error)
{
    const char *path = record->region_directory;
    enum ql_status status = check_request(place, record, error);
    if (status != QL_OK)
        return status;
    place->region_directory_fd = place->directory_fd;
    snprintf(place->region_name, sizeof place->region_name, "region");
    if (path[0] != '\0') {
        place->region_directory_fd = qli_system_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
        if (place->region_directory_fd < 0)
            return qli_error(error, QL_E_STORE, errno,
                             "cannot open %.200s, where the store keeps its region: %s; make that "
                             "directory, or mount it here too",
                             path, strerror(errno));
        name_elsewhere(place, region, record);
        status = check_filesystem(place, place->region_directory_fd, path, error);
    }
    size_t length = strlen(place->region_name);
    memcpy(place->new_name, place->region_name, length);
    memcpy(place->new_name + length, ".new", sizeof ".new");
    return status;
}

int qli_place_open_region(const struct qli_place *place, const char *name, int flags)
{
    return open_file(place, place->region_directory_fd, name, flags);
}
