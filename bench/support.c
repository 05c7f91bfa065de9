/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { REPETITIONS = 9 };

uint64_t bench_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void bench_pin_none(void)
{
    cpu_set_t set;
    memset(&set, 0xff, sizeof(set));
    (void)sched_setaffinity(0, sizeof(set), &set);
}

/* Best effort: where it is not allowed, the figures are noisier. */
void bench_pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof(set), &set);
}

void bench_die(const char *what, const char *why)
{
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

void *bench_shared(size_t size)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        bench_die("mmap", strerror(errno));
    }
    return memory;
}

static int by_double(const void *left, const void *right)
{
    double a = *(const double *)left;
    double b = *(const double *)right;
    return (a > b) - (a < b);
}

static int by_integer(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

double bench_median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), by_double);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

void bench_sort(uint64_t *values, size_t count)
{
    qsort(values, count, sizeof(*values), by_integer);
}

uint64_t bench_quantile(uint64_t *sorted, size_t count, double quantile)
{
    size_t at = (size_t)(quantile * (double)count);
    return sorted[at < count ? at : count - 1];
}

uint64_t bench_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

void bench_key(char key[BENCH_KEY_MAX], uint32_t number)
{
    static const char digits[] = "0123456789abcdef";
    memcpy(key, "user-00000000", 14);
    for (int i = 12; i > 4; i--, number >>= 4) {
        key[i] = digits[number & 15];
    }
}

void bench_pair(const char *row, struct bench_side limit, struct bench_side measured,
                uint64_t count)
{
    double limits[REPETITIONS];
    double values[REPETITIONS];
    double ratios[REPETITIONS];
    limit.loop(limit.context, count / 4);
    measured.loop(measured.context, count / 4);
    for (int i = 0; i < REPETITIONS; i++) {
        if (i % 2 == 0) {
            limits[i] = (double)limit.loop(limit.context, count) / (double)count;
        }
        values[i] = (double)measured.loop(measured.context, count) / (double)count;
        if (i % 2 == 1) {
            limits[i] = (double)limit.loop(limit.context, count) / (double)count;
        }
        ratios[i] = values[i] / limits[i];
    }
    printf("{\"row\": \"%s\", \"limit_ns\": %.2f, \"ns\": %.2f, \"ratio\": %.3f}\n", row,
           bench_median(limits, REPETITIONS), bench_median(values, REPETITIONS),
           bench_median(ratios, REPETITIONS));
    fflush(stdout);
}

struct ql *bench_open(const char *store, struct ql_options options)
{
    static const struct ql_limit limits[] = {
        {"concurrent_scans", NULL, QL_WINDOW_NONE, 1000},
        {"daily_bytes", "bytes", QL_WINDOW_DAY, INT64_C(1) << 62},
    };
    struct ql *ql;
    struct ql_error error;
    options.size = sizeof(options);
    options.limits = limits;
    options.limit_count = 2;
    if (ql_open(store, &options, &ql, &error) != QL_OK) {
        bench_die(store, error.text);
    }
    return ql;
}

void bench_remove_store(const char *directory)
{
    DIR *listing = opendir(directory);
    struct dirent *entry;
    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        if (entry->d_name[0] != '.') {
            unlinkat(dirfd(listing), entry->d_name, 0);
        }
    }
    if (listing != NULL) {
        closedir(listing);
    }
    rmdir(directory);
}
