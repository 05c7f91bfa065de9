/* SPDX-License-Identifier: Apache-2.0
 *
 * Owns the slow paths of a guard: waiting, taking over from the dead, undoing.
 * A death here leaves the word with the dead holder's name and the log as far
 * as it was undone: the next one starts over. See guard.h for the order of
 * stores.
 */
#include "region/guard.h"

#include <endian.h>
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "region/holder.h"

#define PAUSES_MAX 64
#define FIRST_NAP_NS (QLI_NS_PER_MS / 4)
#define LAST_NAP_NS (5 * QLI_NS_PER_MS)

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool take(struct qli_guard *guard, uint64_t expected, uint64_t word)
{
    return __atomic_compare_exchange_n(&guard->word, &expected, word, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

static uint32_t *futex_half(struct qli_guard *guard)
{
    return (uint32_t *)&guard->word + (BYTE_ORDER == LITTLE_ENDIAN ? 0 : 1);
}

static void nap(struct qli_guard *guard, uint64_t seen, int64_t ns)
{
    struct timespec timeout = {.tv_sec = 0, .tv_nsec = ns};
    syscall(SYS_futex, futex_half(guard), FUTEX_WAIT, (uint32_t)seen, &timeout, NULL, 0);
}

void qli_guard_leave_slow(struct qli_guard *guard)
{
    __atomic_store_n(&guard->word, 0, __ATOMIC_RELEASE);
    syscall(SYS_futex, futex_half(guard), FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Sets the waiters bit and sleeps until woken or its nap is over, which is longer
 * each time. Whoever has slept keeps the bit when it takes the lock: there may
 * be more sleepers. */
static enum ql_status wait_for_word(struct qli_region *region, struct qli_guard *guard,
                                    uint64_t self, int64_t wait_ms)
{
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    int64_t nap_ns = FIRST_NAP_NS;
    for (;;) {
        uint64_t seen = __atomic_load_n(&guard->word, __ATOMIC_RELAXED);
        if (seen == 0) {
            if (take(guard, 0, self | QLI_WORD_WAITERS))
                return QL_OK;
            continue;
        }
        if (!(seen & QLI_WORD_WAITERS) && !take(guard, seen, seen | QLI_WORD_WAITERS))
            continue;
        seen |= QLI_WORD_WAITERS;
        int64_t left_ns = deadline_ns - qli_clock_boot_ns();
        if (left_ns > 0)
            nap(guard, seen, left_ns < nap_ns ? left_ns : nap_ns);
        nap_ns = nap_ns < LAST_NAP_NS / 2 ? nap_ns * 2 : LAST_NAP_NS;
        if (__atomic_load_n(&guard->word, __ATOMIC_RELAXED) != seen)
            continue;
        if (!qli_holder_runs(region, self, seen)) {
            if (take(guard, seen, self | QLI_WORD_WAITERS))
                return QL_OK;
        } else if (left_ns <= 0) {
            return QL_E_BUSY;
        }
    }
}

/* For a call that may not sleep. */
static enum ql_status take_from_dead(struct qli_region *region, struct qli_guard *guard,
                                     uint64_t self)
{
    uint64_t seen = __atomic_load_n(&guard->word, __ATOMIC_RELAXED);
    if (seen == 0 || qli_holder_runs(region, self, seen))
        return QL_E_BUSY;
    return take(guard, seen, self | (seen & QLI_WORD_WAITERS)) ? QL_OK : QL_E_BUSY;
}

/* Looks ever more rarely: each look takes the word's cache line from the holder. */
static bool spin_for_word(struct qli_guard *guard, uint64_t self)
{
    for (int pauses = 1; pauses <= PAUSES_MAX; pauses += pauses) {
        if (__atomic_load_n(&guard->word, __ATOMIC_RELAXED) == 0 && take(guard, 0, self))
            return true;
        for (int i = 0; i < pauses; i++)
            pause_cpu();
    }
    return false;
}

enum ql_status qli_guard_rollback(struct qli_region *region, struct qli_guard *guard)
{
    if (guard->undo_count > QLI_UNDO_MAX)
        return QL_E_CORRUPT;
    for (uint64_t n = guard->undo_count; n > 0; n--) {
        uint64_t offset = guard->undo[n - 1].offset;
        if (offset % sizeof(uint64_t) != 0 || offset < region->body_offset ||
            offset > region->size - sizeof(uint64_t))
            return QL_E_CORRUPT;
        atomic_signal_fence(memory_order_seq_cst);
        *(uint64_t *)(region->base + offset) = guard->undo[n - 1].old;
    }
    atomic_signal_fence(memory_order_seq_cst);
    guard->undo_count = 0;
    return QL_OK;
}

enum ql_status qli_guard_repair(struct qli_region *region, struct qli_guard *guard)
{
    enum ql_status status = guard->undo_count == 0 ? QL_OK : qli_guard_rollback(region, guard);
    if (status == QL_OK)
        return QL_OK;
    qli_guard_leave(guard);
    return qli_region_poison(region);
}

enum ql_status qli_guard_enter_slow(struct qli_region *region, struct qli_guard *guard,
                                    uint64_t self, int64_t wait_ms)
{
    if (!spin_for_word(guard, self)) {
        enum ql_status status = wait_ms < 0 ? take_from_dead(region, guard, self)
                                            : wait_for_word(region, guard, self, wait_ms);
        if (status != QL_OK)
            return status;
    }
    return qli_guard_repair(region, guard);
}

/* Stores: the word (a death after it: the word names us, the log is whole),
 * then repair, then the word again. */
static enum ql_status inherit_one(struct qli_region *region, struct qli_guard *guard, uint64_t self)
{
    for (;;) {
        uint64_t seen = __atomic_load_n(&guard->word, __ATOMIC_ACQUIRE);
        if (seen == 0 || qli_word_slot(seen) != qli_word_slot(self) ||
            qli_word_generation(seen) == qli_word_generation(self))
            return QL_OK;
        if (!take(guard, seen, self | (seen & QLI_WORD_WAITERS)))
            continue;
        enum ql_status status = qli_guard_repair(region, guard);
        if (status == QL_OK)
            qli_guard_leave(guard);
        return status;
    }
}

enum ql_status qli_guard_inherit(struct qli_region *region, uint64_t self)
{
    for (uint64_t i = 0; i < region->guard_count; i++) {
        enum ql_status status = inherit_one(region, &region->guards[i], self);
        if (status != QL_OK)
            return status;
    }
    return QL_OK;
}
