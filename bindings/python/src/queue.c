/* SPDX-License-Identifier: Apache-2.0
 *
 * What the machine did not let through when it was asked: charges (the money
 * is spent, so they must not be lost) and releases (a slot must not leak).
 * Bounded; charges of one subject and meter are added up. The next calls and
 * the end of the interpreter carry them out.
 */
#include "binding.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    QUEUE_MAX = 10000,
    LINES_MAX = 20, /* of the log, when a queue is forgotten */
};

struct queue_entry {
    struct ql_lease lease; /* of a release */
    int64_t amount;        /* of a charge */
    bool is_charge;
    char meter[QL_NAME_MAX + 1];
    char subject[QL_SUBJECT_MAX + 1];
};

static int64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A child must not charge what its parent will charge. */
static void disown(struct queue *queue)
{
    pid_t self = getpid();
    if (queue->owner == self)
        return;
    queue->owner = self;
    queue->count = 0;
    queue->draining = false;
    queue->not_before_ns = 0;
}

static bool grow(struct queue *queue)
{
    if (queue->count >= QUEUE_MAX)
        return false;
    if (queue->count < queue->capacity)
        return true;
    size_t capacity = queue->capacity == 0 ? 16 : queue->capacity * 2;
    struct queue_entry *entries = realloc(queue->entries, capacity * sizeof *entries);
    if (entries == NULL)
        return false;
    queue->entries = entries;
    queue->capacity = capacity;
    return true;
}

static void report_lost(const struct queue_entry *entry)
{
    char detail[sizeof entry->subject + sizeof entry->meter + 32];
    if (entry->is_charge)
        snprintf(detail, sizeof detail, "%s of %s", entry->meter, entry->subject);
    else
        snprintf(detail, sizeof detail, "the release of a lease");
    failure_report("report_lost", detail, entry->amount);
}

static bool merge(struct queue *queue, const struct queue_entry *entry)
{
    for (size_t i = 0; entry->is_charge && i < queue->count; i++) {
        struct queue_entry *other = &queue->entries[i];
        if (!other->is_charge || strcmp(other->subject, entry->subject) != 0 ||
            strcmp(other->meter, entry->meter) != 0)
            continue;
        if (__builtin_add_overflow(other->amount, entry->amount, &other->amount))
            other->amount = INT64_MAX;
        return true;
    }
    return false;
}

static void add(struct queue *queue, const struct queue_entry *entry)
{
    disown(queue);
    if (merge(queue, entry))
        return;
    if (grow(queue))
        queue->entries[queue->count++] = *entry;
    else
        report_lost(entry);
}

/* The machine did not do all that it should, but the charge is made. */
static bool is_made(enum ql_status status)
{
    return status >= 0 || status == QL_E_NOT_DURABLE;
}

void queue_failed_charge(struct store *store, const char *subject, const char *meter,
                         int64_t amount, enum ql_status why)
{
    if (is_made(why)) {
        failure_report("report_not_durable", subject, amount);
        return;
    }
    struct queue_entry entry = {.amount = amount, .is_charge = true};
    snprintf(entry.meter, sizeof entry.meter, "%s", meter);
    snprintf(entry.subject, sizeof entry.subject, "%s", subject);
    add(&store->queue, &entry);
    failure_report("report_queued", ql_status_name(why), (int64_t)store->queue.count);
}

bool queue_takes_release(enum ql_status status)
{
    return status == QL_E_BUSY || status == QL_E_LEDGER;
}

void queue_add_release(struct store *store, struct ql_lease lease, enum ql_status why)
{
    struct queue_entry entry = {.lease = lease};
    add(&store->queue, &entry);
    failure_report("report_queued", ql_status_name(why), (int64_t)store->queue.count);
}

static enum ql_status carry_out(struct store *store, const struct queue_entry *entry)
{
    store_tick_last(store);
    if (!entry->is_charge)
        return ql_release(store->ql, entry->lease);
    return ql_charge(store->ql, entry->subject, entry->meter, entry->amount, NULL);
}

/* Whether a later attempt has something to do. A release that fails for good has
 * nothing left to give back. */
static bool stays(const struct queue_entry *entry, enum ql_status status)
{
    return entry->is_charge ? !is_made(status) : queue_takes_release(status);
}

/* The entries are the caller's while the GIL may be given up in a call. Moves
 * those that fail to the front and gives their number. After QL_E_BUSY and
 * QL_E_NOT_DURABLE the rest would wait too. */
static size_t carry_out_all(struct store *store, struct queue_entry *entries, size_t count)
{
    size_t left = 0;
    bool stuck = false;
    for (size_t i = 0; i < count; i++) {
        enum ql_status status = stuck ? QL_E_BUSY : carry_out(store, &entries[i]);
        if (status == QL_E_NOT_DURABLE && entries[i].is_charge)
            failure_report("report_not_durable", entries[i].subject, entries[i].amount);
        if (stays(&entries[i], status))
            entries[left++] = entries[i];
        stuck = stuck || status == QL_E_BUSY || status == QL_E_NOT_DURABLE;
    }
    return left;
}

/* As the queue again, with what came into it meanwhile. */
static void put_back(struct queue *queue, struct queue_entry *entries, size_t left, size_t capacity)
{
    struct queue_entry *fresh = queue->entries;
    size_t count = queue->count;
    queue->entries = entries;
    queue->count = left;
    queue->capacity = capacity;
    for (size_t i = 0; i < count; i++)
        add(queue, &fresh[i]);
    free(fresh);
}

void queue_drain(struct store *store, bool now)
{
    struct queue *queue = &store->queue;
    if (queue->count == 0)
        return;
    disown(queue);
    int64_t start = monotonic_ns();
    if (queue->count == 0 || queue->draining || (!now && start < queue->not_before_ns))
        return;
    struct queue_entry *entries = queue->entries;
    size_t count = queue->count;
    size_t capacity = queue->capacity;
    queue->entries = NULL;
    queue->count = 0;
    queue->capacity = 0;
    queue->draining = true;
    put_back(queue, entries, carry_out_all(store, entries, count), capacity);
    queue->draining = false;
    /* Attempts that have to wait take a tenth of the caller's time at most. */
    if (queue->count > 0)
        queue->not_before_ns = start + 11 * (monotonic_ns() - start);
}

void queue_clear(struct store *store)
{
    struct queue *queue = &store->queue;
    if (queue->count > 0)
        disown(queue);
    for (size_t i = 0; i < queue->count && i < LINES_MAX; i++)
        report_lost(&queue->entries[i]);
    if (queue->count > LINES_MAX)
        failure_report("report_more_lost", "", (int64_t)(queue->count - LINES_MAX));
    free(queue->entries);
    queue->entries = NULL;
    queue->count = 0;
    queue->capacity = 0;
}
