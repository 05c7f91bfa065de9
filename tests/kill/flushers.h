/* SPDX-License-Identifier: Apache-2.0
 *
 * What the supervisor of `flushers` and its workers share.
 *
 * On the shared subject worker w charges 1 << 15*w each time, so that the total is
 * the count of each worker's charges side by side. Before a charging call the worker
 * stores its sequence number as pending, after it as done: a killed worker's count
 * must be done, or pending if it died between the two.
 */
#ifndef KILL_FLUSHERS_H
#define KILL_FLUSHERS_H

#include "books.h"

#define KT_WORKERS 4
#define KT_FIELD_BITS 15
#define KT_FIELD_MASK ((INT64_C(1) << KT_FIELD_BITS) - 1)

enum { KT_SHARED, KT_OWN, KT_SUBJECTS = KT_OWN + 3 };
enum { KT_BYTES, KT_STATEMENTS, KT_METERS };

struct kt_tally {
    _Atomic int64_t done;
    _Atomic int64_t pending;
    _Atomic int64_t acknowledged; /* to the worker itself: done without what became of a pending
                                   * one when it was killed */
};

struct kt_worker {
    _Atomic int64_t charges;
    struct kt_tally tallies[KT_SUBJECTS][KT_METERS];
    char error[256];
};

struct kt_page {
    int64_t clock_ns;
    int64_t round;
    struct kt_worker workers[KT_WORKERS];
};

struct kt_flushers {
    int kills;
    uint64_t seed;
    enum ql_durability durability;
    int page_fd;
    char store[KT_PATH];
};

extern struct kt_flushers kt_flushers;
extern struct kt_page *kt_page;

/* A subject of a worker in this round. */
void kt_flushers_name(int worker, int subject, char name[64]);

/* The worker, until it is killed. */
_Noreturn void kt_flushers_work(int number, uint64_t seed);

#endif
