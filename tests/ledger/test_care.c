/* SPDX-License-Identifier: Apache-2.0
 *
 * What people do to the ledger's files: they remove, replace, copy, back up and
 * share them, while programs run or not. What was flushed is still there after it.
 */
#include "care.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void expect_sound_ledger(void)
{
    char path[CARE_PATH];
    care_path(path, "ledger.db");
    care_expect_sound(path);
}

/* ---- removed or replaced while two processes have it open ----------------- */

#define ROUNDS 40
#define ROUND_SUBJECTS 50

static void charge_many(const struct peer *peer, const char *who, int round)
{
    char subject[64];
    for (int i = 0; i < ROUND_SUBJECTS; i++) {
        snprintf(subject, sizeof subject, "%s-%d-%d", who, round, i * 7919 % 1000);
        peer_do(peer, ORDER_CHARGE, subject, 1);
    }
    peer_do(peer, ORDER_FLUSH, NULL, 0);
}

static void expect_rounds(const char *who)
{
    char path[CARE_PATH];
    char sql[128];
    care_path(path, "ledger.db");
    snprintf(sql, sizeof sql, "SELECT sum(amount) FROM totals WHERE subject GLOB '%s-*'", who);
    assert_int_equal(care_number(path, sql), ROUNDS * ROUND_SUBJECTS);
}

/* The first adopts the new file and begins a log; the second then notices too, and
 * leaves that log alone. What both write goes into one log, and into the file. */
static void replace_between(const struct peer *first, const struct peer *second,
                            void (*replace)(void))
{
    peer_do(first, ORDER_OPEN, NULL, 0);
    peer_do(first, ORDER_CHARGE, "alice", 100);
    peer_do(first, ORDER_FLUSH, NULL, 0);
    char backup[CARE_PATH];
    care_path(backup, "backup.db");
    peer_do(first, ORDER_BACKUP, backup, 0);
    peer_do(second, ORDER_OPEN, NULL, 0);
    peer_do(second, ORDER_CHARGE, "bob", 50);
    peer_do(second, ORDER_FLUSH, NULL, 0);
    replace();
    peer_do(first, ORDER_CHARGE, "carol", 70);
    peer_do(first, ORDER_FLUSH, NULL, 0);
    peer_do(second, ORDER_CHARGE, "dave", 30);
    peer_do(second, ORDER_FLUSH, NULL, 0);
    for (int round = 0; round < ROUNDS; round++) {
        charge_many(first, "first", round);
        charge_many(second, "second", round);
    }
    peer_do(first, ORDER_CHARGE, "erin", 20); /* nobody writes it a second time */
    peer_do(first, ORDER_FLUSH, NULL, 0);
}

static void expect_all_written(void)
{
    expect_sound_ledger();
    assert_int_equal(care_in_ledger("alice"), 100);
    assert_int_equal(care_in_ledger("bob"), 50);
    assert_int_equal(care_in_ledger("carol"), 70);
    assert_int_equal(care_in_ledger("dave"), 30);
    assert_int_equal(care_in_ledger("erin"), 20);
    expect_rounds("first");
    expect_rounds("second");
    care_reboot();
    struct ql *ql = care_open();
    assert_int_equal(care_used(ql, "erin"), 20);
    assert_int_equal(care_used(ql, "bob"), 50);
    ql_close(ql);
}

static void remove_ledger(void)
{
    care_remove("ledger.db");
}

static void put_backup_in_place(void)
{
    care_move("backup.db", "ledger.db");
}

static void test_removed_under_two(void **state)
{
    struct peer first = peer_start();
    struct peer second = peer_start();
    (void)state;
    replace_between(&first, &second, remove_ledger);
    peer_kill(&first);
    peer_kill(&second);
    expect_all_written();
}

static void test_replaced_under_two(void **state)
{
    struct peer first = peer_start();
    struct peer second = peer_start();
    (void)state;
    replace_between(&first, &second, put_backup_in_place);
    peer_kill(&first);
    peer_kill(&second);
    expect_all_written();
}

/* ---- copies --------------------------------------------------------------- */

/* As cp -a does. */
static void copy_store(const char *to)
{
    DIR *directory = opendir(care.directory);
    struct dirent *entry;
    assert_non_null(directory);
    while ((entry = readdir(directory)) != NULL) {
        char from_path[CARE_PATH + NAME_MAX];
        char to_path[CARE_PATH + NAME_MAX];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(from_path, sizeof from_path, "%s/%s", care.directory, entry->d_name);
        snprintf(to_path, sizeof to_path, "%s/%s", to, entry->d_name);
        care_copy_file(from_path, to_path);
    }
    closedir(directory);
}

#define DAYS 6

static void make_days(const struct peer *peer)
{
    peer_do(peer, ORDER_OPEN, NULL, 0);
    for (int day = 0; day < DAYS; day++) {
        peer_do(peer, ORDER_CHARGE, "alice", 100);
        peer_do(peer, ORDER_FLUSH, NULL, 0);
        *care.clock_ns += KT_DAY_NS;
    }
}

/* The copy, and then the copy in the place of what was copied. */
static void expect_days_in_copy(void)
{
    struct ql_options options = care_options();
    kt_directory_make(care.copy, NULL);
    copy_store(care.copy);
    struct ql *ql = care_open_with(care.copy, &options);
    assert_int_equal(care_history(ql, "alice"), DAYS * 100);
    ql_close(ql);
    kt_directory_remove(care.copy);

    assert_int_equal(mkdir(care.copy, 0700), 0);
    copy_store(care.copy);
    kt_directory_remove(care.directory);
    assert_int_equal(rename(care.copy, care.directory), 0);
    ql = care_open();
    assert_int_equal(care_history(ql, "alice"), DAYS * 100);
    ql_close(ql);
}

static void test_copy_of_killed_store(void **state)
{
    struct peer peer = peer_start();
    (void)state;
    make_days(&peer);
    peer_kill(&peer);
    expect_days_in_copy();
}

static void test_copy_of_closed_store(void **state)
{
    struct peer peer = peer_start();
    (void)state;
    make_days(&peer);
    peer_do(&peer, ORDER_CLOSE, NULL, 0);
    peer_kill(&peer);
    expect_days_in_copy();
}

/* ---- going back to a backup ----------------------------------------------- */

static void grow_beside_backup(const struct peer *peer)
{
    char backup[CARE_PATH];
    care_path(backup, "backup.db");
    peer_do(peer, ORDER_OPEN, NULL, 0);
    peer_do(peer, ORDER_CHARGE, "alice", 100);
    charge_many(peer, "old", 0);
    peer_do(peer, ORDER_BACKUP, backup, 0);
    peer_do(peer, ORDER_CHARGE, "alice", 11);
    for (int round = 0; round < 8; round++)
        charge_many(peer, "new", round);
}

static void expect_backup_opened(void)
{
    put_backup_in_place();
    care_reboot();
    struct ql *ql = care_open();
    assert_int_equal(care_used(ql, "alice"), 100);
    assert_int_equal(care_used(ql, "new-0-0"), 0);
    care_charge(ql, "alice", 1);
    ql_close(ql);
    expect_sound_ledger();
    assert_int_equal(care_in_ledger("alice"), 101);
    assert_int_equal(care_in_ledger("new-0-0"), 0);
}

/* As docs/ledger.md says, after the program was killed: its log goes too. */
static void test_backup_after_kill(void **state)
{
    struct peer peer = peer_start();
    (void)state;
    grow_beside_backup(&peer);
    peer_kill(&peer);
    care_remove("ledger.db-wal");
    care_remove("ledger.db-shm");
    expect_backup_opened();
}

/* After the last program has closed the store there is no log that could be
 * forgotten, and taken for the backup's. */
static void test_backup_after_close(void **state)
{
    struct peer peer = peer_start();
    (void)state;
    grow_beside_backup(&peer);
    peer_do(&peer, ORDER_CLOSE, NULL, 0);
    peer_kill(&peer);
    expect_backup_opened();
}

#define BACKUPS 5

/* Puts a copy of the backup in place, as often as it is wanted. */
static void use_backup(int number)
{
    char name[32];
    char from[CARE_PATH];
    char to[CARE_PATH];
    snprintf(name, sizeof name, "backup-%d.db", number);
    care_path(from, name);
    care_path(to, "incoming.db");
    care_copy_file(from, to);
    care_move("incoming.db", "ledger.db");
}

/* A backup that was taken later may have as many transactions as the ledger that
 * an earlier one has become: it is another one nevertheless. All pairs of them. */
static void test_each_backup_is_noticed(void **state)
{
    int64_t bob = 0;
    int64_t alice = 0;
    struct ql *ql = care_open();
    (void)state;
    for (int i = 0; i < BACKUPS; i++) {
        char name[32];
        char path[CARE_PATH];
        care_charge(ql, "alice", 1);
        alice++;
        care_flush(ql);
        snprintf(name, sizeof name, "backup-%d.db", i);
        care_path(path, name);
        assert_int_equal(ql_backup(ql, path, NULL), QL_OK);
    }
    care_charge(ql, "carol", 77);
    care_flush(ql);
    for (int pair = 0; pair < BACKUPS * BACKUPS; pair++) {
        use_backup(pair / BACKUPS);
        care_charge(ql, "bob", 1);
        care_flush(ql);
        use_backup(pair % BACKUPS);
        care_charge(ql, "bob", 1);
        care_flush(ql);
        bob += 2;
        assert_int_equal(care_in_ledger("alice"), alice);
        assert_int_equal(care_in_ledger("bob"), bob);
        assert_int_equal(care_in_ledger("carol"), 77);
    }
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    ql_close(ql);
}

/* ---- making a backup ------------------------------------------------------ */

#define RACES 30

/* One of two has made it, whole; the other one finds that it exists. */
static void test_two_backups_to_one_path(void **state)
{
    struct peer peers[2] = {peer_start(), peer_start()};
    char path[CARE_PATH];
    (void)state;
    care_path(path, "backup.db");
    for (int p = 0; p < 2; p++)
        peer_do(&peers[p], ORDER_OPEN, NULL, 0);
    charge_many(&peers[0], "some", 0);
    for (int race = 0; race < RACES; race++) {
        for (int p = 0; p < 2; p++)
            peer_tell(&peers[p], ORDER_BACKUP, path, 0);
        enum ql_status first = peer_answer(&peers[0]);
        enum ql_status second = peer_answer(&peers[1]);
        bool one_wins = (first == QL_OK && second == QL_E_INVALID) ||
                        (first == QL_E_INVALID && second == QL_OK);
        if (!one_wins)
            fail_msg("race %d: %s and %s", race, ql_status_name(first), ql_status_name(second));
        care_expect_sound(path);
        assert_int_equal(care_number(path, "SELECT sum(amount) FROM totals"), ROUND_SUBJECTS);
        care_remove("backup.db");
    }
    for (int p = 0; p < 2; p++)
        peer_kill(&peers[p]);
}

/* What is synced while a backup is made; fd is of its directory or of its draft. */
static struct {
    char path[CARE_PATH]; /* of the backup; empty: nobody looks */
    struct stat directory;
    int drafts; /* syncs before it had its name */
    int names;  /* of the directory, after that */
    bool loses_names;
} syncs;

int __real_qli_system_sync(int fd);
int __wrap_qli_system_sync(int fd);

int __wrap_qli_system_sync(int fd)
{
    struct stat info;
    if (syncs.path[0] == '\0')
        return __real_qli_system_sync(fd);
    bool named = access(syncs.path, F_OK) == 0;
    assert_int_equal(fstat(fd, &info), 0);
    bool of_name = named && info.st_ino == syncs.directory.st_ino;
    syncs.names += of_name;
    syncs.drafts += !named && S_ISREG(info.st_mode);
    if (of_name && syncs.loses_names) {
        errno = EIO;
        return -1;
    }
    return __real_qli_system_sync(fd);
}

/* In a directory of its own, care.copy. */
static enum ql_status back_up_watched(struct ql *ql, const char *name, struct ql_error *error)
{
    snprintf(syncs.path, sizeof syncs.path, "%s/%s", care.copy, name);
    syncs.drafts = syncs.names = 0;
    enum ql_status status = ql_backup(ql, syncs.path, error);
    syncs.path[0] = '\0';
    return status;
}

/* What is said to be backed up is there after a power cut. */
static void test_backup_is_synced_and_its_name(void **state)
{
    struct ql_error error;
    struct ql *ql = care_open();
    (void)state;
    kt_directory_make(care.copy, NULL);
    assert_int_equal(stat(care.copy, &syncs.directory), 0);
    care_charge(ql, "alice", 5);
    assert_int_equal(back_up_watched(ql, "backup.db", &error), QL_OK);
    assert_int_equal(syncs.drafts, 1);
    assert_int_equal(syncs.names, 1);
    syncs.loses_names = true;
    assert_int_equal(back_up_watched(ql, "second.db", &error), QL_E_SYSTEM);
    syncs.loses_names = false;
    assert_int_equal(error.system_errno, EIO);
    assert_non_null(strstr(error.text, "second.db"));
    ql_close(ql);
}

/* Whatever the draft is called, it is no file that was there before. */
static void test_backup_beside_users_file(void **state)
{
    char path[CARE_PATH];
    char other[CARE_PATH];
    char text[8] = "";
    struct ql *ql = care_open();
    (void)state;
    care_path(path, "backup.db");
    care_path(other, "backup.db.new");
    int fd = open(other, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "mine", 4), 4);
    care_charge(ql, "alice", 5);
    assert_int_equal(ql_backup(ql, path, NULL), QL_OK);
    struct stat info;
    assert_int_equal(stat(other, &info), 0);
    assert_int_equal(info.st_size, 4);
    assert_int_equal(pread(fd, text, sizeof text, 0), 4);
    assert_string_equal(text, "mine");
    assert_int_equal(care_number(path, "SELECT amount FROM totals"), 5);
    close(fd);
    ql_close(ql);
}

/* ---- a directory that two users share by its group ------------------------ */

#define GROUP 2100

static _Noreturn void share_as(uid_t user, int go, int done)
{
    const gid_t group = GROUP;
    struct ql_options options = care_options();
    struct ql *ql;
    struct ql_error error;
    char word = 0;
    KT_CHECK(setgroups(1, &group) == 0 && setgid(user) == 0 && setuid(user) == 0, "%s",
             strerror(errno));
    KT_CHECK(ql_open(care.directory, &options, &ql, &error) == QL_OK, "user %d: %s", (int)user,
             error.text);
    KT_CHECK(ql_charge(ql, "alice", "bytes", 10, NULL) == QL_OK, "user %d", (int)user);
    KT_CHECK(ql_flush(ql, &error) == QL_OK, "user %d: %s", (int)user, error.text);
    KT_CHECK(write(done, &word, 1) == 1 && read(go, &word, 1) == 1, "%s", strerror(errno));
    _exit(0);
}

static void expect_shared(const char *name)
{
    char path[CARE_PATH];
    struct stat info;
    care_path(path, name);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_gid, GROUP);
    assert_int_equal(info.st_mode & 0777, 0660);
}

/* Without the bit that gives new files the directory's group. */
static void test_shared_by_group(void **state)
{
    int go[2];
    int done[2];
    pid_t pids[2];
    char word = 0;
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(chown(care.directory, 2001, GROUP), 0);
    assert_int_equal(chmod(care.directory, 0770), 0);
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    assert_int_equal(pipe2(done, O_CLOEXEC), 0);
    for (uid_t i = 0; i < 2; i++) {
        pids[i] = kt_fork();
        if (pids[i] == 0) {
            close(done[0]);
            close(go[1]);
            share_as(2001 + i, go[0], done[1]);
        }
        struct pollfd finished = {.fd = done[0], .events = POLLIN};
        assert_int_equal(poll(&finished, 1, 30000), 1);
        assert_int_equal(read(done[0], &word, 1), 1);
        expect_shared("ledger.db");
        expect_shared("ledger.db-wal");
        expect_shared("ledger.db-shm");
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(write(go[1], &word, 1), 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(kt_wait(pids[i]), 0);
    assert_int_equal(care_in_ledger("alice"), 20);
    for (int i = 0; i < 2; i++) {
        close(go[i]);
        close(done[i]);
    }
}

/* ---- a ledger that is closed to its user ---------------------------------- */

static _Noreturn void open_without_rights(void)
{
    const gid_t group = GROUP;
    struct ql_options options = care_options();
    struct ql *ql;
    struct ql_error error;
    KT_CHECK(setgroups(1, &group) == 0 && setgid(2002) == 0 && setuid(2002) == 0, "%s",
             strerror(errno));
    enum ql_status status = ql_open(care.directory, &options, &ql, &error);
    KT_CHECK(status == QL_E_LEDGER && error.system_errno == EACCES &&
                 strstr(error.text, "let the program's user read and write") != NULL,
             "%s, errno %d: %s", ql_status_name(status), error.system_errno, error.text);
    _exit(0);
}

static void test_ledger_without_rights(void **state)
{
    char path[CARE_PATH];
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(chown(care.directory, 2001, GROUP), 0);
    assert_int_equal(chmod(care.directory, 0770), 0);
    ql_close(care_open());
    care_reboot();
    care_path(path, "ledger.db");
    assert_int_equal(chown(path, 0, 0), 0);
    assert_int_equal(chmod(path, 0600), 0);
    pid_t pid = kt_fork();
    if (pid == 0)
        open_without_rights();
    assert_int_equal(kt_wait(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CARE_TEST(test_removed_under_two),        CARE_TEST(test_replaced_under_two),
        CARE_TEST(test_copy_of_killed_store),     CARE_TEST(test_copy_of_closed_store),
        CARE_TEST(test_backup_after_kill),        CARE_TEST(test_backup_after_close),
        CARE_TEST(test_each_backup_is_noticed),   CARE_TEST(test_two_backups_to_one_path),
        CARE_TEST(test_backup_beside_users_file), CARE_TEST(test_shared_by_group),
        CARE_TEST(test_ledger_without_rights),    CARE_TEST(test_backup_is_synced_and_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
