/* SPDX-License-Identifier: Apache-2.0
 *
 * One thread: one hot subject, a million subjects, and the room that they take.
 */
#include <stdio.h>

#include "bench.h"

enum {
    HOT_COUNT = 400000,
    SUBJECTS = 1000000,
    ROOM = 1200000,
    RANDOM_COUNT = 500000,
};

/* Where to count: in the bare table or in the store, over how many subjects. */
struct target {
    struct bare *bare;
    struct ql *ql;
    uint64_t random;
};

static const char hot_subject[] = "alice@example.com";

static void must(enum ql_status status)
{
    if (status != QL_OK) {
        bench_die("a call failed", ql_status_name(status));
    }
}

static void admit_settle(struct ql *ql, const char *subject)
{
    struct ql_lease lease;
    struct ql_charge charge = {"bytes", 1};
    must(ql_admit(ql, subject, NULL, &lease, NULL));
    must(ql_settle(ql, lease, &charge, 1));
}

static uint64_t bare_hot(void *context, uint64_t count)
{
    struct target *target = context;
    uint64_t begin = bench_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        if (!bare_count(target->bare, hot_subject)) {
            bench_die("bare limit", "the key is gone");
        }
    }
    return bench_now_ns() - begin;
}

static uint64_t admit_settle_hot(void *context, uint64_t count)
{
    struct target *target = context;
    uint64_t begin = bench_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        admit_settle(target->ql, hot_subject);
    }
    return bench_now_ns() - begin;
}

static uint64_t four_calls_hot(void *context, uint64_t count)
{
    struct target *target = context;
    uint64_t begin = bench_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        struct ql_lease lease;
        must(ql_check(target->ql, hot_subject, NULL, NULL));
        must(ql_acquire(target->ql, hot_subject, &lease, NULL));
        must(ql_charge(target->ql, hot_subject, "bytes", 1, NULL));
        must(ql_release(target->ql, lease));
    }
    return bench_now_ns() - begin;
}

void bench_hot_rows(void)
{
    struct target target = {
        .bare = bare_make(65536),
        .ql = bench_open("memory:", (struct ql_options)QL_OPTIONS_INIT),
    };
    struct bench_side limit = {bare_hot, &target};
    bare_insert(target.bare, hot_subject);
    bench_pair("hot_admit_settle", limit, (struct bench_side){admit_settle_hot, &target},
               HOT_COUNT);
    bench_pair("hot_four_calls", limit, (struct bench_side){four_calls_hot, &target}, HOT_COUNT);
    ql_close(target.ql);
}

static void random_key(struct target *target, char key[BENCH_KEY_MAX])
{
    bench_key(key, (uint32_t)(bench_random(&target->random) % SUBJECTS));
}

static uint64_t bare_random(void *context, uint64_t count)
{
    struct target *target = context;
    char key[BENCH_KEY_MAX];
    uint64_t begin = bench_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        random_key(target, key);
        if (!bare_count(target->bare, key)) {
            bench_die("bare limit", "the key is gone");
        }
    }
    return bench_now_ns() - begin;
}

static uint64_t admit_settle_random(void *context, uint64_t count)
{
    struct target *target = context;
    char key[BENCH_KEY_MAX];
    uint64_t begin = bench_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        random_key(target, key);
        admit_settle(target->ql, key);
    }
    return bench_now_ns() - begin;
}

void bench_million_rows(void)
{
    struct ql_options options = QL_OPTIONS_INIT;
    options.max_subjects = ROOM;
    struct target bare = {.bare = bare_make(ROOM), .random = 0x9e3779b97f4a7c15};
    struct target library = {.ql = bench_open("memory:", options), .random = 0x9e3779b97f4a7c15};
    for (uint32_t i = 0; i < SUBJECTS; i++) {
        char key[BENCH_KEY_MAX];
        bench_key(key, i);
        bare_insert(bare.bare, key);
        must(ql_charge(library.ql, key, "bytes", 1, NULL));
    }
    bench_pair("million_admit_settle", (struct bench_side){bare_random, &bare},
               (struct bench_side){admit_settle_random, &library}, RANDOM_COUNT);
    ql_close(library.ql);
}

void bench_memory_row(void)
{
    struct ql_options options = QL_OPTIONS_INIT;
    struct ql_verify_report report;
    struct ql_error error;
    options.max_meters = 2;
    options.max_subjects = SUBJECTS;
    struct ql *ql = bench_open("memory:", options);
    if (ql_verify(ql, &report, &error) != QL_OK) {
        bench_die("verify", error.text);
    }
    printf("{\"row\": \"memory\", \"bytes\": %llu, \"subjects\": %llu, \"leases\": %llu, "
           "\"bytes_per_subject\": %.1f}\n",
           (unsigned long long)report.region_bytes, (unsigned long long)report.max_subjects,
           (unsigned long long)report.max_leases,
           (double)report.region_bytes / (double)report.max_subjects);
    fflush(stdout);
    ql_close(ql);
}
