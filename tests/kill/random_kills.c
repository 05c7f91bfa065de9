/* SPDX-License-Identifier: Apache-2.0
 *
 * Random kills: workers loop over all operations on one store; one after the
 * other is killed, replaced, and its charges compared with what it had
 * acknowledged, by sequence number.
 *
 *   random_kills [--kills N] [--workers 3..] [--seed S] [--dir PATH] [--pidns]
 *
 * On the shared subject worker w charges 1 << 20*(w % 3) each time, so that the
 * total is the count of each worker's charges side by side. Before a charging
 * call the worker stores its sequence number as pending, after it as done: a
 * killed worker's count must be done, or pending if it died between the two.
 *
 * A round ends with all workers dead and everything counted; the next one has
 * new subjects. In the middle of a round the day changes: a subject's count is
 * today's total and yesterday's. The supervisor holds a lease on each counted
 * subject, so that none is evicted.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define WORKERS_MAX 12
#define FIELD_BITS 20
#define FIELD_MASK ((INT64_C(1) << FIELD_BITS) - 1)
#define FIELDS 3
#define ROUND_KILLS 500
#define WATCHDOG_SECONDS 120

enum { OWN, SHARED, SUBJECTS };
enum { BYTES, STATEMENTS, METERS };

struct tally {
    _Atomic int64_t done;
    _Atomic int64_t pending;
};

struct worker {
    _Atomic int in_call;
    _Atomic int64_t calls;
    _Atomic int64_t longest_wait_ns;
    struct tally tallies[SUBJECTS][METERS];
    char error[256];
};

struct page {
    int64_t clock_ns;
    int64_t round;
    struct worker workers[WORKERS_MAX];
};

struct config {
    int kills;
    int workers;
    uint64_t seed;
    bool pidns;
    int page_fd;
    int self_namespace;
    char store[KT_PATH];
};

static struct config config = {.kills = 10000, .workers = 3, .seed = 1};
static struct page *page;

/* ---- the worker ---------------------------------------------------------- */

struct job {
    struct ql *ql;
    struct worker *worker;
    int number;
    uint64_t random;
    char names[SUBJECTS][64];
};

static void name_subjects(int number, char names[SUBJECTS][64])
{
    snprintf(names[OWN], 64, "round-%lld/own-%d", (long long)page->round, number);
    snprintf(names[SHARED], 64, "round-%lld/shared-%d", (long long)page->round, number / FIELDS);
}

static int64_t unit_of(int subject, int number)
{
    return subject == OWN ? 1 : INT64_C(1) << FIELD_BITS * (number % FIELDS);
}

static void enter(struct job *job)
{
    atomic_store(&job->worker->in_call, 1);
}

static enum ql_status leave(struct job *job, enum ql_status status)
{
    atomic_store(&job->worker->in_call, 0);
    atomic_fetch_add(&job->worker->calls, 1);
    return status;
}

/* A worker's failure is told by the supervisor, which sees it exit. */
static void expect(struct job *job, enum ql_status status, enum ql_status wanted, const char *what)
{
    if (status == wanted)
        return;
    snprintf(job->worker->error, sizeof job->worker->error, "%s gave %s, not %s", what,
             ql_status_name(status), ql_status_name(wanted));
    _exit(3);
}

static void *wait_begin(void *context)
{
    (void)context;
    static int64_t since_ns;
    since_ns = kt_now_ns();
    return &since_ns;
}

static struct worker *waiting_worker;

static void wait_end(void *context, void *token)
{
    (void)context;
    int64_t waited_ns = kt_now_ns() - *(int64_t *)token;
    if (waiting_worker != NULL && waited_ns > waiting_worker->longest_wait_ns)
        waiting_worker->longest_wait_ns = waited_ns;
}

static bool field_full(const struct tally *tally)
{
    return tally->done >= FIELD_MASK - 2;
}

static void pend(struct job *job, int subject, int meters)
{
    for (int m = 0; m < meters; m++)
        job->worker->tallies[subject][m].pending = job->worker->tallies[subject][m].done + 1;
}

static void acknowledge(struct job *job, int subject, int meters)
{
    for (int m = 0; m < meters; m++)
        job->worker->tallies[subject][m].done = job->worker->tallies[subject][m].pending;
}

static void do_charge(struct job *job, int subject)
{
    pend(job, subject, 1);
    enter(job);
    enum ql_status status = leave(
        job, ql_charge(job->ql, job->names[subject], "bytes", unit_of(subject, job->number), NULL));
    expect(job, status, QL_OK, "charge");
    acknowledge(job, subject, 1);
}

static void do_admit_settle(struct job *job, int subject)
{
    struct ql_lease lease;
    struct ql_verdict verdict;
    enter(job);
    enum ql_status status =
        leave(job, ql_admit(job->ql, job->names[subject], NULL, &lease, &verdict));
    expect(job, status, QL_OK, "admit");
    int64_t unit = unit_of(subject, job->number);
    struct ql_charge charges[METERS] = {{"bytes", unit}, {"statements", unit}};
    pend(job, subject, METERS);
    enter(job);
    status = leave(job, ql_settle(job->ql, lease, charges, METERS));
    expect(job, status, QL_OK, "settle");
    acknowledge(job, subject, METERS);
}

static struct ql_lease take(struct job *job, const char *subject)
{
    struct ql_lease lease;
    enter(job);
    enum ql_status status = leave(job, ql_acquire(job->ql, subject, &lease, NULL));
    expect(job, status, QL_OK, "acquire");
    return lease;
}

static void do_acquire_release(struct job *job, const char *subject)
{
    struct ql_lease lease = take(job, subject);
    enter(job);
    expect(job, leave(job, ql_release(job->ql, lease)), QL_OK, "release");
}

static void do_revoke(struct job *job, int subject)
{
    struct ql_lease lease = take(job, job->names[subject]);
    enter(job);
    expect(job, leave(job, ql_revoke(job->ql, lease)), QL_OK, "revoke");
    enter(job);
    expect(job, leave(job, ql_release(job->ql, lease)), QL_E_EXPIRED, "release after revoke");
}

static void do_read(struct job *job, int subject)
{
    struct ql_usage usage;
    enter(job);
    expect(job, leave(job, ql_check(job->ql, job->names[subject], NULL, NULL)), QL_OK, "check");
    enter(job);
    expect(job, leave(job, ql_usage(job->ql, job->names[subject], &usage)), QL_OK, "usage");
}

/* Makes an idle subject, of which there are more than there is room. */
static void do_crowd(struct job *job)
{
    char subject[64];
    snprintf(subject, sizeof subject, "crowd-%d", (int)(kt_random(&job->random) % 500));
    do_acquire_release(job, subject);
}

/* A subject of its own: orphans of killed workers may still be at work, and all
 * together could be more than a subject has slots. */
static void do_fork(struct job *job)
{
    char subject[64];
    snprintf(subject, sizeof subject, "forked-%d", (int)(kt_random(&job->random) % 500));
    pid_t pid = fork();
    if (pid == 0) {
        struct ql_lease lease;
        enum ql_status status = ql_acquire(job->ql, subject, &lease, NULL);
        if (status == QL_OK)
            status = ql_release(job->ql, lease);
        _exit(status == QL_OK ? 0 : 100 - (int)status);
    }
    int status = 0;
    if (pid > 0)
        waitpid(pid, &status, 0);
    if (pid < 0 || status != 0) {
        snprintf(job->worker->error, sizeof job->worker->error, "a forked child failed: %#x",
                 (unsigned)status);
        _exit(3);
    }
}

static void step(struct job *job)
{
    uint64_t dice = kt_random(&job->random) % 256;
    int subject = dice & 1 && !field_full(&job->worker->tallies[SHARED][BYTES]) ? SHARED : OWN;
    if (dice < 100)
        do_charge(job, subject);
    else if (dice < 180)
        do_admit_settle(job, subject);
    else if (dice < 200)
        do_acquire_release(job, job->names[subject]);
    else if (dice < 215)
        do_revoke(job, subject);
    else if (dice < 230)
        do_read(job, subject);
    else if (dice < 255)
        do_crowd(job);
    else if (kt_random(&job->random) % 16 == 0)
        do_fork(job);
}

static struct ql *open_store(void)
{
    struct ql_options options = kt_options(&page->clock_ns, config.workers + 1, 64);
    options.wait_begin = wait_begin;
    options.wait_end = wait_end;
    return kt_open(config.store, &options);
}

static _Noreturn void work(int number, struct ql *ql, uint64_t seed)
{
    struct job job = {.ql = ql, .worker = &page->workers[number], .number = number, .random = seed};
    waiting_worker = job.worker;
    name_subjects(number, job.names);
    if (job.ql == NULL)
        job.ql = open_store();
    for (;;)
        step(&job);
}

/* ---- the supervisor ------------------------------------------------------ */

struct counts {
    int kills;
    int inside_call;
    int inside_lock;
    int pending_done;
    int pending_undone;
    int64_t calls;
};

struct supervisor {
    struct ql *ql;
    struct kt_view view;
    pid_t pids[WORKERS_MAX];
    struct ql_lease leases[WORKERS_MAX * SUBJECTS];
    int lease_count;
    uint64_t random;
    struct counts counts;
    char program[KT_PATH];
};

static void watchdog(int signal_number)
{
    (void)signal_number;
    static const char text[] = "FAIL: no progress: a deadlock, or a machine that stands still\n";
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(2);
    _exit(1);
}

/* Each worker in a pid namespace of its own, where it is pid 1. */
static void enter_new_namespace(void)
{
    KT_CHECK(setns(config.self_namespace, CLONE_NEWPID) == 0, "setns: %s", strerror(errno));
    KT_CHECK(unshare(CLONE_NEWPID) == 0, "unshare: %s", strerror(errno));
}

static void execute_worker(const struct supervisor *s, int number, uint64_t seed)
{
    char arguments[6][32];
    snprintf(arguments[0], 32, "%d", number);
    snprintf(arguments[1], 32, "%llu", (unsigned long long)seed);
    snprintf(arguments[2], 32, "%d", config.page_fd);
    snprintf(arguments[3], 32, "%d", config.workers);
    execl(s->program, s->program, "--worker", arguments[0], arguments[1], arguments[2],
          arguments[3], config.store, (char *)NULL);
    _exit(5);
}

/* Every other worker inherits the handle, the others open the store anew. */
static void spawn(struct supervisor *s, int number)
{
    uint64_t seed = kt_random(&s->random);
    page->workers[number].calls = 0;
    page->workers[number].in_call = 0;
    if (config.pidns)
        enter_new_namespace();
    s->pids[number] = kt_fork();
    if (s->pids[number] != 0)
        return;
    if (config.pidns && getpid() != 1)
        _exit(6);
    if (seed & 1)
        work(number, s->ql, seed);
    execute_worker(s, number, seed);
}

static int64_t counted(struct supervisor *s, const char *subject, int meter)
{
    struct ql_usage usage;
    KT_CHECK(ql_usage(s->ql, subject, &usage) == QL_OK, "usage of %s", subject);
    KT_CHECK(usage.meter_count == METERS, "%u meters", usage.meter_count);
    return usage.meters[meter].total + usage.meters[meter].yesterday;
}

static void compare(struct supervisor *s, int number, bool was_inside)
{
    struct worker *worker = &page->workers[number];
    char names[SUBJECTS][64];
    name_subjects(number, names);
    for (int subject = 0; subject < SUBJECTS; subject++) {
        int64_t extra[METERS];
        bool open[METERS];
        for (int m = 0; m < METERS; m++) {
            struct tally *tally = &worker->tallies[subject][m];
            int64_t count = counted(s, names[subject], m);
            if (subject == SHARED)
                count = count >> FIELD_BITS * (number % FIELDS) & FIELD_MASK;
            int64_t done = tally->done;
            int64_t pending = tally->pending;
            KT_CHECK(count == done || count == pending,
                     "%s, worker %d, meter %d: counted %lld, acknowledged %lld, pending %lld",
                     names[subject], number, m, (long long)count, (long long)done,
                     (long long)pending);
            extra[m] = count - done;
            open[m] = pending > done;
            s->counts.pending_done += open[m] && extra[m] != 0;
            s->counts.pending_undone += open[m] && extra[m] == 0;
            tally->done = count;
            tally->pending = count;
        }
        KT_CHECK(!was_inside || !open[BYTES] || !open[STATEMENTS] ||
                     extra[BYTES] == extra[STATEMENTS],
                 "%s, worker %d: half of a settle", names[subject], number);
    }
}

static void bury(struct supervisor *s, int number)
{
    struct worker *worker = &page->workers[number];
    KT_CHECK(kill(s->pids[number], SIGKILL) == 0, "kill: %s", strerror(errno));
    int status = kt_wait(s->pids[number]);
    unsigned dead_words = kt_view_dead_words(&s->view);
    KT_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "worker %d ended alone (%#x): %s",
             number, (unsigned)status, worker->error);
    bool was_inside = worker->in_call != 0;
    s->counts.kills++;
    s->counts.inside_call += was_inside;
    s->counts.inside_lock += dead_words > 0;
    s->counts.calls += worker->calls;
    compare(s, number, was_inside);
    alarm(WATCHDOG_SECONDS);
}

static void pause_shortly(uint64_t turns)
{
    for (volatile uint64_t i = 0; i < turns; i++)
        continue;
}

/* One kill in eight falls anywhere, also into attaching; the others wait for a
 * worker that is at work, and then for a call to begin. */
static void aim(struct supervisor *s, int number)
{
    struct worker *worker = &page->workers[number];
    uint64_t dice = kt_random(&s->random);
    if (dice % 8 == 0) {
        pause_shortly(dice >> 8 & 0xfffff);
        return;
    }
    int64_t wanted = 1 + (int64_t)(dice >> 8 & 0x3f);
    while (worker->calls < wanted && worker->error[0] == '\0')
        sched_yield();
    for (int i = 0; i < 100000 && worker->in_call == 0; i++)
        continue;
    pause_shortly(dice >> 16 & 0x7f);
}

static void begin_round(struct supervisor *s)
{
    page->round++;
    s->lease_count = 0;
    for (int w = 0; w < config.workers; w++) {
        char names[SUBJECTS][64];
        name_subjects(w, names);
        memset(page->workers[w].tallies, 0, sizeof page->workers[w].tallies);
        for (int subject = 0; subject < SUBJECTS; subject++) {
            if (subject == SHARED && w % FIELDS != 0)
                continue;
            enum ql_status status =
                ql_acquire(s->ql, names[subject], &s->leases[s->lease_count++], NULL);
            KT_CHECK(status == QL_OK, "acquire: %s", ql_status_name(status));
        }
    }
    for (int w = 0; w < config.workers; w++)
        spawn(s, w);
}

/* The dead workers' leases end without our doing, then everything adds up. */
static void wait_for_reaping(struct supervisor *s)
{
    struct ql_verify_report report;
    struct ql_error error;
    int64_t deadline_ns = kt_now_ns() + INT64_C(30000000000);
    do {
        struct ql_usage usage;
        enum ql_status status = ql_usage(s->ql, "anybody", &usage);
        KT_CHECK(status == QL_OK, "usage: %s", ql_status_name(status));
        status = ql_verify(s->ql, &report, &error);
        KT_CHECK(status == QL_OK, "verify: %s: %s", ql_status_name(status), error.text);
        KT_CHECK(kt_now_ns() < deadline_ns, "%llu leases are held, %d are ours",
                 (unsigned long long)report.leases, s->lease_count);
    } while (report.leases != (uint64_t)s->lease_count);
}

static void end_round(struct supervisor *s)
{
    for (int w = 0; w < config.workers; w++)
        bury(s, w);
    wait_for_reaping(s);
    for (int i = 0; i < s->lease_count; i++)
        KT_CHECK(ql_release(s->ql, s->leases[i]) == QL_OK, "release of lease %d", i);
    page->clock_ns += KT_DAY_NS;
}

static void run_round(struct supervisor *s, int kills)
{
    begin_round(s);
    for (int i = 0; i < kills; i++) {
        if (i == kills / 2)
            __atomic_fetch_add(&page->clock_ns, KT_DAY_NS, __ATOMIC_RELAXED);
        int number = (int)(kt_random(&s->random) % (uint64_t)config.workers);
        aim(s, number);
        bury(s, number);
        spawn(s, number);
    }
    end_round(s);
}

static int report(const struct counts *counts, double seconds)
{
    int64_t longest_ns = 0;
    for (int w = 0; w < config.workers; w++)
        longest_ns = page->workers[w].longest_wait_ns > longest_ns
                         ? page->workers[w].longest_wait_ns
                         : longest_ns;
    printf(
        "kills %d in %.1f s, calls %lld, inside a call %d (%.1f %%), inside a lock %d (%.1f %%), "
        "charge pending and made %d, pending and not made %d, longest wait for a lock %.2f ms\n",
        counts->kills, seconds, (long long)counts->calls, counts->inside_call,
        100.0 * counts->inside_call / counts->kills, counts->inside_lock,
        100.0 * counts->inside_lock / counts->kills, counts->pending_done, counts->pending_undone,
        (double)longest_ns / 1e6);
    if (counts->inside_call * 20 >= counts->kills)
        return 0;
    fprintf(stderr, "FAIL: fewer than 5 %% of the kills fell inside an operation\n");
    return 1;
}

static int supervise(void)
{
    static struct supervisor s;
    s.random = config.seed;
    ssize_t length = readlink("/proc/self/exe", s.program, sizeof s.program - 1);
    KT_CHECK(length > 0, "readlink: %s", strerror(errno));
    signal(SIGALRM, watchdog);
    alarm(WATCHDOG_SECONDS);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    s.ql = open_store();
    s.view = kt_view_open(config.store);
    int64_t start_ns = kt_now_ns();
    while (s.counts.kills < config.kills) {
        int left = config.kills - s.counts.kills - config.workers;
        run_round(&s, left < 1 ? 1 : left < ROUND_KILLS ? left : ROUND_KILLS);
    }
    while (waitpid(-1, NULL, 0) > 0)
        continue;
    wait_for_reaping(&(struct supervisor){.ql = s.ql});
    int result = report(&s.counts, (double)(kt_now_ns() - start_ns) / 1e9);
    ql_close(s.ql);
    kt_view_close(&s.view);
    return result;
}

/* ---- the command line ---------------------------------------------------- */

static void map_page(int fd)
{
    config.page_fd = fd;
    page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    KT_CHECK(page != MAP_FAILED, "mmap: %s", strerror(errno));
}

static void be_worker(char **argv)
{
    map_page(atoi(argv[4]));
    config.workers = atoi(argv[5]);
    snprintf(config.store, sizeof config.store, "%s", argv[6]);
    work(atoi(argv[2]), NULL, strtoull(argv[3], NULL, 10));
}

static const char *parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"kills", required_argument, NULL, 'k'}, {"workers", required_argument, NULL, 'w'},
        {"seed", required_argument, NULL, 's'},  {"dir", required_argument, NULL, 'd'},
        {"pidns", no_argument, NULL, 'p'},       {NULL, 0, NULL, 0},
    };
    const char *base = NULL;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'k')
            config.kills = atoi(optarg);
        else if (option == 'w')
            config.workers = atoi(optarg);
        else if (option == 's')
            config.seed = strtoull(optarg, NULL, 10);
        else if (option == 'd')
            base = optarg;
        else if (option == 'p')
            config.pidns = true;
        else
            exit(2);
    }
    KT_CHECK(config.workers >= 1 && config.workers <= WORKERS_MAX, "--workers 1 to %d",
             WORKERS_MAX);
    return base;
}

int main(int argc, char **argv)
{
    if (argc == 7 && strcmp(argv[1], "--worker") == 0)
        be_worker(argv);
    const char *base = parse(argc, argv);
    printf("seed %llu, %d workers%s\n", (unsigned long long)config.seed, config.workers,
           config.pidns ? ", each pid 1 of its own namespace" : "");
    config.self_namespace = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (config.pidns && geteuid() != 0) {
        printf("SKIP: pid namespaces need root\n");
        return KT_SKIP;
    }
    int fd = memfd_create("page", 0);
    KT_CHECK(fd >= 0 && ftruncate(fd, sizeof(struct page)) == 0, "memfd: %s", strerror(errno));
    map_page(fd);
    page->clock_ns = KT_START_NS;
    kt_directory_make(config.store, base);
    int result = supervise();
    kt_directory_remove(config.store);
    return result;
}
