/* SPDX-License-Identifier: Apache-2.0 */
#include "scenario.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/lease.h"

char kt_directory[KT_PATH];
int64_t *kt_clock_ns;
int64_t kt_deadline_ns;
_Atomic int64_t *kt_flags;

/* The case runs in a process group of its own, so that nothing of it stays: a
 * killed parent's child has nobody else who ends it. */
static int run_case(int (*run)(void))
{
    siginfo_t info;
    kt_directory_make(kt_directory, NULL);
    pid_t pid = kt_fork();
    if (pid == 0) {
        setpgid(0, 0);
        exit(run());
    }
    KT_CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0, "waitid: %s",
             strerror(errno));
    kill(-pid, SIGKILL);
    int status = kt_wait(pid);
    kt_directory_remove(kt_directory);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int kt_case_main(int argc, char **argv, const struct kt_case *cases, size_t count)
{
    const char *seconds = getenv("KT_DEADLINE_SECONDS");
    kt_deadline_ns = INT64_C(1000000000) * (seconds != NULL ? atoi(seconds) : 60);
    kt_clock_ns = kt_shared(sizeof *kt_clock_ns);
    *kt_clock_ns = KT_START_NS;
    kt_flags = kt_shared(KT_FLAGS * sizeof *kt_flags);
    for (size_t i = 0; i < count; i++) {
        if (argc == 2 && strcmp(argv[1], cases[i].name) == 0)
            return run_case(cases[i].run);
    }
    fprintf(stderr, "name one of:");
    for (size_t i = 0; i < count; i++)
        fprintf(stderr, " %s", cases[i].name);
    fputc('\n', stderr);
    return 2;
}

/* ---- calls --------------------------------------------------------------- */

struct ql *kt_open_room(uint32_t room, int64_t wait_ms)
{
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, room);
    options.admit_wait_ms = wait_ms;
    options.charge_wait_ms = wait_ms;
    return kt_open(kt_directory, &options);
}

struct ql *kt_open_store(void)
{
    return kt_open_room(16, kt_deadline_ns / 1000000);
}

void kt_expect(enum ql_status status, enum ql_status wanted, const char *what)
{
    KT_CHECK(status == wanted, "%s: %s", what, ql_status_name(status));
}

void kt_charge(struct ql *ql, int64_t amount)
{
    kt_expect(ql_charge(ql, "alice", "bytes", amount, NULL), QL_OK, "charge");
}

static struct ql_usage usage_of_alice(struct ql *ql)
{
    struct ql_usage usage;
    kt_expect(ql_usage(ql, "alice", &usage), QL_OK, "usage");
    return usage;
}

int64_t kt_total(struct ql *ql)
{
    return usage_of_alice(ql).meters[0].total;
}

int64_t kt_held(struct ql *ql)
{
    return usage_of_alice(ql).leases;
}

struct ql_lease kt_take(struct ql *ql)
{
    struct ql_lease lease;
    kt_expect(ql_acquire(ql, "alice", &lease, NULL), QL_OK, "acquire");
    return lease;
}

void kt_verify(struct ql *ql)
{
    struct ql_error error;
    kt_expect(ql_verify(ql, NULL, &error), QL_OK, error.text);
}

void kt_await(_Atomic int64_t *flag, int64_t at_least)
{
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    while (*flag < at_least) {
        KT_CHECK(kt_now_ns() < deadline_ns, "nothing happened");
        sched_yield();
    }
}

void kt_await_held(struct ql *ql, int64_t leases)
{
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    while (kt_held(ql) != leases)
        KT_CHECK(kt_now_ns() < deadline_ns, "%lld leases stay", (long long)kt_held(ql));
}

enum ql_status kt_wait_for_failure(struct ql *ql)
{
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    enum ql_status status;
    do
        status = ql_charge(ql, "alice", "bytes", 1, NULL);
    while (status == QL_OK && kt_now_ns() < deadline_ns);
    return status;
}

/* ---- inside -------------------------------------------------------------- */

enum ql_status kt_enter(struct ql *ql, struct qli_section *section)
{
    struct qli_engine *engine = &ql->store->engine;
    KT_CHECK(engine->geometry.shard_count == 1, "several shards");
    const struct qli_call call =
        qli_engine_bare_call(engine, qli_holder_self(&engine->region), kt_deadline_ns / 1000000);
    return qli_section_enter(&call, 0, section);
}

int64_t kt_leases_counted(struct ql *ql)
{
    struct qli_section section;
    kt_expect(kt_enter(ql, &section), QL_OK, "enter");
    int64_t count = 0;
    for (uint64_t i = 1; i <= section.shard->lease_top; i++)
        count += qli_lease_state(qli_lease_at(&section, i)) == QLI_LEASE_HELD;
    qli_section_leave(&section);
    return count;
}

_Noreturn void kt_die_in_lock(struct ql *ql)
{
    struct qli_section section;
    kt_charge(ql, 0); /* a forked child becomes a holder at its first call */
    kt_expect(kt_enter(ql, &section), QL_OK, "enter");
    qli_section_store(&section, &section.shard->subject_count, 77);
    qli_section_store(&section, &section.shard->lease_free, 7);
    qli_section_store(&section, &section.shard->lease_free, 6);
    _exit(0);
}
