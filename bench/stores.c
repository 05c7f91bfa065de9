/* SPDX-License-Identifier: Apache-2.0
 *
 * The same work in memory, in a directory on a tmpfs, and in a directory on the
 * disk, turn by turn: the median of whole turns, and the latencies of single
 * operations (admit and settle), the clock's own cost included.
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

enum {
    STORES = 3,
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

void bench_store_rows(const char *disk)
{
    char on_disk[4096];
    char on_tmpfs[] = "/dev/shm/quotalite-bench-XXXXXX";
    uint64_t random = 0x9e3779b97f4a7c15;
    snprintf(on_disk, sizeof(on_disk), "%s/quotalite-bench-XXXXXX", disk);
    if (mkdtemp(on_disk) == NULL || mkdtemp(on_tmpfs) == NULL) {
        bench_die(disk, "cannot make a directory there or in /dev/shm");
    }
    struct ql_options options = QL_OPTIONS_INIT;
    options.allow_any_filesystem = true;
    struct place places[STORES] = {
        {.name = "memory", .ql = bench_open("memory:", options)},
        {.name = "tmpfs", .ql = bench_open(on_tmpfs, options)},
        {.name = "disk", .ql = bench_open(on_disk, options)},
    };
    for (int i = 0; i < STORES; i++) {
        places[i].latencies = bench_shared((size_t)TURNS * TURN * sizeof(uint64_t));
    }
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < STORES; i++) {
            take_turn(&places[(i + turn) % STORES], turn, &random);
        }
    }
    double memory_ns = bench_median(places[0].per_operation, TURNS);
    for (int i = 0; i < STORES; i++) {
        print_place(&places[i], memory_ns);
        ql_close(places[i].ql);
    }
    bench_remove_store(on_disk);
    bench_remove_store(on_tmpfs);
}
