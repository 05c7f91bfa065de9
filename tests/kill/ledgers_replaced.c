/* SPDX-License-Identifier: Apache-2.0
 *
 * Somebody removes the ledger, puts a backup in its place, or removes the region,
 * while processes use the store: after the next flush the ledger is what the region
 * is, and what a replaced region's process still writes does not arrive.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ledgers.h"

#define SHORT_MS 50

static void path_of(char path[KT_PATH + 32], const char *name)
{
    snprintf(path, KT_PATH + 32, "%s/%s", kt_directory, name);
}

static bool there_is(const char *name)
{
    char path[KT_PATH + 32];
    path_of(path, name);
    return access(path, F_OK) == 0;
}

static void remove_file(const char *name)
{
    char path[KT_PATH + 32];
    path_of(path, name);
    KT_CHECK(unlink(path) == 0 || errno == ENOENT, "%s: %s", path, strerror(errno));
}

static void move_file(const char *from, const char *to)
{
    char old_path[KT_PATH + 32];
    char new_path[KT_PATH + 32];
    path_of(old_path, from);
    path_of(new_path, to);
    KT_CHECK(rename(old_path, new_path) == 0, "%s to %s: %s", from, to, strerror(errno));
}

/* As cp does. */
static void copy_file(const char *from, const char *to)
{
    char path[KT_PATH + 32];
    char bytes[65536];
    ssize_t length;
    path_of(path, from);
    int source = open(path, O_RDONLY | O_CLOEXEC);
    path_of(path, to);
    int target = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    KT_CHECK(source >= 0 && target >= 0, "%s to %s: %s", from, to, strerror(errno));
    while ((length = read(source, bytes, sizeof bytes)) > 0)
        KT_CHECK(write(target, bytes, (size_t)length) == length, "%s: %s", to, strerror(errno));
    close(source);
    close(target);
}

/* ---- ledgers, in any order ------------------------------------------------ */

#define ACTS 1500
#define BACKUPS 4
#define SUBJECTS 5

enum act { CHARGE, FLUSH, HISTORY, EQUAL, FINISH };

/* What the second process does next, and how far it is; see kt_flags. */
enum { ACT, ACTS_GIVEN, ACTS_DONE, SEED };

static int visit_nothing(void *context, const struct ql_history_entry *entry)
{
    (void)context;
    (void)entry;
    return 0;
}

static void act(struct ql *ql, enum act what, uint64_t random)
{
    char subject[32];
    snprintf(subject, sizeof subject, "subject-%d", (int)(random % SUBJECTS));
    const char *meter = random >> 8 & 1 ? "bytes" : "statements";
    if (what == CHARGE)
        kt_expect(ql_charge(ql, subject, meter, 1 + (int64_t)(random >> 16 & 7), NULL), QL_OK,
                  "charge");
    else if (what == FLUSH)
        kt_flush(ql);
    else if (what == HISTORY)
        kt_expect(ql_history(ql, subject, NULL, 0, INT64_MAX, visit_nothing, NULL, NULL), QL_OK,
                  "history");
    else if (what == EQUAL)
        kt_ledger_expect_equal(kt_directory, ql, "a ledger was replaced");
}

static _Noreturn void be_second(enum ql_durability durability)
{
    kt_await(&kt_flags[ACTS_GIVEN], 1);
    struct ql *ql = kt_open_ledger(durability, KT_LONG_MS);
    for (int64_t i = 1; kt_flags[ACT] != FINISH; i++) {
        act(ql, (enum act)kt_flags[ACT], (uint64_t)kt_flags[SEED]);
        kt_flags[ACTS_DONE] = i;
        kt_await(&kt_flags[ACTS_GIVEN], i + 1);
    }
    ql_close(ql);
    _exit(0);
}

static void tell_second(enum act what, uint64_t random)
{
    kt_flags[ACT] = what;
    kt_flags[SEED] = (int64_t)(random >> 1);
    int64_t number = ++kt_flags[ACTS_GIVEN];
    if (what != FINISH)
        kt_await(&kt_flags[ACTS_DONE], number);
}

static void remove_logs(void)
{
    remove_file("ledger.db-wal");
    remove_file("ledger.db-shm");
}

/* A backup that is not there yet is made; one that is takes the ledger's place. */
static void use_backup(struct ql *ql, int number, bool with_logs)
{
    char name[32];
    char path[KT_PATH + 32];
    snprintf(name, sizeof name, "backup-%d", number);
    path_of(path, name);
    if (!there_is(name)) {
        struct ql_error error = {0};
        kt_expect(ql_backup(ql, path, &error), QL_OK, error.text);
        return;
    }
    copy_file(name, "incoming");
    if (with_logs)
        remove_logs();
    move_file("incoming", "ledger.db");
}

/* The one that was there before, if there was one. */
static void swap_with_aside(bool with_logs)
{
    if (with_logs)
        remove_logs();
    if (there_is("aside"))
        move_file("aside", "incoming");
    if (there_is("ledger.db"))
        move_file("ledger.db", "aside");
    if (there_is("incoming"))
        move_file("incoming", "ledger.db");
}

static void replace(struct ql *ql, uint64_t random)
{
    bool with_logs = random >> 8 & 1;
    if (random % 4 == 0) {
        remove_file("ledger.db");
        if (with_logs)
            remove_logs();
    } else if (random % 4 == 1) {
        swap_with_aside(with_logs);
    } else {
        use_backup(ql, (int)(random >> 16) & (BACKUPS - 1), with_logs);
    }
    if ((random >> 24) % 16 == 0) {
        char name[32];
        snprintf(name, sizeof name, "backup-%d", (int)(random >> 32) & (BACKUPS - 1));
        remove_file(name);
    }
}

/* KT_SEED of the environment is another seed. */
static int replace_ledgers(enum ql_durability durability, uint64_t seed)
{
    if (getenv("KT_SEED") != NULL)
        seed = strtoull(getenv("KT_SEED"), NULL, 10);
    printf("seed %llu\n", (unsigned long long)seed);
    pid_t second = kt_fork();
    if (second == 0)
        be_second(durability);
    struct ql *ql = kt_open_ledger(durability, KT_LONG_MS);
    for (int i = 0; i < ACTS; i++) {
        uint64_t random = kt_random(&seed);
        enum act what = random % 8 < 4 ? CHARGE : (enum act)(random % 8 - 3);
        if (what >= FINISH)
            replace(ql, random >> 4);
        else if (random >> 4 & 1)
            act(ql, what, random >> 8);
        else
            tell_second(what, random >> 8);
    }
    kt_ledger_expect_equal(kt_directory, ql, "in the end");
    tell_second(EQUAL, 0);
    tell_second(FINISH, 0);
    kt_wait_success(second);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

int kt_ledger_replaced_async(void)
{
    return replace_ledgers(QL_DURABILITY_ASYNC, 1);
}

int kt_ledger_replaced_sync(void)
{
    return replace_ledgers(QL_DURABILITY_SYNC, 2);
}

/* ---- ledgers, while all flush ---------------------------------------------- */

#define FLUSHERS 3
#define REPLACEMENTS 150

enum { ENOUGH, FLUSHED };

_Static_assert(FLUSHED + FLUSHERS <= KT_FLAGS, "a flag for each flusher");

/* A flush may meet a file that is replaced under it, and says so. */
static _Noreturn void charge_and_flush(int number)
{
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    for (uint64_t i = 1; kt_flags[ENOUGH] == 0; i++) {
        act(ql, CHARGE, i * 0x10101);
        enum ql_status status = ql_flush(ql, NULL);
        KT_CHECK(status == QL_OK || status == QL_E_LEDGER || status == QL_E_BUSY, "flush: %s",
                 ql_status_name(status));
        kt_flags[FLUSHED + number] += status == QL_OK;
    }
    ql_close(ql);
    _exit(0);
}

static void replace_busily(struct ql *ql, uint64_t random)
{
    char name[32];
    char path[KT_PATH + 32];
    snprintf(name, sizeof name, "backup-%d", (int)(random >> 16) & (BACKUPS - 1));
    path_of(path, name);
    if (there_is(name)) {
        replace(ql, random);
        return;
    }
    enum ql_status status = ql_backup(ql, path, NULL);
    KT_CHECK(status == QL_OK || status == QL_E_LEDGER || status == QL_E_BUSY, "backup: %s",
             ql_status_name(status));
}

int kt_ledger_replaced_busy(void)
{
    pid_t pids[FLUSHERS];
    uint64_t seed = 3;
    printf("seed 3\n");
    for (int f = 0; f < FLUSHERS; f++) {
        pids[f] = kt_fork();
        if (pids[f] == 0)
            charge_and_flush(f);
    }
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    for (int i = 0; i < REPLACEMENTS; i++) {
        replace_busily(ql, kt_random(&seed));
        kt_await(&kt_flags[FLUSHED + i % FLUSHERS], kt_flags[FLUSHED + i % FLUSHERS] + 2);
    }
    kt_flags[ENOUGH] = 1;
    for (int f = 0; f < FLUSHERS; f++)
        kt_wait_success(pids[f]);
    kt_ledger_expect_equal(kt_directory, ql, "in the end");
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- a ledger of another store -------------------------------------------- */

static void make_other_store(const char *directory)
{
    *kt_clock_ns -= 10 * KT_DAY_NS;
    struct ql_options options = kt_ledger_options(kt_clock_ns, QL_DURABILITY_ASYNC, KT_LONG_MS);
    struct ql *other = kt_open(directory, &options);
    kt_expect(ql_charge(other, "bob", "bytes", 77, NULL), QL_OK, "charge");
    kt_flush(other);
    *kt_clock_ns += 10 * KT_DAY_NS;
    kt_charge(other, 5);
    ql_close(other);
}

int kt_ledger_other_store(void)
{
    char other[KT_PATH];
    char from[KT_PATH + 32];
    char to[KT_PATH + 32];
    kt_directory_make(other, NULL);
    make_other_store(other);
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    kt_charge(ql, 10);
    kt_flush(ql);
    for (const char *const *suffix = (const char *const[]){"", "-wal", "-shm", NULL};
         *suffix != NULL; suffix++) {
        snprintf(from, sizeof from, "%s/ledger.db%s", other, *suffix);
        snprintf(to, sizeof to, "%s/ledger.db%s", kt_directory, *suffix);
        KT_CHECK(rename(from, to) == 0 || errno == ENOENT, "%s: %s", from, strerror(errno));
    }
    kt_ledger_expect_equal(kt_directory, ql, "with the other store's ledger");
    KT_CHECK(kt_alice_in_ledger() == 10, "%lld", (long long)kt_alice_in_ledger());
    ql_close(ql);
    kt_directory_remove(other);
    return 0;
}

/* ---- a flusher whose region is no longer the store's ---------------------- */

enum { STOPPED = 1, GO_ON };

/* Its host closes what it did not open; then the process does not go on for a while. */
static void lose_store_and_stop(struct ql *ql)
{
    close(ql->store->flusher.lock_fd);
    close(ql->store->engine.region.token_fd);
    raise(SIGSTOP);
}

static int refuse_commit(void *context)
{
    (void)context;
    return 1;
}

/* A flush whose transaction fails: whoever restores then uses its number. */
static void fail_flush(struct ql *ql)
{
    sqlite3 *db = ql->store->flusher.ledger.db;
    sqlite3_commit_hook(db, refuse_commit, NULL);
    kt_expect(ql_flush(ql, NULL), QL_E_LEDGER, "a flush that fails");
    sqlite3_commit_hook(db, NULL, NULL);
}

/* A child that flushed 1 for alice and is stopped in the flush of 10 more, at the
 * statement of that text, with nothing that tells others of it. */
static pid_t start_lost(const char *text)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
        kt_charge(ql, 1);
        kt_flush(ql);
        kt_charge(ql, 10);
        fail_flush(ql);
        kt_before_statement(ql, text, lose_store_and_stop);
        enum ql_status status = ql_flush(ql, NULL);
        if (strcmp(text, "COMMIT") == 0)
            kt_expect(status, QL_OK, "the flush that was in its transaction");
        else
            kt_expect(status, QL_E_GONE, "the flush that was before it");
        status = ql_flush(ql, NULL);
        KT_CHECK(status == QL_E_GONE || status == QL_E_DETACHED || status == QL_OK, "flush: %s",
                 ql_status_name(status));
        ql_close(ql);
        _exit(0);
    }
    kt_await_stop(pid);
    remove_file("region");
    return pid;
}

static void go_on_lost(pid_t lost)
{
    kill(lost, SIGCONT);
    kt_wait_success(lost);
}

static void expect_alice(struct ql *ql, int64_t total)
{
    kt_ledger_expect_equal(kt_directory, ql, "after the lost one has gone on");
    KT_CHECK(kt_total(ql) == total && kt_alice_in_ledger() == total,
             "the region has %lld, the ledger %lld", (long long)kt_total(ql),
             (long long)kt_alice_in_ledger());
    kt_verify(ql);
    ql_close(ql);
}

/* It finds another epoch in the ledger, and that its region is not the store's. */
int kt_ledger_fenced_before(void)
{
    pid_t lost = start_lost("BEGIN IMMEDIATE");
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    KT_CHECK(kt_total(ql) == 1, "restored %lld", (long long)kt_total(ql));
    kt_charge(ql, 3);
    go_on_lost(lost);
    expect_alice(ql, 4);
    return 0;
}

/* It is before whoever restores, or not at all. */
int kt_ledger_fenced_inside(void)
{
    struct ql *ql;
    struct ql_error error;
    pid_t lost = start_lost("COMMIT");
    struct ql_options options = kt_ledger_options(kt_clock_ns, QL_DURABILITY_ASYNC, SHORT_MS);
    kt_expect(ql_open(kt_directory, &options, &ql, &error), QL_E_LEDGER, "open");
    go_on_lost(lost);
    ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    KT_CHECK(kt_total(ql) == 11, "restored %lld", (long long)kt_total(ql));
    kt_charge(ql, 3);
    expect_alice(ql, 14);
    return 0;
}

/* ---- a region that is removed while in use -------------------------------- */

#define USERS 3
#define REMOVALS 40

enum { READY, CHARGED };

/* Charges until the store is gone; the last of its users has written everything. */
static _Noreturn void use_until_gone(int number)
{
    struct ql_options options = kt_ledger_options(kt_clock_ns, QL_DURABILITY_ASYNC, KT_LONG_MS);
    options.no_thread = number % 2 == 0;
    options.flush_interval_ms = 1 + number;
    struct ql *ql = kt_open(kt_directory, &options);
    enum ql_status status;
    kt_flags[READY]++;
    while ((status = ql_charge(ql, "alice", "bytes", 1, NULL)) == QL_OK)
        kt_flags[CHARGED + number]++;
    kt_expect(status, QL_E_GONE, "charge");
    ql_close(ql);
    _exit(0);
}

int kt_ledger_region_removed(void)
{
    for (int i = 0; i < REMOVALS; i++) {
        pid_t users[USERS];
        int64_t charged = 0;
        kt_flags[READY] = 0;
        for (int u = 0; u < USERS; u++) {
            users[u] = kt_fork();
            if (users[u] == 0)
                use_until_gone(u);
        }
        kt_await(&kt_flags[READY], USERS);
        remove_file("region");
        for (int u = 0; u < USERS; u++) {
            kt_wait_success(users[u]);
            charged += kt_flags[CHARGED + u];
        }
        struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
        KT_CHECK(kt_total(ql) == charged, "removal %d: restored %lld of %lld", i,
                 (long long)kt_total(ql), (long long)charged);
        ql_close(ql);
        remove_file("region");
    }
    return 0;
}
