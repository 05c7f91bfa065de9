/* SPDX-License-Identifier: Apache-2.0
 *
 * A process with an open ledger forks: the child has nothing of the parent's
 * connection, and both write.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ledgers.h"

#define FORKS 200
#define THREADED_FORKS 100
#define EXECS 20
#define THREADS 3

enum { CHARGED, FINISH };

/* Descriptors of this process that are the ledger, its log or its index. */
static int ledger_descriptors(void)
{
    char target[KT_PATH + 32];
    char prefix[KT_PATH + 32];
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    int length = snprintf(prefix, sizeof prefix, "%s/ledger.db", kt_directory);
    KT_CHECK(directory != NULL, "/proc/self/fd: %s", strerror(errno));
    while ((entry = readdir(directory)) != NULL) {
        ssize_t size = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
        count += size >= length && strncmp(target, prefix, (size_t)length) == 0;
    }
    closedir(directory);
    return count;
}

static void charge(struct ql *ql)
{
    kt_charge(ql, 1);
    kt_flags[CHARGED]++;
}

static _Noreturn void be_child(struct ql *ql)
{
    alarm(120);
    KT_CHECK(ledger_descriptors() == 0, "the child has %d of the parent's descriptors",
             ledger_descriptors());
    charge(ql);
    kt_flush(ql);
    charge(ql);
    _exit(0);
}

static void compare(struct ql *ql)
{
    kt_ledger_expect_equal(kt_directory, ql, "after the forks");
    KT_CHECK(kt_alice_in_ledger() == kt_flags[CHARGED], "the ledger has %lld of %lld",
             (long long)kt_alice_in_ledger(), (long long)kt_flags[CHARGED]);
    kt_verify(ql);
    ql_close(ql);
}

int kt_ledger_fork(void)
{
    struct ql *ql = kt_open_ledger(QL_DURABILITY_ASYNC, KT_LONG_MS);
    for (int i = 0; i < FORKS; i++) {
        charge(ql);
        kt_flush(ql);
        KT_CHECK(ledger_descriptors() > 0, "the ledger is not open");
        pid_t pid = kt_fork();
        if (pid == 0)
            be_child(ql);
        charge(ql);
        kt_flush(ql);
        kt_wait_success(pid);
    }
    compare(ql);
    return 0;
}

static void *charge_and_flush(void *context)
{
    struct ql *ql = context;
    while (kt_flags[FINISH] == 0) {
        charge(ql);
        kt_flush(ql);
    }
    return NULL;
}

static void start_threads(struct ql *ql, pthread_t threads[THREADS])
{
    for (int t = 0; t < THREADS; t++)
        KT_CHECK(pthread_create(&threads[t], NULL, charge_and_flush, ql) == 0, "pthread_create");
}

static void end_threads(const pthread_t threads[THREADS])
{
    kt_flags[FINISH] = 1;
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
}

int kt_ledger_fork_threaded(void)
{
    pthread_t threads[THREADS];
    struct ql *ql = kt_open_flushing(QL_DURABILITY_ASYNC);
    start_threads(ql, threads);
    for (int i = 0; i < THREADED_FORKS; i++) {
        pid_t pid = kt_fork();
        if (pid == 0)
            be_child(ql);
        kt_wait_success(pid);
    }
    end_threads(threads);
    compare(ql);
    return 0;
}

/* What a program that is executed meanwhile has open of the store: nothing. */
int kt_ledger_exec(void)
{
    static const char script[] = "! ls -l /proc/$$/fd | grep -q \"$0\"";
    pthread_t threads[THREADS];
    struct ql *ql = kt_open_flushing(QL_DURABILITY_ASYNC);
    start_threads(ql, threads);
    for (int i = 0; i < EXECS; i++) {
        pid_t pid = kt_fork();
        if (pid == 0) {
            charge(ql);
            kt_flush(ql);
            execl("/bin/sh", "sh", "-c", script, kt_directory, (char *)NULL);
            _exit(2);
        }
        kt_wait_success(pid);
    }
    end_threads(threads);
    compare(ql);
    return 0;
}
