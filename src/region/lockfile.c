/* SPDX-License-Identifier: Apache-2.0
 *
 * A death around the one pwrite of a record leaves the old one or the new one:
 * it lies within one page. fsync makes the same hold for a power cut as far as
 * the disk writes a sector whole; the checksum tells where it did not.
 */
#include "region/lockfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/siphash.h"
#include "base/system.h"

#define MAGIC "qlstore"

_Static_assert(sizeof(struct qli_lock_record) <= 512, "the record fits a sector");

static int lock_call(int fd, int command, short type, uint64_t byte, uint64_t count,
                     struct flock *lock)
{
    *lock = (struct flock){
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)byte,
        .l_len = (off_t)count,
    };
    int result;
    do
        result = fcntl(fd, command, lock);
    while (result != 0 && errno == EINTR);
    return result;
}

bool qli_lockfile_take(int fd, uint64_t byte)
{
    struct flock lock;
    return lock_call(fd, F_OFD_SETLK, F_WRLCK, byte, 1, &lock) == 0;
}

void qli_lockfile_give(int fd, uint64_t byte)
{
    struct flock lock;
    lock_call(fd, F_OFD_SETLK, F_UNLCK, byte, 1, &lock);
}

bool qli_lockfile_share(int fd, uint64_t byte)
{
    struct flock lock;
    return lock_call(fd, F_OFD_SETLK, F_RDLCK, byte, 1, &lock) == 0;
}

bool qli_lockfile_locked(int fd, uint64_t byte, uint64_t count)
{
    struct flock lock;
    /* A descriptor that is gone proves nobody dead: say locked. */
    return lock_call(fd, F_OFD_GETLK, F_WRLCK, byte, count, &lock) != 0 || lock.l_type != F_UNLCK;
}

static uint64_t record_checksum(const struct qli_lock_record *record)
{
    static const uint64_t key[2];
    return qli_siphash(key, record, offsetof(struct qli_lock_record, checksum));
}

enum ql_status qli_lockfile_read(int fd, struct qli_lock_record *record, bool *empty,
                                 struct ql_error *error)
{
    ssize_t length = pread(fd, record, sizeof *record, 0);
    if (length < 0)
        return qli_error(error, QL_E_SYSTEM, errno, "cannot read the lock file: %s",
                         strerror(errno));
    *empty = length == 0;
    if (*empty)
        return QL_OK;
    const ssize_t start = offsetof(struct qli_lock_record, store_uuid);
    if (length < start || memcmp(record->magic, MAGIC, sizeof MAGIC) != 0)
        return qli_error(error, QL_E_CORRUPT, 0,
                         "the file 'lock' is not quotalite's: choose an empty directory");
    if (record->endian != QLI_ENDIAN_TAG || record->version != QLI_STORE_VERSION)
        return qli_error(error, QL_E_VERSION, 0,
                         "the store has format %u, this library (%s) reads format %u: use one "
                         "version of quotalite for all processes of the store",
                         record->version, ql_version(), QLI_STORE_VERSION);
    if (length != (ssize_t)sizeof *record || record->checksum != record_checksum(record) ||
        record->region_directory[QLI_PATH_SIZE - 1] != '\0')
        return qli_error(error, QL_E_CORRUPT, 0,
                         "the file 'lock' is damaged: stop all processes of the store and move "
                         "its directory away");
    return QL_OK;
}

/* A write that was cut short (by a limit on file sizes) must not stay. */
static void put_back(int fd, const struct qli_lock_record *before, ssize_t length)
{
    if (length >= 0 && pwrite(fd, before, (size_t)length, 0) == length)
        (void)!ftruncate(fd, length);
}

enum ql_status qli_lockfile_write(int fd, struct qli_lock_record *record, struct ql_error *error)
{
    struct qli_lock_record before;
    memcpy(record->magic, MAGIC, sizeof MAGIC);
    record->endian = QLI_ENDIAN_TAG;
    record->version = QLI_STORE_VERSION;
    record->checksum = record_checksum(record);
    ssize_t length_before = pread(fd, &before, sizeof before, 0);
    ssize_t length = pwrite(fd, record, sizeof *record, 0);
    if (length == (ssize_t)sizeof *record && qli_system_sync(fd) == 0)
        return QL_OK;
    int cause = length >= 0 && length < (ssize_t)sizeof *record ? EFBIG : errno;
    if (cause == EFBIG)
        put_back(fd, &before, length_before);
    return qli_error(error, QL_E_SYSTEM, cause,
                     "cannot write the lock file: %s; free some space or raise the limit on file "
                     "sizes, then open again",
                     strerror(cause));
}
