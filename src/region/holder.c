/* SPDX-License-Identifier: Apache-2.0
 *
 * Registering stores, in this order:
 *   1. the byte's lock (kernel)   a death after it: the kernel drops it
 *   2. generation + 1             a death after it: all older generations are dead for everybody
 *   3. words of guards that older generations of the slot died in, repaired
 *   4. leases of older generations of the slot, reaped, unless attached is 0: it has none
 *   5. pid, attached = generation a death before it: attached has the old value, so a tick
 *                                 still finds what 4 had not reaped
 *   6. self->word                 from here on the process may take locks and leases
 * In the other order, 2 after 3, a death between the two would leave a lock
 * word that the slot's next owner takes for its own, for ever.
 *
 * 4 needs the lock of every shard, and one of them may be held by a process
 * that is stopped. So slots that were left clean come first. One that was not
 * may be given back between any two steps, as a death there would do it.
 */
#include "region/holder.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "region/guard.h"
#include "region/lockfile.h"

static uint64_t raise_generation(struct qli_region *region, uint64_t slot)
{
    struct qli_holder *holder = &region->holders[slot];
    uint64_t generation = holder->generation + 1;
    __atomic_store_n(&holder->generation, generation, __ATOMIC_SEQ_CST);
    return qli_word_make(slot, generation);
}

/* attached is lowered by whoever has reaped, and raised only by who has the byte. */
static bool is_clean(const struct qli_region *region, uint64_t slot)
{
    return __atomic_load_n(&region->holders[slot].attached, __ATOMIC_ACQUIRE) == 0;
}

static enum ql_status take_over(struct qli_region *region, uint64_t slot, qli_holder_reaper reap,
                                void *context, uint64_t *self)
{
    *self = raise_generation(region, slot);
    enum ql_status status = qli_guard_inherit(region, *self);
    return status == QL_OK && !is_clean(region, slot) ? reap(context, *self) : status;
}

/* A slot whose leases somebody keeps is not free: a new owner would reap them.
 * Asked with the byte in hand, for only who has it can begin to keep. */
static bool take_byte(int token_fd, uint64_t slot)
{
    if (!qli_lockfile_take(token_fd, QLI_BYTE_HOLDERS + slot))
        return false;
    bool kept = qli_lockfile_locked(token_fd, QLI_BYTE_KEPT + slot, 1);
    if (kept)
        qli_lockfile_give(token_fd, QLI_BYTE_HOLDERS + slot);
    return !kept;
}

/* Takes the first free slot (that is clean, if clean is set) whose former
 * owner's leases can be reaped. QL_E_FULL: none is free. QL_E_BUSY. */
static enum ql_status take_slot(struct qli_region *region, int token_fd, bool clean,
                                qli_holder_reaper reap, void *context, uint64_t *self)
{
    enum ql_status answer = QL_E_FULL;
    for (uint64_t slot = 0; slot < region->holder_count; slot++) {
        if ((clean && !is_clean(region, slot)) || !take_byte(token_fd, slot))
            continue;
        enum ql_status status = take_over(region, slot, reap, context, self);
        if (status == QL_OK)
            return QL_OK;
        qli_lockfile_give(token_fd, QLI_BYTE_HOLDERS + slot);
        answer = status;
        if (status != QL_E_BUSY)
            break;
    }
    return answer;
}

static enum ql_status find_slot(struct qli_region *region, int token_fd, int64_t wait_ms,
                                qli_holder_reaper reap, void *context, uint64_t *self)
{
    int64_t deadline_ns = qli_clock_boot_ns() + wait_ms * QLI_NS_PER_MS;
    for (;;) {
        enum ql_status status = take_slot(region, token_fd, true, reap, context, self);
        if (status == QL_E_FULL)
            status = take_slot(region, token_fd, false, reap, context, self);
        if (status != QL_E_BUSY || !qli_clock_nap(deadline_ns))
            return status;
    }
}

static enum ql_status report_no_slot(const struct qli_region *region, enum ql_status status,
                                     struct ql_error *error)
{
    if (status == QL_E_FULL)
        return qli_error(error, status, 0,
                         "all %llu holder slots are taken: make the store with a larger "
                         "max_holders",
                         (unsigned long long)region->holder_count);
    if (status == QL_E_BUSY)
        return qli_error(error, status, 0,
                         "every free holder slot has leases of a dead process, and a process that "
                         "does not go on holds a lock: is it stopped?");
    return qli_error(error, status, 0, "cannot take over the slot of a dead process: %s",
                     ql_status_text(status));
}

enum ql_status qli_holder_register(struct qli_region *region, int token_fd, int64_t wait_ms,
                                   qli_holder_reaper reap, void *context, struct ql_error *error)
{
    uint64_t self;
    enum ql_status status = find_slot(region, token_fd, wait_ms, reap, context, &self);
    if (status != QL_OK)
        return report_no_slot(region, status, error);
    struct qli_holder *holder = &region->holders[qli_word_slot(self)];
    holder->pid = (uint64_t)getpid();
    __atomic_store_n(&holder->attached, qli_word_generation(self), __ATOMIC_RELEASE);
    region->token_fd = token_fd;
    __atomic_store_n(&region->self->word, self, __ATOMIC_RELEASE);
    return QL_OK;
}

void qli_holder_detach(struct qli_region *region)
{
    uint64_t self = qli_holder_self(region);
    if (self == 0)
        return;
    __atomic_store_n(&region->self->word, 0, __ATOMIC_RELEASE);
    /* Not over a new owner's: the host may have closed our token unnoticed. */
    uint64_t own = qli_word_generation(self);
    __atomic_compare_exchange_n(&region->holders[qli_word_slot(self)].attached, &own, 0, false,
                                __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    qli_holder_close_token(region);
}

void qli_holder_close_token(struct qli_region *region)
{
    if (qli_holder_is_lock_file(region, region->token_fd))
        close(region->token_fd);
    region->token_fd = -1;
}

/* The slot has no new owner, who could take its byte only after a death. */
static bool is_latest(const struct qli_region *region, uint64_t word)
{
    uint64_t slot = qli_word_slot(word);
    if (word == 0 || slot >= region->holder_count)
        return false;
    uint64_t generation = __atomic_load_n(&region->holders[slot].generation, __ATOMIC_ACQUIRE);
    return generation == qli_word_generation(word);
}

static bool may_be_locked(const struct qli_region *region, uint64_t byte)
{
    return qli_lockfile_locked(region->lock_fd, byte, 1) ||
           !qli_holder_is_lock_file(region, region->lock_fd);
}

bool qli_holder_runs(const struct qli_region *region, uint64_t self, uint64_t word)
{
    word &= ~QLI_WORD_WAITERS;
    return word == self || (is_latest(region, word) &&
                            may_be_locked(region, QLI_BYTE_HOLDERS + qli_word_slot(word)));
}

/* In this order: who still runs may begin to keep, who does not run cannot. */
bool qli_holder_alive(const struct qli_region *region, uint64_t self, uint64_t word)
{
    return qli_holder_runs(region, self, word) ||
           (is_latest(region, word) && may_be_locked(region, QLI_BYTE_KEPT + qli_word_slot(word)));
}

bool qli_holder_is_lock_file(const struct qli_region *region, int fd)
{
    struct qli_file_id id;
    return qli_system_identify(fd, "", &id) && qli_file_id_equal(id, region->lock_file);
}

bool qli_holder_token_held(struct qli_region *region)
{
    uint64_t self = qli_holder_self(region);
    return qli_holder_is_lock_file(region, region->token_fd) &&
           qli_holder_is_lock_file(region, region->lock_fd) &&
           qli_lockfile_locked(region->lock_fd, QLI_BYTE_HOLDERS + qli_word_slot(self), 1);
}
