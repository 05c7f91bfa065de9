/* SPDX-License-Identifier: Apache-2.0
 *
 * What a store promises of a power cut, at every change that it makes to the disk;
 * and of a disk that is full or broken, at every call.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sqlite3.h>
#include <string.h>

#include "power.h"

#define SUBJECTS 3
#define CHARGES 12
#define FLUSHED_AFTER 4  /* charges, of a store that does not wait for the disk */
#define REOPENED_AFTER 7 /* charges */

struct amounts {
    int64_t safe[SUBJECTS]; /* at least this much is there after a cut */
    int64_t charged[SUBJECTS];
};

static void subject_of(int number, char subject[16])
{
    snprintf(subject, 16, "subject-%d", number);
}

static enum ql_status charge(struct power *power, struct amounts *amounts, int number)
{
    char subject[16];
    int who = number % SUBJECTS;
    subject_of(who, subject);
    enum ql_status status = ql_charge(power->ql, subject, "bytes", number + 1, NULL);
    if (status == QL_OK || status == QL_E_NOT_DURABLE)
        amounts->charged[who] += number + 1;
    if (status == QL_OK && power->durability == QL_DURABILITY_SYNC)
        amounts->safe[who] = amounts->charged[who];
    return status;
}

static enum ql_status flush(struct power *power, struct amounts *amounts, struct ql_error *error)
{
    enum ql_status status = ql_flush(power->ql, error);
    if (status == QL_OK)
        memcpy(amounts->safe, amounts->charged, sizeof amounts->safe);
    return status;
}

/* Charges, and now and then flushes or opens the store again. */
static enum ql_status advance(struct power *power, struct amounts *amounts, int number)
{
    enum ql_status status = QL_OK;
    if (number == REOPENED_AFTER)
        power_close(power);
    if (power->ql == NULL)
        status = power_open(power, NULL);
    if (status == QL_OK)
        status = charge(power, amounts, number);
    if (status == QL_OK && power->durability == QL_DURABILITY_ASYNC &&
        number % FLUSHED_AFTER == FLUSHED_AFTER - 1)
        status = flush(power, amounts, NULL);
    return status;
}

/* ---- what is found ------------------------------------------------------- */

enum found {
    FOUND_ALL,
    FOUND_LESS,
    FOUND_MORE,
    FOUND_BROKEN, /* the store cannot be opened or read */
    FOUND_KINDS,
};

static int64_t total_of(const struct ql_usage *usage)
{
    int64_t total = 0;
    for (uint32_t i = 0; i < usage->meter_count; i++) {
        if (strcmp(usage->meters[i].name, "bytes") == 0)
            total = usage->meters[i].total;
    }
    return total;
}

/* Opens the store; what is found in it is safe from now on. */
static enum found find_all(struct power *power, struct amounts *amounts)
{
    struct ql_error error;
    enum found found = FOUND_ALL;
    if (power_open(power, &error) != QL_OK || ql_verify(power->ql, NULL, &error) != QL_OK) {
        printf("%s\n", error.text);
        return FOUND_BROKEN;
    }
    for (int who = 0; who < SUBJECTS; who++) {
        char subject[16];
        struct ql_usage usage;
        subject_of(who, subject);
        if (ql_usage(power->ql, subject, &usage) != QL_OK)
            return FOUND_BROKEN;
        int64_t total = total_of(&usage);
        if (total < amounts->safe[who])
            found = FOUND_LESS;
        else if (total > amounts->charged[who])
            found = FOUND_MORE;
        amounts->safe[who] = amounts->charged[who] = total;
    }
    return found;
}

/* ---- cuts ---------------------------------------------------------------- */

struct tally {
    int cuts;
    int found[FOUND_KINDS];
    uint64_t seed[FOUND_KINDS]; /* and cut, of the last of each kind: to see it again */
    uint64_t cut[FOUND_KINDS];
};

static void report(const char *name, const struct tally *tally)
{
    static const char *const words[] = {"all", "less", "more", "broken"};
    printf("%s: %d cuts\n", name, tally->cuts);
    for (int found = 0; found < FOUND_KINDS; found++)
        printf("    %-6s %5d, the last with seed %d, cut %d\n", words[found], tally->found[found],
               (int)tally->seed[found], (int)tally->cut[found]);
}

/* Charges on until the cut at that change, or the end. */
static bool run_to_cut(struct power *power, struct amounts *amounts, uint64_t cut)
{
    disk_cut_at(power->disk, cut);
    for (int i = 0; i < CHARGES && advance(power, amounts, i) == QL_OK; i++)
        continue;
    bool was_cut = disk_is_cut(power->disk);
    power_boot(power);
    return was_cut;
}

/* A first life to the cut, a second one to an early cut, a third one to the end. */
static bool cut_thrice(const struct power *kind, uint64_t seed, uint64_t cut, bool ignores_syncs,
                       struct tally *tally)
{
    struct power power = *kind;
    struct amounts amounts = {0};
    uint64_t random = seed * 1000003 + cut;
    uint64_t cuts[] = {cut, 1 + kt_random(&random) % 12, UINT64_MAX};
    bool was_cut = false;
    power_begin(&power, seed + 2 * cut);
    if (ignores_syncs)
        disk_ignore_syncs(power.disk);
    for (int life = 0; life < 3; life++) {
        bool is_cut_now = run_to_cut(&power, &amounts, cuts[life]);
        if (life == 0)
            was_cut = is_cut_now;
        enum found found = find_all(&power, &amounts);
        tally->cuts++;
        tally->found[found]++;
        tally->seed[found] = seed;
        tally->cut[found] = cut;
        if (found == FOUND_BROKEN)
            break;
    }
    power_end(&power);
    return was_cut;
}

static struct tally cut_runs(const char *name, const struct power *kind, int seeds, uint64_t step,
                             bool ignores_syncs)
{
    struct tally tally = {0};
    for (uint64_t seed = 1; seed <= (uint64_t)seeds; seed++) {
        uint64_t cut = 1;
        while (cut_thrice(kind, seed, cut, ignores_syncs, &tally))
            cut += step;
    }
    report(name, &tally);
    return tally;
}

static void sync_loses_nothing_acknowledged(void **state)
{
    (void)state;
    const struct power kind = {.durability = QL_DURABILITY_SYNC};
    struct tally tally = cut_runs("sync", &kind, 3, 1, false);
    assert_true(tally.cuts >= 1000);
    assert_int_equal(tally.found[FOUND_ALL], tally.cuts);
}

static void async_loses_nothing_flushed(void **state)
{
    (void)state;
    const struct power kind = {.durability = QL_DURABILITY_ASYNC};
    struct tally tally = cut_runs("async", &kind, 3, 1, false);
    assert_true(tally.cuts >= 300);
    assert_int_equal(tally.found[FOUND_ALL], tally.cuts);
}

/* Its thread flushes while calls charge and flush. */
static void a_thread_that_flushes_loses_nothing_flushed(void **state)
{
    (void)state;
    const struct power kind = {
        .durability = QL_DURABILITY_ASYNC, .has_thread = true, .flush_interval_ms = 1};
    struct tally tally = cut_runs("async with a thread", &kind, 1, 2, false);
    assert_int_equal(tally.found[FOUND_ALL], tally.cuts);
}

/* So a loss would be seen. */
static void a_disk_without_syncs_loses(void **state)
{
    (void)state;
    const struct power kind = {.durability = QL_DURABILITY_SYNC};
    struct tally tally = cut_runs("sync, syncs ignored", &kind, 1, 4, true);
    assert_true(tally.found[FOUND_LESS] > tally.cuts / 10);
}

/* ---- faults -------------------------------------------------------------- */

static enum ql_status flush_or_open(struct power *power, struct amounts *amounts,
                                    struct ql_error *error)
{
    return power->ql == NULL ? power_open(power, error) : flush(power, amounts, error);
}

/* A fault that lasts is met again, and what it is can be told. */
static void expect_explained(struct power *power, struct amounts *amounts, enum disk_fault fault,
                             uint64_t nth)
{
    struct ql_error error;
    enum ql_status status = flush_or_open(power, amounts, &error);
    if (status != QL_E_LEDGER)
        fail_msg("call %d: %s", (int)nth, ql_status_name(status));
    if (fault == DISK_FULL && strstr(error.text, "free some space") == NULL)
        fail_msg("call %d: it does not say that the disk is full: %s", (int)nth, error.text);
    if (error.system_errno != (fault == DISK_FULL ? ENOSPC : EIO))
        fail_msg("call %d: errno %d, %s", (int)nth, error.system_errno, error.text);
}

/* False: there is no nth call. */
static bool run_with_fault(const struct power *kind, uint64_t nth, enum disk_fault fault, bool once,
                           int *reported)
{
    struct power power = *kind;
    struct amounts amounts = {0};
    bool is_reported = false;
    power_begin(&power, nth);
    disk_fail(power.disk, nth, fault, once);
    for (int i = 0; i < CHARGES; i++) {
        enum ql_status status = advance(&power, &amounts, i);
        if (status == QL_OK)
            continue;
        if (is_reported || (status != QL_E_NOT_DURABLE && status != QL_E_LEDGER))
            fail_msg("call %d, charge %d: %s", (int)nth, i, ql_status_name(status));
        is_reported = true;
        if (!once)
            expect_explained(&power, &amounts, fault, nth);
        disk_mend(power.disk);
    }
    bool was_met = disk_failures(power.disk) > 0;
    disk_mend(power.disk);
    if (flush_or_open(&power, &amounts, NULL) != QL_OK)
        fail_msg("call %d: it does not recover", (int)nth);
    power_boot(&power);
    if (find_all(&power, &amounts) != FOUND_ALL)
        fail_msg("call %d: what was charged is not there", (int)nth);
    power_end(&power);
    *reported += is_reported;
    return was_met;
}

static void meet_faults(const char *name, enum ql_durability durability, enum disk_fault fault,
                        bool once)
{
    const struct power kind = {.durability = durability};
    uint64_t nth = 1;
    int reported = 0;
    while (run_with_fault(&kind, nth, fault, once, &reported))
        nth++;
    printf("%s: %d faults, %d reported\n", name, (int)nth - 1, reported);
    assert_true(nth > 30);
    assert_true(reported > 10);
}

static void one_call_fails(void **state)
{
    (void)state;
    meet_faults("sync, EIO once", QL_DURABILITY_SYNC, DISK_BROKEN, true);
    meet_faults("sync, ENOSPC once", QL_DURABILITY_SYNC, DISK_FULL, true);
    meet_faults("async, EIO once", QL_DURABILITY_ASYNC, DISK_BROKEN, true);
    meet_faults("async, ENOSPC once", QL_DURABILITY_ASYNC, DISK_FULL, true);
}

static void calls_fail_until_it_is_mended(void **state)
{
    (void)state;
    meet_faults("sync, EIO", QL_DURABILITY_SYNC, DISK_BROKEN, false);
    meet_faults("sync, ENOSPC", QL_DURABILITY_SYNC, DISK_FULL, false);
    meet_faults("async, EIO", QL_DURABILITY_ASYNC, DISK_BROKEN, false);
    meet_faults("async, ENOSPC", QL_DURABILITY_ASYNC, DISK_FULL, false);
}

static void expect_failure(struct power *power, int system_errno)
{
    struct ql_error error;
    assert_int_equal(ql_charge(power->ql, "alice", "bytes", 1, NULL), QL_OK);
    assert_int_equal(ql_flush(power->ql, &error), QL_E_LEDGER);
    if (error.system_errno != system_errno)
        fail_msg("errno %d, not %d: %s", error.system_errno, system_errno, error.text);
}

static void drop_totals(const struct power *power)
{
    char path[KT_PATH + 16];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/ledger.db", power->directory);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "DROP TABLE totals", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* SQLite remembers the errno of an earlier one, and tells none of a disk that is full. */
static void a_failure_tells_its_own_errno(void **state)
{
    (void)state;
    struct power power = {.durability = QL_DURABILITY_ASYNC};
    power_begin(&power, 1);
    assert_int_equal(power_open(&power, NULL), QL_OK);
    assert_int_equal(ql_flush(power.ql, NULL), QL_OK); /* connected from now on */
    disk_fail(power.disk, 1, DISK_BROKEN, false);
    assert_int_equal(ql_charge(power.ql, "alice", "bytes", 1, NULL), QL_OK);
    assert_int_equal(ql_flush(power.ql, NULL), QL_E_LEDGER); /* of a COMMIT it tells none */
    expect_failure(&power, EIO);
    disk_mend(power.disk);
    disk_fail(power.disk, 1, DISK_FULL, false);
    expect_failure(&power, ENOSPC);
    disk_mend(power.disk);
    assert_int_equal(ql_flush(power.ql, NULL), QL_OK);
    drop_totals(&power);
    expect_failure(&power, 0);
    power_end(&power);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sync_loses_nothing_acknowledged),
        cmocka_unit_test(async_loses_nothing_flushed),
        cmocka_unit_test(a_thread_that_flushes_loses_nothing_flushed),
        cmocka_unit_test(a_disk_without_syncs_loses),
        cmocka_unit_test(one_call_fails),
        cmocka_unit_test(calls_fail_until_it_is_mended),
        cmocka_unit_test(a_failure_tells_its_own_errno),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
