/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_engine [--disk DIR] [ROW...]: the rows in C, all of them or those named.
 */
#include <stdio.h>
#include <string.h>

#include "bench.h"

static const char *disk = ".";

static void store_rows(void)
{
    bench_store_rows(disk);
}

static void ledger_rows(void)
{
    bench_ledger_rows(disk);
}

static const struct {
    const char *name;
    void (*run)(void);
} rows[] = {
    {"hot", bench_hot_rows},      {"million", bench_million_rows},
    {"memory", bench_memory_row}, {"processes", bench_process_rows},
    {"stores", store_rows},       {"kill", bench_kill_row},
    {"ledger", ledger_rows},
};

int main(int argc, char **argv)
{
    int first = 1;
    if (argc > 2 && strcmp(argv[1], "--disk") == 0) {
        disk = argv[2];
        first = 3;
    }
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int wanted = first == argc;
        for (int j = first; j < argc; j++) {
            wanted |= strcmp(argv[j], rows[i].name) == 0;
        }
        if (wanted) {
            bench_pin(0);
            rows[i].run();
            bench_pin_none();
        }
    }
    return 0;
}
