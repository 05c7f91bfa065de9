/* SPDX-License-Identifier: Apache-2.0 */
#include "stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#define ONE_DAY_MS INT64_C(86400000)

struct stage stage;

int stage_set_up(void **state)
{
    (void)state;
    if (stage.clock_ns == NULL)
        stage.clock_ns = kt_shared(sizeof *stage.clock_ns);
    *stage.clock_ns = KT_START_NS;
    kt_directory_make(stage.base, NULL);
    snprintf(stage.store, sizeof stage.store, "%s/store", stage.base);
    return 0;
}

int stage_tear_down(void **state)
{
    (void)state;
    kt_directory_remove(stage.base);
    return 0;
}

void stage_renew(void)
{
    stage_tear_down(NULL);
    stage_set_up(NULL);
}

struct ql_options stage_options(uint32_t room)
{
    struct ql_options options = kt_options(stage.clock_ns, 2, room);
    options.max_holders = 8;
    options.durability = QL_DURABILITY_ASYNC;
    options.flush_interval_ms = ONE_DAY_MS;
    options.no_thread = true;
    return options;
}

struct ql *stage_open(void)
{
    struct ql_options options = stage_options(STAGE_ROOM);
    return kt_open(stage.store, &options);
}

void stage_charge(struct ql *ql, const char *subject, const char *meter, int64_t amount)
{
    enum ql_status status = ql_charge(ql, subject, meter, amount, NULL);
    if (status != QL_OK)
        fail_msg("%s, %s: %s", subject, meter, ql_status_name(status));
}

void stage_flush(struct ql *ql)
{
    struct ql_error error;
    if (ql_flush(ql, &error) != QL_OK)
        fail_msg("%s", error.text);
}

static sqlite3 *connect_ledger(void)
{
    char path[KT_PATH + 32];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/ledger.db", stage.store);
    KT_CHECK(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK, "%s", path);
    sqlite3_busy_timeout(db, 5000);
    return db;
}

void stage_sql(const char *sql)
{
    sqlite3 *db = connect_ledger();
    KT_CHECK(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    sqlite3_close(db);
}

int64_t stage_number(const char *sql)
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

int64_t stage_total(struct ql *ql, const char *subject, const char *meter)
{
    return meter_of(ql, subject, meter).total;
}

int64_t stage_yesterday(struct ql *ql, const char *subject, const char *meter)
{
    return meter_of(ql, subject, meter).yesterday;
}
