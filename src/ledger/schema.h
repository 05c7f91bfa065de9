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

/* Whether this is a ledger that we know, or an empty file; changes nothing.
 * QL_E_VERSION: it is of a later format. QL_E_LEDGER: it is no ledger, and *error
 * says what to do; or SQLite cannot read it, and *rc has its reason. */
enum ql_status qli_schema_check(sqlite3 *db, int *rc, struct ql_error *error);

/* Makes the tables, of an earlier format or none at all. Gives SQLite's code. */
int qli_schema_upgrade(sqlite3 *db);

#endif
