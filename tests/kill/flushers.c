/* SPDX-License-Identifier: Apache-2.0
 *
 * Kills of flushers: workers charge one store and flush it all the time; whoever
 * flushes is killed and replaced. What the ledger has in the end is what the region
 * has and what the workers counted, row by row.
 *
 *   flushers [--kills N] [--seed S] [--sync] [--dir PATH]
 *
 * All workers are stopped before one is killed, so that it is known which of them
 * has the FLUSHER byte. A round ends with all of them dead; the next one has new
 * subjects and another day, and the day changes in the middle of it too.
 */
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "flushers.h"
#include "region/lockfile.h"
#include "supervising.h"

#define ROUND_KILLS 50
#define PENDING_LOOKS 200000 /* at the FLUSHER byte, before a kill falls anywhere */
#define PATIENCE_US 300000

struct kt_flushers kt_flushers = {.kills = 3000, .seed = 1, .durability = QL_DURABILITY_ASYNC};
struct kt_page *kt_page;

struct supervisor {
    struct ql *ql;
    struct kt_view view;
    pid_t pids[KT_WORKERS];
    uint64_t random;
    int kills;
    int inside;
    int64_t charges;
    uint64_t rows;
    int looks; /* at what was acknowledged */
};

/* ---- workers ------------------------------------------------------------- */

/* Every other worker inherits the open store, the others open it anew. */
static void spawn(struct supervisor *s, int number)
{
    uint64_t seed = kt_random(&s->random);
    s->pids[number] = kt_fork();
    if (s->pids[number] != 0)
        return;
    if (seed & 1)
        kt_flushers_work(number, seed);
    kt_order_execute(&(struct kt_order){
        .number = number,
        .seed = seed,
        .page_fd = kt_flushers.page_fd,
        .setting = (int)kt_flushers.durability,
        .store = kt_flushers.store,
    });
}

/* ---- comparing ----------------------------------------------------------- */

static int64_t counted(struct supervisor *s, int number, int subject, int meter)
{
    char name[64];
    struct ql_usage usage;
    kt_flushers_name(number, subject, name);
    KT_CHECK(ql_usage(s->ql, name, &usage) == QL_OK, "usage of %s", name);
    int64_t total = usage.meters[meter].total + usage.meters[meter].yesterday;
    return subject == KT_SHARED ? total >> KT_FIELD_BITS * number & KT_FIELD_MASK : total;
}

static void check_acknowledged(const struct supervisor *s)
{
    for (int number = 0; number < KT_WORKERS; number++) {
        for (int subject = KT_OWN; subject < KT_SUBJECTS; subject++) {
            char name[64];
            kt_flushers_name(number, subject, name);
            int64_t done = kt_page->workers[number].tallies[subject][KT_BYTES].acknowledged;
            int64_t total = kt_ledger_total(kt_flushers.store, name, "bytes", -1);
            KT_CHECK(total >= done, "kill %d: %s: the ledger has %lld, acknowledged %lld", s->kills,
                     name, (long long)total, (long long)done);
        }
    }
}

/* In a sync store the ledger has what was acknowledged. All workers are stopped, so
 * nobody writes it yet; but one that is stopped where it changes the index of the log
 * is in the way of all readers. */
static void check_durable(struct supervisor *s)
{
    const struct itimerval patience = {.it_value = {.tv_usec = PATIENCE_US}};
    pid_t reader = kt_fork();
    if (reader == 0) {
        signal(SIGALRM, SIG_DFL);
        setitimer(ITIMER_REAL, &patience, NULL);
        check_acknowledged(s);
        _exit(0);
    }
    int status = kt_wait(reader);
    bool gave_up = WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
    KT_CHECK(gave_up || status == 0, "the reader ended with %#x", (unsigned)status);
    s->looks += !gave_up;
}

static void compare_meter(struct supervisor *s, int number, int subject, int meter)
{
    struct kt_tally *tally = &kt_page->workers[number].tallies[subject][meter];
    int64_t done = tally->done;
    int64_t pending = tally->pending;
    int64_t count = counted(s, number, subject, meter);
    KT_CHECK(count == done || count == pending,
             "kill %d: worker %d, subject %d, meter %d: counted %lld, acknowledged %lld, pending "
             "%lld",
             s->kills, number, subject, meter, (long long)count, (long long)done,
             (long long)pending);
    tally->done = count;
    tally->pending = count;
}

static void compare_worker(struct supervisor *s, int number)
{
    for (int subject = 0; subject < KT_SUBJECTS; subject++) {
        compare_meter(s, number, subject, KT_BYTES);
        compare_meter(s, number, subject, KT_STATEMENTS);
    }
}

/* Nobody else is there any more. */
static void compare_ledger(struct supervisor *s)
{
    kt_ledger_expect_equal(kt_flushers.store, s->ql, "at the end of a round");
    s->rows += kt_ledger_compare(kt_flushers.store, s->ql).rows;
    for (int number = 0; number < KT_WORKERS; number++) {
        for (int subject = KT_OWN; subject < KT_SUBJECTS; subject++) {
            char name[64];
            kt_flushers_name(number, subject, name);
            int64_t total = kt_ledger_total(kt_flushers.store, name, "bytes", -1);
            int64_t tally = kt_page->workers[number].tallies[subject][KT_BYTES].done;
            KT_CHECK(total == tally, "%s: the ledger has %lld, counted %lld", name,
                     (long long)total, (long long)tally);
        }
    }
}

/* ---- killing ------------------------------------------------------------- */

static bool somebody_flushes(const struct supervisor *s)
{
    return qli_lockfile_locked(s->view.region.lock_fd, QLI_BYTE_FLUSHER, 1);
}

/* One kill in eight falls anywhere, also into opening. */
static void aim(struct supervisor *s)
{
    uint64_t dice = kt_random(&s->random);
    if (dice % 8 == 0) {
        kt_spin(dice >> 8 & 0xffff);
        return;
    }
    for (int i = 0; i < PENDING_LOOKS && !somebody_flushes(s); i++)
        continue;
    kt_spin(dice >> 8 & 0xfff);
}

static void bury(struct supervisor *s, int number)
{
    kt_bury(s->pids[number], number, kt_page->workers[number].error);
    s->kills++;
}

/* The flusher if there is one, three times out of four; its number. */
static int kill_one(struct supervisor *s)
{
    uint64_t dice = kt_random(&s->random);
    int victim = (int)(dice % KT_WORKERS);
    for (int i = 0; i < KT_WORKERS; i++)
        kill(s->pids[i], SIGSTOP); /* all at once: each takes its turn on a processor */
    for (int i = 0; i < KT_WORKERS; i++)
        kt_stop(s->pids[i]);
    int flusher = kt_flusher_of(s->pids, KT_WORKERS);
    if (flusher >= 0 && dice >> 8 & 3)
        victim = flusher;
    s->inside += victim == flusher;
    bury(s, victim);
    if (kt_flushers.durability == QL_DURABILITY_SYNC)
        check_durable(s);
    for (int i = 0; i < KT_WORKERS; i++) {
        if (i != victim)
            kill(s->pids[i], SIGCONT);
    }
    compare_worker(s, victim);
    return victim;
}

static void begin_round(struct supervisor *s)
{
    kt_page->round++;
    for (int w = 0; w < KT_WORKERS; w++) {
        memset(kt_page->workers[w].tallies, 0, sizeof kt_page->workers[w].tallies);
        spawn(s, w);
    }
}

static void run_round(struct supervisor *s, int kills)
{
    begin_round(s);
    for (int i = 0; i < kills; i++) {
        if (i == kills / 2)
            __atomic_fetch_add(&kt_page->clock_ns, KT_DAY_NS, __ATOMIC_RELAXED);
        aim(s);
        spawn(s, kill_one(s));
        kt_watch();
    }
    for (int w = 0; w < KT_WORKERS; w++) {
        bury(s, w);
        compare_worker(s, w);
    }
    compare_ledger(s);
    for (int w = 0; w < KT_WORKERS; w++)
        compare_worker(s, w);
    kt_page->clock_ns += KT_DAY_NS;
}

static int report(const struct supervisor *s, double seconds)
{
    const struct qli_ledger_page *page = s->ql->store->engine.ledger_page;
    for (int w = 0; w < KT_WORKERS; w++)
        printf("worker %d: %lld charges\n", w, (long long)kt_page->workers[w].charges);
    printf(
        "kills %d in %.1f s, inside a flush %d (%.1f %%), flushes begun %llu, transactions %llu, "
        "rows compared %llu: 0 over, 0 under; acknowledged charges looked at %d times\n",
        s->kills, seconds, s->inside, 100.0 * s->inside / s->kills, (unsigned long long)page->begun,
        (unsigned long long)page->sequence, (unsigned long long)s->rows, s->looks);
    if (s->inside * 10 >= s->kills * 3)
        return 0;
    fprintf(stderr, "FAIL: fewer than 30 %% of the kills fell inside a flush\n");
    return 1;
}

static int supervise(void)
{
    static struct supervisor s;
    s.random = kt_flushers.seed;
    kt_watch();
    struct ql_options options =
        kt_ledger_options(&kt_page->clock_ns, kt_flushers.durability, 20000);
    s.ql = kt_open(kt_flushers.store, &options);
    s.view = kt_view_open(kt_flushers.store);
    int64_t start_ns = kt_now_ns();
    while (s.kills < kt_flushers.kills) {
        int left = kt_flushers.kills - s.kills - KT_WORKERS;
        run_round(&s, left < 1 ? 1 : left < ROUND_KILLS ? left : ROUND_KILLS);
    }
    int result = report(&s, (double)(kt_now_ns() - start_ns) / 1e9);
    ql_close(s.ql);
    kt_view_close(&s.view);
    return result;
}

/* ---- the program --------------------------------------------------------- */

static _Noreturn void be_worker(const struct kt_order *order)
{
    kt_page = kt_page_map(order->page_fd, sizeof *kt_page);
    kt_flushers.durability = (enum ql_durability)order->setting;
    snprintf(kt_flushers.store, sizeof kt_flushers.store, "%s", order->store);
    kt_flushers_work(order->number, order->seed);
}

static const char *parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"kills", required_argument, NULL, 'k'},
        {"seed", required_argument, NULL, 's'},
        {"sync", no_argument, NULL, 'y'},
        {"dir", required_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    const char *base = NULL;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'k')
            kt_flushers.kills = atoi(optarg);
        else if (option == 's')
            kt_flushers.seed = strtoull(optarg, NULL, 10);
        else if (option == 'y')
            kt_flushers.durability = QL_DURABILITY_SYNC;
        else if (option == 'd')
            base = optarg;
        else
            exit(2);
    }
    return base;
}

int main(int argc, char **argv)
{
    struct kt_order order;
    if (kt_order_read(argc, argv, &order))
        be_worker(&order);
    const char *base = parse(argc, argv);
    printf("seed %llu, %d workers, %s\n", (unsigned long long)kt_flushers.seed, KT_WORKERS,
           kt_flushers.durability == QL_DURABILITY_SYNC ? "sync" : "async");
    kt_page = kt_page_make(sizeof *kt_page, &kt_flushers.page_fd);
    kt_page->clock_ns = KT_START_NS;
    kt_directory_make(kt_flushers.store, base);
    int result = supervise();
    kt_directory_remove(kt_flushers.store);
    return result;
}
