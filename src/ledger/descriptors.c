/* SPDX-License-Identifier: Apache-2.0
 *
 * The process's descriptors are those in /proc/self/fd: SQLite does not tell which are its.
 */
#include "ledger/descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "ledger/files.h"

/* found is the part's, to be written to. */
typedef void visit_descriptor(struct qli_ledger_descriptor *found, int fd, struct qli_file_id file);

/* Visits the descriptors of the process that are of the ledger's files. */
static enum ql_status visit_descriptors(struct qli_ledger *ledger, visit_descriptor *visit,
                                        struct qli_ledger_descriptor found[QLI_LEDGER_PARTS])
{
    struct qli_file_id files[QLI_LEDGER_PARTS] = {{0}};
    for (int part = 0; part < QLI_LEDGER_PARTS; part++) {
        qli_files_identify(ledger, part, &files[part]);
        found[part] = (struct qli_ledger_descriptor){0};
    }
    DIR *listing = opendir("/proc/self/fd");
    if (listing == NULL)
        return qli_error(&ledger->error, QL_E_LEDGER, errno,
                         "cannot find in /proc/self/fd the descriptors of the ledger (%s): %s",
                         QLI_LEDGER_FILE, strerror(errno));
    struct dirent *entry;
    while ((entry = readdir(listing)) != NULL) {
        struct qli_file_id file;
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || !qli_system_identify(fd, "", &file))
            continue;
        for (int part = 0; part < QLI_LEDGER_PARTS; part++) {
            if (qli_file_id_equal(files[part], file))
                visit(&found[part], fd, file);
        }
    }
    closedir(listing);
    return QL_OK;
}

/* The mark is the open file's, not its number's: what gets the number later has none. It
 * is the signal of fcntl(2) for asynchronous input and output, which a regular file never
 * sends. */
#define MARK SIGIO

static void note(struct qli_ledger_descriptor *found, int fd, struct qli_file_id file)
{
    *found = (struct qli_ledger_descriptor){found->count + 1, fd, file};
}

static void mark(struct qli_ledger_descriptor *found, int fd, struct qli_file_id file)
{
    fcntl(fd, F_SETSIG, MARK);
    note(found, fd, file);
}

static void note_unmarked(struct qli_ledger_descriptor *found, int fd, struct qli_file_id file)
{
    int signal = fcntl(fd, F_GETSIG);
    if (signal >= 0 && signal != MARK) /* < 0: it can have no mark (O_PATH), and is not SQLite's */
        note(found, fd, file);
}

enum ql_status qli_descriptors_mark(struct qli_ledger *ledger)
{
    struct qli_ledger_descriptor of_host[QLI_LEDGER_PARTS];
    return visit_descriptors(ledger, mark, of_host);
}

enum ql_status qli_descriptors_note(struct qli_ledger *ledger)
{
    enum ql_status status = visit_descriptors(ledger, note_unmarked, ledger->descriptors);
    for (int part = 0; status == QL_OK && part < QLI_LEDGER_PARTS; part++) {
        if (ledger->descriptors[part].count > 1)
            status = QL_E_BUSY;
    }
    return status;
}

/* By the index: nobody but SQLite has a use for it, and whoever has a lock has it open. */
bool qli_descriptors_host_is_connected(struct qli_ledger *ledger)
{
    struct qli_ledger_descriptor of_host[QLI_LEDGER_PARTS];
    return visit_descriptors(ledger, note, of_host) != QL_OK || of_host[QLI_LEDGER_SHM].count > 0;
}

bool qli_descriptors_are_ours(const struct qli_ledger *ledger)
{
    for (int part = 0; part < QLI_LEDGER_PARTS; part++) {
        const struct qli_ledger_descriptor *descriptor = &ledger->descriptors[part];
        struct qli_file_id file;
        if (descriptor->count > 0 && !(qli_system_identify(descriptor->fd, "", &file) &&
                                       qli_file_id_equal(file, descriptor->file)))
            return false;
    }
    return true;
}
