/* SPDX-License-Identifier: Apache-2.0 */
#include "flushing.h"

#include "api/handle.h"

#define AT_ONCE 4

static struct qli_dirty_subject copied[AT_ONCE];
static size_t copied_count;

static struct qli_call begin(struct ql *ql)
{
    struct qli_call call;
    enum ql_status status = qli_handle_begin(ql, 0, &call);
    KT_CHECK(status == QL_OK, "begin: %s", ql_status_name(status));
    return call;
}

static void expect(enum ql_status status, const char *what)
{
    KT_CHECK(status == QL_OK, "%s: %s", what, ql_status_name(status));
}

static size_t copy(const struct qli_call *call, uint64_t *cursor,
                   struct qli_dirty_subject found[AT_ONCE])
{
    size_t count;
    expect(qli_dirty_copy(call, 0, cursor, found, AT_ONCE, &count), "copy");
    return count;
}

void kt_copy(struct ql *ql)
{
    const struct qli_call call = begin(ql);
    uint64_t cursor = 0;
    copied_count = copy(&call, &cursor, copied);
    KT_CHECK(copied_count > 0, "nothing is dirty");
}

void kt_clear(struct ql *ql)
{
    const struct qli_call call = begin(ql);
    expect(qli_dirty_clear(&call, 0, copied, copied_count), "clear");
}

void kt_mark_all(struct ql *ql)
{
    const struct qli_call call = begin(ql);
    expect(qli_dirty_mark_all(&call), "mark");
}

static struct qli_name name_of(const struct qli_call *call, const char *subject)
{
    struct qli_name name;
    expect(qli_subject_name(call->engine, subject, &name), subject);
    return name;
}

void kt_restore(struct ql *ql, const char *subject, int64_t today, int64_t yesterday)
{
    const struct qli_call call = begin(ql);
    const struct qli_name name = name_of(&call, subject);
    const struct qli_total totals[] = {{0, call.day, today, false},
                                       {0, call.day - 1, yesterday, false}};
    for (int i = 0; i < 2; i++) {
        if (totals[i].amount > 0)
            expect(qli_dirty_restore(&call, &name, &totals[i]), "restore");
    }
}

void kt_reopen(struct ql *ql, const char *subject, int64_t today, int64_t yesterday)
{
    const struct qli_call call = begin(ql);
    const struct qli_name name = name_of(&call, subject);
    const struct qli_total totals[] = {{0, call.day, today, false},
                                       {0, call.day - 1, yesterday, false}};
    __atomic_store_n(&call.engine->page->day, (uint64_t)call.day, __ATOMIC_RELEASE);
    expect(qli_dirty_reopen(&call, &name, totals, 2), "reopen");
}

size_t kt_dump_dirty(struct ql *ql, char *dump, size_t size)
{
    struct qli_dirty_subject found[AT_ONCE];
    const struct qli_call call = begin(ql);
    uint64_t cursor = 0;
    size_t used = 0;
    for (size_t count = AT_ONCE; count > 0;) {
        count = copy(&call, &cursor, found);
        for (size_t i = 0; i < count; i++) {
            for (size_t t = 0; t < found[i].count; t++) {
                const struct qli_total *total = &found[i].totals[t];
                if (total->day >= call.day - 1)
                    used += (size_t)snprintf(
                        dump + used, size - used, "dirty %s meter=%u day=%lld %lld\n", found[i].key,
                        total->meter, (long long)(total->day - call.day), (long long)total->amount);
            }
        }
    }
    return used;
}
