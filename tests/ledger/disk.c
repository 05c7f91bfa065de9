/* SPDX-License-Identifier: Apache-2.0
 *
 * The files of the disk: what is pending, what is on the platter, and what a cut
 * or a fault makes of it.
 */
#include "disk_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

static void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    KT_CHECK(memory != NULL, "%zu bytes", size);
    return memory;
}

/* ---- bytes --------------------------------------------------------------- */

static void bytes_reach(struct bytes *bytes, size_t size)
{
    if (size <= bytes->room)
        return;
    size_t room = size + size / 2;
    bytes->data = realloc(bytes->data, room);
    KT_CHECK(bytes->data != NULL, "%zu bytes", room);
    memset(bytes->data + bytes->room, 0, room - bytes->room);
    bytes->room = room;
}

static void bytes_resize(struct bytes *bytes, size_t size)
{
    bytes_reach(bytes, size);
    if (size < bytes->room)
        memset(bytes->data + size, 0, bytes->room - size);
    bytes->size = size;
}

static void bytes_copy(struct bytes *to, const struct bytes *from)
{
    bytes_resize(to, from->size);
    if (from->size > 0)
        memcpy(to->data, from->data, from->size);
}

/* ---- chance -------------------------------------------------------------- */

static bool happens(struct disk *disk, unsigned percent)
{
    return kt_random(&disk->random) % 100 < percent;
}

static void garble(struct disk *disk, uint8_t *data, size_t length)
{
    uint64_t random = 0;
    for (size_t i = 0; i < length; i++, random >>= 8) {
        if (i % sizeof random == 0)
            random = kt_random(&disk->random);
        data[i] = (uint8_t)random;
    }
}

/* How well a file comes through: all of it, nothing, or some. */
struct luck {
    unsigned kept;    /* percent */
    unsigned garbled; /* percent of what is not kept */
};

static struct luck draw_luck(struct disk *disk)
{
    static const unsigned kept[] = {0, 50, 90, 100};
    static const unsigned garbled[] = {0, 20, 100};
    return (struct luck){kept[kt_random(&disk->random) % 4], garbled[kt_random(&disk->random) % 3]};
}

/* ---- changes ------------------------------------------------------------- */

static void add_change(struct disk_file *file, const void *data, size_t length, size_t offset)
{
    struct change *change = allocate(sizeof *change);
    *change = (struct change){.offset = offset, .length = length};
    if (data != NULL) {
        change->data = allocate(length);
        memcpy(change->data, data, length);
    }
    *file->pending_end = change;
    file->pending_end = &change->next;
}

static void drop_pending(struct disk_file *file)
{
    while (file->pending != NULL) {
        struct change *change = file->pending;
        file->pending = change->next;
        free(change->data);
        free(change);
    }
    file->pending_end = &file->pending;
}

/* The part of a write in one sector. */
static void settle_part(struct disk_file *file, const struct change *change, struct luck luck,
                        size_t from, size_t to)
{
    struct disk *disk = file->disk;
    uint8_t *platter = file->platter.data;
    if (happens(disk, luck.kept)) {
        memcpy(platter + from, change->data + (from - change->offset), to - from);
    } else if (happens(disk, luck.garbled)) {
        size_t sector = from / DISK_SECTOR * DISK_SECTOR;
        if (disk->sectors == DISK_SPARES)
            garble(disk, platter + from, to - from);
        else
            garble(disk, platter + sector, DISK_SECTOR);
    }
}

static void settle_write(struct disk_file *file, const struct change *change, struct luck luck)
{
    size_t end = change->offset + change->length;
    size_t to;
    bytes_reach(&file->platter, end + DISK_SECTOR);
    for (size_t from = change->offset; from < end; from = to) {
        to = (from / DISK_SECTOR + 1) * DISK_SECTOR;
        if (to > end)
            to = end;
        settle_part(file, change, luck, from, to);
    }
}

/* What is pending comes on the platter as luck has it; lengths with `lengths`
 * percent. */
static void settle_pending(struct disk_file *file, struct luck luck, unsigned lengths)
{
    size_t size = file->platter.size;
    for (struct change *change = file->pending; change != NULL; change = change->next) {
        size_t end = change->offset + change->length;
        bool is_write = change->data != NULL;
        if (is_write)
            settle_write(file, change, luck);
        if ((is_write ? end > size : end != size) && happens(file->disk, lengths)) {
            size = end;
            if (!is_write)
                bytes_resize(&file->platter, size);
        }
    }
    bytes_resize(&file->platter, size);
    drop_pending(file);
}

/* ---- files --------------------------------------------------------------- */

struct disk_file *disk_find(struct disk *disk, const char *path)
{
    struct disk_file *file = disk->files;
    while (file != NULL && (file->is_dead || !file->is_linked || strcmp(file->path, path) != 0))
        file = file->next;
    return file;
}

struct disk_file *disk_add(struct disk *disk, const char *path)
{
    struct disk_file *file = allocate(sizeof *file);
    *file = (struct disk_file){.next = disk->files, .disk = disk, .is_linked = path != NULL};
    file->pending_end = &file->pending;
    if (path != NULL) {
        file->path = strdup(path);
        KT_CHECK(file->path != NULL, "%s", path);
    }
    disk->files = file;
    return file;
}

static void free_file(struct disk_file *file)
{
    drop_pending(file);
    free(file->cache.data);
    free(file->platter.data);
    free(file->path);
    free(file);
}

void disk_sweep(struct disk *disk)
{
    struct disk_file **link = &disk->files;
    while (*link != NULL) {
        struct disk_file *file = *link;
        bool is_kept = file->handles > 0 ||
                       (!file->is_dead && (file->is_linked || file->is_linked_on_platter));
        if (is_kept) {
            link = &file->next;
        } else {
            *link = file->next;
            free_file(file);
        }
    }
}

static size_t directory_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? 0 : (size_t)(slash - path);
}

void disk_sync_directory(struct disk *disk, const char *path)
{
    size_t length = directory_length(path);
    if (disk->ignores_syncs)
        return;
    for (struct disk_file *file = disk->files; file != NULL; file = file->next) {
        if (file->path != NULL && directory_length(file->path) == length &&
            memcmp(file->path, path, length) == 0)
            file->is_linked_on_platter = file->is_linked;
    }
}

int disk_read(struct disk_file *file, void *data, size_t length, size_t offset)
{
    struct disk_gate gate = disk_pass(file->disk, file, DISK_READ);
    size_t found = 0;
    if (gate.code != SQLITE_OK)
        return gate.code;
    if (offset < file->cache.size)
        found = file->cache.size - offset < length ? file->cache.size - offset : length;
    if (found > 0)
        memcpy(data, file->cache.data + offset, found);
    if (found == length)
        return SQLITE_OK;
    memset((uint8_t *)data + found, 0, length - found);
    return SQLITE_IOERR_SHORT_READ;
}

int disk_write(struct disk_file *file, const void *data, size_t length, size_t offset)
{
    struct disk_gate gate = disk_pass(file->disk, file, DISK_WRITE);
    if (file->is_dead || (!gate.is_done && file->disk->is_off))
        return gate.code;
    if (!gate.is_done)
        length = kt_random(&file->disk->random) % length;
    if (length == 0)
        return gate.code;
    add_change(file, data, length, offset);
    if (offset + length > file->cache.size)
        bytes_resize(&file->cache, offset + length);
    memcpy(file->cache.data + offset, data, length);
    return gate.code;
}

int disk_truncate(struct disk_file *file, size_t size)
{
    struct disk_gate gate = disk_pass(file->disk, file, DISK_TRUNCATE);
    if (!gate.is_done)
        return gate.code;
    add_change(file, NULL, 0, size);
    bytes_resize(&file->cache, size);
    return gate.code;
}

int disk_sync(struct disk_file *file, bool with_directory)
{
    struct disk_gate gate = disk_pass(file->disk, file, DISK_SYNC);
    if (file->is_dead || file->disk->is_off || file->disk->ignores_syncs)
        return gate.code;
    if (gate.code != SQLITE_OK) {
        settle_pending(file, draw_luck(file->disk), 100);
        return gate.code;
    }
    bytes_copy(&file->platter, &file->cache);
    drop_pending(file);
    if (with_directory)
        disk_sync_directory(file->disk, file->path);
    return SQLITE_OK;
}

/* ---- cuts and faults ----------------------------------------------------- */

/* What each call is, and its codes when it meets EIO and ENOSPC (0: it needs no
 * space). */
static const struct {
    bool is_change;
    int broken;
    int full;
} calls[] = {
    [DISK_OPEN] = {false, SQLITE_CANTOPEN, 0},
    [DISK_CREATE] = {true, SQLITE_CANTOPEN, SQLITE_CANTOPEN},
    [DISK_DELETE] = {true, SQLITE_IOERR_DELETE, 0},
    [DISK_ACCESS] = {false, SQLITE_IOERR_ACCESS, 0},
    [DISK_READ] = {false, SQLITE_IOERR_READ, 0},
    [DISK_WRITE] = {true, SQLITE_IOERR_WRITE, SQLITE_FULL},
    [DISK_TRUNCATE] = {true, SQLITE_IOERR_TRUNCATE, 0},
    [DISK_SYNC] = {true, SQLITE_IOERR_FSYNC, SQLITE_IOERR_FSYNC},
    [DISK_SIZE] = {false, SQLITE_IOERR_FSTAT, 0},
    [DISK_SHM] = {false, SQLITE_IOERR_SHMMAP, 0},
    [DISK_SHM_GROW] = {false, SQLITE_IOERR_SHMMAP, SQLITE_IOERR_SHMSIZE},
};

static struct disk_gate fail_call(struct disk *disk, int code, int error)
{
    disk->last_errno = error;
    return (struct disk_gate){.code = code};
}

static bool meets_fault(struct disk *disk, enum disk_call call)
{
    if (disk->fault == DISK_FULL && calls[call].full == 0)
        return false;
    bool is_first = disk->fault_in > 0 && --disk->fault_in == 0;
    if (is_first)
        disk->is_failing = !disk->fault_is_once;
    return is_first || disk->is_failing;
}

struct disk_gate disk_pass(struct disk *disk, const struct disk_file *file, enum disk_call call)
{
    if (disk->is_off || (file != NULL && file->is_dead))
        return fail_call(disk, calls[call].broken, EIO);
    if (calls[call].is_change) {
        disk->changes++;
        if (disk->cut_in > 0 && --disk->cut_in == 0) {
            disk->is_off = true;
            return (struct disk_gate){calls[call].broken, true};
        }
    }
    if (meets_fault(disk, call)) {
        disk->failures++;
        return disk->fault == DISK_FULL ? fail_call(disk, calls[call].full, ENOSPC)
                                        : fail_call(disk, calls[call].broken, EIO);
    }
    return (struct disk_gate){SQLITE_OK, true};
}

/* Of two files of one name the newer one, which comes first in the list, stays. */
static void find_on_platter(struct disk *disk, struct disk_file *old)
{
    bool is_found = happens(disk, 50) ? old->is_linked : old->is_linked_on_platter;
    settle_pending(old, draw_luck(disk), 50);
    old->is_dead = true;
    if (!is_found || disk_find(disk, old->path) != NULL)
        return;
    struct disk_file *file = disk_add(disk, old->path);
    file->is_linked_on_platter = true;
    bytes_copy(&file->platter, &old->platter);
    bytes_copy(&file->cache, &old->platter);
}

void disk_after_cut(struct disk *disk)
{
    pthread_mutex_lock(&disk->mutex);
    struct disk_file *old = disk->files;
    disk->files = NULL;
    for (struct disk_file *file = old; file != NULL; file = file->next) {
        if (!file->is_dead)
            find_on_platter(disk, file);
    }
    struct disk_file **end = &disk->files;
    while (*end != NULL)
        end = &(*end)->next;
    *end = old;
    disk_sweep(disk);
    disk->is_off = false;
    disk->cut_in = 0;
    pthread_mutex_unlock(&disk->mutex);
}

void disk_cut_at(struct disk *disk, uint64_t nth)
{
    pthread_mutex_lock(&disk->mutex);
    disk->cut_in = nth;
    pthread_mutex_unlock(&disk->mutex);
}

void disk_cut_now(struct disk *disk)
{
    pthread_mutex_lock(&disk->mutex);
    disk->is_off = true;
    pthread_mutex_unlock(&disk->mutex);
}

bool disk_is_cut(struct disk *disk)
{
    pthread_mutex_lock(&disk->mutex);
    bool is_cut = disk->is_off;
    pthread_mutex_unlock(&disk->mutex);
    return is_cut;
}

static void arm_fault(struct disk *disk, uint64_t nth, enum disk_fault fault, bool once)
{
    pthread_mutex_lock(&disk->mutex);
    disk->fault = fault;
    disk->fault_in = nth;
    disk->fault_is_once = once;
    disk->is_failing = false;
    if (nth > 0)
        disk->failures = 0;
    pthread_mutex_unlock(&disk->mutex);
}

void disk_fail(struct disk *disk, uint64_t nth, enum disk_fault fault, bool once)
{
    KT_CHECK(nth > 0, "calls are counted from 1");
    arm_fault(disk, nth, fault, once);
}

void disk_mend(struct disk *disk)
{
    arm_fault(disk, 0, DISK_BROKEN, true);
}

uint64_t disk_failures(struct disk *disk)
{
    pthread_mutex_lock(&disk->mutex);
    uint64_t failures = disk->failures;
    pthread_mutex_unlock(&disk->mutex);
    return failures;
}

uint64_t disk_changes(struct disk *disk)
{
    pthread_mutex_lock(&disk->mutex);
    uint64_t changes = disk->changes;
    pthread_mutex_unlock(&disk->mutex);
    return changes;
}

/* ---- the disk ------------------------------------------------------------ */

struct disk *disk_new(uint64_t seed)
{
    struct disk *disk = allocate(sizeof *disk);
    disk->random = seed;
    disk->sectors = seed % 2 == 0 ? DISK_SPARES : DISK_TEARS;
    disk->base = sqlite3_vfs_find(NULL);
    KT_CHECK(disk->base != NULL, "SQLite has no VFS");
    KT_CHECK(pthread_mutex_init(&disk->mutex, NULL) == 0, "a mutex");
    disk_vfs_init(disk);
    KT_CHECK(sqlite3_vfs_register(&disk->vfs, 1) == SQLITE_OK, "the VFS");
    /* SQLite asks the default VFS anew for the seed of its random numbers. */
    sqlite3_randomness(0, NULL);
    return disk;
}

void disk_set_sectors(struct disk *disk, enum disk_sectors sectors)
{
    disk->sectors = sectors;
}

void disk_ignore_syncs(struct disk *disk)
{
    disk->ignores_syncs = true;
}

void disk_free(struct disk *disk)
{
    sqlite3_vfs_unregister(&disk->vfs);
    sqlite3_vfs_register(disk->base, 1);
    while (disk->files != NULL) {
        struct disk_file *file = disk->files;
        KT_CHECK(file->handles == 0, "%s is open", file->path == NULL ? "(temporary)" : file->path);
        disk->files = file->next;
        free_file(file);
    }
    pthread_mutex_destroy(&disk->mutex);
    free(disk);
}
