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

/* SQLite does not tell which descriptors it has. So those that the process has of these
 * files are marked before it opens them; those that have no mark afterwards are noted in
 * ledger->descriptors. QL_E_BUSY: there are more than SQLite has, as another thread of the
 * host, which reads the ledger too, opened it meanwhile. */
enum ql_status qli_files_mark_descriptors(struct qli_ledger *ledger);
enum ql_status qli_files_note_descriptors(struct qli_ledger *ledger);

/* Whether the noted ones still are of the files that they were of. A host that closes what it
 * did not open may have got the numbers for files of its own, which SQLite would write
 * to, and close. */
bool qli_files_descriptors_are_ours(const struct qli_ledger *ledger);

/* Whether SQLite has the files open, while the ledger's connection is closed: for the host. */
bool qli_files_are_in_use(struct qli_ledger *ledger);

/* SQLite keeps for all connections of a process which locks it has on a file, and by which
 * descriptors. After a connection that was lost that is wrong as long as the process lives,
 * and in a child that was forked while the host had one: the next one would count on locks
 * that nobody has. So no further one is to be opened to that file: QL_E_LEDGER. */
void qli_files_distrust(struct qli_file_id file);
enum ql_status qli_files_check_trust(struct qli_ledger *ledger);

#endif
