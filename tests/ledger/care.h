/* SPDX-License-Identifier: Apache-2.0
 *
 * A store with a ledger, in this process and in others that do what they are
 * told, and a look at the ledger's file with SQLite alone. Nothing is flushed but
 * when a test says so.
 */
#ifndef TESTS_LEDGER_CARE_H
#define TESTS_LEDGER_CARE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "harness.h"

#define CARE_CAP 1000 /* of the limit "daily" on bytes */

struct care {
    char directory[KT_PATH];
    char copy[KT_PATH]; /* of it, if there is one: a test's, and removed with it */
    int64_t *clock_ns;  /* shared with peers */
};

extern struct care care;

/* A new store on a clock that stands at noon. */
int care_set_up(void **state);
int care_tear_down(void **state);

/* Of that store: a limit, no thread, a day between two flushes. */
struct ql_options care_options(void);
struct ql *care_open_with(const char *directory, const struct ql_options *options);
struct ql *care_open(void);

void care_charge(struct ql *ql, const char *subject, int64_t amount);
void care_flush(struct ql *ql);
int64_t care_used(struct ql *ql, const char *subject);
int care_add_up(void *sum, const struct ql_history_entry *entry); /* a visitor; an int64_t */
int64_t care_history(struct ql *ql, const char *subject);         /* all of it, added up */

/* All processes have to be gone or to have closed the store. */
void care_reboot(void);

/* ---- files ---------------------------------------------------------------- */

#define CARE_PATH (KT_PATH + 32)

/* Of a file of the store. */
void care_path(char path[CARE_PATH], const char *name);
void care_move(const char *from, const char *to);
void care_remove(const char *name);
void care_copy_file(const char *from_path, const char *to_path);

/* Does to a database what the SQL says. false: its tables do not allow that. */
bool care_edit(const char *path, const char *sql);

/* The first column of the first row. */
int64_t care_number(const char *path, const char *sql);

void care_expect_sound(const char *path);

/* What the ledger has of the subject, all days together. */
int64_t care_in_ledger(const char *subject);

/* ---- peers ---------------------------------------------------------------- */

enum order {
    ORDER_OPEN,
    ORDER_CLOSE,
    ORDER_CHARGE, /* the subject, the amount */
    ORDER_FLUSH,
    ORDER_BACKUP, /* the path */
};

/* A process of its own. */
struct peer {
    pid_t pid;
    int orders;
    int answers;
};

struct peer peer_start(void);
void peer_kill(struct peer *peer);

void peer_tell(const struct peer *peer, enum order order, const char *text, int64_t amount);
enum ql_status peer_answer(const struct peer *peer);

/* Both, and the answer is QL_OK. */
void peer_do(const struct peer *peer, enum order order, const char *text, int64_t amount);

#define CARE_TEST(test) cmocka_unit_test_setup_teardown(test, care_set_up, care_tear_down)

#endif
