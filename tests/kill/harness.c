/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/siphash.h"
#include "region/lockfile.h"

void kt_fail(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "FAIL %s:%d: %s: ", file, line, condition);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    fflush(NULL);
    _exit(1);
}

void *kt_shared(size_t size)
{
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    KT_CHECK(page != MAP_FAILED, "mmap: %s", strerror(errno));
    return page;
}

void kt_directory_make(char path[KT_PATH], const char *base)
{
    if (base == NULL)
        base = getenv("KT_BASE");
    if (base == NULL)
        base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, KT_PATH, "%s/quotalite-kill.XXXXXX", base);
    KT_CHECK(mkdtemp(path) != NULL, "%s: %s", path, strerror(errno));
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *position)
{
    (void)info;
    (void)type;
    (void)position;
    remove(path); /* what is gone already was not to stay */
    return 0;
}

void kt_directory_remove(const char *path)
{
    nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void kt_remove_file(const char *directory, const char *name)
{
    char path[KT_PATH + 32];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    KT_CHECK(unlink(path) == 0, "unlink %s: %s", path, strerror(errno));
}

static int64_t read_clock(void *context)
{
    return __atomic_load_n((int64_t *)context, __ATOMIC_RELAXED);
}

struct ql_options kt_options(int64_t *clock_ns, int64_t slots, uint32_t room)
{
    static _Thread_local struct ql_limit limits[] = {
        {"slots", NULL, QL_WINDOW_NONE, 0},
        {"daily_bytes", "bytes", QL_WINDOW_DAY, INT64_MAX},
        {"daily_statements", "statements", QL_WINDOW_DAY, INT64_MAX},
    };
    limits[0].cap = slots;
    return (struct ql_options){
        .size = sizeof(struct ql_options),
        .limits = limits,
        .limit_count = 3,
        .max_subjects = room,
        .max_leases = room,
        .max_meters = 2,
        .max_holders = room,
        .admit_wait_ms = 20000,
        .charge_wait_ms = 20000,
        .durability = QL_DURABILITY_NONE, /* no thread, no SQLite: the engine alone */
        .clock = read_clock,
        .context = clock_ns,
    };
}

struct ql *kt_open(const char *path, const struct ql_options *options)
{
    struct ql *ql;
    struct ql_error error;
    enum ql_status status = ql_open(path, options, &ql, &error);
    KT_CHECK(status == QL_OK, "ql_open: %s: %s", ql_status_name(status), error.text);
    return ql;
}

int64_t kt_noon(void *context)
{
    (void)context;
    return KT_START_NS;
}

uint64_t kt_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

int64_t kt_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void kt_spin(uint64_t turns)
{
    for (volatile uint64_t i = 0; i < turns; i++)
        continue;
}

pid_t kt_fork(void)
{
    fflush(NULL);
    pid_t parent = getpid();
    pid_t pid = fork();
    KT_CHECK(pid >= 0, "fork: %s", strerror(errno));
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent && getppid() != 0) /* it died before; 0: it is in another namespace */
        _exit(1);
    return 0;
}

static int wait_with(pid_t pid, int options)
{
    int status;
    pid_t waited;
    do
        waited = waitpid(pid, &status, options);
    while (waited < 0 && errno == EINTR);
    KT_CHECK(waited == pid, "waitpid: %s", strerror(errno));
    return status;
}

int kt_wait(pid_t pid)
{
    return wait_with(pid, 0);
}

void kt_wait_success(pid_t pid)
{
    int status = kt_wait(pid);
    KT_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child ended with status %#x",
             (unsigned)status);
}

int kt_kill(pid_t pid)
{
    KT_CHECK(kill(pid, SIGKILL) == 0, "kill: %s", strerror(errno));
    return kt_wait(pid);
}

void kt_await_stop(pid_t pid)
{
    int status = wait_with(pid, WUNTRACED);
    KT_CHECK(WIFSTOPPED(status), "it ended: %#x", (unsigned)status);
}

void kt_stop(pid_t pid)
{
    KT_CHECK(kill(pid, SIGSTOP) == 0, "kill: %s", strerror(errno));
    kt_await_stop(pid);
}

static int open_file(const char *directory, const char *name)
{
    char path[KT_PATH + 16];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    KT_CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    return fd;
}

struct kt_view kt_view_open(const char *path)
{
    struct kt_view view = {.region = {.token_fd = -1}};
    struct qli_region *region = &view.region;
    struct stat info;
    region->lock_fd = open_file(path, "lock");
    region->region_fd = open_file(path, "region");
    KT_CHECK(fstat(region->region_fd, &info) == 0, "%s: %s", path, strerror(errno));
    region->size = (uint64_t)info.st_size;
    region->base =
        mmap(NULL, region->size, PROT_READ | PROT_WRITE, MAP_SHARED, region->region_fd, 0);
    KT_CHECK(region->base != MAP_FAILED, "mmap: %s", strerror(errno));
    region->header = (struct qli_region_header *)region->base;
    region->holders = (struct qli_holder *)(region->base + region->header->holders_offset);
    region->guards = (struct qli_guard *)(region->base + region->header->guards_offset);
    region->holder_count = region->header->holder_count;
    region->guard_count = region->header->guard_count;
    region->body_offset = region->header->body_offset;
    return view;
}

void kt_view_close(struct kt_view *view)
{
    munmap(view->region.base, view->region.size);
    close(view->region.lock_fd);
    close(view->region.region_fd);
}

struct qli_engine kt_view_engine(const struct kt_view *view)
{
    struct qli_engine engine = {.region = view->region};
    KT_CHECK(qli_engine_bind(&engine, NULL) == QL_OK, "the geometry is damaged");
    return engine;
}

unsigned kt_view_dead_words(struct kt_view *view)
{
    unsigned dead = 0;
    for (uint64_t i = 0; i < view->region.guard_count; i++) {
        uint64_t word = __atomic_load_n(&view->region.guards[i].word, __ATOMIC_ACQUIRE);
        if (word != 0 &&
            !qli_lockfile_locked(view->region.lock_fd, QLI_BYTE_HOLDERS + qli_word_slot(word), 1))
            dead++;
    }
    return dead;
}

uint64_t kt_view_slot(const struct kt_view *view, pid_t pid)
{
    uint64_t slot = 0;
    while (slot < view->region.holder_count && view->region.holders[slot].pid != (uint64_t)pid)
        slot++;
    KT_CHECK(slot < view->region.holder_count, "no holder has pid %d", (int)pid);
    return slot;
}

static void change_boot_id(char boot_id[QLI_BOOT_ID_SIZE])
{
    boot_id[0] = boot_id[0] == 'x' ? 'y' : 'x';
}

void kt_make_lock_stale(const char *directory)
{
    struct qli_lock_record record;
    bool empty;
    int fd = open_file(directory, "lock");
    KT_CHECK(qli_lockfile_read(fd, &record, &empty, NULL) == QL_OK && !empty, "lock");
    change_boot_id(record.boot_id);
    KT_CHECK(qli_lockfile_write(fd, &record, NULL) == QL_OK, "lock");
    close(fd);
}

void kt_make_stale(const char *directory)
{
    static const uint64_t key[2];
    struct qli_region_header header;
    kt_make_lock_stale(directory);
    int fd = open_file(directory, "region");
    KT_CHECK(pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header, "region");
    change_boot_id(header.boot_id);
    header.checksum = qli_siphash(key, &header, offsetof(struct qli_region_header, checksum));
    KT_CHECK(pwrite(fd, &header, sizeof header, 0) == (ssize_t)sizeof header, "region");
    close(fd);
}
