/* SPDX-License-Identifier: Apache-2.0
 *
 * Hosts of a store with a ledger: they close its descriptors, fork while they use
 * SQLite themselves, remove the region under their own threads, and call from the
 * clock that they gave.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "processes.h"

#define CHILD_SECONDS 60 /* for what takes milliseconds */

static struct ql_options options_of(enum ql_durability durability, bool has_thread)
{
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, 64);
    options.durability = durability;
    options.no_thread = !has_thread;
    options.flush_interval_ms = 20;
    return options;
}

static int64_t restored(const char *subject)
{
    struct ql_usage usage;
    struct ql_options options = options_of(QL_DURABILITY_STORE, false);
    struct ql *ql = kt_open(kt_directory, &options);
    kt_expect(ql_usage(ql, subject, &usage), QL_OK, "usage");
    kt_verify(ql);
    ql_close(ql);
    return usage.meters[0].total;
}

/* ---- descriptors closed --------------------------------------------------- */

#define FILES 64
#define FILE_TEXT "the host's own"

/* Files of the host, at the numbers that the store's descriptors had. */
static void open_files(void)
{
    for (int fd = 3; fd < FILES; fd++) {
        KT_CHECK(memfd_create("host", MFD_CLOEXEC) == fd, "descriptor %d", fd);
        KT_CHECK(write(fd, FILE_TEXT, sizeof FILE_TEXT) == sizeof FILE_TEXT, "write");
    }
}

static void check_files(const char *when)
{
    for (int fd = 3; fd < FILES; fd++) {
        struct stat info;
        char text[sizeof FILE_TEXT] = "";
        KT_CHECK(fstat(fd, &info) == 0, "%s: descriptor %d was closed", when, fd);
        KT_CHECK(info.st_size == sizeof FILE_TEXT, "%s: descriptor %d: %lld bytes", when, fd,
                 (long long)info.st_size);
        KT_CHECK(pread(fd, text, sizeof text, 0) == sizeof text &&
                     memcmp(text, FILE_TEXT, sizeof text) == 0,
                 "%s: descriptor %d was written to", when, fd);
    }
}

/* At once, before anybody has looked, and once it is noticed. */
static _Noreturn void lose_descriptors(enum ql_durability durability, bool has_thread)
{
    struct ql_options options = options_of(durability, has_thread);
    options.charge_wait_ms = 500;
    struct ql *ql = kt_open(kt_directory, &options);
    kt_charge(ql, 100);
    kt_expect(ql_flush(ql, NULL), QL_OK, "flush");
    closefrom(3);
    open_files();
    int64_t start_ns = kt_now_ns();
    enum ql_status status = ql_charge(ql, "bob", "bytes", 5, NULL);
    KT_CHECK(status == QL_OK || status == QL_E_NOT_DURABLE || status == QL_E_DETACHED, "charge: %s",
             ql_status_name(status));
    status = ql_flush(ql, NULL);
    KT_CHECK(status != QL_OK, "a flush without descriptors succeeds");
    check_files("at once");
    while (status != QL_E_DETACHED || ql_charge(ql, "bob", "bytes", 5, NULL) != QL_E_DETACHED) {
        KT_CHECK(kt_now_ns() - start_ns < kt_deadline_ns, "flush: %s", ql_status_name(status));
        status = ql_flush(ql, NULL);
    }
    printf("detached after %.3f s\n", (double)(kt_now_ns() - start_ns) / 1e9);
    fflush(stdout);
    check_files("detached");
    ql_close(ql);
    check_files("closed");
    _exit(0);
}

int kt_process_ledger_closefrom(void)
{
    for (int i = 0; i < 4; i++) {
        pid_t pid = kt_fork();
        if (pid == 0)
            lose_descriptors(i % 2 == 0 ? QL_DURABILITY_ASYNC : QL_DURABILITY_SYNC, i / 2 == 0);
        kt_wait_success(pid);
        KT_CHECK(restored("alice") == 100 * (i + 1), "%lld", (long long)restored("alice"));
    }
    return 0;
}

/* ---- a host that uses SQLite too ------------------------------------------ */

#define HOST_THREADS 3
#define HOST_FORKS 100

enum { FINISH };

static void *use_sqlite(void *unused)
{
    sqlite3 *db = NULL;
    KT_CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK, "SQLite");
    while (kt_flags[FINISH] == 0)
        sqlite3_exec(db,
                     "CREATE TABLE IF NOT EXISTS some(thing); "
                     "INSERT INTO some VALUES (randomblob(300)); DELETE FROM some",
                     NULL, NULL, NULL);
    sqlite3_close(db);
    return unused;
}

/* A thread that is not in the child has SQLite's own locks at the fork, now and
 * then. The child flushes all the same. */
int kt_process_ledger_host_sqlite(void)
{
    pthread_t threads[HOST_THREADS];
    struct ql_options options = options_of(QL_DURABILITY_ASYNC, false);
    struct ql *ql = kt_open(kt_directory, &options);
    kt_charge(ql, 1);
    kt_expect(ql_flush(ql, NULL), QL_OK, "flush");
    for (int t = 0; t < HOST_THREADS; t++)
        KT_CHECK(pthread_create(&threads[t], NULL, use_sqlite, NULL) == 0, "pthread_create");
    for (int i = 0; i < HOST_FORKS; i++) {
        pid_t pid = kt_fork();
        if (pid == 0) {
            alarm(CHILD_SECONDS);
            kt_charge(ql, 1);
            kt_expect(ql_flush(ql, NULL), QL_OK, "flush in a child");
            _exit(0);
        }
        kt_wait_success(pid);
    }
    kt_flags[FINISH] = 1;
    for (int t = 0; t < HOST_THREADS; t++)
        pthread_join(threads[t], NULL);
    KT_CHECK(kt_total(ql) == 1 + HOST_FORKS, "counted %lld", (long long)kt_total(ql));
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- the region is removed under threads ---------------------------------- */

#define USERS 4
#define REMOVALS 20
#define CHARGES_BEFORE 300

struct user {
    struct ql *ql;
    char name[16];
    _Atomic int64_t charged;
    int64_t unsure;
};

/* An answer that a charge is not durable is no acknowledgement, and no loss. */
static void *charge_until_gone(void *argument)
{
    struct user *user = argument;
    enum ql_status status;
    do {
        status = ql_charge(user->ql, user->name, "bytes", 1, NULL);
        user->charged += status == QL_OK;
        user->unsure += status == QL_E_NOT_DURABLE;
    } while (status == QL_OK || status == QL_E_NOT_DURABLE);
    kt_expect(status, QL_E_GONE, "charge");
    return NULL;
}

static void remove_under_threads(struct user users[USERS], bool has_thread)
{
    pthread_t threads[USERS];
    struct ql_options options = options_of(QL_DURABILITY_ASYNC, has_thread);
    struct ql *ql = kt_open(kt_directory, &options);
    for (int u = 0; u < USERS; u++) {
        users[u].ql = ql;
        KT_CHECK(pthread_create(&threads[u], NULL, charge_until_gone, &users[u]) == 0, "thread");
    }
    int64_t before = users[0].charged;
    while (users[0].charged < before + CHARGES_BEFORE)
        sched_yield();
    kt_remove_file(kt_directory, "region");
    for (int u = 0; u < USERS; u++)
        pthread_join(threads[u], NULL);
    ql_close(ql);
}

/* Whatever was acknowledged before the first call that said so is in the next
 * region. */
int kt_process_ledger_removed(void)
{
    static struct user users[USERS];
    for (int u = 0; u < USERS; u++)
        snprintf(users[u].name, sizeof users[u].name, "user-%d", u);
    for (int i = 0; i < REMOVALS; i++) {
        remove_under_threads(users, i % 2 == 0);
        for (int u = 0; u < USERS; u++) {
            int64_t total = restored(users[u].name);
            KT_CHECK(total >= users[u].charged && total <= users[u].charged + users[u].unsure,
                     "removal %d: %s has %lld; %lld were acknowledged, %lld are unsure", i,
                     users[u].name, (long long)total, (long long)users[u].charged,
                     (long long)users[u].unsure);
            users[u].charged = total;
            users[u].unsure = 0;
        }
    }
    return 0;
}

/* ---- a clock that opens stores -------------------------------------------- */

static int opened_in_clock;

static int64_t open_in_clock(void *context)
{
    struct ql_options options = QL_OPTIONS_INIT;
    if (opened_in_clock++ == 0)
        ql_close(kt_open("memory:", &options));
    return *(int64_t *)context;
}

int kt_process_clock_opens(void)
{
    struct ql_options options = options_of(QL_DURABILITY_ASYNC, false);
    options.clock = open_in_clock;
    alarm(CHILD_SECONDS);
    struct ql *ql = kt_open(kt_directory, &options);
    kt_charge(ql, 1);
    KT_CHECK(opened_in_clock > 0, "nobody asked the clock");
    ql_close(ql);
    return 0;
}
