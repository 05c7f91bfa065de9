/* SPDX-License-Identifier: Apache-2.0
 *
 * SipHash-1-3: a keyed hash, so that nobody who does not know a store's key can
 * choose subjects that share a bucket. J.-P. Aumasson and D. J. Bernstein,
 * "SipHash: a fast short-input PRF", 2012; 1 compression and 3 finalisation
 * rounds as in the hash tables of Rust and Ruby.
 */
#ifndef QLI_BASE_SIPHASH_H
#define QLI_BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t qli_siphash(const uint64_t key[2], const void *data, size_t length);

#endif
