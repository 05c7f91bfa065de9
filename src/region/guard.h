/* SPDX-License-Identifier: Apache-2.0
 *
 * A guard is the lock of a part of the body, with the undo log that makes each
 * change under it whole or nothing.
 *
 * The lock is one word, 0 when free, else
 *
 *     generation (47 bits) | holder slot + 1 (16 bits) | waiters (1 bit)
 *
 * taken by compare-and-swap, waited for by futex on its low half in naps of a
 * quarter of a millisecond to 5 ms, because an unlocker can die between giving
 * the word up and waking. After each nap the waiter asks whether the owner is
 * alive, and takes the word over from one that is proven dead. One that is
 * stopped is not dead: waiters give up at their deadline.
 *
 * Giving up is a plain store where nobody waits: a waiter that sets its bit
 * between the look and the store finds, before the kernel lets it sleep, that
 * the word has changed. (Should the store come later than the waiter's system
 * call, for the unlocker was interrupted there or its store buffered, the waiter
 * sleeps its nap out: about once in a million calls of two processes that do
 * nothing else. An exchange would prevent it, at 7 ns for every call.)
 *
 * Changes go through qli_log_store, in this order:
 *   1. undo[n] = (offset, old value)   a death after it: not in the log, nothing changed
 *   2. undo_count = n + 1              a death after it: the old value is put over itself
 *   3. the word itself                 a death after it: the old value is put back
 * and end with the single store undo_count = 0, the commit. A killed process
 * leaves a prefix of its program order in memory, so it is enough that the
 * compiler keeps the order. Whoever finds undo_count > 0 after taking the lock
 * puts the old values back, last first, then stores undo_count = 0; a death in
 * between leaves the log for the next one, and doing it twice does no harm.
 */
#ifndef QLI_REGION_GUARD_H
#define QLI_REGION_GUARD_H

#include <assert.h>
#include <stdatomic.h>

#include "region/region.h"

#define QLI_WORD_WAITERS UINT64_C(1)

static inline uint64_t qli_word_make(uint64_t slot, uint64_t generation)
{
    return generation << 17 | (slot + 1) << 1;
}

/* The holder's slot; only of a word that is not 0. */
static inline uint64_t qli_word_slot(uint64_t word)
{
    return (word >> 1 & 0xffff) - 1;
}

static inline uint64_t qli_word_generation(uint64_t word)
{
    return word >> 17;
}

enum ql_status qli_guard_enter_slow(struct qli_region *region, struct qli_guard *guard,
                                    uint64_t self, int64_t wait_ms);

/* The lock is held: undoes what a holder that died in it had not committed. If
 * that fails the region is poisoned, the lock given up, QL_E_CORRUPT returned. */
enum ql_status qli_guard_repair(struct qli_region *region, struct qli_guard *guard);

/* Takes the lock for the holder self, waiting for wait_ms at most; a negative
 * wait_ms spins shortly and never sleeps. QL_OK, QL_E_BUSY, or QL_E_CORRUPT (the
 * undo log makes no sense); only after QL_OK must it be left. */
static inline enum ql_status qli_guard_enter(struct qli_region *region, struct qli_guard *guard,
                                             uint64_t self, int64_t wait_ms)
{
    uint64_t free_word = 0;
    assert(self != 0);
    if (__builtin_expect(!__atomic_compare_exchange_n(&guard->word, &free_word, self, false,
                                                      __ATOMIC_ACQUIRE, __ATOMIC_RELAXED),
                         0))
        return qli_guard_enter_slow(region, guard, self, wait_ms);
    if (__builtin_expect(guard->undo_count != 0, 0))
        return qli_guard_repair(region, guard);
    return QL_OK;
}

/* The undo log of a guard that is held, as its holder writes it. count is the
 * guard's undo_count, kept here so that no store waits for reading it back. A
 * function with several stores copies the log and puts the copy back at its
 * end: nobody else has the copy's address, so it stays in registers. */
struct qli_log {
    const unsigned char *base; /* of the region */
    struct qli_guard *guard;
    uint64_t count;
};

static inline struct qli_log qli_log_of(const struct qli_region *region, struct qli_guard *guard)
{
    return (struct qli_log){.base = region->base, .guard = guard};
}

/* Stores value in a word of the body, undoable until the commit. */
static inline void qli_log_store(struct qli_log *log, uint64_t *field, uint64_t value)
{
    assert(log->count < QLI_UNDO_MAX);
    struct qli_guard *guard = log->guard;
    struct qli_undo_entry *entry = &guard->undo[log->count++];
    entry->offset = (uint64_t)((unsigned char *)field - log->base);
    entry->old = *field;
    atomic_signal_fence(memory_order_seq_cst);
    guard->undo_count = log->count;
    atomic_signal_fence(memory_order_seq_cst);
    *field = value;
}

/* Makes all stores since the lock was taken (or since the last commit) final. */
static inline void qli_log_commit(struct qli_log *log)
{
    atomic_signal_fence(memory_order_seq_cst);
    log->guard->undo_count = 0;
    atomic_signal_fence(memory_order_seq_cst);
    log->count = 0;
}

/* Takes back all stores since the last commit. QL_E_CORRUPT: the log makes no
 * sense; it is left as it was. */
enum ql_status qli_guard_rollback(struct qli_region *region, struct qli_guard *guard);

/* Gives the lock up and wakes a waiter. */
void qli_guard_leave_slow(struct qli_guard *guard);

/* Gives the lock up. */
static inline void qli_guard_leave(struct qli_guard *guard)
{
    if (__builtin_expect((__atomic_load_n(&guard->word, __ATOMIC_RELAXED) & QLI_WORD_WAITERS) != 0,
                         0))
        qli_guard_leave_slow(guard);
    else
        __atomic_store_n(&guard->word, 0, __ATOMIC_RELEASE);
}

/* Takes over and repairs every guard that an earlier generation of self's slot
 * died in. Part of registering. */
enum ql_status qli_guard_inherit(struct qli_region *region, uint64_t self);

#endif
