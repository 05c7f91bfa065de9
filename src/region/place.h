/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the files of a store are. The directory has the file 'lock', and the
 * region beside it, unless the store keeps that in a directory elsewhere: then
 * the record in 'lock' says so, and no later open can choose another.
 */
#ifndef QLI_REGION_PLACE_H
#define QLI_REGION_PLACE_H

#include "region/lockfile.h"
#include "region/region.h"

/* What an open says about the place. */
struct qli_place_request {
    const char *path;             /* the store's directory */
    const char *region_directory; /* NULL: the store's own, or what its record says */
    bool any_filesystem;
    bool must_exist; /* make nothing */
};

#define QLI_REGION_NAME_SIZE 96

struct qli_place {
    const struct qli_place_request *request;
    int directory_fd;
    int region_directory_fd; /* may be directory_fd; -1 until it is found */
    char region_name[QLI_REGION_NAME_SIZE];
    char new_name[QLI_REGION_NAME_SIZE]; /* the region's, until it is whole */
};

/* Opens the directory (made if only its last component is missing) and its lock
 * file into region->lock_fd. Nothing is locked or mapped yet. place is the
 * caller's to close, also after a failure. */
enum ql_status qli_place_open(struct qli_place *place, const struct qli_place_request *request,
                              struct qli_region *region, struct ql_error *error);
void qli_place_close(struct qli_place *place);

/* Notes which file region->lock_fd is. */
enum ql_status qli_place_know_lock(struct qli_region *region, struct ql_error *error);

/* Puts the region's directory that the request names into a new store's record. */
enum ql_status qli_place_choose(const struct qli_place *place, struct qli_lock_record *record,
                                struct ql_error *error);

/* Opens the region's directory and learns the region's name. A request that
 * names another directory than the record is refused. */
enum ql_status qli_place_find(struct qli_place *place, const struct qli_region *region,
                              const struct qli_lock_record *record, struct ql_error *error);

/* A file or directory, named in two parts, that the system refuses. Where the
 * machine, not the caller's choice of a place, says no: QL_E_SYSTEM. */
enum ql_status qli_place_refused(struct ql_error *error, int cause, const char *what,
                                 const char *name);

/* Whether the region is not in the store's own directory. */
static inline bool qli_place_elsewhere(const struct qli_place *place)
{
    return place->region_directory_fd != place->directory_fd;
}

/* Opens region_name or new_name. -1 and errno. */
int qli_place_open_region(const struct qli_place *place, const char *name, int flags);

/* For an error's text: the directory that has the region. */
const char *qli_place_region_directory(const struct qli_place *place,
                                       const struct qli_lock_record *record);

/* What to do where must_exist finds no store. */
#define QLI_PLACE_ADVICE                                                                           \
    "give the directory that the program opens, and start the program first if it never ran: it "  \
    "makes the store"

#endif
