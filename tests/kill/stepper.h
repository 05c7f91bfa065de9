/* SPDX-License-Identifier: Apache-2.0
 *
 * Steps through a process and keeps the states that a store's directory goes
 * through: one after each instruction that changed a byte of a mapped region,
 * and after each system call that changed a file. Nothing else of ours changes what
 * others see, so nothing else is a step: regions are mapped for reading only,
 * and an instruction that stores into one is a fault, at which it is let go on
 * alone. What SQLite stores into its own index is not a step.
 */
#ifndef KILL_STEPPER_H
#define KILL_STEPPER_H

#include <sys/stat.h>

#include "harness.h"

#define KT_FILES 8

struct kt_file {
    char name[32];
    ino_t inode;
    size_t size;
    unsigned char *bytes;
};

struct kt_state {
    uint64_t step; /* after which the state was first seen */
    uint64_t hash;
    uint64_t repair_hash; /* without the bytes of region.new, which nobody reads: it is removed */
    int file_count;
    struct kt_file files[KT_FILES];
};

struct kt_states {
    struct kt_state *items;
    size_t count;
    uint64_t steps;
};

/* What a traced process does. setup runs untraced. If fork_child is set, the
 * traced process is a child that setup's process forks after it. */
struct kt_script {
    void (*setup)(const char *directory);
    void (*run)(const char *directory);
    bool fork_child;
};

/* Steps through run and returns the states, first the one before it, last the
 * one after it. The process is killed in the end. */
struct kt_states kt_states_record(const char *directory, const struct kt_script *script);

/* Steps `steps` times into run, then kills. */
void kt_kill_after(const char *directory, const struct kt_script *script, uint64_t steps);

/* Puts the state into an empty directory; the lock file's record names the new
 * region file if it named the old one, and the region the new ledger. */
void kt_state_materialise(const struct kt_state *state, const char *directory);

void kt_states_free(struct kt_states *states);

#endif
