/* SPDX-License-Identifier: Apache-2.0 */
#include "stepper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/siphash.h"
#include "engine/engine.h"
#include "region/lockfile.h"

#define STEPS_MAX UINT64_C(20000000)

/* ---- the traced process -------------------------------------------------- */

#define MAPPINGS 8

/* Of a region, in the traced process. */
struct mapping {
    unsigned long from;
    unsigned long to;
};

struct tracee {
    pid_t pid;
    pid_t starter; /* its parent, if it is not ours */
    const char *directory;
    unsigned long system_call; /* the address of such an instruction */
    struct mapping mappings[MAPPINGS];
    int mapping_count;
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

/* Goes on to the next stop; the signal. */
static int go_on(pid_t pid, enum __ptrace_request how)
{
    int status;
    KT_CHECK(ptrace(how, pid, NULL, NULL) == 0, "ptrace: %s", strerror(errno));
    wait_for_stop(pid, &status);
    return WSTOPSIG(status);
}

static struct user_regs_struct registers_of(pid_t pid)
{
    struct user_regs_struct registers;
    KT_CHECK(ptrace(PTRACE_GETREGS, pid, NULL, &registers) == 0, "ptrace: %s", strerror(errno));
    return registers;
}

static void set_registers(pid_t pid, const struct user_regs_struct *registers)
{
    KT_CHECK(ptrace(PTRACE_SETREGS, pid, NULL, registers) == 0, "ptrace: %s", strerror(errno));
}

/* Has the traced process make a system call, of which it knows nothing. */
static void protect(const struct tracee *tracee, const struct mapping *mapping, int protection)
{
    struct user_regs_struct saved = registers_of(tracee->pid);
    struct user_regs_struct registers = saved;
    saved.orig_rax = (unsigned long)-1; /* in no system call that would be begun anew */
    registers.orig_rax = saved.orig_rax;
    registers.rip = tracee->system_call;
    registers.rax = SYS_mprotect;
    registers.rdi = mapping->from;
    registers.rsi = mapping->to - mapping->from;
    registers.rdx = (unsigned long)protection;
    set_registers(tracee->pid, &registers);
    KT_CHECK(go_on(tracee->pid, PTRACE_SINGLESTEP) == SIGTRAP, "no trap after mprotect");
    long result = (long)registers_of(tracee->pid).rax;
    KT_CHECK(result == 0, "mprotect: %s", strerror((int)-result));
    set_registers(tracee->pid, &saved);
}

/* Finds the mappings of regions, and makes a store into one of them a fault. */
static void watch_mappings(struct tracee *tracee)
{
    char line[512];
    char path[KT_PATH + 16];
    snprintf(path, sizeof path, "/proc/%d/maps", (int)tracee->pid);
    FILE *maps = fopen(path, "re");
    KT_CHECK(maps != NULL, "%s: %s", path, strerror(errno));
    snprintf(path, sizeof path, "%s/region", tracee->directory);
    tracee->mapping_count = 0;
    while (fgets(line, sizeof line, maps) != NULL) {
        char permissions[8];
        struct mapping mapping;
        if (strstr(line, path) == NULL ||
            sscanf(line, "%lx-%lx %7s", &mapping.from, &mapping.to, permissions) != 3)
            continue;
        KT_CHECK(tracee->mapping_count < MAPPINGS, "too many mappings");
        tracee->mappings[tracee->mapping_count++] = mapping;
        if (permissions[1] == 'w')
            protect(tracee, &mapping, PROT_READ);
    }
    fclose(maps);
}

/* The tracee is stopped before its run. */
static struct tracee begin(const char *directory, const struct kt_script *script)
{
    static struct rendezvous *meeting;
    if (meeting == NULL)
        meeting = kt_shared(sizeof *meeting);
    meeting->pid = 0;
    meeting->go = 0;
    struct tracee tracee = {.directory = directory};
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
    /* It comes out of kill(2), and has been forked from this process: its code is ours. */
    tracee.system_call = registers_of(tracee.pid).rip - 2;
    KT_CHECK(memcmp((const void *)tracee.system_call, "\x0f\x05", 2) == 0, "no system call");
    watch_mappings(&tracee);
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

/* ---- steps --------------------------------------------------------------- */

/* At an instruction that stores into a region: lets it alone be done. */
static void step_store(const struct tracee *tracee)
{
    siginfo_t fault;
    KT_CHECK(ptrace(PTRACE_GETSIGINFO, tracee->pid, NULL, &fault) == 0, "ptrace: %s",
             strerror(errno));
    const unsigned long place = (unsigned long)fault.si_addr;
    const struct mapping *mapping = tracee->mappings;
    const struct mapping *end = mapping + tracee->mapping_count;
    while (mapping < end && !(place >= mapping->from && place < mapping->to))
        mapping++;
    KT_CHECK(mapping < end, "the traced process accessed %#lx at %#llx", place,
             registers_of(tracee->pid).rip);
    protect(tracee, mapping, PROT_READ | PROT_WRITE);
    KT_CHECK(go_on(tracee->pid, PTRACE_SINGLESTEP) == SIGTRAP, "no trap after a store");
    protect(tracee, mapping, PROT_READ);
}

/* At the begin of a system call: lets it be made. */
static void step_system_call(struct tracee *tracee)
{
    KT_CHECK(go_on(tracee->pid, PTRACE_SYSCALL) == (SIGTRAP | 0x80), "a system call does not end");
    unsigned long number = registers_of(tracee->pid).orig_rax;
    if (number == SYS_mmap || number == SYS_munmap || number == SYS_mremap)
        watch_mappings(tracee);
}

/* To the end of the next store into a region or the next system call. false: the run
 * is over. *called: files may have changed. */
static bool step(struct tracee *tracee, bool *called)
{
    int stop = go_on(tracee->pid, PTRACE_SYSCALL);
    *called = stop == (SIGTRAP | 0x80);
    if (*called)
        step_system_call(tracee);
    else if (stop == SIGSEGV)
        step_store(tracee);
    else
        KT_CHECK(stop == SIGSTOP, "the traced process got signal %d", stop);
    return stop != SIGSTOP;
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
    if (qli_engine_bind(&engine, NULL) == QL_OK && engine.ledger_page->inode == from)
        engine.ledger_page->inode = to;
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
