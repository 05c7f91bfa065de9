/* SPDX-License-Identifier: Apache-2.0 */
#include "recovery.h"

#include <string.h>

#include "books.h"
#include "engine/lease.h"
#include "flushing.h"
#include "operations_store.h"

void kt_recover(const char *directory)
{
    struct ql_usage usage;
    kt_store_open(directory);
    KT_CHECK(ql_usage(kt_store.ql, "nobody", &usage) == QL_OK, "usage");
    if (kt_store_has_ledger())
        kt_flush(kt_store.ql);
}

struct lines {
    char text[KT_STORE_ROOM * 2][128];
    size_t count;
};

static int add_subject(void *context, const struct ql_subject_info *info)
{
    struct lines *lines = context;
    const struct ql_usage *u = &info->usage;
    KT_CHECK(u->meter_count >= 2 && lines->count < KT_STORE_ROOM * 2, "%u meters", u->meter_count);
    const struct ql_meter_state *b = &u->meters[0];
    const struct ql_meter_state *s = &u->meters[1];
    if (u->leases == 0 && b->total == 0 && b->yesterday == 0 && s->total == 0 && s->yesterday == 0)
        return 0;
    snprintf(lines->text[lines->count++], sizeof lines->text[0],
             "%s leases=%lld bytes=%lld/%lld statements=%lld/%lld%s\n", info->subject,
             (long long)u->leases, (long long)b->total, (long long)b->yesterday,
             (long long)s->total, (long long)s->yesterday,
             u->meter_count > 2 ? " and more meters" : "");
    return 0;
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int count_held(void *context, const struct ql_lease_info *info)
{
    *(int *)context += !info->timed;
    return 0;
}

/* Timed leases stay. */
static void wait_for_reaping(void)
{
    int held;
    struct ql_error error;
    int64_t deadline_ns = kt_now_ns() + INT64_C(20000000000);
    do {
        struct ql_usage usage;
        KT_CHECK(ql_usage(kt_store.ql, "nobody", &usage) == QL_OK, "usage");
        enum ql_status status = ql_verify(kt_store.ql, NULL, &error);
        KT_CHECK(status == QL_OK, "verify: %s: %s", ql_status_name(status), error.text);
        KT_CHECK(kt_now_ns() < deadline_ns, "leases of the dead stay");
        held = 0;
        KT_CHECK(ql_each_lease(kt_store.ql, count_held, &held, NULL) == QL_OK, "each lease");
    } while (held != 0);
}

/* Forgetting is a commit of its own, before that of the operation that needed the
 * room: a lease that is forgotten is shown as the kept one that it was. */
static enum qli_lease_state shown_state(const struct qli_lease *slot)
{
    enum qli_lease_state state = qli_lease_state(slot);
    return state == QLI_LEASE_NONE ? QLI_LEASE_REVOKED : state;
}

/* A kept lease that has lost the subject that its settle would charge. */
static bool is_astray(const struct qli_section *section, const struct qli_lease *slot)
{
    const struct qli_subject *subject = qli_subject_at(section, slot->subject);
    return qli_lease_is_kept(slot) &&
           (subject == NULL || qli_subject_kind(subject) != QLI_SUBJECT_USED ||
            subject->hash != slot->subject_hash);
}

static void add_leases(const char *directory, char *dump, size_t size)
{
    struct kt_view view = kt_view_open(directory);
    struct qli_engine engine = kt_view_engine(&view);
    struct qli_section section = {.engine = &engine, .shard = qli_engine_shard(&engine, 0)};
    size_t used = 0;
    for (uint64_t i = 1; i <= section.shard->lease_top; i++) {
        const struct qli_lease *slot = qli_lease_at(&section, i);
        if (slot->life != 0)
            used += (size_t)snprintf(
                dump + used, size - used, "lease %llu generation=%llu state=%d%s\n",
                (unsigned long long)i, (unsigned long long)qli_lease_generation(slot),
                (int)shown_state(slot), is_astray(&section, slot) ? " astray" : "");
    }
    kt_view_close(&view);
}

void kt_recover_dump(const char *directory, char *dump, size_t size)
{
    struct lines lines = {.count = 0};
    kt_recover(directory);
    wait_for_reaping();
    KT_CHECK(ql_each_subject(kt_store.ql, add_subject, &lines, NULL) == QL_OK, "each subject");
    qsort(lines.text, lines.count, sizeof lines.text[0], compare_lines);
    size_t used = 0;
    for (size_t i = 0; i < lines.count; i++)
        used += (size_t)snprintf(dump + used, size - used, "%s", lines.text[i]);
    used += kt_dump_dirty(kt_store.ql, dump + used, size - used);
    add_leases(directory, dump + used, size - used);
    if (kt_store_has_ledger())
        kt_ledger_expect_equal(directory, kt_store.ql, "after the recovery");
    kt_store_charge("carol", 5);
    ql_close(kt_store.ql);
}
