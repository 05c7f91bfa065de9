/* SPDX-License-Identifier: Apache-2.0 */
#include "exercise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define SUBJECTS 20
#define LEASES 8

static int64_t read_clock(void *context)
{
    return __atomic_load_n((int64_t *)context, __ATOMIC_RELAXED);
}

struct ql_options exercise_options(int64_t *clock_ns)
{
    static const struct ql_limit limits[] = {
        {"slots", NULL, QL_WINDOW_NONE, 3},
        {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
        {"daily_statements", "statements", QL_WINDOW_DAY, INT64_MAX},
    };
    return (struct ql_options){
        .size = sizeof(struct ql_options),
        .limits = limits,
        .limit_count = 3,
        .max_subjects = 16,
        .max_leases = 16,
        .max_meters = 2,
        .max_holders = 4,
        .admit_wait_ms = -1,
        .charge_wait_ms = -1,
        .clock = read_clock,
        .context = clock_ns,
    };
}

static uint64_t draw(uint64_t *random)
{
    uint64_t z = (*random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Every third name needs an extension. */
static void subject_of(uint64_t number, char subject[QL_SUBJECT_MAX + 1])
{
    int length = number % 3 == 0 ? 100 + (int)number : 1;
    snprintf(subject, QL_SUBJECT_MAX + 1, "s%llu/%0*d", (unsigned long long)number, length, 0);
}

static enum ql_status known(enum ql_status status)
{
    if (status == QLI_ASK_LEDGER || status == QLI_MUST_FLUSH)
        return status;
    if (strcmp(ql_status_name(status), ql_status_name((enum ql_status) - 1000)) == 0)
        abort();
    return status;
}

void exercise_fill(struct ql *ql)
{
    char subject[QL_SUBJECT_MAX + 1];
    struct ql_lease lease;
    for (uint64_t i = 0; i < SUBJECTS / 2; i++) {
        subject_of(i, subject);
        if (ql_charge(ql, subject, "bytes", (int64_t)i * 100, NULL) != QL_OK)
            abort();
        if (i % 2 == 0 && ql_acquire(ql, subject, &lease, NULL) != QL_OK)
            abort();
    }
}

static int look_at_subject(void *context, const struct ql_subject_info *info)
{
    *(size_t *)context += strlen(info->subject);
    return 0;
}

static int look_at_lease(void *context, const struct ql_lease_info *info)
{
    *(size_t *)context += strlen(info->subject) + (size_t)info->own;
    return 0;
}

static void look_at_verdict(const struct ql_verdict *verdict)
{
    size_t length = verdict->kind != NULL ? strlen(verdict->kind) : 0;
    for (uint32_t i = 0; i < verdict->limit_count; i++)
        length += strlen(verdict->limits[i].name);
    if (length > (size_t)(QL_LIMITS_MAX + 1) * QL_NAME_MAX)
        abort();
}

static void read_everything(struct ql *ql)
{
    size_t length = 0;
    struct ql_limit limits[QL_LIMITS_MAX];
    size_t count;
    struct ql_verify_report report;
    struct ql_error error = {0};
    known(ql_each_subject(ql, look_at_subject, &length, NULL));
    known(ql_each_lease(ql, look_at_lease, &length, NULL));
    if (known(ql_limits(ql, limits, &count)) == QL_OK) {
        for (size_t i = 0; i < count; i++)
            length += strlen(limits[i].name);
    }
    if (known(ql_verify(ql, &report, &error)) != QL_OK && error.text[0] == '\0')
        abort();
}

static void take_and_end(struct ql *ql, const char *subject, uint64_t dice)
{
    struct ql_lease lease;
    struct ql_verdict verdict;
    struct ql_request request = QL_REQUEST_INIT;
    const struct ql_charge charges[] = {{"bytes", 7}, {"statements", INT64_MAX}};
    request.max_age_ms = dice % 7 == 0 ? 1 : 0;
    enum ql_status status = known(dice & 1 ? ql_acquire(ql, subject, &lease, &verdict)
                                           : ql_admit(ql, subject, &request, &lease, &verdict));
    if (status == QL_OK || status == QL_REFUSED)
        look_at_verdict(&verdict);
    if (status != QL_OK || dice % 5 == 0)
        return;
    if (dice & 2)
        known(ql_settle(ql, lease, charges, 2));
    else if (dice & 4)
        known(ql_revoke(ql, lease));
    else
        known(ql_release(ql, lease));
}

/* A handle that nobody gave: it has the store's epoch and any number. */
static void end_any_lease(struct ql *ql, struct ql_lease lease, uint64_t dice)
{
    lease.index = dice % 20;
    lease.generation = 1 + dice % 3;
    known(dice & 8 ? ql_release(ql, lease) : ql_revoke(ql, lease));
}

void exercise_all(struct ql *ql, uint64_t *random)
{
    char subject[QL_SUBJECT_MAX + 1];
    struct ql_usage usage;
    struct ql_verdict verdict;
    struct ql_lease lease;
    for (uint64_t i = 0; i < SUBJECTS; i++) {
        uint64_t dice = draw(random);
        subject_of(dice % SUBJECTS, subject);
        known(ql_charge(ql, subject, "statements", (int64_t)(dice >> 1), NULL));
        take_and_end(ql, subject, dice >> 8);
        enum ql_status status = known(ql_check(ql, subject, NULL, &verdict));
        if (status == QL_OK || status == QL_REFUSED)
            look_at_verdict(&verdict);
        known(ql_usage(ql, subject, &usage));
        if (known(ql_acquire(ql, "any", &lease, NULL)) == QL_OK)
            end_any_lease(ql, lease, dice);
    }
    read_everything(ql);
}
