/* SPDX-License-Identifier: Apache-2.0
 *
 * The files that the ledger is made of, as files: SQLite's database, its WAL
 * (write-ahead log) and that one's index. None of them is opened here once it is
 * there: closing a descriptor would drop the locks that SQLite has on it.
 */
#ifndef QLI_LEDGER_FILES_H
#define QLI_LEDGER_FILES_H

#include "ledger/ledger.h"

#define QLI_LEDGER_FILE "ledger.db"

/* A host may have closed the descriptor and got its number for something else. */
bool qli_files_directory_is_ours(const struct qli_ledger *ledger);

/* What is there now. */
struct qli_ledger_files qli_files_find(const struct qli_ledger *ledger);

/* Makes what is missing, with the owner, group and mode that the directory wants. */
enum ql_status qli_files_make(struct qli_ledger *ledger);

/* Removes a WAL that belonged to another file than the one that is there. */
void qli_files_remove_former_wal(const struct qli_ledger *ledger, struct qli_ledger_files former);

/* Finds out which descriptors of the process are of these files, but for those of
 * others; found has room for QLI_LEDGER_DESCRIPTORS. */
size_t qli_files_find_descriptors(const struct qli_ledger *ledger,
                                  const struct qli_ledger_descriptor *others, size_t other_count,
                                  struct qli_ledger_descriptor *found);

/* Whether they still are of the files that they were of. A host that closes what it
 * did not open may have got the numbers for files of its own, which SQLite would write
 * to, and close. */
bool qli_files_descriptors_are_ours(const struct qli_ledger *ledger);

#endif
