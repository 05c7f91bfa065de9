/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kill tests share: a store directory of their own, a clock in shared
 * memory, a look at the region from outside, processes that end with the test.
 */
#ifndef KILL_HARNESS_H
#define KILL_HARNESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "engine/engine.h"
#include "quotalite.h"
#include "region/format.h"
#include "region/guard.h"

#define KT_DAY_NS INT64_C(86400000000000)
#define KT_START_NS (INT64_C(20000) * KT_DAY_NS + 12 * INT64_C(3600000000000))
#define KT_SKIP 77
#define KT_PATH 256

/* A failed expectation ends the test. */
#define KT_CHECK(condition, ...)                                                                   \
    do {                                                                                           \
        if (!(condition))                                                                          \
            kt_fail(__FILE__, __LINE__, #condition, __VA_ARGS__);                                  \
    } while (0)

_Noreturn void kt_fail(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Zeroed memory that is shared with forked children. */
void *kt_shared(size_t size);

/* A new empty directory below base (NULL: KT_BASE of the environment, or
 * /dev/shm, or else /tmp), removed by kt_directory_remove. */
void kt_directory_make(char path[KT_PATH], const char *base);
void kt_directory_remove(const char *path);

void kt_remove_file(const char *directory, const char *name);

/* Options of a small store on the clock at *clock_ns: limits are slots (cap
 * slots), bytes and statements (never refuse). They stay the thread's until it
 * calls this again. */
struct ql_options kt_options(int64_t *clock_ns, int64_t slots, uint32_t room);

struct ql *kt_open(const char *path, const struct ql_options *options);

/* A clock that stands still at KT_START_NS. */
int64_t kt_noon(void *context);

uint64_t kt_random(uint64_t *state);
int64_t kt_now_ns(void);

/* Passes a short time that the scheduler has no part in. */
void kt_spin(uint64_t turns);

/* fork() whose child dies with its parent. */
pid_t kt_fork(void);

/* Waits for a child of ours; its status as waitpid gives it. */
int kt_wait(pid_t pid);

/* Waits for a child of ours that has to exit with 0. */
void kt_wait_success(pid_t pid);

/* Kills a child of ours; its status. */
int kt_kill(pid_t pid);

/* Waits until a child of ours is stopped; kt_stop stops it first. */
void kt_await_stop(pid_t pid);
void kt_stop(pid_t pid);

/* The region file as seen from outside. */
struct kt_view {
    struct qli_region region; /* base, holders, guards; no descriptors of a holder */
};

struct kt_view kt_view_open(const char *path);
void kt_view_close(struct kt_view *view);

/* The engine's records in the view's mapping; it takes no locks. */
struct qli_engine kt_view_engine(const struct kt_view *view);

/* Guards whose word names a holder whose byte nobody has. */
unsigned kt_view_dead_words(struct kt_view *view);

/* Makes the store's region one of an earlier boot. */
void kt_make_stale(const char *path);

/* Makes the lock file alone say so. */
void kt_make_lock_stale(const char *path);

/* The slot of the holder with this pid (pids of one namespace only). */
uint64_t kt_view_slot(const struct kt_view *view, pid_t pid);

#endif
