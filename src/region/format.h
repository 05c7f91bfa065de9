/* SPDX-License-Identifier: Apache-2.0
 *
 * The region's own records, as they stand in shared memory and in the file.
 * What the engine keeps in the body is in engine/layout.h. All offsets count
 * from the region's first byte. What the undo log covers is 64-bit words, in the
 * machine's byte order, so that the log has one size of entry.
 *
 *   header | holders | guards | body
 *
 * [R1] Everything in the header up to checksum is written before the region
 *      gets its name and never after; checksum covers it.
 * [R2] A holder's generation only rises, and only by a process that has the
 *      slot's byte of the lock file.
 * [R3] A guard's word is 0, or names a slot and a generation that was that
 *      slot's when the word was stored.
 * [R4] A guard whose word is 0 has undo_count 0.
 * [R5] undo_count <= QLI_UNDO_MAX, and each entry below it names an aligned
 *      word inside the body.
 */
#ifndef QLI_REGION_FORMAT_H
#define QLI_REGION_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#define QLI_REGION_MAGIC "qlregion"
#define QLI_REGION_VERSION 4u
#define QLI_ENDIAN_TAG 0x01020304u
#define QLI_BOOT_ID_SIZE 40
#define QLI_UUID_SIZE 16
#define QLI_PARAMS 16
#define QLI_UNDO_MAX 64u
#define QLI_CACHE_LINE 64u

struct qli_region_header {
    char magic[8];
    uint32_t endian;
    uint32_t version;
    uint64_t
        stamp; /* sizes of all shared records, folded: a build that disagrees must not attach */
    char boot_id[QLI_BOOT_ID_SIZE];
    uint8_t uuid[QLI_UUID_SIZE];
    uint64_t hash_key[2];
    uint64_t size; /* bytes of the whole region */
    uint64_t holder_count;
    uint64_t holders_offset;
    uint64_t guard_count;
    uint64_t guards_offset;
    uint64_t body_offset;
    uint64_t injected_clock;     /* 1: made by a handle with a clock of its own */
    uint64_t params[QLI_PARAMS]; /* the engine's geometry */
    uint64_t checksum;           /* SipHash with a zero key over all fields above */
    uint64_t corrupt;            /* 0, or 1 once anybody found damage; never goes back */
};

/* One attached process. Written by the process that has the slot's byte; only
 * attached is set to 0 by whoever has reaped its leases. */
struct qli_holder {
    uint64_t generation; /* of the owner, or of the last one; 0: never used */
    uint64_t attached;   /* the generation that may hold leases; 0: none */
    uint64_t pid;        /* for display alone */
    uint64_t padding[5];
};

struct qli_undo_entry {
    uint64_t offset;
    uint64_t old;
};

/* A lock with its undo log. word: see region/guard.h. undo_count and undo
 * belong to whoever word names. */
struct qli_guard {
    uint64_t word;
    uint64_t undo_count;
    uint64_t padding[6];
    struct qli_undo_entry undo[QLI_UNDO_MAX];
};

_Static_assert(sizeof(struct qli_region_header) % 8 == 0, "header is made of words");
_Static_assert(sizeof(struct qli_holder) == QLI_CACHE_LINE, "a holder is a cache line");
_Static_assert(offsetof(struct qli_guard, undo) == QLI_CACHE_LINE, "lock and count share a line");

#endif
