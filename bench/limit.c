/* SPDX-License-Identifier: Apache-2.0
 *
 * The bare limit: the library's own hash, chained buckets, cells of two cache
 * lines in shared memory, three atomic adds. No lock, no undo, no lease, no
 * clock.
 */
#include <stdatomic.h>
#include <string.h>

#include "base/siphash.h"
#include "bench.h"

struct cell {
    uint64_t hash;
    uint32_t next; /* 0 ends the chain */
    uint32_t length;
    char key[64];
    _Atomic uint64_t counters[3];
    uint64_t unused[3];
};
_Static_assert(sizeof(struct cell) == 128, "two cache lines");

struct bare {
    uint64_t hash_key[2];
    uint64_t bucket_mask;
    uint32_t *buckets;
    struct cell *cells; /* cell 0 is none */
    uint32_t used;
};

struct bare *bare_make(uint32_t cells)
{
    uint64_t buckets = 1;
    while (buckets < cells) {
        buckets *= 2;
    }
    struct bare *bare = bench_shared(sizeof(*bare));
    bare->hash_key[0] = 0x0706050403020100;
    bare->hash_key[1] = 0x0f0e0d0c0b0a0908;
    bare->bucket_mask = buckets - 1;
    bare->buckets = bench_shared(buckets * sizeof(*bare->buckets));
    bare->cells = bench_shared((cells + 1) * sizeof(*bare->cells));
    return bare;
}

void bare_insert(struct bare *bare, const char *key)
{
    size_t length = strlen(key);
    uint64_t hash = qli_siphash(bare->hash_key, key, length);
    struct cell *cell = &bare->cells[++bare->used];
    cell->hash = hash;
    cell->length = (uint32_t)length;
    memcpy(cell->key, key, length);
    cell->next = bare->buckets[hash & bare->bucket_mask];
    bare->buckets[hash & bare->bucket_mask] = bare->used;
}

int bare_count(struct bare *bare, const char *key)
{
    size_t length = strlen(key);
    uint64_t hash = qli_siphash(bare->hash_key, key, length);
    uint32_t at = bare->buckets[hash & bare->bucket_mask];
    while (at != 0) {
        struct cell *cell = &bare->cells[at];
        if (cell->hash == hash && cell->length == length && memcmp(cell->key, key, length) == 0) {
            atomic_fetch_add(&cell->counters[0], 1);
            atomic_fetch_add(&cell->counters[1], 1);
            atomic_fetch_add(&cell->counters[2], 1);
            return 1;
        }
        at = cell->next;
    }
    return 0;
}
