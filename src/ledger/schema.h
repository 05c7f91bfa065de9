/* SPDX-License-Identifier: Apache-2.0
 *
 * The ledger's tables and the number of their format. docs/ledger.md describes
 * them for those who read the file with tools of their own.
 */
#ifndef QLI_LEDGER_SCHEMA_H
#define QLI_LEDGER_SCHEMA_H

#include <sqlite3.h>

#include "quotalite.h"

#define QLI_LEDGER_FORMAT 1

/* Makes the tables in a file that is empty, or finds them. QL_E_VERSION: they are
 * of a later format. QL_E_LEDGER: this is no ledger. In both *error says what to
 * do. SQLITE_OK in *rc, or SQLite's reason for QL_E_LEDGER. */
enum ql_status qli_schema_prepare(sqlite3 *db, int *rc, struct ql_error *error);

#endif
