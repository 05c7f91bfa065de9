/* SPDX-License-Identifier: Apache-2.0 */
#include "care.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROOM 4096
#define DAY_MS 86400000

struct care care;

/* ---- the store ------------------------------------------------------------ */

int care_set_up(void **state)
{
    (void)state;
    care.clock_ns = kt_shared(sizeof *care.clock_ns);
    *care.clock_ns = KT_START_NS;
    kt_directory_make(care.directory, NULL);
    care.copy[0] = '\0';
    return 0;
}

int care_tear_down(void **state)
{
    (void)state;
    kt_directory_remove(care.directory);
    kt_directory_remove(care.copy);
    munmap(care.clock_ns, sizeof *care.clock_ns);
    return 0;
}

static int64_t read_clock(void *context)
{
    return __atomic_load_n((int64_t *)context, __ATOMIC_RELAXED);
}

struct ql_options care_options(void)
{
    static const struct ql_limit limits[] = {{"daily", "bytes", QL_WINDOW_DAY, CARE_CAP}};
    return (struct ql_options){
        .size = sizeof(struct ql_options),
        .limits = limits,
        .limit_count = 1,
        .max_subjects = ROOM,
        .clock = read_clock,
        .context = care.clock_ns,
        .no_thread = true,
        .flush_interval_ms = DAY_MS,
    };
}

struct ql *care_open_with(const char *directory, const struct ql_options *options)
{
    struct ql *ql = NULL;
    struct ql_error error;
    if (ql_open(directory, options, &ql, &error) != QL_OK)
        fail_msg("%s", error.text);
    return ql;
}

struct ql *care_open(void)
{
    struct ql_options options = care_options();
    return care_open_with(care.directory, &options);
}

void care_charge(struct ql *ql, const char *subject, int64_t amount)
{
    assert_int_equal(ql_charge(ql, subject, "bytes", amount, NULL), QL_OK);
}

void care_flush(struct ql *ql)
{
    struct ql_error error;
    if (ql_flush(ql, &error) != QL_OK)
        fail_msg("%s", error.text);
}

int64_t care_used(struct ql *ql, const char *subject)
{
    struct ql_usage usage;
    assert_int_equal(ql_usage(ql, subject, &usage), QL_OK);
    return usage.meters[0].total;
}

int care_add_up(void *context, const struct ql_history_entry *entry)
{
    *(int64_t *)context += entry->amount;
    return 0;
}

int64_t care_history(struct ql *ql, const char *subject)
{
    int64_t sum = 0;
    assert_int_equal(ql_history(ql, subject, NULL, 0, INT64_MAX, care_add_up, &sum, NULL), QL_OK);
    return sum;
}

void care_reboot(void)
{
    kt_make_stale(care.directory);
}

/* ---- files ---------------------------------------------------------------- */

void care_path(char path[CARE_PATH], const char *name)
{
    snprintf(path, CARE_PATH, "%s/%s", care.directory, name);
}

void care_move(const char *from, const char *to)
{
    char old_path[CARE_PATH];
    char new_path[CARE_PATH];
    care_path(old_path, from);
    care_path(new_path, to);
    assert_int_equal(rename(old_path, new_path), 0);
}

void care_remove(const char *name)
{
    char path[CARE_PATH];
    care_path(path, name);
    assert_true(unlink(path) == 0 || errno == ENOENT);
}

void care_copy_file(const char *from_path, const char *to_path)
{
    char bytes[65536];
    ssize_t length;
    int from = open(from_path, O_RDONLY | O_CLOEXEC);
    int to = open(to_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(from >= 0 && to >= 0);
    while ((length = read(from, bytes, sizeof bytes)) > 0)
        assert_int_equal(write(to, bytes, (size_t)length), length);
    close(from);
    close(to);
}

static sqlite3 *open_database(const char *path, int flags)
{
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK)
        fail_msg("%s: %s", path, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 10000);
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return db;
}

bool care_edit(const char *path, const char *sql)
{
    sqlite3 *db = open_database(path, SQLITE_OPEN_READWRITE);
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    if (rc != SQLITE_OK && rc != SQLITE_CONSTRAINT)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
    return rc == SQLITE_OK;
}

int64_t care_number(const char *path, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    sqlite3 *db = open_database(path, SQLITE_OPEN_READONLY);
    sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
    if (sqlite3_step(statement) != SQLITE_ROW)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

static int note_finding(void *context, int columns, char **values, char **names)
{
    (void)columns;
    (void)names;
    snprintf(context, 256, "%s", values[0]);
    return 1;
}

void care_expect_sound(const char *path)
{
    char finding[256] = "SQLite cannot read it";
    sqlite3 *db = open_database(path, SQLITE_OPEN_READONLY);
    sqlite3_exec(db, "PRAGMA integrity_check", note_finding, finding, NULL);
    sqlite3_close(db);
    assert_string_equal(finding, "ok");
}

int64_t care_in_ledger(const char *subject)
{
    char path[CARE_PATH];
    char sql[128];
    care_path(path, "ledger.db");
    snprintf(sql, sizeof sql, "SELECT coalesce(sum(amount), 0) FROM totals WHERE subject = '%s'",
             subject);
    return care_number(path, sql);
}

/* ---- peers ---------------------------------------------------------------- */

struct message {
    enum order order;
    char text[CARE_PATH];
    int64_t amount;
};

static enum ql_status obey(struct ql **ql, const struct message *message)
{
    struct ql_options options = care_options();
    switch (message->order) {
    case ORDER_OPEN:
        return ql_open(care.directory, &options, ql, NULL);
    case ORDER_CLOSE:
        ql_close(*ql);
        *ql = NULL;
        return QL_OK;
    case ORDER_CHARGE:
        return ql_charge(*ql, message->text, "bytes", message->amount, NULL);
    case ORDER_FLUSH:
        return ql_flush(*ql, NULL);
    case ORDER_BACKUP:
        return ql_backup(*ql, message->text, NULL);
    }
    return QL_E_INVALID;
}

static _Noreturn void be_peer(int orders, int answers)
{
    struct ql *ql = NULL;
    struct message message;
    while (read(orders, &message, sizeof message) == (ssize_t)sizeof message) {
        enum ql_status status = obey(&ql, &message);
        if (write(answers, &status, sizeof status) != (ssize_t)sizeof status)
            break;
    }
    _exit(0);
}

struct peer peer_start(void)
{
    int orders[2];
    int answers[2];
    assert_int_equal(pipe2(orders, O_CLOEXEC), 0);
    assert_int_equal(pipe2(answers, O_CLOEXEC), 0);
    pid_t pid = kt_fork();
    if (pid == 0)
        be_peer(orders[0], answers[1]);
    close(orders[0]);
    close(answers[1]);
    return (struct peer){pid, orders[1], answers[0]};
}

void peer_kill(struct peer *peer)
{
    kill(peer->pid, SIGKILL);
    kt_wait(peer->pid);
    close(peer->orders);
    close(peer->answers);
}

void peer_tell(const struct peer *peer, enum order order, const char *text, int64_t amount)
{
    struct message message = {.order = order, .amount = amount};
    snprintf(message.text, sizeof message.text, "%s", text != NULL ? text : "");
    assert_int_equal(write(peer->orders, &message, sizeof message), sizeof message);
}

enum ql_status peer_answer(const struct peer *peer)
{
    enum ql_status status;
    assert_int_equal(read(peer->answers, &status, sizeof status), sizeof status);
    return status;
}

void peer_do(const struct peer *peer, enum order order, const char *text, int64_t amount)
{
    peer_tell(peer, order, text, amount);
    enum ql_status status = peer_answer(peer);
    if (status != QL_OK)
        fail_msg("order %d: %s", (int)order, ql_status_name(status));
}
