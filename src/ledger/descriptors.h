/* SPDX-License-Identifier: Apache-2.0
 *
 * The descriptors that SQLite has of the ledger's files. It does not tell which they are,
 * and a host that closes what it did not open may close them, and get their numbers for
 * files of its own.
 */
#ifndef QLI_LEDGER_DESCRIPTORS_H
#define QLI_LEDGER_DESCRIPTORS_H

#include "ledger/ledger.h"

/* Around SQLite's opening of the files. mark: before it, marks the descriptors of them that
 * the process has already, which are the host's. note: after it, notes those that have no
 * mark, SQLite's, in ledger->descriptors. QL_E_BUSY: there are more of them than SQLite
 * opens; another thread of the host has opened the ledger meanwhile. */
enum ql_status qli_descriptors_mark(struct qli_ledger *ledger);
enum ql_status qli_descriptors_note(struct qli_ledger *ledger);

/* Whether the noted descriptors still lead to the files that they led to. If not, SQLite
 * would write to files of the host's, and close them. */
bool qli_descriptors_are_ours(const struct qli_ledger *ledger);

/* Whether the host has a connection of its own, or may have one. Only while the ledger's is
 * closed. */
bool qli_descriptors_host_is_connected(struct qli_ledger *ledger);

#endif
