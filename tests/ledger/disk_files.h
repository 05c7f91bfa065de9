/* SPDX-License-Identifier: Apache-2.0
 *
 * The files of a disk as its VFS sees them. Everything here is called with the
 * disk's mutex held; int results are SQLite's codes.
 */
#ifndef TESTS_LEDGER_DISK_FILES_H
#define TESTS_LEDGER_DISK_FILES_H

#include <pthread.h>
#include <sqlite3.h>
#include <stddef.h>

#include "disk.h"

struct bytes {
    uint8_t *data; /* zeros from size to room */
    size_t size;
    size_t room;
};

/* A write, or a truncation (data NULL) to offset. */
struct change {
    struct change *next;
    uint8_t *data;
    size_t offset;
    size_t length;
};

struct disk_handle;

#define DISK_SHM_REGIONS 64

struct disk_shm {
    void *regions[DISK_SHM_REGIONS];
    unsigned connections;
    unsigned shared[SQLITE_SHM_NLOCK];
    struct disk_handle *exclusive[SQLITE_SHM_NLOCK];
};

struct disk_file {
    struct disk_file *next;
    struct disk *disk;
    char *path; /* NULL: a temporary file */
    bool is_linked;
    bool is_linked_on_platter;
    bool is_dead; /* of a time before a cut */
    unsigned handles;

    struct bytes cache; /* as it is read */
    struct bytes platter;
    struct change *pending; /* first to last */
    struct change **pending_end;

    unsigned readers;           /* handles at SQLITE_LOCK_SHARED or above */
    struct disk_handle *writer; /* the one above SQLITE_LOCK_SHARED */
    bool is_closing;            /* the writer has SQLITE_LOCK_PENDING or _EXCLUSIVE */
    struct disk_shm shm;
};

enum disk_call {
    DISK_OPEN,
    DISK_CREATE,
    DISK_DELETE,
    DISK_ACCESS,
    DISK_READ,
    DISK_WRITE,
    DISK_TRUNCATE,
    DISK_SYNC,
    DISK_SIZE,
    DISK_SHM,
    DISK_SHM_GROW,
};

struct disk {
    sqlite3_vfs vfs;
    sqlite3_vfs *base; /* the default one before: names, time, sleep */
    pthread_mutex_t mutex;
    uint64_t random;
    struct disk_file *files;
    enum disk_sectors sectors;
    bool ignores_syncs;

    uint64_t changes;
    uint64_t cut_in; /* changes until the cut; 0: none */
    bool is_off;

    enum disk_fault fault;
    uint64_t fault_in; /* calls until the fault; 0: none, or it is there */
    bool fault_is_once;
    bool is_failing;
    uint64_t failures;
    int last_errno;
};

/* Counts a call. Its code, and whether it is done all the same: the change at which
 * the power is cut may be, though it fails. file may be NULL. */
struct disk_gate {
    int code;
    bool is_done;
};
struct disk_gate disk_pass(struct disk *disk, const struct disk_file *file, enum disk_call call);

/* The linked file of that path, or NULL. */
struct disk_file *disk_find(struct disk *disk, const char *path);

/* A new file; path NULL: a temporary one. */
struct disk_file *disk_add(struct disk *disk, const char *path);

/* Frees what neither a handle nor a directory has. */
void disk_sweep(struct disk *disk);

void disk_sync_directory(struct disk *disk, const char *path);

int disk_read(struct disk_file *file, void *data, size_t length, size_t offset);
int disk_write(struct disk_file *file, const void *data, size_t length, size_t offset);
int disk_truncate(struct disk_file *file, size_t size);
int disk_sync(struct disk_file *file, bool with_directory);

/* Fills in disk->vfs. */
void disk_vfs_init(struct disk *disk);

#endif
