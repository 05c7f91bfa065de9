/* SPDX-License-Identifier: Apache-2.0
 *
 * Every state: each operation is stepped through once. Each state that it goes
 * through is given to a fresh process, which must attach, repair, verify, and
 * find the operation done whole or not at all: first not, from one state on
 * done. The fresh process is stepped through too, and what it goes through is
 * given to yet another one, which must come to the same. At each of the states
 * the operation is run again and really killed.
 *
 *   every_state [--quick] [operation...]
 *
 * --quick does not step the repairs.
 */
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "operations.h"
#include "operations_store.h"
#include "recovery.h"

#define DUMP_SIZE 4096
#define RECOVERY_SECONDS 60

enum outcome { BEFORE, AFTER, EITHER };

struct memo {
    uint64_t *hashes;
    size_t count;
    size_t capacity;
};

struct trial {
    const struct kt_operation *operation;
    char *before;
    char *after;
    struct memo seen;     /* repair states that were checked */
    struct memo repaired; /* states whose repair was stepped */
    uint64_t states;
    uint64_t steps;
    uint64_t repair_states;
    uint64_t repair_steps;
    uint64_t outcomes[3];
    uint64_t kills;
};

static char *shared_dump;
static bool quick;

/* A fresh process recovers what is in the directory. Leaves its dump in
 * shared_dump. */
static void recover(const char *directory, const char *what, uint64_t number)
{
    shared_dump[0] = '\0';
    pid_t pid = kt_fork();
    if (pid == 0) {
        alarm(RECOVERY_SECONDS);
        kt_recover_dump(directory, shared_dump, DUMP_SIZE);
        _exit(0);
    }
    int status = kt_wait(pid);
    KT_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s %llu: recovery ended with %#x",
             what, (unsigned long long)number, (unsigned)status);
}

static void recover_state(const struct kt_state *state, const char *what)
{
    char directory[KT_PATH];
    kt_directory_make(directory, NULL);
    kt_state_materialise(state, directory);
    recover(directory, what, state->step);
    kt_directory_remove(directory);
}

static enum outcome classify(struct trial *t, const char *what, uint64_t number)
{
    bool before = strcmp(shared_dump, t->before) == 0;
    bool after = strcmp(shared_dump, t->after) == 0;
    KT_CHECK(before || after,
             "%s, %s %llu: neither whole nor not at all:\n%s-- before:\n%s-- after:\n%s",
             t->operation->name, what, (unsigned long long)number, shared_dump, t->before,
             t->after);
    return before && after ? EITHER : before ? BEFORE : AFTER;
}

static bool first_sight(struct memo *memo, uint64_t hash)
{
    for (size_t i = 0; i < memo->count; i++) {
        if (memo->hashes[i] == hash)
            return false;
    }
    if (memo->count == memo->capacity) {
        memo->capacity = memo->capacity == 0 ? 256 : memo->capacity * 2;
        memo->hashes = realloc(memo->hashes, memo->capacity * sizeof *memo->hashes);
        KT_CHECK(memo->hashes != NULL, "out of memory");
    }
    memo->hashes[memo->count++] = hash;
    return true;
}

/* Steps through the repair of a state; each state of that must be repaired to
 * the same outcome. */
static void step_repair(struct trial *t, const struct kt_state *state, enum outcome outcome)
{
    static const struct kt_script script = {NULL, kt_recover, false};
    char directory[KT_PATH];
    kt_directory_make(directory, NULL);
    kt_state_materialise(state, directory);
    struct kt_states states = kt_states_record(directory, &script);
    kt_directory_remove(directory);
    t->repair_steps += states.steps;
    for (size_t i = 0; i < states.count; i++) {
        if (!first_sight(&t->seen, states.items[i].hash))
            continue;
        t->repair_states++;
        recover_state(&states.items[i], "repair step");
        enum outcome second = classify(t, "repair step", states.items[i].step);
        KT_CHECK(second == outcome, "%s, step %llu, repair step %llu: outcome %d became %d",
                 t->operation->name, (unsigned long long)state->step,
                 (unsigned long long)states.items[i].step, outcome, second);
    }
    kt_states_free(&states);
}

static void prepare(const struct kt_operation *operation, const char *directory)
{
    *kt_store.clock_ns = KT_START_NS;
    if (operation->prepare == NULL)
        return;
    pid_t pid = kt_fork();
    if (pid == 0) {
        operation->prepare(directory);
        _exit(0);
    }
    kt_wait_success(pid);
}

static char *learn(const struct kt_state *state)
{
    recover_state(state, "step");
    char *copy = strdup(shared_dump);
    KT_CHECK(copy != NULL, "out of memory");
    return copy;
}

/* The two ends are what the operation's row says they are. */
static void check_ends(const struct trial *t)
{
    const struct kt_operation *o = t->operation;
    KT_CHECK(o->before == NULL ||
                 (strstr(t->before, o->before) != NULL && strstr(t->after, o->before) == NULL),
             "%s: before:\n%safter:\n%s", o->name, t->before, t->after);
    KT_CHECK(o->after == NULL ||
                 (strstr(t->after, o->after) != NULL && strstr(t->before, o->after) == NULL),
             "%s: before:\n%safter:\n%s", o->name, t->before, t->after);
}

static void check_states(struct trial *t, const struct kt_states *states)
{
    enum outcome so_far = BEFORE;
    for (size_t i = 0; i < states->count; i++) {
        const struct kt_state *state = &states->items[i];
        recover_state(state, "step");
        enum outcome outcome = classify(t, "step", state->step);
        KT_CHECK(outcome == EITHER || outcome >= so_far, "%s, step %llu: undone after it was done",
                 t->operation->name, (unsigned long long)state->step);
        if (outcome != EITHER)
            so_far = outcome;
        t->outcomes[outcome]++;
        if (!quick && first_sight(&t->repaired, state->repair_hash))
            step_repair(t, state, outcome);
    }
}

/* Really killed, in place, with whoever else is alive. */
static void kill_at_states(struct trial *t, const struct kt_states *states)
{
    for (size_t i = 0; i < states->count; i++) {
        char directory[KT_PATH];
        kt_directory_make(directory, NULL);
        prepare(t->operation, directory);
        kt_kill_after(directory, &t->operation->script, states->items[i].step);
        recover(directory, "kill after step", states->items[i].step);
        classify(t, "kill after step", states->items[i].step);
        kt_directory_remove(directory);
        t->kills++;
    }
}

static void try_operation(const struct kt_operation *operation)
{
    struct trial t = {.operation = operation};
    char directory[KT_PATH];
    int64_t start_ns = kt_now_ns();
    kt_store.durability = operation->durability != 0 ? operation->durability : QL_DURABILITY_NONE;
    kt_directory_make(directory, NULL);
    prepare(operation, directory);
    struct kt_states states = kt_states_record(directory, &operation->script);
    kt_directory_remove(directory);
    KT_CHECK(states.count >= 2, "%s: no states", operation->name);
    t.states = states.count;
    t.steps = states.steps;
    t.before = learn(&states.items[0]);
    t.after = learn(&states.items[states.count - 1]);
    check_ends(&t);
    check_states(&t, &states);
    kill_at_states(&t, &states);
    printf("%-16s %7llu steps, %4llu states (%llu before, %llu after, %llu either), repair: %8llu "
           "steps, %5llu states; %llu kills; %.1f s\n",
           operation->name, (unsigned long long)t.steps, (unsigned long long)t.states,
           (unsigned long long)t.outcomes[BEFORE], (unsigned long long)t.outcomes[AFTER],
           (unsigned long long)t.outcomes[EITHER], (unsigned long long)t.repair_steps,
           (unsigned long long)t.repair_states, (unsigned long long)t.kills,
           (double)(kt_now_ns() - start_ns) / 1e9);
    fflush(stdout);
    kt_states_free(&states);
    free(t.before);
    free(t.after);
    free(t.seen.hashes);
    free(t.repaired.hashes);
}

/* A traced process and its tracer take turns: on one processor they need not
 * wake each other's. */
static void share_processor(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
}

static bool wanted(int argc, char **argv, const char *name)
{
    bool found = argc == 1;
    for (int i = 1; i < argc; i++)
        found |= strcmp(argv[i], name) == 0;
    return found;
}

int main(int argc, char **argv)
{
    share_processor();
    setvbuf(stdout, NULL, _IOLBF, 0);
    shared_dump = kt_shared(DUMP_SIZE);
    quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    argc -= quick;
    argv += quick;
    kt_store.clock_ns = kt_shared(sizeof *kt_store.clock_ns);
    int tried = 0;
    for (size_t i = 0; i < kt_operation_count; i++) {
        if (!wanted(argc, argv, kt_operations[i].name))
            continue;
        try_operation(&kt_operations[i]);
        tried++;
    }
    KT_CHECK(tried > 0, "no such operation");
    return 0;
}
