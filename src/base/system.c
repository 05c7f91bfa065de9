/* SPDX-License-Identifier: Apache-2.0 */
#include "base/system.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Where an interrupted allocation starts over (a tmpfs before Linux 6), a whole
 * region might never be done between two ticks of a profiler's timer. */
#define PIECE_BYTES (UINT64_C(1) << 20)

int qli_system_open(int directory_fd, const char *path, int flags, mode_t mode)
{
    int fd;
    do
        fd = openat(directory_fd, path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

int qli_system_sync(int fd)
{
    int result;
    do
        result = fsync(fd);
    while (result != 0 && errno == EINTR);
    return result;
}

bool qli_system_identify(int directory_fd, const char *name, struct qli_file_id *id)
{
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
    struct statx info;
    struct stat old_info;
    if (statx(directory_fd, name, flags, STATX_INO, &info) == 0) {
        *id = (struct qli_file_id){makedev(info.stx_dev_major, info.stx_dev_minor), info.stx_ino};
        return true;
    }
    /* A filter of system calls that is older than this one refuses it so. */
    if ((errno != EPERM && errno != ENOSYS) || fstatat(directory_fd, name, &old_info, flags) != 0)
        return false;
    *id = (struct qli_file_id){old_info.st_dev, old_info.st_ino};
    return true;
}

int qli_system_allocate(int fd, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        uint64_t piece = size - done < PIECE_BYTES ? size - done : PIECE_BYTES;
        int cause = posix_fallocate(fd, (off_t)done, (off_t)piece);
        if (cause == 0)
            done += piece;
        else if (cause != EINTR)
            return cause;
    }
    return 0;
}
