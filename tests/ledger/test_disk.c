/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk itself, below plain SQLite: what SQLite promises with synchronous=FULL
 * holds at every cut and fault, and where it promises less, losses are found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

#include "disk.h"
#include "harness.h"

#define TRANSACTIONS 20
#define PARTS 3
#define TEXT_BYTES 900
#define REOPENED_AFTER 7
#define DATABASE "/test-disk/ledger.db"

/* ---- a database ---------------------------------------------------------- */

struct run {
    struct disk *disk;
    const char *synchronous;
    sqlite3 *db;
    int acknowledged; /* transactions 1 to this */
    int errors;
};

static int execute(sqlite3 *db, const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

/* The first column of the first row, or -1 and the code. */
static int ask_number(sqlite3 *db, const char *sql, int *code)
{
    sqlite3_stmt *statement = NULL;
    int number = -1;
    *code = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    if (*code == SQLITE_OK && (*code = sqlite3_step(statement)) == SQLITE_ROW)
        number = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

static void disconnect(struct run *run)
{
    assert_int_equal(sqlite3_close(run->db), SQLITE_OK);
    run->db = NULL;
}

static int connect_to(struct run *run, const char *path)
{
    char sql[256];
    int code = sqlite3_open_v2(path, &run->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    snprintf(sql, sizeof sql,
             "PRAGMA journal_mode = WAL; PRAGMA synchronous = %s; PRAGMA wal_autocheckpoint = 12;"
             "CREATE TABLE IF NOT EXISTS part (number INTEGER, part INTEGER, text TEXT,"
             " PRIMARY KEY (number, part)) WITHOUT ROWID",
             run->synchronous);
    if (code == SQLITE_OK)
        code = execute(run->db, sql);
    if (code != SQLITE_OK)
        disconnect(run);
    return code;
}

static void text_of(int number, int part, char text[TEXT_BYTES])
{
    int length = snprintf(text, TEXT_BYTES, "%d/%d ", number, part);
    for (int i = length; i < TEXT_BYTES - 1; i++)
        text[i] = text[i - length];
    text[TEXT_BYTES - 1] = '\0';
}

static int put_part(sqlite3 *db, int number, int part)
{
    char sql[TEXT_BYTES + 128];
    char text[TEXT_BYTES];
    text_of(number, part, text);
    snprintf(sql, sizeof sql, "INSERT OR REPLACE INTO part VALUES (%d, %d, '%s')", number, part,
             text);
    return execute(db, sql);
}

static int transact(sqlite3 *db, int number)
{
    int code = execute(db, "BEGIN IMMEDIATE");
    for (int part = 0; part < PARTS && code == SQLITE_OK; part++)
        code = put_part(db, number, part);
    if (code == SQLITE_OK)
        code = execute(db, "COMMIT");
    if (code != SQLITE_OK && !sqlite3_get_autocommit(db))
        execute(db, "ROLLBACK");
    return code;
}

/* The next transaction, on a new connection where it is time for one. */
static int advance(struct run *run)
{
    int code = SQLITE_OK;
    if (run->db == NULL)
        code = connect_to(run, DATABASE);
    if (code == SQLITE_OK)
        code = transact(run->db, run->acknowledged + 1);
    if (code != SQLITE_OK)
        return code;
    run->acknowledged++;
    if (run->acknowledged % REOPENED_AFTER == 0)
        disconnect(run);
    return SQLITE_OK;
}

/* ---- what is found ------------------------------------------------------- */

enum found {
    FOUND_ALL,
    FOUND_LESS,   /* an acknowledged transaction is lost */
    FOUND_BROKEN, /* half a transaction, or a damaged database */
};

/* The parts of a transaction that are there, or -1 where one is not as it was. */
static int count_parts(sqlite3 *db, int number)
{
    sqlite3_stmt *statement = NULL;
    char sql[128];
    char text[TEXT_BYTES];
    int parts = 0;
    int code;
    snprintf(sql, sizeof sql, "SELECT part, text FROM part WHERE number = %d", number);
    sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW && parts >= 0) {
        text_of(number, sqlite3_column_int(statement, 0), text);
        const unsigned char *found = sqlite3_column_text(statement, 1);
        bool is_same = found != NULL && strcmp((const char *)found, text) == 0;
        parts = is_same ? parts + 1 : -1;
    }
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? parts : -1;
}

static bool is_sound(sqlite3 *db)
{
    int code;
    sqlite3_stmt *statement = NULL;
    sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &statement, NULL);
    code = sqlite3_step(statement);
    const unsigned char *answer = code == SQLITE_ROW ? sqlite3_column_text(statement, 0) : NULL;
    bool is_ok = answer != NULL && strcmp((const char *)answer, "ok") == 0;
    sqlite3_finalize(statement);
    return is_ok;
}

/* All that is acknowledged, and at most one transaction more, whole. Leaves the
 * run with what was found. */
static enum found find_all(struct run *run)
{
    enum found found = FOUND_ALL;
    if (connect_to(run, DATABASE) != SQLITE_OK)
        return FOUND_BROKEN;
    if (!is_sound(run->db))
        found = FOUND_BROKEN;
    int last = 0;
    for (int number = 1; number <= TRANSACTIONS + 1 && found != FOUND_BROKEN; number++) {
        int parts = count_parts(run->db, number);
        if ((parts != 0 && parts != PARTS) || (parts == PARTS && last != number - 1))
            found = FOUND_BROKEN;
        else if (parts == PARTS)
            last = number;
    }
    disconnect(run);
    if (found == FOUND_ALL && last > run->acknowledged + 1)
        found = FOUND_BROKEN;
    if (found == FOUND_ALL && last < run->acknowledged)
        found = FOUND_LESS;
    run->acknowledged = last;
    return found;
}

/* ---- cuts ---------------------------------------------------------------- */

struct tally {
    int cuts;
    int found[3];
    uint64_t seed[3]; /* and cut, of the last of each kind: to see it again */
    uint64_t cut[3];
};

/* Runs on until the cut at that change, or the end. */
static bool run_to_cut(struct run *run, uint64_t cut)
{
    disk_cut_at(run->disk, cut);
    while (run->acknowledged < TRANSACTIONS && advance(run) == SQLITE_OK)
        continue;
    bool was_cut = disk_is_cut(run->disk);
    if (run->db != NULL)
        disconnect(run);
    disk_after_cut(run->disk);
    return was_cut;
}

typedef void prepare_disk(struct disk *disk);

/* A first life to the cut, a second one to an early cut, in recovery or soon after,
 * and a third one to the end. */
static bool cut_thrice(uint64_t seed, const char *synchronous, prepare_disk *prepare, uint64_t cut,
                       struct tally *tally)
{
    uint64_t random = seed * 1000003 + cut;
    struct run run = {.disk = disk_new(seed + 2 * cut), .synchronous = synchronous};
    if (prepare != NULL)
        prepare(run.disk);
    uint64_t cuts[] = {cut, 1 + kt_random(&random) % 12, UINT64_MAX};
    bool was_cut = false;
    for (int life = 0; life < 3; life++) {
        bool is_cut_now = run_to_cut(&run, cuts[life]);
        if (life == 0)
            was_cut = is_cut_now;
        enum found found = find_all(&run);
        tally->cuts++;
        tally->found[found]++;
        tally->seed[found] = seed;
        tally->cut[found] = cut;
        if (found == FOUND_BROKEN)
            break;
    }
    disk_free(run.disk);
    return was_cut;
}

/* At every stepth change of a run, and each time with another seed. */
static struct tally cut_runs(const char *name, const char *synchronous, prepare_disk *prepare,
                             uint64_t step)
{
    struct tally tally = {0};
    for (uint64_t seed = 1; seed <= 2; seed++) {
        uint64_t cut = 1;
        while (cut_thrice(seed, synchronous, prepare, cut, &tally))
            cut += step;
    }
    static const char *const words[] = {"all", "less", "broken"};
    printf("%s: %d cuts\n", name, tally.cuts);
    for (int found = 0; found < 3; found++)
        printf("    %-6s %5d, the last with seed %d, cut %d\n", words[found], tally.found[found],
               (int)tally.seed[found], (int)tally.cut[found]);
    return tally;
}

static void full_synchronous_loses_nothing(void **state)
{
    (void)state;
    struct tally tally = cut_runs("synchronous=FULL", "FULL", NULL, 1);
    assert_int_equal(tally.found[FOUND_LESS], 0);
    assert_int_equal(tally.found[FOUND_BROKEN], 0);
    assert_true(tally.cuts > 1000);
}

/* With NORMAL a WAL is whole, but its end may be lost. */
static void normal_synchronous_loses_the_last(void **state)
{
    (void)state;
    struct tally tally = cut_runs("synchronous=NORMAL", "NORMAL", NULL, 5);
    assert_true(tally.found[FOUND_LESS] > tally.cuts / 10);
    assert_int_equal(tally.found[FOUND_BROKEN], 0);
}

static void no_synchronous_breaks_databases(void **state)
{
    (void)state;
    struct tally tally = cut_runs("synchronous=OFF", "OFF", NULL, 5);
    assert_true(tally.found[FOUND_LESS] > tally.cuts / 10);
    assert_true(tally.found[FOUND_BROKEN] > 0);
}

static void a_disk_without_syncs_loses(void **state)
{
    (void)state;
    struct tally tally = cut_runs("syncs ignored", "FULL", disk_ignore_syncs, 5);
    assert_true(tally.found[FOUND_LESS] > tally.cuts / 10);
    assert_true(tally.found[FOUND_BROKEN] > 0);
}

static void lie_about_sectors(struct disk *disk)
{
    disk_set_sectors(disk, DISK_LIES);
}

/* A commit shares its last sector with the next one. */
static void a_disk_that_tears_in_secret_loses(void **state)
{
    (void)state;
    struct tally tally = cut_runs("sectors torn in secret", "FULL", lie_about_sectors, 5);
    assert_true(tally.found[FOUND_LESS] > 0);
}

/* ---- faults -------------------------------------------------------------- */

/* Transactions to the end; whatever lasts is mended when it was met twice. False:
 * there is no nth call. */
static bool run_with_fault(uint64_t nth, enum disk_fault fault, bool once, struct tally *tally)
{
    struct run run = {.disk = disk_new(nth), .synchronous = "FULL"};
    disk_fail(run.disk, nth, fault, once);
    while (run.acknowledged < TRANSACTIONS) {
        if (advance(&run) == SQLITE_OK)
            continue;
        if (++run.errors > 2)
            fail_msg("call %d: it goes on failing", (int)nth);
        if (once || run.errors == 2)
            disk_mend(run.disk);
    }
    bool was_met = disk_failures(run.disk) > 0;
    disk_mend(run.disk);
    tally->cuts += was_met;
    tally->found[FOUND_LESS] += run.errors > 0;
    if (nth % 2 == 0)
        run_to_cut(&run, 1);
    else if (run.db != NULL)
        disconnect(&run);
    if (find_all(&run) != FOUND_ALL || run.acknowledged != TRANSACTIONS)
        fail_msg("call %d: %d transactions are there", (int)nth, run.acknowledged);
    disk_free(run.disk);
    return was_met;
}

static void meet_faults(const char *name, enum disk_fault fault, bool once)
{
    struct tally tally = {0};
    uint64_t nth = 1;
    while (run_with_fault(nth, fault, once, &tally))
        nth++;
    printf("%s: %d faults, %d reported\n", name, tally.cuts, tally.found[FOUND_LESS]);
    assert_true(tally.cuts > 50);
    /* SQLite keeps quiet where a checkpoint fails: the WAL has it all. */
    assert_true(tally.found[FOUND_LESS] > tally.cuts / 3);
}

static void one_call_fails(void **state)
{
    (void)state;
    meet_faults("EIO once", DISK_BROKEN, true);
    meet_faults("ENOSPC once", DISK_FULL, true);
}

static void calls_fail_until_it_is_mended(void **state)
{
    (void)state;
    meet_faults("EIO", DISK_BROKEN, false);
    meet_faults("ENOSPC", DISK_FULL, false);
}

/* ---- connections and names ----------------------------------------------- */

static void connections_exclude_each_other(void **state)
{
    (void)state;
    int code;
    struct run one = {.disk = disk_new(1), .synchronous = "FULL"};
    struct run two = {.disk = one.disk, .synchronous = "FULL"};
    assert_int_equal(connect_to(&one, DATABASE), SQLITE_OK);
    assert_int_equal(connect_to(&two, DATABASE), SQLITE_OK);
    assert_int_equal(transact(one.db, 1), SQLITE_OK);
    assert_int_equal(execute(two.db, "BEGIN; SELECT * FROM part"), SQLITE_OK);
    assert_int_equal(execute(one.db, "BEGIN IMMEDIATE"), SQLITE_OK);
    assert_int_equal(put_part(one.db, 2, 0), SQLITE_OK);
    assert_int_equal(put_part(two.db, 2, 0), SQLITE_BUSY);
    assert_int_equal(execute(one.db, "COMMIT"), SQLITE_OK);
    /* "1": busy, two reads */
    assert_int_equal(ask_number(one.db, "PRAGMA wal_checkpoint(TRUNCATE)", &code), 1);
    assert_int_equal(ask_number(two.db, "SELECT count(*) FROM part", &code), PARTS);
    assert_int_equal(execute(two.db, "COMMIT"), SQLITE_OK);
    assert_int_equal(ask_number(two.db, "SELECT count(*) FROM part", &code), PARTS + 1);
    assert_int_equal(ask_number(one.db, "PRAGMA wal_checkpoint(TRUNCATE)", &code), 0);
    assert_int_equal(execute(one.db, "BEGIN IMMEDIATE"), SQLITE_OK);
    assert_int_equal(transact(two.db, 3), SQLITE_BUSY);
    assert_int_equal(execute(one.db, "COMMIT"), SQLITE_OK);
    assert_int_equal(transact(two.db, 3), SQLITE_OK);
    disconnect(&one);
    disconnect(&two);
    disk_free(one.disk);
}

/* The locks of the file itself, which a WAL hardly uses. */
static void connections_without_a_wal_exclude_each_other(void **state)
{
    (void)state;
    struct run one = {.disk = disk_new(1), .synchronous = "FULL"};
    struct run two = {.disk = one.disk, .synchronous = "FULL"};
    assert_int_equal(connect_to(&one, DATABASE), SQLITE_OK);
    assert_int_equal(execute(one.db, "PRAGMA journal_mode = DELETE"), SQLITE_OK);
    assert_int_equal(sqlite3_open(DATABASE, &two.db), SQLITE_OK);
    assert_int_equal(execute(one.db, "BEGIN IMMEDIATE"), SQLITE_OK);
    assert_int_equal(execute(two.db, "BEGIN IMMEDIATE"), SQLITE_BUSY);
    assert_int_equal(execute(two.db, "BEGIN; SELECT * FROM part"), SQLITE_OK);
    assert_int_equal(put_part(one.db, 1, 0), SQLITE_OK);
    assert_int_equal(execute(one.db, "COMMIT"), SQLITE_BUSY); /* two reads */
    assert_int_equal(execute(two.db, "COMMIT"), SQLITE_OK);
    assert_int_equal(execute(two.db, "SELECT * FROM part"), SQLITE_BUSY); /* one is about to */
    assert_int_equal(execute(one.db, "COMMIT"), SQLITE_OK);
    assert_int_equal(transact(two.db, 1), SQLITE_OK);
    disconnect(&one);
    disconnect(&two);
    disk_free(one.disk);
}

/* A program makes its file with the mode it wants, and opens it by a descriptor of
 * its directory. */
static void an_empty_real_file_is_an_empty_file(void **state)
{
    (void)state;
    char directory[KT_PATH];
    char path[KT_PATH + 32];
    int code;
    struct run run = {.disk = disk_new(2), .synchronous = "FULL"};
    kt_directory_make(directory, NULL);
    int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d/ledger.db", fd);
    assert_int_equal(sqlite3_open_v2(path, &run.db, SQLITE_OPEN_READWRITE, NULL), SQLITE_CANTOPEN);
    disconnect(&run);
    close(openat(fd, "ledger.db", O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    assert_int_equal(connect_to(&run, path), SQLITE_OK);
    assert_int_equal(transact(run.db, 1), SQLITE_OK);
    snprintf(path, sizeof path, "VACUUM INTO '%s/copy.db'", directory);
    assert_int_equal(execute(run.db, path), SQLITE_OK);
    disconnect(&run);
    for (int copy = 0; copy < 2; copy++) {
        snprintf(path, sizeof path, "%s/%s.db", directory, copy ? "copy" : "ledger");
        assert_int_equal(connect_to(&run, path), SQLITE_OK);
        assert_int_equal(ask_number(run.db, "SELECT count(*) FROM part", &code), PARTS);
        disconnect(&run);
    }
    close(fd);
    kt_directory_remove(directory);
    disk_free(run.disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(connections_exclude_each_other),
        cmocka_unit_test(connections_without_a_wal_exclude_each_other),
        cmocka_unit_test(an_empty_real_file_is_an_empty_file),
        cmocka_unit_test(full_synchronous_loses_nothing),
        cmocka_unit_test(normal_synchronous_loses_the_last),
        cmocka_unit_test(no_synchronous_breaks_databases),
        cmocka_unit_test(a_disk_without_syncs_loses),
        cmocka_unit_test(a_disk_that_tears_in_secret_loses),
        cmocka_unit_test(one_call_fails),
        cmocka_unit_test(calls_fail_until_it_is_mended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
