/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#define ONE_DAY_MS INT64_C(86400000)

struct bench bench;

int bench_set_up(void **state)
{
    (void)state;
    if (bench.clock_ns == NULL)
        bench.clock_ns = kt_shared(sizeof *bench.clock_ns);
    *bench.clock_ns = KT_START_NS;
    kt_directory_make(bench.base, NULL);
    snprintf(bench.store, sizeof bench.store, "%s/store", bench.base);
    return 0;
}

int bench_tear_down(void **state)
{
    (void)state;
    kt_directory_remove(bench.base);
    return 0;
}

void bench_renew(void)
{
    bench_tear_down(NULL);
    bench_set_up(NULL);
}

struct ql_options bench_options(uint32_t room)
{
    struct ql_options options = kt_options(bench.clock_ns, 2, room);
    options.max_holders = 8;
    options.durability = QL_DURABILITY_ASYNC;
    options.flush_interval_ms = ONE_DAY_MS;
    options.no_thread = true;
    return options;
}

struct ql *bench_open(void)
{
    struct ql_options options = bench_options(BENCH_ROOM);
    return kt_open(bench.store, &options);
}

void bench_charge(struct ql *ql, const char *subject, const char *meter, int64_t amount)
{
    enum ql_status status = ql_charge(ql, subject, meter, amount, NULL);
    if (status != QL_OK)
        fail_msg("%s, %s: %s", subject, meter, ql_status_name(status));
}

static sqlite3 *connect_ledger(void)
{
    char path[KT_PATH + 32];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/ledger.db", bench.store);
    KT_CHECK(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK, "%s", path);
    sqlite3_busy_timeout(db, 5000);
    return db;
}

void bench_sql(const char *sql)
{
    sqlite3 *db = connect_ledger();
    KT_CHECK(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    sqlite3_close(db);
}

int64_t bench_number(const char *sql)
{
    sqlite3 *db = connect_ledger();
    sqlite3_stmt *statement;
    KT_CHECK(sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK, "%s",
             sqlite3_errmsg(db));
    KT_CHECK(sqlite3_step(statement) == SQLITE_ROW, "%s: %s", sql, sqlite3_errmsg(db));
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

static struct ql_meter_state meter_of(struct ql *ql, const char *subject, const char *meter)
{
    struct ql_usage usage;
    KT_CHECK(ql_usage(ql, subject, &usage) == QL_OK, "%s", subject);
    for (uint32_t i = 0; i < usage.meter_count; i++) {
        if (strcmp(usage.meters[i].name, meter) == 0)
            return usage.meters[i];
    }
    return (struct ql_meter_state){.total = -1, .yesterday = -1};
}

int64_t bench_total(struct ql *ql, const char *subject, const char *meter)
{
    return meter_of(ql, subject, meter).total;
}

int64_t bench_yesterday(struct ql *ql, const char *subject, const char *meter)
{
    return meter_of(ql, subject, meter).yesterday;
}
