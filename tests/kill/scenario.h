/* SPDX-License-Identifier: Apache-2.0
 *
 * What the cases of `processes` and `threads` share: a store of their own with
 * one shard, and short forms of calls that have to succeed.
 */
#ifndef KILL_SCENARIO_H
#define KILL_SCENARIO_H

#include "api/handle.h"
#include "harness.h"

#define KT_SLOTS 5 /* the cap of the concurrent limit */
#define KT_FLAGS 8

extern char kt_directory[KT_PATH];
extern int64_t *kt_clock_ns;      /* shared with forked children, as are the flags */
extern int64_t kt_deadline_ns;    /* how long anything may take; see kt_case_main */
extern _Atomic int64_t *kt_flags; /* KT_FLAGS of them, zero when a case begins */

struct kt_case {
    const char *name;
    int (*run)(void); /* 0, or KT_SKIP */
};

/* Runs the case that the command line names, on a new store. What has not
 * happened after 60 s, or KT_DEADLINE_SECONDS of the environment, never will. */
int kt_case_main(int argc, char **argv, const struct kt_case *cases, size_t count);

struct ql *kt_open_room(uint32_t room, int64_t wait_ms);
struct ql *kt_open_store(void);

void kt_expect(enum ql_status status, enum ql_status wanted, const char *what);

/* All of alice, the meter bytes. */
void kt_charge(struct ql *ql, int64_t amount);
int64_t kt_total(struct ql *ql);
int64_t kt_held(struct ql *ql);
struct ql_lease kt_take(struct ql *ql);

void kt_verify(struct ql *ql);

/* Held leases as the region counts them now; nobody dead is looked for. */
int64_t kt_leases_counted(struct ql *ql);

void kt_await(_Atomic int64_t *flag, int64_t at_least);
void kt_await_held(struct ql *ql, int64_t leases);

/* Enters the lock of the only shard, as a call would. */
enum ql_status kt_enter(struct ql *ql, struct qli_section *section);

/* Dies in that lock, with changes that are not committed. */
_Noreturn void kt_die_in_lock(struct ql *ql);

/* Charges until a call fails; the failure. */
enum ql_status kt_wait_for_failure(struct ql *ql);

#endif
