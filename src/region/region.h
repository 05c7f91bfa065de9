/* SPDX-License-Identifier: Apache-2.0
 *
 * A region: one mapped range of bytes that processes share, whose meaning the
 * region does not know. This file owns the mapping and the header; holder.h
 * owns the liveness of processes, guard.h the locks, attach.h the way in.
 */
#ifndef QLI_REGION_REGION_H
#define QLI_REGION_REGION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/system.h"
#include "quotalite.h"
#include "region/format.h"

/* This process, in a page that fork gives to the child as zeros: word 0 means
 * that the process is no holder (yet). A zeroed pthread_mutex_t is unlocked in
 * glibc and musl. */
struct qli_self {
    pthread_mutex_t mutex; /* registering and detaching */
    uint64_t word;         /* as in a guard, without the waiters bit */
};

struct qli_region {
    unsigned char *base;
    struct qli_region_header *header;
    struct qli_holder *holders;
    struct qli_guard *guards;
    uint64_t size;         /* copies of what the header says: */
    uint64_t holder_count; /* checked once, safe from later damage */
    uint64_t guard_count;
    uint64_t body_offset;
    int lock_fd;                    /* the lock file; never locked through this descriptor */
    int region_fd;                  /* the region file */
    int token_fd;                   /* the lock file again; owns the holder's byte */
    bool has_name;                  /* false for memory: */
    struct qli_file_id lock_file;   /* which files the descriptors must be: a host may */
    struct qli_file_id region_file; /* close them and get their numbers for its own */
    struct qli_self *self;
};

/* What a new region is made of. Its body is zero. */
struct qli_region_plan {
    uint64_t stamp;
    uint64_t holder_count;
    uint64_t guard_count;
    uint64_t body_size;
    uint64_t injected_clock;
    uint64_t params[QLI_PARAMS];
};

/* Fills an empty file: allocates it whole (a hole would be a SIGBUS on a full
 * disk), writes everything. Nobody else may see the file yet. */
enum ql_status qli_region_create(int fd, const struct qli_region_plan *plan,
                                 struct ql_error *error);

/* Reads and checks the header of a region file. */
enum ql_status qli_region_inspect(int fd, uint64_t stamp, struct qli_region_header *header,
                                  struct ql_error *error);

/* Maps an inspected region; region->region_fd is fd from then on. */
enum ql_status qli_region_map(struct qli_region *region, int fd,
                              const struct qli_region_header *header, struct ql_error *error);

/* Gives up mapping and descriptors. */
void qli_region_unmap(struct qli_region *region);

/* An empty region object, to be given to qli_region_unmap in the end. */
struct qli_region qli_region_none(void);

/* The id of this boot, NUL-padded. */
enum ql_status qli_region_boot_id(char boot_id[QLI_BOOT_ID_SIZE], struct ql_error *error);

static inline bool qli_region_corrupt(const struct qli_region *region)
{
    return __atomic_load_n(&region->header->corrupt, __ATOMIC_RELAXED) != 0;
}

/* Whether the files are still there. QL_E_GONE: somebody removed one of them.
 * QL_E_DETACHED: this process has lost a descriptor. */
enum ql_status qli_region_look(const struct qli_region *region);

/* Poisons the region for everybody; returns QL_E_CORRUPT. */
enum ql_status qli_region_poison(struct qli_region *region);

#endif
