/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is a holder, and who is dead: descriptors that the host closed and got
 * again for files of its own, stores that are gone, slots that change hands,
 * leases of the dead behind a lock that is taken.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/lease.h"
#include "harness.h"
#include "region/lockfile.h"

#define CAP 2
#define FOREIGN_MAX 8
#define DEADLINE_SECONDS 60

static char directory[KT_PATH];
static int64_t *clock_ns;
static _Atomic int *flags; /* shared, zero at first */

static int set_up(void **state)
{
    (void)state;
    kt_directory_make(directory, NULL);
    memset((void *)flags, 0, 4 * sizeof *flags);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kt_directory_remove(directory);
    return 0;
}

static struct ql *open_store(uint32_t room, int64_t wait_ms)
{
    struct ql_options options = kt_options(clock_ns, CAP, room);
    options.admit_wait_ms = wait_ms;
    options.charge_wait_ms = wait_ms;
    return kt_open(directory, &options);
}

static void await(_Atomic int *flag)
{
    int64_t deadline_ns = kt_now_ns() + DEADLINE_SECONDS * INT64_C(1000000000);
    while (*flag == 0) {
        KT_CHECK(kt_now_ns() < deadline_ns, "nothing happened");
        sched_yield();
    }
}

static int64_t leases_of(struct ql *ql, const char *subject)
{
    struct ql_usage usage;
    enum ql_status status = ql_usage(ql, subject, &usage);
    KT_CHECK(status == QL_OK, "usage: %s", ql_status_name(status));
    return usage.leases;
}

/* A process that holds all of alice's slots, and settles one when flags[1] says. */
static pid_t start_alice(void)
{
    pid_t pid = kt_fork();
    if (pid != 0) {
        await(&flags[0]);
        return pid;
    }
    struct ql *ql = open_store(16, 20000);
    struct ql_lease leases[CAP];
    for (int i = 0; i < CAP; i++)
        KT_CHECK(ql_acquire(ql, "alice", &leases[i], NULL) == QL_OK, "acquire");
    flags[0] = 1;
    await(&flags[1]);
    const struct ql_charge charge = {"bytes", 1};
    enum ql_status status = ql_settle(ql, leases[0], &charge, 1);
    KT_CHECK(status == QL_OK, "the lease of a live process: %s", ql_status_name(status));
    ql_close(ql);
    _exit(0);
}

/* ---- descriptors that the host closed and got again ----------------------- */

struct foreign {
    int fds[FOREIGN_MAX];
    ino_t inodes[FOREIGN_MAX];
    int count;
};

static bool is_in_store(int fd)
{
    char link[64];
    char target[KT_PATH + 32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0)
        return false;
    target[length] = '\0';
    return strncmp(target, directory, strlen(directory)) == 0;
}

/* What a careless host does to the store's descriptors. With reopen, files of
 * its own get their numbers. */
static struct foreign close_store_descriptors(bool reopen)
{
    struct foreign foreign = {.count = 0};
    for (int fd = 3; fd < 256; fd++) {
        if (!is_in_store(fd))
            continue;
        close(fd);
        KT_CHECK(foreign.count < FOREIGN_MAX, "the store has many descriptors");
        foreign.fds[foreign.count++] = fd;
    }
    KT_CHECK(foreign.count >= 3, "the store has %d descriptors", foreign.count);
    for (int i = 0; reopen && i < foreign.count; i++) {
        struct stat info;
        int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
        KT_CHECK(fd >= 0, "/tmp: %s", strerror(errno));
        if (fd != foreign.fds[i]) {
            KT_CHECK(dup2(fd, foreign.fds[i]) == foreign.fds[i], "dup2: %s", strerror(errno));
            close(fd);
        }
        KT_CHECK(fstat(foreign.fds[i], &info) == 0, "fstat: %s", strerror(errno));
        foreign.inodes[i] = info.st_ino;
    }
    return foreign;
}

/* Whether anybody has locked a byte of the file, through whatever description. */
static bool is_locked(int fd)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int other = open(path, O_RDWR | O_CLOEXEC);
    KT_CHECK(other >= 0, "%s: %s", path, strerror(errno));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    KT_CHECK(fcntl(other, F_OFD_GETLK, &lock) == 0, "fcntl: %s", strerror(errno));
    close(other);
    return lock.l_type != F_UNLCK;
}

static void check_foreign(const struct foreign *foreign)
{
    for (int i = 0; i < foreign->count; i++) {
        struct stat info;
        KT_CHECK(fstat(foreign->fds[i], &info) == 0, "a foreign file was closed");
        KT_CHECK(info.st_ino == foreign->inodes[i], "a foreign file was replaced");
        KT_CHECK(info.st_size == 0, "a foreign file was written");
        KT_CHECK(!is_locked(foreign->fds[i]), "a foreign file was locked");
    }
}

/* The tick may come at once or in a tenth of a second; until then the live
 * holder must not be taken for dead. */
static void call_until_detached(struct ql *ql)
{
    struct ql_lease lease;
    enum ql_status status;
    alarm(DEADLINE_SECONDS);
    do {
        status = ql_acquire(ql, "alice", &lease, NULL);
        KT_CHECK(status == QL_REFUSED || status == QL_E_DETACHED, "acquire: %s",
                 ql_status_name(status));
    } while (status == QL_REFUSED);
    KT_CHECK(ql_charge(ql, "alice", "bytes", 1, NULL) == QL_E_DETACHED, "charge goes on");
    alarm(0);
}

static _Noreturn void be_careless(struct ql *ql)
{
    struct ql_lease lease;
    KT_CHECK(ql_acquire(ql, "alice", &lease, NULL) == QL_REFUSED, "the cap does not hold");
    struct foreign foreign = close_store_descriptors(true);
    call_until_detached(ql);
    check_foreign(&foreign);
    pid_t child = kt_fork();
    if (child == 0) {
        KT_CHECK(ql_charge(ql, "alice", "bytes", 1, NULL) == QL_E_DETACHED, "the child goes on");
        check_foreign(&foreign);
        ql_close(ql);
        check_foreign(&foreign);
        _exit(0);
    }
    kt_wait_success(child);
    ql_close(ql);
    check_foreign(&foreign);
    _exit(0);
}

static void closed_descriptors_that_are_other_files_prove_nobody_dead(void **state)
{
    (void)state;
    pid_t alice = start_alice();
    pid_t careless = kt_fork();
    if (careless == 0)
        be_careless(open_store(16, 20000));
    kt_wait_success(careless);
    struct ql *ql = open_store(16, 20000);
    assert_int_equal(leases_of(ql, "alice"), CAP);
    flags[1] = 1;
    kt_wait_success(alice);
    assert_int_equal(leases_of(ql, "alice"), 0);
    ql_close(ql);
}

/* The fork comes before any call has noticed. */
static void a_child_leaves_the_hosts_files_alone(void **state)
{
    (void)state;
    pid_t careless = kt_fork();
    if (careless == 0) {
        struct ql *ql = open_store(16, 20000);
        struct foreign foreign = close_store_descriptors(true);
        pid_t child = kt_fork();
        if (child == 0) {
            check_foreign(&foreign);
            enum ql_status status = ql_charge(ql, "alice", "bytes", 1, NULL);
            KT_CHECK(status == QL_E_DETACHED, "the child: %s", ql_status_name(status));
            check_foreign(&foreign);
            _exit(0);
        }
        kt_wait_success(child);
        check_foreign(&foreign);
        _exit(0);
    }
    kt_wait_success(careless);
}

/* ---- the tick ------------------------------------------------------------ */

/* The first call after an open ticks. */
static void the_call_that_finds_the_store_gone_does_not_go_on(void **state)
{
    (void)state;
    struct ql *ql = open_store(16, 20000);
    struct kt_view view = kt_view_open(directory);
    kt_remove_file(directory, "region");
    unsigned char *before = malloc(view.region.size);
    assert_non_null(before);
    memcpy(before, view.region.base, view.region.size);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 1, NULL), QL_E_GONE);
    size_t body = view.region.body_offset;
    assert_memory_equal(before + body, view.region.base + body, view.region.size - body);
    assert_int_equal(ql_charge(ql, "alice", "bytes", 1, NULL), QL_E_GONE);
    free(before);
    kt_view_close(&view);
    ql_close(ql);
}

static void the_call_that_finds_the_descriptors_closed_does_not_go_on(void **state)
{
    (void)state;
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql *ql = open_store(16, 20000);
        close_store_descriptors(false);
        enum ql_status status = ql_charge(ql, "alice", "bytes", 1, NULL);
        KT_CHECK(status == QL_E_DETACHED, "charge: %s", ql_status_name(status));
        _exit(0);
    }
    kt_wait_success(pid);
    struct ql *ql = open_store(16, 20000);
    struct ql_usage usage;
    assert_int_equal(ql_usage(ql, "alice", &usage), QL_OK);
    assert_int_equal(usage.meters[0].total, 0);
    ql_close(ql);
}

/* ---- a slot that has a new owner ------------------------------------------ */

/* Its token is closed behind its back; it detaches when the slot is another's. */
static pid_t start_former_owner(void)
{
    pid_t pid = kt_fork();
    if (pid != 0) {
        await(&flags[2]);
        return pid;
    }
    struct ql *ql = open_store(2, 20000);
    close_store_descriptors(false);
    flags[2] = 1;
    await(&flags[3]);
    ql_close(ql);
    _exit(0);
}

static void a_late_detach_leaves_the_slots_new_owner_alone(void **state)
{
    (void)state;
    pid_t former = start_former_owner(); /* before this process has a handle that it would share */
    struct kt_view view = kt_view_open(directory);
    uint64_t slot = kt_view_slot(&view, former);
    struct ql *ql = open_store(2, 20000); /* takes the slot that was left clean */
    pid_t alice = start_alice();
    assert_int_equal(kt_view_slot(&view, alice), slot);
    flags[3] = 1;
    kt_wait_success(former);
    assert_int_equal(view.region.holders[slot].attached, view.region.holders[slot].generation);
    assert_int_equal(leases_of(ql, "alice"), CAP);
    kt_kill(alice);
    int64_t deadline_ns = kt_now_ns() + DEADLINE_SECONDS * INT64_C(1000000000);
    while (leases_of(ql, "alice") != 0)
        assert_true(kt_now_ns() < deadline_ns);
    kt_view_close(&view);
    ql_close(ql);
}

/* ---- reaping ------------------------------------------------------------- */

#define SUBJECTS 64

static void subject_of(int number, char subject[16])
{
    snprintf(subject, 16, "user-%d", number);
}

/* Takes a lease for each subject, tells which shard it is in, and dies. */
static void take_everywhere_and_die(uint64_t *shards)
{
    pid_t pid = kt_fork();
    if (pid == 0) {
        struct ql *ql = open_store(1024, 20000);
        for (int i = 0; i < SUBJECTS; i++) {
            char subject[16];
            struct ql_lease lease;
            subject_of(i, subject);
            KT_CHECK(ql_acquire(ql, subject, &lease, NULL) == QL_OK, "acquire");
            shards[i] = qli_lease_number_shard(lease.index);
        }
        _exit(0);
    }
    kt_wait_success(pid);
}

static int count_in_shard(struct ql *ql, const uint64_t *shards, bool first)
{
    int held = 0;
    for (int i = 0; i < SUBJECTS; i++) {
        char subject[16];
        subject_of(i, subject);
        if ((shards[i] == 0) == first)
            held += (int)leases_of(ql, subject);
    }
    return held;
}

/* The word of a live process stands in the first shard's lock. */
static void reaping_goes_on_past_a_lock_that_is_taken(void **state)
{
    (void)state;
    uint64_t *shards = kt_shared(SUBJECTS * sizeof *shards);
    struct ql *ql = open_store(1024, -1);
    struct kt_view view = kt_view_open(directory);
    assert_true(view.region.guard_count >= 1 + 2);
    pid_t alive = kt_fork();
    if (alive == 0) {
        struct ql_usage usage;
        KT_CHECK(ql_usage(ql, "nobody", &usage) == QL_OK, "usage");
        flags[0] = 1;
        for (;;)
            pause();
    }
    await(&flags[0]);
    take_everywhere_and_die(shards);
    struct qli_guard *guard = &view.region.guards[1];
    uint64_t slot = kt_view_slot(&view, alive);
    guard->word = qli_word_make(slot, view.region.holders[slot].generation);
    assert_int_equal(count_in_shard(ql, shards, false), 0);
    guard->word = 0;
    assert_int_equal(count_in_shard(ql, shards, true), 0);
    assert_int_equal(ql_verify(ql, NULL, NULL), QL_OK);
    kt_kill(alive);
    kt_view_close(&view);
    ql_close(ql);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(closed_descriptors_that_are_other_files_prove_nobody_dead),
        CASE(a_child_leaves_the_hosts_files_alone),
        CASE(the_call_that_finds_the_store_gone_does_not_go_on),
        CASE(the_call_that_finds_the_descriptors_closed_does_not_go_on),
        CASE(a_late_detach_leaves_the_slots_new_owner_alone),
        CASE(reaping_goes_on_past_a_lock_that_is_taken),
    };
    clock_ns = kt_shared(sizeof *clock_ns);
    *clock_ns = KT_START_NS;
    flags = kt_shared(4 * sizeof *flags);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
