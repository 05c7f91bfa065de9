/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk in memory below SQLite, whose power can be cut at any change and which
 * can be full or broken at any call. It is SQLite's default VFS from disk_new to
 * disk_free: files are named by their whole path, and a real file counts only in
 * that an empty one exists here too, empty. One process; any number of threads and
 * connections.
 *
 * What was written is pending until the file's xSync. After a cut each sector of
 * each pending write is on the platter, or is not, or is garbage; a file may have
 * any length that it had since its xSync; a file that was made or deleted since
 * its directory was synced may be missing or back. As in SQLite's own VFS for
 * Unix, only the first xSync of a new journal or WAL and an xDelete that asks for
 * it sync the directory.
 */
#ifndef TESTS_LEDGER_DISK_H
#define TESTS_LEDGER_DISK_H

#include <stdbool.h>
#include <stdint.h>

#define DISK_SECTOR 512

/* What a write that is cut does to those bytes of its sectors which it did not
 * write. SQLite asks the device (SQLITE_IOCAP_POWERSAFE_OVERWRITE) and fills the
 * sector of a commit up where it may lose them. */
enum disk_sectors {
    DISK_SPARES, /* it spares them, and says so: as SQLite takes every file of Unix to be */
    DISK_TEARS,  /* it may garble them, and says so */
    DISK_LIES,   /* it may garble them, and says that it spares them: to see losses */
};

enum disk_fault {
    DISK_FULL,   /* ENOSPC: of calls that need space */
    DISK_BROKEN, /* EIO: of all calls but those for locks, which need no disk */
};

struct disk;

/* A disk that spares or tears its sectors, as the seed has it. */
struct disk *disk_new(uint64_t seed);

/* All connections have to be closed. */
void disk_free(struct disk *disk);

void disk_set_sectors(struct disk *disk, enum disk_sectors sectors);

/* xSync does nothing and succeeds: to see losses. */
void disk_ignore_syncs(struct disk *disk);

/* The nth change from now (from 1; 0: none) and every call after it fails: the
 * machine is off. The change itself may be on the platter, as any that is pending.
 * A change is an xWrite, xTruncate, xSync, xDelete or an xOpen that makes a file. */
void disk_cut_at(struct disk *disk, uint64_t nth);
void disk_cut_now(struct disk *disk);
bool disk_is_cut(struct disk *disk);

/* Cuts the power, if it is not cut, and switches the machine on again: the files
 * are what is found on the platter. Connections from before fail for ever, and can
 * be closed. */
void disk_after_cut(struct disk *disk);

/* The nth call from now that can have the fault has it (from 1): it alone (once),
 * or every one from it on until disk_mend. A write that fails may have written its
 * beginning; what is pending at an xSync that fails is left to chance, and no later
 * xSync writes it (Linux gives up such pages). */
void disk_fail(struct disk *disk, uint64_t nth, enum disk_fault fault, bool once);
void disk_mend(struct disk *disk);

/* Calls that have failed since disk_fail. */
uint64_t disk_failures(struct disk *disk);

/* Changes since disk_new. */
uint64_t disk_changes(struct disk *disk);

#endif
