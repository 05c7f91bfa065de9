/* SPDX-License-Identifier: Apache-2.0
 *
 * Races of opening and closing, and stores that are stale, removed, or seen
 * from several containers.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "processes.h"

#define RACERS 4
#define RACES 1000

enum { START, THERE, COMPARE, STARTED, EPOCHS };

_Static_assert(EPOCHS + RACERS <= KT_FLAGS, "a flag for each racer");

static void begin_race(pid_t pids[RACERS], void (*body)(int number))
{
    for (int i = 0; i < KT_FLAGS; i++)
        kt_flags[i] = 0;
    for (int r = 0; r < RACERS; r++) {
        pids[r] = kt_fork();
        if (pids[r] == 0) {
            kt_await(&kt_flags[START], 1);
            body(r);
            _exit(0);
        }
    }
    kt_flags[START] = 1;
}

/* ---- a region of an earlier boot ------------------------------------------ */

static void open_and_compare(int number)
{
    (void)number;
    struct ql *ql = kt_open_store();
    kt_charge(ql, 1);
    kt_flags[THERE]++;
    kt_await(&kt_flags[THERE], RACERS);
    KT_CHECK(kt_total(ql) == RACERS, "%lld were charged: two regions", (long long)kt_total(ql));
    ql_close(ql);
}

int kt_process_stale_region(void)
{
    ql_close(kt_open_store());
    for (int i = 0; i < RACES; i++) {
        pid_t pids[RACERS];
        kt_make_stale(kt_directory);
        begin_race(pids, open_and_compare);
        for (int r = 0; r < RACERS; r++)
            kt_wait_success(pids[r]);
    }
    return 0;
}

static void open_and_stay(int number)
{
    struct ql *ql = kt_open_store();
    kt_flags[EPOCHS + number] = (int64_t)ql->store->engine.epoch;
    kt_flags[STARTED]++;
    kt_charge(ql, 1);
    kt_flags[THERE]++;
    kt_await(&kt_flags[COMPARE], 1);
    int64_t there = kt_flags[THERE]; /* read first: another one may charge just now */
    int64_t total = kt_total(ql);
    int64_t started = kt_flags[STARTED];
    KT_CHECK(total >= there && total <= started, "%lld of %lld to %lld: two regions",
             (long long)total, (long long)there, (long long)started);
    ql_close(ql);
}

/* The first racer is killed on its way, wherever that is; the others find one
 * region. Returns how far the victim had come: 0, or 1 if it had the store. */
static int race_with_death(uint64_t spin)
{
    pid_t pids[RACERS];
    begin_race(pids, open_and_stay);
    kt_spin(spin);
    kt_kill(pids[0]);
    kt_await(&kt_flags[THERE], RACERS - 1);
    for (int r = 1; r < RACERS; r++) {
        int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
        while (kt_flags[EPOCHS + r] == 0)
            KT_CHECK(kt_now_ns() < deadline_ns, "racer %d did not come in", r);
        KT_CHECK(kt_flags[EPOCHS + r] == kt_flags[EPOCHS + 1], "two regions");
    }
    kt_flags[COMPARE] = 1;
    for (int r = 1; r < RACERS; r++)
        kt_wait_success(pids[r]);
    return kt_flags[EPOCHS] != 0;
}

int kt_process_stale_killed(void)
{
    uint64_t random = 1;
    int came_in = 0;
    ql_close(kt_open_store());
    for (int i = 0; i < RACES; i++) {
        kt_make_stale(kt_directory);
        came_in += race_with_death(kt_random(&random) % 600000);
    }
    printf("seed 1: %d victims, %d of them killed before they had the store\n", RACES,
           RACES - came_in);
    return 0;
}

static void open_and_hold(void)
{
    struct ql *ql = kt_open_store();
    kt_charge(ql, 1);
    kt_flags[THERE] = 1;
    kt_await(&kt_flags[COMPARE], 1);
    ql_close(ql);
    _exit(0);
}

/* While somebody has the store of an earlier boot open there is no new one. */
int kt_process_stale_in_use(void)
{
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, 16);
    struct ql_error error;
    struct ql *ql;
    pid_t pid = kt_fork();
    if (pid == 0)
        open_and_hold();
    kt_await(&kt_flags[THERE], 1);
    kt_make_stale(kt_directory);
    kt_expect(ql_open(kt_directory, &options, &ql, &error), QL_E_BUSY, "open");
    kt_flags[COMPARE] = 1;
    kt_wait_success(pid);
    ql = kt_open_store();
    KT_CHECK(kt_total(ql) == 0, "the new store is not new");
    ql_close(ql);
    return 0;
}

/* ---- attaching and exiting ------------------------------------------------ */

/* Half of the processes close, half just end. */
static void attach_and_exit(int number)
{
    struct ql *ql = kt_open_store();
    kt_charge(ql, 1);
    kt_take(ql);
    if (number % 2 == 0)
        ql_close(ql);
}

int kt_process_attach_exit(void)
{
    ql_close(kt_open_store());
    for (int i = 0; i < RACES; i++) {
        pid_t pids[RACERS];
        begin_race(pids, attach_and_exit);
        for (int r = 0; r < RACERS; r++)
            kt_wait_success(pids[r]);
    }
    struct ql *ql = kt_open_store();
    KT_CHECK(kt_total(ql) == (int64_t)RACES * RACERS, "counted %lld", (long long)kt_total(ql));
    KT_CHECK(kt_held(ql) == 0, "%lld leases stay", (long long)kt_held(ql));
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

static void take_and_close(void)
{
    struct ql *ql = kt_open_store();
    kt_take(ql);
    kt_flags[THERE] = 1;
    kt_await(&kt_flags[COMPARE], 1);
    ql_close(ql);
    kt_flags[THERE] = 2;
    for (;;)
        pause();
}

/* Closing gives leases back by itself: nobody has to find the process dead. */
int kt_process_last_close(void)
{
    pid_t pid = kt_fork();
    if (pid == 0)
        take_and_close();
    kt_await(&kt_flags[THERE], 1);
    struct ql *ql = kt_open_store();
    KT_CHECK(kt_leases_counted(ql) == 1, "%lld leases", (long long)kt_leases_counted(ql));
    kt_flags[COMPARE] = 1;
    kt_await(&kt_flags[THERE], 2);
    KT_CHECK(kt_leases_counted(ql) == 0, "%lld leases", (long long)kt_leases_counted(ql));
    kt_kill(pid);
    ql_close(ql);
    return 0;
}

/* ---- removed while in use ------------------------------------------------- */

static void wait_until_gone(int number)
{
    (void)number;
    struct ql *ql = kt_open_store();
    kt_take(ql);
    kt_flags[THERE]++;
    kt_expect(kt_wait_for_failure(ql), QL_E_GONE, "charge");
    ql_close(ql);
}

static void remove_under_load(void (*remove)(void), const char *what)
{
    pid_t pids[RACERS];
    struct ql *ql = kt_open_store();
    begin_race(pids, wait_until_gone);
    kt_await(&kt_flags[THERE], RACERS);
    int64_t start_ns = kt_now_ns();
    remove();
    kt_expect(kt_wait_for_failure(ql), QL_E_GONE, "charge");
    for (int r = 0; r < RACERS; r++)
        kt_wait_success(pids[r]);
    printf("%s: gone for everybody after %.3f s\n", what, (double)(kt_now_ns() - start_ns) / 1e9);
    struct ql *again = kt_open_store();
    kt_expect(ql_charge(ql, "alice", "bytes", 1, NULL), QL_E_GONE, "charge");
    KT_CHECK(kt_total(again) == 0 && kt_held(again) == 0, "the new store is not new");
    kt_verify(again);
    ql_close(ql);
    kt_charge(again, 1);
    ql_close(again);
}

static void remove_directory(void)
{
    kt_directory_remove(kt_directory);
}

static void remove_region(void)
{
    kt_remove_file(kt_directory, "region");
}

int kt_process_removed(void)
{
    remove_under_load(remove_directory, "the directory");
    remove_under_load(remove_region, "the region");
    return 0;
}

/* Without its lock file a store is another one: whoever opens it makes a region
 * of its own, and the old one is gone. */
int kt_process_removed_lock(void)
{
    pid_t pids[RACERS];
    begin_race(pids, wait_until_gone);
    kt_await(&kt_flags[THERE], RACERS);
    kt_remove_file(kt_directory, "lock");
    struct ql *ql = kt_open_store();
    KT_CHECK(kt_total(ql) == 0, "the new store is not new");
    for (int r = 0; r < RACERS; r++)
        kt_wait_success(pids[r]);
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* A child that has not called yet is no holder, and keeps nobody from making a
 * new region where the old one was moved away: it must not go on in that. */
int kt_process_moved(void)
{
    char from[KT_PATH + 16];
    char to[KT_PATH + 16];
    struct ql *ql = kt_open_store();
    kt_charge(ql, 1);
    pid_t pid = kt_fork();
    if (pid == 0) {
        kt_flags[THERE] = 1;
        kt_await(&kt_flags[START], 1);
        kt_expect(ql_charge(ql, "alice", "bytes", 1, NULL), QL_E_GONE, "charge");
        _exit(0);
    }
    kt_await(&kt_flags[THERE], 1);
    ql_close(ql);
    snprintf(from, sizeof from, "%s/region", kt_directory);
    snprintf(to, sizeof to, "%s/moved", kt_directory);
    KT_CHECK(rename(from, to) == 0, "rename: %s", strerror(errno));
    ql = kt_open_store();
    kt_flags[START] = 1;
    kt_wait_success(pid);
    KT_CHECK(kt_total(ql) == 0, "the new store is not new");
    kt_verify(ql);
    ql_close(ql);
    return 0;
}

/* ---- containers ----------------------------------------------------------- */

#define CONTAINERS 2
#define CHARGES 20000
#define AGE_MS 3600000

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return written;
}

/* Namespaces of its own for mounts and, from the next child on, for pids and
 * time; the clock since boot of number 1 is ten days ahead. */
static bool enter_container(int number)
{
    return unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWTIME) == 0 &&
           (number == 0 || write_file("/proc/self/timens_offsets", "boottime 864000 0")) &&
           mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static int check_age(void *context, const struct ql_lease_info *info)
{
    (void)context;
    KT_CHECK(info->pid == 1, "pid %lld", (long long)info->pid);
    KT_CHECK(info->expires_in_ms > AGE_MS / 2 && info->expires_in_ms <= AGE_MS,
             "a lease ends in %lld ms", (long long)info->expires_in_ms);
    return 0;
}

/* Pid 1, with the store below another path. */
static _Noreturn void be_container(int number)
{
    char path[KT_PATH];
    snprintf(path, sizeof path, "/tmp/quotalite-container-%d", number);
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, 16);
    options.lease_max_age_ms = AGE_MS;
    KT_CHECK(getpid() == 1, "pid %d", (int)getpid());
    KT_CHECK(mount("tmpfs", "/tmp", "tmpfs", 0, NULL) == 0, "tmpfs: %s", strerror(errno));
    KT_CHECK(mount("proc", "/proc", "proc", 0, NULL) == 0, "proc: %s", strerror(errno));
    KT_CHECK(mkdir(path, 0700) == 0, "%s: %s", path, strerror(errno));
    KT_CHECK(mount(kt_directory, path, NULL, MS_BIND, NULL) == 0, "bind: %s", strerror(errno));
    struct ql *ql = kt_open(path, &options);
    kt_take(ql);
    kt_take(ql);
    kt_flags[THERE]++;
    kt_await(&kt_flags[THERE], CONTAINERS);
    for (int i = 0; i < CHARGES; i++)
        kt_charge(ql, 1);
    KT_CHECK(kt_held(ql) == 2 * CONTAINERS, "%lld leases", (long long)kt_held(ql));
    kt_expect(ql_each_lease(ql, check_age, NULL, NULL), QL_OK, "leases");
    kt_flags[COMPARE]++;
    if (number == 0)
        for (;;)
            pause();
    kt_await_held(ql, 2); /* once number 0 is killed */
    kt_await(&kt_flags[COMPARE], CONTAINERS + 1);
    KT_CHECK(kt_total(ql) == CONTAINERS * CHARGES, "counted %lld", (long long)kt_total(ql));
    kt_verify(ql);
    _exit(0);
}

static int start_container(int number)
{
    if (!enter_container(number))
        return KT_SKIP;
    pid_t inner = kt_fork();
    if (inner == 0)
        be_container(number);
    int status = kt_wait(inner);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static bool can_contain(void)
{
    pid_t pid = kt_fork();
    if (pid == 0)
        _exit(enter_container(CONTAINERS - 1) ? 0 : 1);
    return kt_wait(pid) == 0;
}

static void check_held_in_child(struct ql *ql, int64_t leases)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        KT_CHECK(kt_held(ql) == leases, "%lld leases in a child", (long long)kt_held(ql));
        _exit(0);
    }
    kt_wait_success(pid);
}

/* A process opens the store and makes a namespace for times, whose first member
 * is its next child: that one's clock is ten days ahead, and ends no lease. */
static _Noreturn void fork_into_namespace(void)
{
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, 16);
    options.lease_max_age_ms = AGE_MS;
    struct ql *ql = kt_open(kt_directory, &options);
    kt_take(ql);
    check_held_in_child(ql, 1);
    KT_CHECK(unshare(CLONE_NEWTIME) == 0, "unshare: %s", strerror(errno));
    KT_CHECK(write_file("/proc/self/timens_offsets", "boottime 864000 0"), "timens_offsets");
    check_held_in_child(ql, 1);
    _exit(0);
}

int kt_process_time_namespace(void)
{
    if (!can_contain())
        return KT_SKIP;
    pid_t pid = kt_fork();
    if (pid == 0)
        fork_into_namespace();
    kt_wait_success(pid);
    return 0;
}

int kt_process_containers(void)
{
    pid_t outer[CONTAINERS];
    if (!can_contain()) {
        printf("SKIP: the kernel gives no namespaces for mounts, pids and time\n");
        return KT_SKIP;
    }
    for (int c = 0; c < CONTAINERS; c++) {
        outer[c] = kt_fork();
        if (outer[c] == 0)
            _exit(start_container(c));
    }
    kt_await(&kt_flags[COMPARE], CONTAINERS);
    kt_kill(outer[0]);
    kt_flags[COMPARE]++;
    kt_wait_success(outer[1]);
    return 0;
}
