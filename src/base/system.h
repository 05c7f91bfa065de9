/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls that a signal may interrupt before they have done anything: they
 * are made again. A host's handlers may be set up without SA_RESTART, and some
 * calls end with EINTR whatever the handler.
 */
#ifndef QLI_BASE_SYSTEM_H
#define QLI_BASE_SYSTEM_H

#include <stdint.h>
#include <sys/types.h>

/* openat(2), with O_CLOEXEC. */
int qli_system_open(int directory_fd, const char *path, int flags, mode_t mode);

/* fsync(2). */
int qli_system_sync(int fd);

/* Gives a file that many bytes of its own. 0, or an errno. */
int qli_system_allocate(int fd, uint64_t size);

#endif
