/* SPDX-License-Identifier: Apache-2.0
 *
 * SQLite's side of the disk: a VFS, the locks between the connections of one
 * process, and the shared memory of a WAL, which a cut takes away.
 */
#include "disk_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

#define PATH_BYTES 1024

struct disk_handle {
    sqlite3_file base;
    struct disk_file *file;
    int level; /* SQLITE_LOCK_* */
    bool is_deleted_on_close;
    bool syncs_directory; /* with its next xSync */
    bool keeps_wal;
    bool has_shm;
    unsigned shm_shared; /* masks of locks */
    unsigned shm_exclusive;
};

/* Locks the disk; every method returns through leave. */
static struct disk_handle *enter(sqlite3_file *file)
{
    struct disk_handle *handle = (struct disk_handle *)file;
    pthread_mutex_lock(&handle->file->disk->mutex);
    return handle;
}

static int leave(const struct disk_handle *handle, int code)
{
    pthread_mutex_unlock(&handle->file->disk->mutex);
    return code;
}

/* ---- the file ------------------------------------------------------------ */

static int file_read(sqlite3_file *file, void *data, int length, sqlite3_int64 offset)
{
    struct disk_handle *handle = enter(file);
    return leave(handle, disk_read(handle->file, data, (size_t)length, (size_t)offset));
}

static int file_write(sqlite3_file *file, const void *data, int length, sqlite3_int64 offset)
{
    struct disk_handle *handle = enter(file);
    return leave(handle, disk_write(handle->file, data, (size_t)length, (size_t)offset));
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    struct disk_handle *handle = enter(file);
    return leave(handle, disk_truncate(handle->file, (size_t)size));
}

static int file_sync(sqlite3_file *file, int flags)
{
    (void)flags;
    struct disk_handle *handle = enter(file);
    int code = disk_sync(handle->file, handle->syncs_directory);
    if (code == SQLITE_OK)
        handle->syncs_directory = false;
    return leave(handle, code);
}

static int file_size(sqlite3_file *file, sqlite3_int64 *size)
{
    struct disk_handle *handle = enter(file);
    struct disk_gate gate = disk_pass(handle->file->disk, handle->file, DISK_SIZE);
    *size = (sqlite3_int64)handle->file->cache.size;
    return leave(handle, gate.code);
}

static int file_control(sqlite3_file *file, int operation, void *argument)
{
    struct disk_handle *handle = enter(file);
    int *number = argument;
    switch (operation) {
    case SQLITE_FCNTL_HAS_MOVED:
        *number = 0;
        return leave(handle, SQLITE_OK);
    case SQLITE_FCNTL_PERSIST_WAL:
        if (*number >= 0)
            handle->keeps_wal = *number > 0;
        *number = handle->keeps_wal;
        return leave(handle, SQLITE_OK);
    case SQLITE_FCNTL_LAST_ERRNO:
        *number = handle->file->disk->last_errno;
        return leave(handle, SQLITE_OK);
    default:
        return leave(handle, SQLITE_NOTFOUND);
    }
}

static int file_sector_size(sqlite3_file *file)
{
    (void)file;
    return DISK_SECTOR;
}

static int file_device_characteristics(sqlite3_file *file)
{
    struct disk_handle *handle = enter(file);
    bool tears = handle->file->disk->sectors == DISK_TEARS;
    return leave(handle, tears ? 0 : SQLITE_IOCAP_POWERSAFE_OVERWRITE);
}

/* ---- its locks ----------------------------------------------------------- */

static int take_level(struct disk_handle *handle, int level)
{
    struct disk_file *file = handle->file;
    bool has_other_writer = file->writer != NULL && file->writer != handle;
    if (handle->level >= level)
        return SQLITE_OK;
    if (level == SQLITE_LOCK_SHARED) {
        if (file->is_closing)
            return SQLITE_BUSY;
        file->readers++;
        handle->level = level;
        return SQLITE_OK;
    }
    if (has_other_writer)
        return SQLITE_BUSY;
    file->writer = handle;
    file->is_closing = level > SQLITE_LOCK_RESERVED;
    handle->level = file->is_closing ? SQLITE_LOCK_PENDING : level;
    if (file->is_closing && file->readers > 1)
        return SQLITE_BUSY;
    handle->level = level;
    return SQLITE_OK;
}

static void drop_level(struct disk_handle *handle, int level)
{
    struct disk_file *file = handle->file;
    if (handle->level <= level)
        return;
    if (file->writer == handle) {
        file->writer = NULL;
        file->is_closing = false;
    }
    if (level == SQLITE_LOCK_NONE)
        file->readers--;
    handle->level = level;
}

static int file_lock(sqlite3_file *file, int level)
{
    struct disk_handle *handle = enter(file);
    return leave(handle, take_level(handle, level));
}

static int file_unlock(sqlite3_file *file, int level)
{
    struct disk_handle *handle = enter(file);
    drop_level(handle, level);
    return leave(handle, SQLITE_OK);
}

static int file_check_reserved_lock(sqlite3_file *file, int *is_reserved)
{
    struct disk_handle *handle = enter(file);
    *is_reserved = handle->file->writer != NULL;
    return leave(handle, SQLITE_OK);
}

/* ---- shared memory ------------------------------------------------------- */

static int map_region(struct disk_handle *handle, int region, int size, bool grow,
                      void volatile **memory)
{
    struct disk_file *file = handle->file;
    struct disk_shm *shm = &file->shm;
    *memory = NULL;
    KT_CHECK(region < DISK_SHM_REGIONS, "the WAL's index is larger than %d regions",
             DISK_SHM_REGIONS);
    bool makes = shm->regions[region] == NULL && grow;
    struct disk_gate gate = disk_pass(file->disk, file, makes ? DISK_SHM_GROW : DISK_SHM);
    if (gate.code != SQLITE_OK)
        return gate.code;
    if (!handle->has_shm)
        shm->connections++;
    handle->has_shm = true;
    if (makes)
        shm->regions[region] = calloc(1, (size_t)size);
    *memory = shm->regions[region];
    return makes && *memory == NULL ? SQLITE_NOMEM : SQLITE_OK;
}

static int file_shm_map(sqlite3_file *file, int region, int size, int grow, void volatile **memory)
{
    struct disk_handle *handle = enter(file);
    return leave(handle, map_region(handle, region, size, grow != 0, memory));
}

/* Of one lock. */
static bool shm_is_free(const struct disk_handle *handle, int lock, bool for_shared)
{
    const struct disk_shm *shm = &handle->file->shm;
    unsigned own = handle->shm_shared >> lock & 1;
    if (shm->exclusive[lock] != NULL && shm->exclusive[lock] != handle)
        return false;
    return for_shared || shm->shared[lock] == own;
}

static void shm_set(struct disk_handle *handle, int lock, int flags)
{
    struct disk_shm *shm = &handle->file->shm;
    unsigned bit = 1U << lock;
    bool locks = (flags & SQLITE_SHM_LOCK) != 0;
    if ((flags & SQLITE_SHM_SHARED) == 0) {
        shm->exclusive[lock] = locks ? handle : NULL;
        handle->shm_exclusive = locks ? handle->shm_exclusive | bit : handle->shm_exclusive & ~bit;
    } else if (locks != ((handle->shm_shared & bit) != 0)) {
        shm->shared[lock] += locks ? 1U : -1U;
        handle->shm_shared ^= bit;
    }
}

static int file_shm_lock(sqlite3_file *file, int first, int count, int flags)
{
    struct disk_handle *handle = enter(file);
    bool for_shared = (flags & SQLITE_SHM_SHARED) != 0;
    if ((flags & SQLITE_SHM_LOCK) != 0) {
        for (int lock = first; lock < first + count; lock++) {
            if (!shm_is_free(handle, lock, for_shared))
                return leave(handle, SQLITE_BUSY);
        }
    }
    for (int lock = first; lock < first + count; lock++) {
        if ((flags & SQLITE_SHM_LOCK) != 0 || for_shared ||
            (handle->shm_exclusive >> lock & 1) != 0)
            shm_set(handle, lock, flags);
    }
    return leave(handle, SQLITE_OK);
}

static void file_shm_barrier(sqlite3_file *file)
{
    leave(enter(file), SQLITE_OK);
}

static void unmap(struct disk_handle *handle)
{
    struct disk_shm *shm = &handle->file->shm;
    if (!handle->has_shm)
        return;
    handle->has_shm = false;
    for (int lock = 0; lock < SQLITE_SHM_NLOCK; lock++) {
        shm_set(handle, lock, SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED);
        if (shm->exclusive[lock] == handle)
            shm_set(handle, lock, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
    }
    if (--shm->connections > 0)
        return;
    for (int region = 0; region < DISK_SHM_REGIONS; region++) {
        free(shm->regions[region]);
        shm->regions[region] = NULL;
    }
}

static int file_shm_unmap(sqlite3_file *file, int deletes)
{
    (void)deletes;
    struct disk_handle *handle = enter(file);
    unmap(handle);
    return leave(handle, SQLITE_OK);
}

static int file_close(sqlite3_file *file)
{
    struct disk_handle *handle = enter(file);
    struct disk *disk = handle->file->disk;
    unmap(handle);
    drop_level(handle, SQLITE_LOCK_NONE);
    handle->file->handles--;
    if (handle->is_deleted_on_close)
        handle->file->is_linked = false;
    disk_sweep(disk);
    pthread_mutex_unlock(&disk->mutex);
    return SQLITE_OK;
}

static const sqlite3_io_methods methods = {
    .iVersion = 2, /* no xFetch: no mapping of the file */
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_reserved_lock,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_device_characteristics,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
};

/* ---- the VFS ------------------------------------------------------------- */

static struct disk *disk_of(sqlite3_vfs *vfs)
{
    return vfs->pAppData;
}

/* A real file that is not empty is none of this disk's. */
static bool is_real_and_empty(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == 0;
}

static int open_file(struct disk *disk, const char *path, int flags, struct disk_file **file)
{
    bool is_real = path != NULL && is_real_and_empty(path);
    *file = path == NULL ? NULL : disk_find(disk, path);
    bool makes = *file == NULL && !is_real;
    if (*file != NULL && (flags & SQLITE_OPEN_EXCLUSIVE) != 0)
        return SQLITE_CANTOPEN;
    struct disk_gate gate = disk_pass(disk, NULL, makes ? DISK_CREATE : DISK_OPEN);
    if (!gate.is_done)
        return gate.code;
    if (makes && (flags & SQLITE_OPEN_CREATE) == 0)
        return SQLITE_CANTOPEN;
    if (*file == NULL) {
        *file = disk_add(disk, path);
        (*file)->is_linked_on_platter = is_real;
    }
    return gate.code;
}

static int vfs_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *base, int flags,
                    int *out_flags)
{
    const int journals = SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL | SQLITE_OPEN_WAL;
    struct disk *disk = disk_of(vfs);
    struct disk_handle *handle = (struct disk_handle *)base;
    bool is_deleted = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
    memset(handle, 0, sizeof *handle);
    pthread_mutex_lock(&disk->mutex);
    int code = open_file(disk, path, flags, &handle->file);
    if (code == SQLITE_OK) {
        handle->base.pMethods = &methods;
        handle->is_deleted_on_close = is_deleted;
        handle->syncs_directory = (flags & SQLITE_OPEN_CREATE) != 0 && (flags & journals) != 0;
        handle->file->handles++;
        if (out_flags != NULL)
            *out_flags = flags;
    }
    disk_sweep(disk);
    pthread_mutex_unlock(&disk->mutex);
    return code;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync_directory)
{
    struct disk *disk = disk_of(vfs);
    pthread_mutex_lock(&disk->mutex);
    struct disk_file *file = disk_find(disk, path);
    struct disk_gate gate = disk_pass(disk, NULL, DISK_DELETE);
    if (gate.is_done && file == NULL)
        gate.code = gate.code == SQLITE_OK ? SQLITE_IOERR_DELETE_NOENT : gate.code;
    else if (gate.is_done)
        file->is_linked = false;
    if (gate.code == SQLITE_OK && sync_directory)
        disk_sync_directory(disk, path);
    disk_sweep(disk);
    pthread_mutex_unlock(&disk->mutex);
    return gate.code;
}

/* Where SQLite asks whether a file exists, one that is empty does not. */
static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *answer)
{
    struct disk *disk = disk_of(vfs);
    pthread_mutex_lock(&disk->mutex);
    struct disk_gate gate = disk_pass(disk, NULL, DISK_ACCESS);
    const struct disk_file *file = disk_find(disk, path);
    if (flags == SQLITE_ACCESS_EXISTS)
        *answer = file != NULL && file->cache.size > 0;
    else
        *answer = file != NULL || is_real_and_empty(path);
    pthread_mutex_unlock(&disk->mutex);
    return gate.code;
}

/* The base VFS resolves links, /proc/self/fd among them. */
static int vfs_full_pathname(sqlite3_vfs *vfs, const char *path, int size, char *full)
{
    sqlite3_vfs *base = disk_of(vfs)->base;
    return base->xFullPathname(base, path, size, full);
}

static int vfs_randomness(sqlite3_vfs *vfs, int size, char *bytes)
{
    struct disk *disk = disk_of(vfs);
    pthread_mutex_lock(&disk->mutex);
    for (int i = 0; i < size; i++)
        bytes[i] = (char)kt_random(&disk->random);
    pthread_mutex_unlock(&disk->mutex);
    return size;
}

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds)
{
    sqlite3_vfs *base = disk_of(vfs)->base;
    return base->xSleep(base, microseconds);
}

static int vfs_current_time(sqlite3_vfs *vfs, double *days)
{
    sqlite3_vfs *base = disk_of(vfs)->base;
    return base->xCurrentTime(base, days);
}

static int vfs_get_last_error(sqlite3_vfs *vfs, int size, char *text)
{
    (void)size;
    (void)text;
    struct disk *disk = disk_of(vfs);
    pthread_mutex_lock(&disk->mutex);
    int error = disk->last_errno;
    pthread_mutex_unlock(&disk->mutex);
    return error;
}

void disk_vfs_init(struct disk *disk)
{
    disk->vfs = (sqlite3_vfs){
        .iVersion = 1,
        .szOsFile = sizeof(struct disk_handle),
        .mxPathname = PATH_BYTES,
        .zName = "test-disk",
        .pAppData = disk,
        .xOpen = vfs_open,
        .xDelete = vfs_delete,
        .xAccess = vfs_access,
        .xFullPathname = vfs_full_pathname,
        .xRandomness = vfs_randomness,
        .xSleep = vfs_sleep,
        .xCurrentTime = vfs_current_time,
        .xGetLastError = vfs_get_last_error,
    };
}
