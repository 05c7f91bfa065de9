/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine's records in the region's body, each with its lock and the
 * meaning of zero. (The region's own are in region/format.h.)
 *
 *   store page | ledger page | shard | shard | ...
 *   a shard: its head | buckets | bitmap of dirty subjects | subjects | leases
 *
 * A subject belongs to the shard that its hash names. Everything in a shard is
 * guarded by guard 1 + shard; the limits in the store page by guard 0. Indices of subjects
 * and leases count from 1 inside their shard; 0 is none.
 *
 * [S1] Each subject slot up to subject_top is used once: on the free list (meta
 *      0), in the one bucket chain that its hash names, or as the extension of
 *      one subject. Those above were never used.
 * [S2] A used subject's key is a valid subject, its hash that of the key, and
 *      no other subject has the same key.
 * [S3] subject_count is the number of used subjects.
 * [L1] Each lease slot up to lease_top is on the free list, or held and on the
 *      list of the one subject that it names, or kept and in the queue; lists
 *      and queue are linked both ways alike. Those above were never used.
 * [L2] The count in a subject's leases is the length of its list.
 * [L3] A held lease names a holder's slot and a generation that is not above
 *      the slot's, or none and has a deadline.
 * [D1] dirty_count is the number of used subjects with a dirty bit. Their bits in
 *      the bitmap are set, and no other; a dirty bit is one of a meter that the
 *      store has room for, and an extension has none.
 * [U1] A cell's totals are amounts (2^63-1 at most), and day > previous_day
 *      unless both are 0.
 * [C1] The store page has at most QL_LIMITS_MAX limits, valid as a list, and
 *      meters with distinct names, each named by its index in the cells.
 */
#ifndef QLI_ENGINE_LAYOUT_H
#define QLI_ENGINE_LAYOUT_H

#include "quotalite.h"
#include "region/format.h"

#define QLI_KEY_INLINE 96u
#define QLI_NAME_SIZE (QL_NAME_MAX + 1)

/* What a meter of a subject adds up to. Zero: nothing, in 1970. */
struct qli_cell {
    uint64_t day;
    uint64_t total;
    uint64_t previous_day;
    uint64_t previous_total;
};

/* meta of a subject slot: kind | key length << 8 | dirty << 16 | extension's index << 32.
 * dirty: bit m is set while the ledger lacks what meter m's current window holds,
 * bit QL_METERS_MAX + m the same of the previous one. */
enum qli_subject_kind {
    QLI_SUBJECT_FREE = 0, /* next links the free list; nothing else has a meaning */
    QLI_SUBJECT_USED = 1,
    QLI_SUBJECT_EXTENSION = 2, /* bytes of a key behind QLI_KEY_INLINE; see struct qli_extension */
};

struct qli_subject {
    uint64_t hash;
    uint64_t next; /* in the bucket's chain or the free list */
    uint64_t meta;
    uint64_t leases; /* the list's first | its length << 32: one word, one logged store */
    char key[QLI_KEY_INLINE];
    struct qli_cell cells[]; /* one a meter, as many as the store was made for */
};

/* A subject slot in its second use. */
struct qli_extension {
    uint64_t unused;
    uint64_t next;
    uint64_t meta;
    char key[QL_SUBJECT_MAX + 1 - QLI_KEY_INLINE];
};

/* state of a lease slot: QLI_LEASE_HELD, or how its last lease ended. One that
 * ended before it was settled (the states from QLI_LEASE_REVOKED on) is kept. */
enum qli_lease_state {
    QLI_LEASE_NONE = 0, /* none yet, or one that is forgotten */
    QLI_LEASE_HELD = 1,
    QLI_LEASE_SETTLED = 2,
    QLI_LEASE_REVOKED = 3,
    QLI_LEASE_EXPIRED = 4,
    QLI_LEASE_REAPED = 5,
};

/* In a free slot only life and links have a meaning; in a kept one subject and
 * subject_hash too. */
struct qli_lease {
    uint64_t life;  /* generation << 3 | state, of the lease that has the slot or had it last */
    uint64_t links; /* next | previous << 32, in the subject's list or the queue of kept ones;
                     * next alone in the free list */
    uint64_t subject;
    uint64_t holder;      /* a guard's word without the waiters bit; 0: a timed lease */
    uint64_t deadline_ns; /* CLOCK_BOOTTIME; 0: none */
    uint64_t since_ns;    /* the store's clock */
    uint64_t ttl_ns;      /* of a timed lease: what renewing adds to the clock */
    uint64_t subject_hash;
};

struct qli_shard {
    uint64_t subject_free;
    uint64_t lease_free;
    uint64_t subject_top; /* slots above it were never used: nothing needs to be linked before */
    uint64_t lease_top;
    uint64_t subject_count;
    uint64_t evict_hand; /* the slot at which the next look for an idle subject begins */
    uint64_t kept_first; /* the queue of ended leases that were not settled: the oldest */
    uint64_t kept_last;
    uint64_t dirty_count; /* subjects with a dirty bit; the bitmap behind the head says which */
    uint64_t flushed;     /* the last flush that left nothing of what was charged before it began;
                           * atomic, written by who has the FLUSHER byte */
    uint64_t padding[6];
};

struct qli_shared_limit {
    char name[QLI_NAME_SIZE];
    uint64_t window; /* enum ql_window */
    uint64_t meter;  /* an index, if windowed */
    uint64_t cap;
};

struct qli_shared_limits {
    uint64_t count;
    uint64_t meter_count; /* of all meters that this list and those before it have named */
    struct qli_shared_limit limits[QL_LIMITS_MAX];
};

/* What all calls share. sequence chooses the live one of the two lists (its low
 * bit) and is stored last: a death while the other one is written changes
 * nothing. meters has names up to the live list's meter_count; what stands behind
 * them means nothing. The words up to leap_since_ns but for sequence are atomic,
 * need no lock, and are right after each single store. */
struct qli_store_page {
    uint64_t sequence;
    uint64_t deadlines;       /* 1 from before a lease has the first one */
    uint64_t omissions;       /* admissions with an uncounted lease */
    uint64_t day;             /* in which the store works; 0: no call has been made yet */
    uint64_t ask_until;       /* of windows up to this day the ledger may know more than a cell that
                               * does not have them; 0: none */
    uint64_t clock_offset_ns; /* calendar - CLOCK_BOOTTIME as they were last believed; 0: never */
    uint64_t leap_since_ns;   /* CLOCK_BOOTTIME at which a leap ahead was first seen; 0: none is */
    uint64_t padding;
    char meters[QL_METERS_MAX][QLI_NAME_SIZE];
    struct qli_shared_limits lists[2];
};

/* What the processes know of the ledger. Each word is right after its single store;
 * atomic. The first two are written by who opens the store, the others by who has
 * the FLUSHER byte, or makes the region. */
struct qli_ledger_page {
    uint64_t durability;     /* enum ql_durability; never QL_DURABILITY_STORE */
    uint64_t history_days;   /* what is older is removed; 0: nothing is */
    uint64_t begun;          /* flushes begun */
    uint64_t done;           /* the last one that was completed; its low half is waited for */
    uint64_t begun_boot_ns;  /* when the last one began */
    uint64_t done_boot_ns;   /* when the last one that was completed began */
    uint64_t flusher;        /* a guard's word without the waiters bit: who flushed last */
    uint64_t pruned_day;     /* on which old windows were last removed */
    uint64_t uuid[2];        /* of the ledger that the totals are in; 0: none yet */
    uint64_t sequence;       /* of its last transaction that is known to be committed */
    uint64_t next_sequence;  /* of the one that may be */
    uint64_t inode;          /* of its file */
    uint64_t wal_inode;      /* of that one's write-ahead log */
    uint64_t limits_written; /* the sequence of the limits that it has */
    uint64_t settings;       /* durability | history_days << 8, as it has them */
};

_Static_assert(2 * QL_METERS_MAX <= 16, "the dirty bits of all windows stand in meta");
_Static_assert(sizeof(struct qli_ledger_page) == 128, "two lines");
_Static_assert(offsetof(struct qli_store_page, meters) == QLI_CACHE_LINE,
               "what each call reads is a line");
_Static_assert(sizeof(struct qli_subject) == 128, "a subject with two cells is three lines");
_Static_assert(sizeof(struct qli_lease) == QLI_CACHE_LINE, "a lease is a line");
_Static_assert(sizeof(struct qli_shard) == 2 * QLI_CACHE_LINE, "a shard's head is two lines");
_Static_assert(sizeof(struct qli_extension) <= 192, "the smallest subject slot holds an extension");
_Static_assert(offsetof(struct qli_subject, next) == offsetof(struct qli_extension, next) &&
                   offsetof(struct qli_subject, meta) == offsetof(struct qli_extension, meta),
               "a slot has its link and kind in one place");

#endif
