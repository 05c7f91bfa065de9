/* SPDX-License-Identifier: Apache-2.0
 *
 * The store is real but for its ledger: what follows a cut is done to both.
 */
#include "power.h"

#include <sqlite3.h>
#include <unistd.h>

#define ROOM 16
#define CHECKPOINT_PAGES 10
#define THREAD_WAIT_MS 20000 /* for a flush of the thread to end */

/* A short run, too, is to copy its log into the database, and to begin it anew. */
static int checkpoint_often(sqlite3 *db, char **message, const struct sqlite3_api_routines *unused)
{
    (void)message;
    (void)unused;
    return sqlite3_wal_autocheckpoint(db, CHECKPOINT_PAGES);
}

void power_begin(struct power *power, uint64_t seed)
{
    power->clock_ns = KT_START_NS;
    power->ql = NULL;
    power->disk = disk_new(seed);
    KT_CHECK(sqlite3_auto_extension((void (*)(void))checkpoint_often) == SQLITE_OK, "SQLite");
    kt_directory_make(power->directory, NULL);
}

void power_end(struct power *power)
{
    power_close(power);
    sqlite3_cancel_auto_extension((void (*)(void))checkpoint_often);
    disk_free(power->disk);
    kt_directory_remove(power->directory);
}

enum ql_status power_open(struct power *power, struct ql_error *error)
{
    struct ql_options options = kt_options(&power->clock_ns, 2, ROOM);
    options.durability = power->durability;
    options.no_thread = !power->has_thread;
    options.flush_interval_ms =
        power->flush_interval_ms > 0 ? power->flush_interval_ms : KT_DAY_NS / 1000000;
    options.charge_wait_ms = power->has_thread ? THREAD_WAIT_MS : -1;
    return ql_open(power->directory, &options, &power->ql, error);
}

void power_close(struct power *power)
{
    if (power->ql != NULL)
        ql_close(power->ql);
    power->ql = NULL;
}

static bool has_region(const struct power *power)
{
    char path[KT_PATH + 16];
    snprintf(path, sizeof path, "%s/region", power->directory);
    return access(path, F_OK) == 0;
}

void power_boot(struct power *power)
{
    disk_cut_now(power->disk);
    power_close(power);
    disk_after_cut(power->disk);
    if (has_region(power))
        kt_make_stale(power->directory);
}
