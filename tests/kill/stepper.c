/* SPDX-License-Identifier: Apache-2.0 */
#include "stepper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/siphash.h"
#include "engine/engine.h"
#include "region/lockfile.h"

#define STEPS_MAX UINT64_C(20000000)

/* ---- the traced process -------------------------------------------------- */

struct tracee {
    pid_t pid;
    pid_t starter; /* its parent, if it is not ours */
    bool inside;   /* of SQLite */
};

struct rendezvous {
    _Atomic int pid;
    _Atomic int go;
};

static _Noreturn void be_tracee(struct rendezvous *meeting, const char *directory,
                                const struct kt_script *script)
{
    meeting->pid = getpid();
    while (meeting->go == 0)
        sched_yield();
    raise(SIGSTOP);
    script->run(directory);
    raise(SIGSTOP);
    _exit(0);
}

static _Noreturn void start(struct rendezvous *meeting, const char *directory,
                            const struct kt_script *script)
{
    if (script->setup != NULL)
        script->setup(directory);
    if (!script->fork_child)
        be_tracee(meeting, directory, script);
    if (kt_fork() == 0)
        be_tracee(meeting, directory, script);
    for (;;)
        pause();
}

static void wait_for_stop(pid_t pid, int *status)
{
    pid_t waited;
    do
        waited = waitpid(pid, status, __WALL);
    while (waited < 0 && errno == EINTR);
    KT_CHECK(waited == pid, "waitpid: %s", strerror(errno));
    KT_CHECK(WIFSTOPPED(*status), "the traced process ended with %#x", (unsigned)*status);
}

/* The tracee is stopped before its run. */
static struct tracee begin(const char *directory, const struct kt_script *script)
{
    static struct rendezvous *meeting;
    if (meeting == NULL)
        meeting = kt_shared(sizeof *meeting);
    meeting->pid = 0;
    meeting->go = 0;
    struct tracee tracee = {0};
    pid_t child = kt_fork();
    if (child == 0)
        start(meeting, directory, script);
    while (meeting->pid == 0) {
        int early;
        KT_CHECK(waitpid(child, &early, WNOHANG) == 0, "the set-up failed");
        sched_yield();
    }
    tracee.pid = meeting->pid;
    tracee.starter = tracee.pid == child ? 0 : child;
    KT_CHECK(ptrace(PTRACE_SEIZE, tracee.pid, NULL, PTRACE_O_TRACESYSGOOD) == 0, "ptrace: %s",
             strerror(errno));
    meeting->go = 1;
    int status;
    wait_for_stop(tracee.pid, &status);
    return tracee;
}

static void end(const struct tracee *tracee)
{
    kill(tracee->pid, SIGKILL);
    int status;
    do
        KT_CHECK(waitpid(tracee->pid, &status, __WALL) == tracee->pid, "waitpid: %s",
                 strerror(errno));
    while (!WIFSIGNALED(status) && !WIFEXITED(status));
    if (tracee->starter == 0)
        return;
    kill(tracee->starter, SIGKILL);
    kt_wait(tracee->starter);
}

static long peek_user(pid_t pid, size_t offset)
{
    errno = 0;
    long value = ptrace(PTRACE_PEEKUSER, pid, offset, NULL);
    KT_CHECK(errno == 0, "ptrace: %s", strerror(errno));
    return value;
}

static unsigned long place_of(pid_t pid)
{
    return (unsigned long)peek_user(pid, offsetof(struct user_regs_struct, rip));
}

/* The traced process was forked from this one, so its code is also ours. */
static bool at_system_call(pid_t pid)
{
    const unsigned char *code = (const unsigned char *)place_of(pid);
    return code[0] == 0x0f && code[1] == 0x05;
}

/* ---- SQLite -------------------------------------------------------------- */

static bool is_sqlite(unsigned long place)
{
    static unsigned long first;
    static unsigned long end;
    char line[512];
    char permissions[8];
    FILE *maps = end == 0 ? fopen("/proc/self/maps", "re") : NULL;
    while (maps != NULL && end == 0 && fgets(line, sizeof line, maps) != NULL) {
        unsigned long from;
        unsigned long to;
        if (strstr(line, "libsqlite3") != NULL &&
            sscanf(line, "%lx-%lx %7s", &from, &to, permissions) == 3 && permissions[2] == 'x') {
            first = from;
            end = to;
        }
    }
    if (maps != NULL)
        fclose(maps);
    KT_CHECK(end != 0, "libsqlite3 is not mapped");
    return place >= first && place < end;
}

/* 0: none. A breakpoint of the processor changes no byte of the code. */
static void set_breakpoint(pid_t pid, unsigned long place)
{
    const size_t registers = offsetof(struct user, u_debugreg);
    KT_CHECK(ptrace(PTRACE_POKEUSER, pid, registers, place) == 0 &&
                 ptrace(PTRACE_POKEUSER, pid, registers + 7 * sizeof(long), place != 0) == 0,
             "a breakpoint: %s", strerror(errno));
}

/* At the first instruction: the way back is on the stack. */
static void enter_sqlite(struct tracee *tracee)
{
    unsigned long stack =
        (unsigned long)peek_user(tracee->pid, offsetof(struct user_regs_struct, rsp));
    errno = 0;
    long back = ptrace(PTRACE_PEEKDATA, tracee->pid, stack, NULL);
    KT_CHECK(errno == 0, "ptrace: %s", strerror(errno));
    set_breakpoint(tracee->pid, (unsigned long)back);
    tracee->inside = true;
}

/* ---- steps --------------------------------------------------------------- */

/* Goes on to the next stop; the signal. */
static int go_on(pid_t pid, enum __ptrace_request how)
{
    int status;
    KT_CHECK(ptrace(how, pid, NULL, NULL) == 0, "ptrace: %s", strerror(errno));
    wait_for_stop(pid, &status);
    int stop = WSTOPSIG(status);
    KT_CHECK(stop == SIGTRAP || stop == SIGSTOP || stop == (SIGTRAP | 0x80),
             "the traced process got signal %d", stop);
    return stop;
}

/* To the end of the next system call, or to the return. */
static void step_in_sqlite(struct tracee *tracee)
{
    int stop = go_on(tracee->pid, PTRACE_SYSCALL);
    if (stop == (SIGTRAP | 0x80))
        stop = go_on(tracee->pid, PTRACE_SYSCALL);
    if (stop == (SIGTRAP | 0x80))
        return;
    set_breakpoint(tracee->pid, 0);
    tracee->inside = false;
}

/* false: the run is over. *called: files may have changed. */
static bool step(struct tracee *tracee, bool *called)
{
    unsigned long place = place_of(tracee->pid);
    if (!tracee->inside && is_sqlite(place))
        enter_sqlite(tracee);
    *called = tracee->inside || at_system_call(tracee->pid);
    if (tracee->inside) {
        step_in_sqlite(tracee);
        return true;
    }
    return go_on(tracee->pid, PTRACE_SINGLESTEP) == SIGTRAP;
}

/* ---- the files ----------------------------------------------------------- */

struct watched {
    char name[32];
    ino_t inode;
    size_t size;
    const unsigned char *map;
    unsigned char *last; /* as it was when it was last kept */
};

struct recorder {
    const char *directory;
    struct watched files[KT_FILES];
    int file_count;
    struct kt_states states;
    size_t capacity;
};

static void forget_files(struct recorder *r)
{
    for (int i = 0; i < r->file_count; i++) {
        if (r->files[i].map != NULL)
            munmap((void *)r->files[i].map, r->files[i].size);
        free(r->files[i].last);
    }
    r->file_count = 0;
}

static void watch_file(struct recorder *r, int directory_fd, const char *name)
{
    size_t length = strlen(name);
    KT_CHECK(r->file_count < KT_FILES && length < sizeof r->files[0].name, "an unexpected file: %s",
             name);
    struct watched *file = &r->files[r->file_count++];
    struct stat info;
    int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC);
    KT_CHECK(fd >= 0 && fstat(fd, &info) == 0, "%s: %s", name, strerror(errno));
    *file = (struct watched){.inode = info.st_ino, .size = (size_t)info.st_size};
    memcpy(file->name, name, length);
    file->last = calloc(1, file->size + 1);
    KT_CHECK(file->last != NULL, "out of memory");
    if (file->size > 0) {
        file->map = mmap(NULL, file->size, PROT_READ, MAP_SHARED, fd, 0);
        KT_CHECK(file->map != MAP_FAILED, "mmap: %s", strerror(errno));
    }
    close(fd);
}

static bool files_same(struct recorder *r)
{
    int directory_fd = open(r->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = directory_fd < 0 ? NULL : fdopendir(directory_fd);
    int seen = 0;
    bool same = true;
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        struct stat info;
        if (entry->d_name[0] == '.' || fstatat(directory_fd, entry->d_name, &info, 0) != 0)
            continue;
        bool found = false;
        for (int i = 0; i < r->file_count; i++)
            found |= strcmp(r->files[i].name, entry->d_name) == 0 &&
                     r->files[i].inode == info.st_ino && r->files[i].size == (size_t)info.st_size;
        same &= found;
        seen++;
    }
    if (directory != NULL)
        closedir(directory);
    return same && seen == r->file_count;
}

/* After a system call: which files there are may have changed. */
static bool refresh_files(struct recorder *r)
{
    if (files_same(r))
        return false;
    forget_files(r);
    DIR *directory = opendir(r->directory);
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        if (entry->d_name[0] != '.')
            watch_file(r, dirfd(directory), entry->d_name);
    }
    if (directory != NULL)
        closedir(directory);
    return true;
}

static bool bytes_changed(struct recorder *r)
{
    bool changed = false;
    for (int i = 0; i < r->file_count; i++) {
        struct watched *file = &r->files[i];
        if (file->size == 0 || memcmp(file->map, file->last, file->size) == 0)
            continue;
        memcpy(file->last, file->map, file->size);
        changed = true;
    }
    return changed;
}

static uint64_t hash_files(const struct recorder *r, bool for_repair)
{
    uint64_t hash = 0;
    for (int i = 0; i < r->file_count; i++) {
        const struct watched *file = &r->files[i];
        bool blank = for_repair && strcmp(file->name, "region.new") == 0;
        uint64_t key[2] = {strlen(file->name), blank ? 0 : file->size};
        hash += qli_siphash(key, file->last, blank ? 0 : file->size) ^
                qli_siphash(key, file->name, strlen(file->name));
    }
    return hash;
}

static void keep(struct recorder *r, bool always)
{
    uint64_t hash = hash_files(r, false);
    for (size_t i = 0; !always && i < r->states.count; i++) {
        if (r->states.items[i].hash == hash)
            return;
    }
    if (r->states.count == r->capacity) {
        r->capacity = r->capacity == 0 ? 64 : r->capacity * 2;
        r->states.items = realloc(r->states.items, r->capacity * sizeof *r->states.items);
        KT_CHECK(r->states.items != NULL, "out of memory");
    }
    struct kt_state *state = &r->states.items[r->states.count++];
    *state = (struct kt_state){
        .step = r->states.steps, .hash = hash, .repair_hash = hash_files(r, true)};
    for (int i = 0; i < r->file_count; i++) {
        struct kt_file *file = &state->files[state->file_count++];
        memcpy(file->name, r->files[i].name, sizeof file->name);
        file->inode = r->files[i].inode;
        file->size = r->files[i].size;
        file->bytes = malloc(file->size + 1);
        KT_CHECK(file->bytes != NULL, "out of memory");
        memcpy(file->bytes, r->files[i].last, file->size);
    }
}

struct kt_states kt_states_record(const char *directory, const struct kt_script *script)
{
    struct recorder r = {.directory = directory};
    struct tracee tracee = begin(directory, script);
    refresh_files(&r);
    bytes_changed(&r);
    keep(&r, true);
    bool called;
    while (step(&tracee, &called)) {
        r.states.steps++;
        KT_CHECK(r.states.steps < STEPS_MAX, "the operation does not end");
        bool changed = called && refresh_files(&r);
        changed |= bytes_changed(&r);
        if (changed)
            keep(&r, false);
    }
    refresh_files(&r);
    bytes_changed(&r);
    keep(&r, true);
    end(&tracee);
    forget_files(&r);
    return r.states;
}

void kt_kill_after(const char *directory, const struct kt_script *script, uint64_t steps)
{
    struct tracee tracee = begin(directory, script);
    bool called;
    for (uint64_t i = 0; i < steps && step(&tracee, &called); i++)
        continue;
    end(&tracee);
}

static void write_file(int directory_fd, const struct kt_file *file, ino_t *inode)
{
    struct stat info;
    int fd = openat(directory_fd, file->name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    KT_CHECK(fd >= 0 && fstat(fd, &info) == 0, "%s: %s", file->name, strerror(errno));
    KT_CHECK(write(fd, file->bytes, file->size) == (ssize_t)file->size, "%s: %s", file->name,
             strerror(errno));
    close(fd);
    *inode = info.st_ino;
}

static void patch_record(int directory_fd, ino_t from, ino_t to)
{
    struct qli_lock_record record;
    bool empty;
    int fd = openat(directory_fd, "lock", O_RDWR | O_CLOEXEC);
    KT_CHECK(fd >= 0, "lock: %s", strerror(errno));
    if (qli_lockfile_read(fd, &record, &empty, NULL) == QL_OK && !empty &&
        record.region_inode == from) {
        record.region_inode = to;
        KT_CHECK(qli_lockfile_write(fd, &record, NULL) == QL_OK, "lock: %s", strerror(errno));
    }
    close(fd);
}

/* The region knows its ledger by its inode. */
static void patch_region(const char *directory, ino_t from, ino_t to)
{
    struct kt_view view = kt_view_open(directory);
    struct qli_engine engine = {.region = view.region};
    if (qli_engine_bind(&engine, NULL) == QL_OK && engine.ledger->inode == from)
        engine.ledger->inode = to;
    kt_view_close(&view);
}

static const struct kt_file *find_file(const struct kt_state *state, const char *name)
{
    for (int i = 0; i < state->file_count; i++) {
        if (strcmp(state->files[i].name, name) == 0)
            return &state->files[i];
    }
    return NULL;
}

void kt_state_materialise(const struct kt_state *state, const char *directory)
{
    ino_t inodes[KT_FILES];
    int directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    KT_CHECK(directory_fd >= 0, "%s: %s", directory, strerror(errno));
    for (int i = 0; i < state->file_count; i++)
        write_file(directory_fd, &state->files[i], &inodes[i]);
    const struct kt_file *region = find_file(state, "region");
    const struct kt_file *ledger = find_file(state, "ledger.db");
    if (region != NULL && find_file(state, "lock") != NULL) {
        patch_record(directory_fd, region->inode, inodes[region - state->files]);
        if (ledger != NULL)
            patch_region(directory, ledger->inode, inodes[ledger - state->files]);
    }
    close(directory_fd);
}

void kt_states_free(struct kt_states *states)
{
    for (size_t i = 0; i < states->count; i++) {
        for (int f = 0; f < states->items[i].file_count; f++)
            free(states->items[i].files[f].bytes);
    }
    free(states->items);
    *states = (struct kt_states){0};
}
