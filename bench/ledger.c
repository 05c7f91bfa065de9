/* SPDX-License-Identifier: Apache-2.0
 *
 * What durability costs: charges by one caller and by 64, async and sync, beside
 * SQLite with a transaction a charge, on the same disk; and making a region out of
 * the ledger.
 */
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

enum {
    CALLERS = 64,
    SUBJECTS = 1000,
    RESTORED = 1000000,
    SYNC_MS = 1500, /* how long each row runs */
    ASYNC_MS = 500,
};

/* One caller among several. */
struct caller {
    pthread_t thread;
    uint64_t random;
    uint64_t count;
    const struct work *work;
};

struct work {
    struct ql *ql;
    sqlite3 *db;
    sqlite3_stmt *upsert;
    pthread_mutex_t *mutex; /* of the connection */
    uint64_t end_ns;
    void (*charge)(const struct work *work, const char *subject);
};

static void charge_store(const struct work *work, const char *subject)
{
    if (ql_charge(work->ql, subject, "bytes", 1, NULL) != QL_OK) {
        bench_die("ledger", "a charge failed");
    }
}

static void charge_sqlite(const struct work *work, const char *subject)
{
    pthread_mutex_lock(work->mutex);
    sqlite3_bind_text(work->upsert, 1, subject, -1, SQLITE_STATIC);
    if (sqlite3_step(work->upsert) != SQLITE_DONE) {
        bench_die("sqlite", sqlite3_errmsg(work->db));
    }
    sqlite3_reset(work->upsert);
    pthread_mutex_unlock(work->mutex);
}

static void *call(void *context)
{
    struct caller *caller = context;
    char key[BENCH_KEY_MAX];
    while (bench_now_ns() < caller->work->end_ns) {
        bench_key(key, (uint32_t)(bench_random(&caller->random) % SUBJECTS));
        caller->work->charge(caller->work, key);
        caller->count++;
    }
    return NULL;
}

/* Charges a second by so many callers at once. */
static double run(struct work *work, unsigned callers, unsigned for_ms)
{
    static struct caller all[CALLERS];
    uint64_t begin_ns = bench_now_ns();
    uint64_t count = 0;
    work->end_ns = begin_ns + for_ms * UINT64_C(1000000);
    for (unsigned i = 0; i < callers; i++) {
        all[i] = (struct caller){.random = 0x9e3779b97f4a7c15 + i, .work = work};
        if (pthread_create(&all[i].thread, NULL, call, &all[i]) != 0) {
            bench_die("ledger", "no thread");
        }
    }
    for (unsigned i = 0; i < callers; i++) {
        pthread_join(all[i].thread, NULL);
        count += all[i].count;
    }
    return (double)count * 1e9 / (double)(bench_now_ns() - begin_ns);
}

static void print_rate(const char *row, unsigned callers, double per_second)
{
    printf("{\"row\": \"%s_%u\", \"per_second\": %.0f}\n", row, callers, per_second);
    fflush(stdout);
}

static void store_rows(const char *directory, const char *row, enum ql_durability durability,
                       unsigned for_ms)
{
    struct ql_options options = QL_OPTIONS_INIT;
    options.allow_any_filesystem = true;
    options.durability = durability;
    struct work work = {.ql = bench_open(directory, options), .charge = charge_store};
    print_rate(row, 1, run(&work, 1, for_ms));
    print_rate(row, CALLERS, run(&work, CALLERS, for_ms));
    ql_close(work.ql);
}

static void execute(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        bench_die("sqlite", sqlite3_errmsg(db));
    }
}

static void sqlite_rows(const char *directory)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    struct work work = {.mutex = &mutex, .charge = charge_sqlite};
    char path[4200];
    snprintf(path, sizeof(path), "%s/peer.db", directory);
    if (sqlite3_open(path, &work.db) != SQLITE_OK) {
        bench_die(path, "cannot open it");
    }
    execute(work.db, "PRAGMA journal_mode = WAL");
    execute(work.db, "PRAGMA synchronous = FULL");
    execute(work.db, "CREATE TABLE totals (subject TEXT PRIMARY KEY, amount INTEGER) "
                     "WITHOUT ROWID");
    sqlite3_prepare_v2(work.db,
                       "INSERT INTO totals VALUES (?1, 1) "
                       "ON CONFLICT DO UPDATE SET amount = amount + 1",
                       -1, &work.upsert, NULL);
    print_rate("sqlite", 1, run(&work, 1, SYNC_MS));
    print_rate("sqlite", CALLERS, run(&work, CALLERS, SYNC_MS));
    sqlite3_finalize(work.upsert);
    sqlite3_close(work.db);
}

/* A million subjects with a total of today, and the region gone. */
static void restore_row(const char *directory)
{
    struct ql_options options = QL_OPTIONS_INIT;
    char region[4200];
    char key[BENCH_KEY_MAX];
    options.allow_any_filesystem = true;
    options.max_subjects = RESTORED + RESTORED / 5;
    options.no_thread = true;
    options.flush_interval_ms = 3600000;
    struct ql *ql = bench_open(directory, options);
    for (uint32_t i = 0; i < RESTORED; i++) {
        bench_key(key, i);
        if (ql_charge(ql, key, "bytes", 1, NULL) != QL_OK) {
            bench_die("restore", "a charge failed");
        }
    }
    uint64_t begin_ns = bench_now_ns();
    if (ql_flush(ql, NULL) != QL_OK) {
        bench_die("restore", "the flush failed");
    }
    double flush_ms = (double)(bench_now_ns() - begin_ns) / 1e6;
    ql_close(ql);
    snprintf(region, sizeof(region), "%s/region", directory);
    unlink(region);
    begin_ns = bench_now_ns();
    ql = bench_open(directory, options);
    printf("{\"row\": \"restore\", \"totals\": %d, \"restore_ms\": %.0f, \"flush_ms\": %.0f}\n",
           RESTORED, (double)(bench_now_ns() - begin_ns) / 1e6, flush_ms);
    fflush(stdout);
    ql_close(ql);
}

static void async_rows(const char *directory)
{
    store_rows(directory, "async", QL_DURABILITY_ASYNC, ASYNC_MS);
}

static void sync_rows(const char *directory)
{
    store_rows(directory, "sync", QL_DURABILITY_SYNC, SYNC_MS);
}

void bench_ledger_rows(const char *disk)
{
    static void (*const parts[])(const char *) = {async_rows, sync_rows, sqlite_rows, restore_row};
    char directory[4096];
    bench_pin_none();
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        snprintf(directory, sizeof(directory), "%s/quotalite-bench-XXXXXX", disk);
        if (mkdtemp(directory) == NULL) {
            bench_die(disk, "cannot make a directory there");
        }
        parts[i](directory);
        bench_remove_store(directory);
    }
}
