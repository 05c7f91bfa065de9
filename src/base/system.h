/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls in the way that they are needed here: made again where a signal has
 * interrupted them before they had done anything (a host's handlers may be set up
 * without SA_RESTART, and some calls end with EINTR whatever the handler), in pieces,
 * or asking for less.
 */
#ifndef QLI_BASE_SYSTEM_H
#define QLI_BASE_SYSTEM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* openat(2), with O_CLOEXEC. */
int qli_system_open(int directory_fd, const char *path, int flags, mode_t mode);

/* fsync(2). */
int qli_system_sync(int fd);

/* Which file of the machine. */
struct qli_file_id {
    dev_t device;
    ino_t inode;
};

static inline bool qli_file_id_equal(struct qli_file_id a, struct qli_file_id b)
{
    return a.device == b.device && a.inode == b.inode;
}

/* Which file that name is, if it is a link the link itself; "": which the descriptor
 * has. false: errno. Asks for no file's times, but where statx(2) is refused: since Linux
 * 6.13 the next write to a file that was asked for them gives it new ones, which
 * fdatasync(2) then writes too. */
bool qli_system_identify(int directory_fd, const char *name, struct qli_file_id *id);

/* Gives a file that many bytes of its own. 0, or an errno. */
int qli_system_allocate(int fd, uint64_t size);

#endif
