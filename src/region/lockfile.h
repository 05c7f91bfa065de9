/* SPDX-License-Identifier: Apache-2.0
 *
 * The lock file of a store. It is never removed: its bytes are what processes
 * lock, and its record says which region is the store's, so that there is
 * never a second one.
 */
#ifndef QLI_REGION_LOCKFILE_H
#define QLI_REGION_LOCKFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "quotalite.h"
#include "region/format.h"

/* Which byte of the file is locked for what. All lie behind the record. */
#define QLI_BYTE_ATTACH UINT64_C(4096)
#define QLI_BYTE_FLUSHER UINT64_C(4097)
#define QLI_BYTE_HOLDERS UINT64_C(8192)
#define QLI_HOLDERS_MAX UINT64_C(32768)
/* Behind them, one for each of them: locked by what keeps the leases of a holder
 * that has died. */
#define QLI_BYTE_KEPT (QLI_BYTE_HOLDERS + QLI_HOLDERS_MAX)

#define QLI_STORE_VERSION 2u
#define QLI_PATH_SIZE 256u

struct qli_lock_record {
    char magic[8];
    uint32_t endian;
    uint32_t version;
    uint8_t store_uuid[QLI_UUID_SIZE];
    uint8_t region_uuid[QLI_UUID_SIZE];
    char boot_id[QLI_BOOT_ID_SIZE];
    uint64_t region_device;
    uint64_t region_inode;
    uint64_t lock_device; /* of this file when the region was made: a copy has another */
    uint64_t lock_inode;
    char region_directory[QLI_PATH_SIZE]; /* absolute; empty: the store's own. Never changes */
    uint64_t checksum;                    /* SipHash with a zero key over all fields above */
};

/* Tries to lock one byte. Does not wait. */
bool qli_lockfile_take(int fd, uint64_t byte);
void qli_lockfile_give(int fd, uint64_t byte);

/* Tries to lock one byte together with others who share it. Does not wait. */
bool qli_lockfile_share(int fd, uint64_t byte);

/* Whether any byte of the range is locked through another descriptor. */
bool qli_lockfile_locked(int fd, uint64_t byte, uint64_t count);

/* Reads the record. An empty file gives QL_OK and *empty = true. */
enum ql_status qli_lockfile_read(int fd, struct qli_lock_record *record, bool *empty,
                                 struct ql_error *error);

/* Seals (magic, version, checksum) and writes the record in one step. */
enum ql_status qli_lockfile_write(int fd, struct qli_lock_record *record, struct ql_error *error);

#endif
