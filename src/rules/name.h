/* SPDX-License-Identifier: Apache-2.0
 *
 * Which names are names: subjects, limits, meters.
 */
#ifndef QLI_RULES_NAME_H
#define QLI_RULES_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The subject's length in bytes, or 0 if it is none. *levels is set to the
 * number of its segments. Reads at most QL_SUBJECT_MAX + 1 bytes. */
size_t qli_name_subject(const char *subject, uint32_t *levels);

/* Whether text can name a limit or a meter. NULL cannot. */
bool qli_name_valid(const char *text);

#endif
