/* SPDX-License-Identifier: Apache-2.0
 *
 * Random kills: workers loop over all operations on one store; one after the
 * other is killed, replaced, and its charges compared with what it had
 * acknowledged, by sequence number.
 *
 *   random_kills [--kills N] [--workers 3..] [--seed S] [--dir PATH] [--pidns]
 *
 * The seed fixes whom a kill is for, how long it waits for its moment and what
 * each worker does. Where in that the machine's scheduler has got the worker by
 * then differs from run to run.
 */
#include <getopt.h>
#include <string.h>
#include <unistd.h>

#include "random_kills.h"
#include "supervising.h"

struct kt_kills kt_kills = {.kills = 10000, .workers = 3, .seed = 1};
struct kt_page *kt_page;

static _Noreturn void be_worker(const struct kt_order *order)
{
    kt_page = kt_page_map(order->page_fd, sizeof *kt_page);
    kt_kills.workers = order->setting;
    snprintf(kt_kills.store, sizeof kt_kills.store, "%s", order->store);
    kt_kills_work(order->number, NULL, order->seed);
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
            kt_kills.kills = atoi(optarg);
        else if (option == 'w')
            kt_kills.workers = atoi(optarg);
        else if (option == 's')
            kt_kills.seed = strtoull(optarg, NULL, 10);
        else if (option == 'd')
            base = optarg;
        else if (option == 'p')
            kt_kills.pid_namespaces = true;
        else
            exit(2);
    }
    KT_CHECK(kt_kills.workers >= 3 && kt_kills.workers <= KT_WORKERS_MAX, "--workers 3 to %d",
             KT_WORKERS_MAX);
    return base;
}

int main(int argc, char **argv)
{
    struct kt_order order;
    if (kt_order_read(argc, argv, &order))
        be_worker(&order);
    const char *base = parse(argc, argv);
    printf("seed %llu, %d workers%s\n", (unsigned long long)kt_kills.seed, kt_kills.workers,
           kt_kills.pid_namespaces ? ", each pid 1 of its own namespace" : "");
    if (kt_kills.pid_namespaces && geteuid() != 0) {
        printf("SKIP: pid namespaces need root\n");
        return KT_SKIP;
    }
    kt_page = kt_page_make(sizeof *kt_page, &kt_kills.page_fd);
    kt_page->clock_ns = KT_START_NS;
    kt_directory_make(kt_kills.store, base);
    int result = kt_kills_supervise();
    kt_directory_remove(kt_kills.store);
    return result;
}
