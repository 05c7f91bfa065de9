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

/* Which file has that name. false: none, or it cannot be known. */
bool qli_files_identify(const struct qli_ledger *ledger, enum qli_ledger_part part,
                        struct qli_file_id *file);

/* What is there now. */
struct qli_ledger_files qli_files_find(const struct qli_ledger *ledger);

/* Makes what is missing, with the owner, group and mode that the directory wants. */
enum ql_status qli_files_make(struct qli_ledger *ledger);

/* Removes a WAL that belonged to another file than the one that is there. */
void qli_files_remove_former_wal(const struct qli_ledger *ledger, struct qli_ledger_files former);

/* SQLite keeps in the process's memory which locks it has on a file. That is wrong, as long
 * as the process lives, once a connection to the file was lost; and in a child, if the host
 * had a connection at the fork. Another connection would count on locks that the process
 * does not have. distrust: none is to be opened to that file any more. check_trust:
 * QL_E_LEDGER if the ledger's is such a file. */
void qli_files_distrust(struct qli_file_id file);
enum ql_status qli_files_check_trust(struct qli_ledger *ledger);

#endif
