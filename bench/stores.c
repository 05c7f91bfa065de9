/* SPDX-License-Identifier: Apache-2.0
 *
 * The same work in memory, in a directory on a tmpfs, and in a directory on the
 * disk, with a ledger and its flusher at work, and without one, turn by turn: the
 * median of whole turns, and the latencies of single operations (admit and settle),
 * the clock's own cost included.
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

enum {
    STORES = 5,
    TURNS = 40,
    TURN = 25000,
    SUBJECTS = 1000,
};

struct place {
    const char *name;
    struct ql *ql;
    uint64_t *latencies;
    double per_operation[TURNS];
};

static void admit_settle(struct ql *ql, const char *subject)
{
    struct ql_lease lease;
    struct ql_charge charge = {"bytes", 1};
    if (ql_admit(ql, subject, NULL, &lease, NULL) != QL_OK ||
        ql_settle(ql, lease, &charge, 1) != QL_OK) {
        bench_die("stores", "a call failed");
    }
}

/* Once for the time of the whole turn, once for that of each operation. */
static void take_turn(struct place *place, int turn, uint64_t *random)
{
    char key[BENCH_KEY_MAX];
    uint64_t *latencies = place->latencies + (size_t)turn * TURN;
    uint64_t begin = bench_now_ns();
    for (int i = 0; i < TURN; i++) {
        bench_key(key, (uint32_t)(bench_random(random) % SUBJECTS));
        admit_settle(place->ql, key);
    }
    place->per_operation[turn] = (double)(bench_now_ns() - begin) / TURN;
    for (int i = 0; i < TURN; i++) {
        bench_key(key, (uint32_t)(bench_random(random) % SUBJECTS));
        uint64_t before = bench_now_ns();
        admit_settle(place->ql, key);
        latencies[i] = bench_now_ns() - before;
    }
}

static void print_place(struct place *place, double memory_ns)
{
    size_t count = (size_t)TURNS * TURN;
    bench_sort(place->latencies, count);
    double ns = bench_median(place->per_operation, TURNS);
    printf("{\"row\": \"store_%s\", \"limit_ns\": %.2f, \"ns\": %.2f, \"ratio\": %.3f, "
           "\"p50_ns\": %llu, \"p99_ns\": %llu, \"p999_ns\": %llu, \"max_ns\": %llu}\n",
           place->name, memory_ns, ns, ns / memory_ns,
           (unsigned long long)bench_quantile(place->latencies, count, 0.5),
           (unsigned long long)bench_quantile(place->latencies, count, 0.99),
           (unsigned long long)bench_quantile(place->latencies, count, 0.999),
           (unsigned long long)place->latencies[count - 1]);
    fflush(stdout);
}

/* What the flusher costs the calls beside it: the median of the turns' ratios. */
static void print_flusher(const char *row, const struct place *without, const struct place *with)
{
    double ratios[TURNS];
    double without_ns[TURNS];
    double with_ns[TURNS];
    for (int turn = 0; turn < TURNS; turn++) {
        without_ns[turn] = without->per_operation[turn];
        with_ns[turn] = with->per_operation[turn];
        ratios[turn] = with_ns[turn] / without_ns[turn];
    }
    printf("{\"row\": \"%s\", \"limit_ns\": %.2f, \"ns\": %.2f, \"ratio\": %.3f}\n", row,
           bench_median(without_ns, TURNS), bench_median(with_ns, TURNS),
           bench_median(ratios, TURNS));
    fflush(stdout);
}

static struct ql *open_in(const char *base, char directory[4096], enum ql_durability durability)
{
    struct ql_options options = QL_OPTIONS_INIT;
    options.allow_any_filesystem = true;
    options.durability = durability;
    snprintf(directory, 4096, "%s/quotalite-bench-XXXXXX", base);
    if (mkdtemp(directory) == NULL) {
        bench_die(base, "cannot make a directory there");
    }
    return bench_open(directory, options);
}

void bench_store_rows(const char *disk)
{
    static char directories[STORES][4096];
    uint64_t random = 0x9e3779b97f4a7c15;
    struct place places[STORES] = {
        {.name = "memory", .ql = bench_open("memory:", (struct ql_options)QL_OPTIONS_INIT)},
        {.name = "tmpfs", .ql = open_in("/dev/shm", directories[1], QL_DURABILITY_ASYNC)},
        {.name = "disk", .ql = open_in(disk, directories[2], QL_DURABILITY_ASYNC)},
        {.name = "tmpfs_none", .ql = open_in("/dev/shm", directories[3], QL_DURABILITY_NONE)},
        {.name = "disk_none", .ql = open_in(disk, directories[4], QL_DURABILITY_NONE)},
    };
    for (int i = 0; i < STORES; i++) {
        places[i].latencies = bench_shared((size_t)TURNS * TURN * sizeof(uint64_t));
    }
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < STORES; i++) {
            take_turn(&places[(i + turn) % STORES], turn, &random);
        }
    }
    print_flusher("flusher_tmpfs", &places[3], &places[1]);
    print_flusher("flusher_disk", &places[4], &places[2]);
    double memory_ns = bench_median(places[0].per_operation, TURNS);
    for (int i = 0; i < STORES; i++) {
        print_place(&places[i], memory_ns);
        ql_close(places[i].ql);
        bench_remove_store(directories[i]);
    }
}
