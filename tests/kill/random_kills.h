/* SPDX-License-Identifier: Apache-2.0
 *
 * What the supervisor of the random kills and its workers share.
 *
 * On the shared subject worker w charges 1 << 20*(w % 3) each time, so that the
 * total is the count of each worker's charges side by side: the sequence
 * number of its last one. Before a charging call the worker stores its sequence
 * number as pending, after it as done: a killed worker's count must be done, or
 * pending if it died between the two.
 */
#ifndef KILL_RANDOM_KILLS_H
#define KILL_RANDOM_KILLS_H

#include "harness.h"

#define KT_WORKERS_MAX 12
#define KT_FIELD_BITS 20
#define KT_FIELD_MASK ((INT64_C(1) << KT_FIELD_BITS) - 1)
#define KT_FIELDS 3

enum { KT_OWN, KT_SHARED, KT_SUBJECTS };
enum { KT_BYTES, KT_STATEMENTS, KT_METERS };

struct kt_tally {
    _Atomic int64_t done;
    _Atomic int64_t pending;
};

struct kt_worker {
    _Atomic int in_call;
    _Atomic int64_t calls;
    _Atomic int64_t longest_wait_ns;
    struct kt_tally tallies[KT_SUBJECTS][KT_METERS];
    char error[256];
};

struct kt_page {
    int64_t clock_ns;
    int64_t round;
    struct kt_worker workers[KT_WORKERS_MAX];
};

struct kt_kills {
    int kills;
    int workers;
    uint64_t seed;
    bool pid_namespaces;
    int page_fd;
    char store[KT_PATH];
};

extern struct kt_kills kt_kills;
extern struct kt_page *kt_page;

/* The subjects of a worker in this round. */
void kt_kills_name(int number, char names[KT_SUBJECTS][64]);

struct ql *kt_kills_open(void);

/* The worker, until it is killed; ql NULL: it opens the store itself. */
_Noreturn void kt_kills_work(int number, struct ql *ql, uint64_t seed);

/* Kills, compares, prints what it counted; the program's exit code. */
int kt_kills_supervise(void);

#endif
