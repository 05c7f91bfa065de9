/* SPDX-License-Identifier: Apache-2.0
 *
 * A death in here leaves files that are empty, which are as good as none.
 */
#include "ledger/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/system.h"

static const char *const names[QLI_LEDGER_PARTS] = {
    [QLI_LEDGER_DATABASE] = QLI_LEDGER_FILE,
    [QLI_LEDGER_WAL] = QLI_LEDGER_FILE "-wal",
    [QLI_LEDGER_SHM] = QLI_LEDGER_FILE "-shm",
};

static enum ql_status refuse_file(struct qli_ledger *ledger, const char *what)
{
    return qli_error(&ledger->error, QL_E_LEDGER, errno, "cannot %s the ledger (%s): %s", what,
                     QLI_LEDGER_FILE, strerror(errno));
}

bool qli_files_directory_is_ours(const struct qli_ledger *ledger)
{
    struct qli_file_id id;
    return ledger->directory_fd >= 0 && qli_system_identify(ledger->directory_fd, "", &id) &&
           qli_file_id_equal(id, ledger->directory);
}

bool qli_files_identify(const struct qli_ledger *ledger, enum qli_ledger_part part,
                        struct qli_file_id *file)
{
    return qli_system_identify(ledger->directory_fd, names[part], file);
}

static uint64_t find_inode(const struct qli_ledger *ledger, enum qli_ledger_part part)
{
    struct qli_file_id file;
    return qli_files_identify(ledger, part, &file) ? file.inode : 0;
}

struct qli_ledger_files qli_files_find(const struct qli_ledger *ledger)
{
    return (struct qli_ledger_files){
        .inode = find_inode(ledger, QLI_LEDGER_DATABASE),
        .wal_inode = find_inode(ledger, QLI_LEDGER_WAL),
        .shm_inode = find_inode(ledger, QLI_LEDGER_SHM),
    };
}

/* Whoever may use the store's directory may use its files. By name: a descriptor of
 * an existing file must not be closed here, as that would drop SQLite's locks. */
static bool follow_directory(const struct qli_ledger *ledger, const char *name)
{
    struct stat directory;
    struct stat made;
    if (fstat(ledger->directory_fd, &directory) != 0 ||
        fstatat(ledger->directory_fd, name, &made, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    mode_t mode = directory.st_mode & 0666;
    bool root = geteuid() == 0;
    uid_t owner = root ? directory.st_uid : made.st_uid;
    if (made.st_uid != geteuid() ||
        (made.st_uid == owner && made.st_gid == directory.st_gid && (made.st_mode & 0777) == mode))
        return true;
    bool shared = root || (directory.st_mode & 0060) != 0;
    if (fchownat(ledger->directory_fd, name, owner, directory.st_gid, AT_SYMLINK_NOFOLLOW) != 0 &&
        shared)
        return false;
    return fchmodat(ledger->directory_fd, name, mode, 0) == 0;
}

/* SQLite would give a file the group of its maker and the mode that the umask makes
 * of 0644. An empty WAL or index is as good to it as none. */
static bool make_file(const struct qli_ledger *ledger, const char *name)
{
    int fd = qli_system_open(ledger->directory_fd, name, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (fd < 0 && errno != EEXIST)
        return false;
    if (fd >= 0)
        close(fd);
    return follow_directory(ledger, name);
}

enum ql_status qli_files_make(struct qli_ledger *ledger)
{
    bool fresh = find_inode(ledger, QLI_LEDGER_DATABASE) == 0;
    for (int part = 0; part < QLI_LEDGER_PARTS; part++) {
        if (!make_file(ledger, names[part]))
            return refuse_file(ledger, "make");
    }
    return fresh && qli_system_sync(ledger->directory_fd) != 0 ? refuse_file(ledger, "make")
                                                               : QL_OK;
}

void qli_files_remove_former_wal(const struct qli_ledger *ledger, struct qli_ledger_files former)
{
    struct qli_ledger_files now = qli_files_find(ledger);
    if (former.inode == 0 || now.inode == former.inode || now.wal_inode == 0 ||
        now.wal_inode != former.wal_inode)
        return;
    unlinkat(ledger->directory_fd, names[QLI_LEDGER_WAL], 0);
    unlinkat(ledger->directory_fd, names[QLI_LEDGER_SHM], 0);
}

/* ---- files that SQLite is wrong about -------------------------------------- */

struct distrusted {
    struct qli_file_id file;
    struct distrusted *next;
};

static struct distrusted *all_distrusted; /* atomic; grows only */
static bool distrusts_all;                /* atomic; there was no memory for one */

void qli_files_distrust(struct qli_file_id file)
{
    struct distrusted *entry = malloc(sizeof *entry);
    if (entry == NULL) {
        __atomic_store_n(&distrusts_all, true, __ATOMIC_RELEASE);
        return;
    }
    *entry = (struct distrusted){
        .file = file,
        .next = __atomic_load_n(&all_distrusted, __ATOMIC_ACQUIRE),
    };
    while (!__atomic_compare_exchange_n(&all_distrusted, &entry->next, entry, false,
                                        __ATOMIC_RELEASE, __ATOMIC_ACQUIRE))
        ;
}

enum ql_status qli_files_check_trust(struct qli_ledger *ledger)
{
    struct qli_file_id file;
    const struct distrusted *entry = __atomic_load_n(&all_distrusted, __ATOMIC_ACQUIRE);
    if (!qli_files_identify(ledger, QLI_LEDGER_DATABASE, &file))
        return refuse_file(ledger, "find");
    while (entry != NULL && !qli_file_id_equal(entry->file, file))
        entry = entry->next;
    if (entry == NULL && !__atomic_load_n(&distrusts_all, __ATOMIC_ACQUIRE))
        return QL_OK;
    return qli_error(&ledger->error, QL_E_LEDGER, 0,
                     "this program has lost SQLite's locks on the ledger (%s): it closed "
                     "descriptors that it had not opened, or forked while it had the ledger open "
                     "itself; end it and start it again",
                     QLI_LEDGER_FILE);
}
