/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine does for a ledger: which totals are dirty, how they become clean,
 * what waits for that, and when the ledger is asked. The engine's own functions
 * are called, on a store in memory that is made to believe that it has a ledger.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/handle.h"
#include "engine/dirty.h"
#include "engine/lease.h"
#include "engine/operation.h"
#include "engine/verify.h"
#include "semantics.h"

#define TODAY INT64_C(20000)
#define MANY 600 /* subjects; more than one shard, and more words than one in each bitmap */
#define LONG_NAME                                                                                  \
    "a-subject-whose-name-is-longer-than-what-a-slot-holds-inline-so-that-it-needs-a-second-slot-" \
    "to-hold-the-rest-of-it"

enum { BYTES, STATEMENTS };

struct scene {
    struct fixture fixture;
    struct ql *ql;
    struct qli_engine *engine;
    struct qli_call call;
};

static struct scene scene;

/* The store goes to that day, and so does the next call. */
static void go_to(int64_t day)
{
    __atomic_store_n(&scene.engine->page->day, (uint64_t)day, __ATOMIC_RELAXED);
    scene.call.day = day;
}

static void open_scene(const struct ql_limit *limits, size_t count, uint32_t subjects)
{
    struct ql_options options = QL_OPTIONS_INIT;
    options.max_subjects = subjects;
    options.max_meters = QL_METERS_MAX;
    scene.ql = fixture_open(&scene.fixture, "memory:", options, limits, count);
    scene.engine = &scene.ql->store->engine;
    assert_int_equal(used_bytes(scene.ql, "nobody"), 0); /* the first call reads the limits */
    scene.engine->ledger->durability = QL_DURABILITY_ASYNC;
    scene.engine->page->ask_until = 0;
    scene.call = (struct qli_call){
        .engine = scene.engine,
        .limits = qli_limits_current(scene.engine),
        .self = qli_holder_self(&scene.engine->region),
        .now_ns = scene.fixture.now_ns,
        .wait_ms = 1000,
    };
    go_to(TODAY);
}

static int set_up_room(uint32_t subjects)
{
    const struct ql_limit limits[] = {
        {"slots", NULL, QL_WINDOW_NONE, 3},
        {"daily_bytes", "bytes", QL_WINDOW_DAY, 1000},
        {"daily_statements", "statements", QL_WINDOW_DAY, 1000},
    };
    open_scene(limits, 3, subjects);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    return set_up_room(8);
}

static int set_up_two(void **state)
{
    (void)state;
    return set_up_room(2);
}

static int set_up_many(void **state)
{
    (void)state;
    return set_up_room(MANY);
}

static int set_up_all_meters(void **state)
{
    struct ql_limit limits[QL_METERS_MAX];
    static const char *const names[QL_METERS_MAX] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    for (size_t i = 0; i < QL_METERS_MAX; i++)
        limits[i] = (struct ql_limit){names[i], names[i], QL_WINDOW_DAY, 1000};
    (void)state;
    open_scene(limits, QL_METERS_MAX, 8);
    return 0;
}

static void expect_sound(void)
{
    struct ql_verify_report report;
    struct ql_error error = {0};
    if (qli_verify(&scene.call, &report, &error) != QL_OK)
        fail_msg("%s", error.text);
}

static int tear_down(void **state)
{
    (void)state;
    expect_sound();
    ql_close(scene.ql);
    return 0;
}

/* ---- calls --------------------------------------------------------------- */

static struct qli_name name_of(const char *subject)
{
    struct qli_name name;
    assert_int_equal(qli_subject_name(scene.engine, subject, &name), QL_OK);
    return name;
}

static enum ql_status charge(const char *subject, uint32_t meter, int64_t amount)
{
    struct qli_name name = name_of(subject);
    return qli_operation_charge(&scene.call, &name, (struct qli_amount){meter, amount});
}

static void charged(const char *subject, uint32_t meter, int64_t amount)
{
    assert_int_equal(charge(subject, meter, amount), QL_OK);
}

static enum ql_status admit(const char *subject, bool budgets, bool slot, struct ql_lease *lease)
{
    struct qli_name name = name_of(subject);
    struct ql_verdict verdict;
    const struct qli_limits *limits = scene.call.limits;
    const struct qli_admission admission = {
        .limits = (budgets ? limits->windowed : 0) | (slot ? limits->concurrent : 0),
        .slot = slot,
    };
    return qli_operation_admit(&scene.call, &name, &admission, lease, &verdict);
}

static enum ql_status check(const char *subject)
{
    return admit(subject, true, false, NULL);
}

static struct ql_lease take(const char *subject)
{
    struct ql_lease lease;
    assert_int_equal(admit(subject, false, true, &lease), QL_OK);
    return lease;
}

static enum ql_status usage_of(const char *subject, struct ql_usage *usage)
{
    struct qli_name name = name_of(subject);
    return qli_operation_usage(&scene.call, &name, usage);
}

static void expect_usage(const char *subject, uint32_t meter, int64_t total, int64_t yesterday)
{
    struct ql_usage usage;
    assert_int_equal(usage_of(subject, &usage), QL_OK);
    assert_int_equal(usage.meters[meter].total, total);
    assert_int_equal(usage.meters[meter].yesterday, yesterday);
}

/* The next dirty subjects of the only shard. */
static size_t copy(uint64_t *cursor, struct qli_dirty_subject *found, size_t max)
{
    size_t count;
    assert_int_equal(qli_dirty_copy(&scene.call, 0, cursor, found, max, &count), QL_OK);
    return count;
}

static size_t copy_all(struct qli_dirty_subject found[8])
{
    uint64_t cursor = 0;
    return copy(&cursor, found, 8);
}

static void clear(const struct qli_dirty_subject *written, size_t count)
{
    assert_int_equal(qli_dirty_clear(&scene.call, 0, written, count), QL_OK);
}

/* What a flush does. Returns how many subjects were dirty. */
static size_t flush(void)
{
    struct qli_dirty_subject found[8];
    size_t count = copy_all(found);
    clear(found, count);
    return count;
}

static void expect_total(const struct qli_dirty_subject *found, size_t i, uint32_t meter,
                         int64_t day, int64_t amount)
{
    assert_true(i < found->count);
    assert_int_equal(found->totals[i].meter, meter);
    assert_int_equal(found->totals[i].day, day);
    assert_int_equal(found->totals[i].amount, amount);
}

/* The only dirty total. */
static void expect_dirty(const char *subject, uint32_t meter, int64_t day, int64_t amount)
{
    struct qli_dirty_subject found[8];
    assert_int_equal(copy_all(found), 1);
    assert_string_equal(found[0].key, subject);
    assert_int_equal(found[0].count, 1);
    expect_total(&found[0], 0, meter, day, amount);
}

static enum ql_status restore(const char *subject, uint32_t meter, int64_t day, int64_t amount)
{
    struct qli_name name = name_of(subject);
    const struct qli_total total = {meter, day, amount, false};
    return qli_dirty_restore(&scene.call, &name, &total);
}

static enum ql_status reopen(const char *subject, const struct qli_total *totals, size_t count)
{
    struct qli_name name = name_of(subject);
    return qli_dirty_reopen(&scene.call, &name, totals, count);
}

/* ---- the only shard as it is --------------------------------------------- */

struct snapshot {
    size_t size;
    unsigned char *bytes;
};

static struct snapshot look(void)
{
    struct snapshot snapshot = {.size = scene.engine->geometry.shard_size};
    snapshot.bytes = malloc(snapshot.size);
    assert_non_null(snapshot.bytes);
    assert_int_equal(scene.engine->geometry.shard_count, 1);
    memcpy(snapshot.bytes, qli_engine_shard(scene.engine, 0), snapshot.size);
    return snapshot;
}

static void expect_unchanged(struct snapshot snapshot)
{
    assert_memory_equal(qli_engine_shard(scene.engine, 0), snapshot.bytes, snapshot.size);
    free(snapshot.bytes);
    for (uint64_t i = 0; i < scene.engine->region.guard_count; i++) {
        assert_int_equal(scene.engine->region.guards[i].word, 0);
        assert_int_equal(scene.engine->region.guards[i].undo_count, 0);
    }
}

/* ---- marking, copying, clearing ------------------------------------------ */

static void a_charge_makes_its_window_dirty(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    charged("alice", BYTES, 1);
    take("bob");
    assert_int_equal(check("carol"), QL_OK);
    charged(LONG_NAME, STATEMENTS, 3);
    charged(LONG_NAME, BYTES, 2);
    assert_int_equal(copy_all(found), 2);
    assert_string_equal(found[0].key, "alice");
    assert_int_equal(found[0].count, 1);
    expect_total(&found[0], 0, BYTES, TODAY, 8);
    assert_string_equal(found[1].key, LONG_NAME);
    assert_int_equal(found[1].count, 2);
    expect_total(&found[1], 0, BYTES, TODAY, 2);
    expect_total(&found[1], 1, STATEMENTS, TODAY, 3);
}

static void a_settle_makes_its_windows_dirty(void **state)
{
    (void)state;
    struct ql_lease lease = take("alice");
    const struct qli_amount amounts[] = {{BYTES, 0}, {STATEMENTS, 4}};
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QL_OK);
    expect_dirty("alice", STATEMENTS, TODAY, 4);
}

static void a_store_without_a_ledger_marks_too(void **state)
{
    (void)state;
    scene.engine->ledger->durability = QL_DURABILITY_NONE;
    charged("alice", BYTES, 7);
    expect_dirty("alice", BYTES, TODAY, 7);
}

static void what_is_copied_stays_dirty_until_it_is_cleared(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    expect_dirty("alice", BYTES, TODAY, 7);
    struct snapshot before = look();
    expect_dirty("alice", BYTES, TODAY, 7);
    expect_unchanged(before);
    assert_int_equal(flush(), 1);
    assert_int_equal(flush(), 0);
    charged("alice", BYTES, 1);
    expect_dirty("alice", BYTES, TODAY, 8);
}

static void what_was_raised_since_the_copy_stays_dirty(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    charged("alice", STATEMENTS, 1);
    charged("bob", BYTES, 5);
    assert_int_equal(copy_all(found), 2);
    charged("alice", BYTES, 1);
    clear(found, 2);
    expect_dirty("alice", BYTES, TODAY, 8);
}

static void a_slot_that_has_another_subject_is_not_cleared(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    assert_int_equal(copy_all(found), 1);
    struct qli_dirty_subject other = found[0];
    other.hash ^= 1;
    struct qli_dirty_subject free_slot = found[0];
    free_slot.index = 7;
    struct qli_dirty_subject no_slot = found[0];
    no_slot.index = 9;
    const struct qli_dirty_subject written[] = {other, free_slot, no_slot};
    struct snapshot before = look();
    clear(written, 3);
    expect_unchanged(before);
}

static void a_window_that_rolled_over_is_cleared_where_it_is_now(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    assert_int_equal(copy_all(found), 1);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
    struct qli_dirty_subject both[8];
    assert_int_equal(copy_all(both), 1);
    assert_int_equal(both[0].count, 2);
    expect_total(&both[0], 0, BYTES, TODAY, 7);
    expect_total(&both[0], 1, BYTES, TODAY + 1, 2);
    clear(found, 1);
    expect_dirty("alice", BYTES, TODAY + 1, 2);
}

static void a_clean_window_rolls_over_clean(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    assert_int_equal(flush(), 1);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
    expect_dirty("alice", BYTES, TODAY + 1, 2);
    expect_usage("alice", BYTES, 2, 7);
}

static void an_amount_that_is_full_is_dirty_anew(void **state)
{
    (void)state;
    charged("alice", BYTES, INT64_MAX - 1);
    charged("alice", BYTES, 5);
    expect_dirty("alice", BYTES, TODAY, INT64_MAX);
    assert_int_equal(flush(), 1);
    charged("alice", BYTES, 5);
    assert_true(flush() <= 1);
    assert_int_equal(flush(), 0);
}

/* ---- many ---------------------------------------------------------------- */

static const char *subject_of(unsigned number)
{
    static char subject[16];
    snprintf(subject, sizeof subject, "s%u", number);
    return subject;
}

/* Copies all in small pieces, with what is cleared meanwhile. How many; each has
 * charged its number. */
static unsigned copy_in_pieces(bool clears)
{
    struct qli_dirty_subject found[7];
    unsigned char seen[MANY] = {0};
    unsigned all = 0;
    for (uint64_t shard = 0; shard < scene.engine->geometry.shard_count; shard++) {
        uint64_t cursor = 0;
        size_t count;
        do {
            assert_int_equal(qli_dirty_copy(&scene.call, shard, &cursor, found, 7, &count), QL_OK);
            for (size_t i = 0; i < count; i++) {
                unsigned number = (unsigned)found[i].totals[0].amount;
                assert_string_equal(found[i].key, subject_of(number));
                assert_int_equal(seen[number]++, 0);
            }
            all += (unsigned)count;
            if (clears)
                assert_int_equal(qli_dirty_clear(&scene.call, shard, found, count), QL_OK);
        } while (count > 0);
    }
    return all;
}

static void all_are_copied_once(void **state)
{
    (void)state;
    assert_true(scene.engine->geometry.shard_count > 1);
    for (unsigned i = 1; i < MANY; i++)
        charged(subject_of(i), BYTES, i);
    assert_int_equal(copy_in_pieces(false), MANY - 1);
    assert_int_equal(copy_in_pieces(true), MANY - 1);
    expect_sound();
    assert_int_equal(copy_in_pieces(true), 0);
    for (unsigned i = 1; i < MANY; i++) {
        charged(subject_of(i), STATEMENTS, i);
        assert_int_equal(copy_in_pieces(true), 1);
    }
}

static void all_totals_are_made_dirty(void **state)
{
    (void)state;
    for (unsigned i = 1; i < MANY - 1; i++)
        charged(subject_of(i), BYTES, i);
    take("idle");
    assert_int_equal(copy_in_pieces(true), MANY - 2);
    charged(subject_of(1), STATEMENTS, 1);
    assert_int_equal(qli_dirty_mark_all(&scene.call), QL_OK);
    expect_sound();
    assert_int_equal(copy_in_pieces(true), MANY - 2);
}

static void only_totals_are_made_dirty(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    go_to(TODAY + 1);
    charged("alice", STATEMENTS, 3);
    charged("bob", BYTES, 5);
    go_to(TODAY + 2);
    charged("bob", BYTES, 6);
    assert_int_equal(flush(), 2);
    take("carol");
    assert_int_equal(qli_dirty_mark_all(&scene.call), QL_OK);
    assert_int_equal(copy_all(found), 2);
    assert_int_equal(found[0].count, 2);
    expect_total(&found[0], 0, BYTES, TODAY, 7);
    expect_total(&found[0], 1, STATEMENTS, TODAY + 1, 3);
    assert_int_equal(found[1].count, 2);
    expect_total(&found[1], 0, BYTES, TODAY + 1, 5);
    expect_total(&found[1], 1, BYTES, TODAY + 2, 6);
}

/* ---- what waits for a flush ---------------------------------------------- */

/* Both windows of alice's bytes are dirty. */
static void fill_both_windows(void)
{
    charged("alice", BYTES, 7);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
}

static void a_roll_over_drops_no_dirty_window(void **state)
{
    (void)state;
    fill_both_windows();
    go_to(TODAY + 2);
    struct snapshot before = look();
    assert_int_equal(charge("alice", BYTES, 1), QLI_MUST_FLUSH);
    expect_unchanged(before);
    charged("alice", STATEMENTS, 1);
    assert_int_equal(check("alice"), QL_OK);
    expect_usage("alice", BYTES, 0, 2);
    assert_int_equal(flush(), 1);
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 1, 2);
    expect_dirty("alice", BYTES, TODAY + 2, 1);
}

static void a_settle_looks_at_all_cells_first(void **state)
{
    (void)state;
    const struct qli_amount amounts[] = {{STATEMENTS, 1}, {BYTES, 1}};
    fill_both_windows();
    go_to(TODAY + 2);
    struct ql_lease lease = take("alice");
    struct snapshot before = look();
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QLI_MUST_FLUSH);
    expect_unchanged(before);
    assert_int_equal(flush(), 1);
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QL_OK);
    expect_usage("alice", STATEMENTS, 1, 0);
    expect_usage("alice", BYTES, 1, 2);
}

static void what_adds_nothing_waits_for_nothing(void **state)
{
    (void)state;
    const struct qli_amount nothing = {BYTES, 0};
    fill_both_windows();
    go_to(TODAY + 2);
    struct ql_lease lease = take("alice");
    assert_int_equal(qli_operation_settle(&scene.call, &lease, &nothing, 1), QL_OK);
}

static void a_dirty_window_waits_behind_an_empty_one(void **state)
{
    (void)state;
    assert_int_equal(restore("alice", BYTES, TODAY - 1, 7), QL_OK);
    assert_int_equal(qli_dirty_mark_all(&scene.call), QL_OK);
    expect_dirty("alice", BYTES, TODAY - 1, 7);
    go_to(TODAY + 1);
    assert_int_equal(charge("alice", BYTES, 1), QLI_MUST_FLUSH);
    assert_int_equal(flush(), 1);
    charged("alice", BYTES, 1);
}

static void without_a_ledger_nothing_waits(void **state)
{
    (void)state;
    scene.engine->ledger->durability = QL_DURABILITY_NONE;
    fill_both_windows();
    go_to(TODAY + 2);
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 1, 2);
    go_to(TODAY + 9);
    charged("alice", BYTES, 4);
    expect_usage("alice", BYTES, 4, 0);
}

static void a_dirty_window_that_is_dropped_leaves_no_bit(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    scene.engine->ledger->durability = QL_DURABILITY_NONE;
    fill_both_windows();
    assert_int_equal(copy_all(found), 1);
    found[0].totals[0] = found[0].totals[--found[0].count]; /* today's */
    clear(found, 1);
    expect_dirty("alice", BYTES, TODAY, 7);
    go_to(TODAY + 2);
    charged("alice", BYTES, 1);
    expect_dirty("alice", BYTES, TODAY + 2, 1);
}

static void a_dirty_subject_is_not_evicted(void **state)
{
    (void)state;
    struct qli_dirty_subject found[8];
    charged("alice", BYTES, 7);
    charged("bob", BYTES, 5);
    go_to(TODAY + 1);
    assert_int_equal(charge("carol", BYTES, 1), QL_E_FULL);
    assert_int_equal(copy_all(found), 2);
    assert_string_equal(found[1].key, "bob");
    clear(&found[1], 1);
    charged("carol", BYTES, 1);
    expect_usage("bob", BYTES, 0, 0);
    expect_usage("alice", BYTES, 0, 7);
}

static void without_a_ledger_a_dirty_subject_is_evicted(void **state)
{
    (void)state;
    scene.engine->ledger->durability = QL_DURABILITY_NONE;
    charged("alice", BYTES, 7);
    charged("bob", BYTES, 5);
    go_to(TODAY + 1);
    take("carol");
    expect_sound();
    take("dave");
    expect_sound();
    assert_int_equal(flush(), 0);
}

/* ---- restoring ----------------------------------------------------------- */

static void restored_totals_are_there_and_clean(void **state)
{
    (void)state;
    assert_int_equal(restore("alice", BYTES, TODAY, 7), QL_OK);
    assert_int_equal(restore("alice", BYTES, TODAY - 1, 5), QL_OK);
    assert_int_equal(restore("bob", BYTES, TODAY - 1, 4), QL_OK);
    assert_int_equal(restore("bob", BYTES, TODAY, 3), QL_OK);
    assert_int_equal(restore(LONG_NAME, STATEMENTS, TODAY - 1, 2), QL_OK);
    expect_sound();
    expect_usage("alice", BYTES, 7, 5);
    expect_usage("bob", BYTES, 3, 4);
    expect_usage(LONG_NAME, STATEMENTS, 0, 2);
    assert_int_equal(flush(), 0);
    charged("bob", BYTES, 1);
    expect_dirty("bob", BYTES, TODAY, 4);
    go_to(TODAY + 1);
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 1, 7);
}

static void only_what_has_a_place_is_restored(void **state)
{
    (void)state;
    struct snapshot before = look();
    assert_int_equal(restore("alice", BYTES, TODAY + 1, 1), QL_E_INVALID);
    assert_int_equal(restore("alice", BYTES, TODAY - 2, 1), QL_E_INVALID);
    assert_int_equal(restore("alice", BYTES, TODAY, -1), QL_E_INVALID);
    assert_int_equal(restore("alice", QL_METERS_MAX, TODAY, 1), QL_E_INVALID);
    expect_unchanged(before);
}

static void restoring_ends_where_the_store_is_full(void **state)
{
    (void)state;
    assert_int_equal(restore("alice", BYTES, TODAY - 1, 1), QL_OK);
    assert_int_equal(restore("bob", BYTES, TODAY, 1), QL_OK);
    assert_int_equal(restore("carol", BYTES, TODAY, 1), QL_OK); /* in alice's place */
    assert_int_equal(restore("dave", BYTES, TODAY, 1), QL_E_FULL);
    expect_usage("bob", BYTES, 1, 0);
    expect_usage("carol", BYTES, 1, 0);
}

/* ---- asking -------------------------------------------------------------- */

/* Whatever looks at a window of the subject asks, and changes nothing. */
static void expect_asked(const char *subject)
{
    struct ql_usage usage;
    struct ql_lease lease;
    struct snapshot before = look();
    assert_int_equal(check(subject), QLI_ASK_LEDGER);
    assert_int_equal(admit(subject, true, true, &lease), QLI_ASK_LEDGER);
    assert_int_equal(charge(subject, BYTES, 1), QLI_ASK_LEDGER);
    assert_int_equal(usage_of(subject, &usage), QLI_ASK_LEDGER);
    expect_unchanged(before);
}

static void an_unknown_subject_is_asked_for(void **state)
{
    (void)state;
    scene.call.asks = true;
    expect_asked("alice");
    take("alice"); /* looks at no window; that it is there now says nothing of them */
    expect_asked("alice");
    const struct qli_total totals[] = {{BYTES, TODAY, 990, false},
                                       {STATEMENTS, TODAY - 1, 4, false}};
    assert_int_equal(reopen("alice", totals, 2), QL_OK);
    expect_usage("alice", BYTES, 990, 0);
    expect_usage("alice", STATEMENTS, 0, 4);
    charged("alice", BYTES, 10);
    assert_int_equal(check("alice"), QL_REFUSED);
    expect_dirty("alice", BYTES, TODAY, 1000);
}

static void a_subject_that_the_ledger_does_not_know_is_made(void **state)
{
    (void)state;
    scene.call.asks = true;
    assert_int_equal(reopen(LONG_NAME, NULL, 0), QL_OK);
    assert_int_equal(flush(), 0);
    charged(LONG_NAME, BYTES, 1);
    expect_usage(LONG_NAME, BYTES, 1, 0);
}

static void a_day_that_is_not_open_is_asked_for(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    assert_int_equal(flush(), 1);
    go_to(TODAY + 1);
    scene.call.asks = true;
    expect_asked("alice");
    scene.call.asks = false;
    assert_int_equal(check("alice"), QL_OK);
    scene.engine->page->ask_until = TODAY + 1; /* since the call has begun */
    expect_asked("alice");
    expect_asked("nobody");
    scene.engine->page->ask_until = TODAY;
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 1, 7);
}

static void a_settle_asks_before_it_ends_its_lease(void **state)
{
    (void)state;
    char key[QL_SUBJECT_MAX + 1];
    const struct qli_amount amounts[] = {{BYTES, 1}, {STATEMENTS, 2}};
    struct ql_lease lease = take(LONG_NAME);
    charged(LONG_NAME, BYTES, 7);
    assert_int_equal(flush(), 1);
    scene.call.asks = true;
    struct snapshot before = look();
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QLI_ASK_LEDGER);
    expect_unchanged(before);
    assert_int_equal(qli_operation_lease_subject(&scene.call, &lease, key), QL_OK);
    assert_string_equal(key, LONG_NAME);
    assert_int_equal(reopen(key, NULL, 0), QL_OK);
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, 2), QL_OK);
    expect_usage(LONG_NAME, BYTES, 8, 0);
    expect_usage(LONG_NAME, STATEMENTS, 2, 0);
    assert_int_equal(qli_operation_lease_subject(&scene.call, &lease, key), QL_E_SETTLED);
}

static void a_call_that_is_just_behind_uses_the_day_of_the_cell(void **state)
{
    (void)state;
    go_to(TODAY + 1);
    charged("alice", BYTES, 7);
    scene.call.day = TODAY;
    charged("alice", BYTES, 1);
    assert_int_equal(check("alice"), QL_OK);
    expect_usage("alice", BYTES, 8, 0);
    expect_dirty("alice", BYTES, TODAY + 1, 8);
}

/* The subject may have been evicted after its day, which the ledger has. */
static void a_call_that_is_behind_opens_no_day_that_is_over(void **state)
{
    (void)state;
    take("bob");
    go_to(TODAY + 1);
    scene.call.day = TODAY;
    struct snapshot before = look();
    assert_int_equal(charge("alice", BYTES, 1), QLI_ASK_LEDGER);
    assert_int_equal(charge("bob", BYTES, 1), QLI_ASK_LEDGER);
    assert_int_equal(check("alice"), QL_OK);
    assert_int_equal(check("bob"), QL_OK);
    expect_unchanged(before);
}

static void after_a_step_back_a_window_is_asked_for(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
    assert_int_equal(flush(), 1);
    go_to(TODAY);
    expect_asked("alice");
    const struct qli_total totals[] = {{BYTES, TODAY, 7, false}, {BYTES, TODAY - 1, 3, false}};
    assert_int_equal(reopen("alice", totals, 2), QL_OK);
    expect_usage("alice", BYTES, 7, 3);
    charged("alice", BYTES, 1);
    expect_dirty("alice", BYTES, TODAY, 8);
    go_to(TODAY + 1);
    scene.call.asks = true;
    expect_asked("alice");
    assert_int_equal(flush(), 1);
    const struct qli_total later[] = {{BYTES, TODAY + 1, 2, false}, {BYTES, TODAY, 8, false}};
    assert_int_equal(reopen("alice", later, 2), QL_OK);
    expect_usage("alice", BYTES, 2, 8);
}

/* One that the store left again, with calls of it under way. */
static void a_call_that_is_ahead_opens_no_day_that_was_left(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    scene.call.day = TODAY + 1;
    struct snapshot before = look();
    assert_int_equal(charge("alice", BYTES, 1), QLI_ASK_LEDGER);
    assert_int_equal(charge("nobody", BYTES, 1), QLI_ASK_LEDGER);
    expect_unchanged(before);
    scene.engine->page->ask_until = TODAY + 1; /* as a step back leaves it */
    expect_asked("alice");
    expect_asked("nobody");
}

static void without_a_ledger_nobody_asks(void **state)
{
    (void)state;
    scene.engine->ledger->durability = QL_DURABILITY_NONE;
    charged("alice", BYTES, 7);
    scene.engine->page->day = TODAY - 1;
    scene.call.day = TODAY - 1;
    charged("alice", BYTES, 1);
    expect_usage("alice", BYTES, 8, 0);
    charged("bob", BYTES, 1);
}

static int64_t visited_total(const char *subject, int64_t *yesterday)
{
    struct qli_section section;
    struct ql_usage usage;
    uint64_t index;
    struct qli_name name = name_of(subject);
    assert_int_equal(qli_subject_enter(&scene.call, &name, &section, &index), QL_OK);
    struct qli_subject *alice = qli_subject_at(&section, index);
    assert_int_equal(qli_operation_report_locked(&section, &scene.call, alice, &usage), QL_OK);
    qli_section_leave(&section);
    *yesterday = usage.meters[BYTES].yesterday;
    return usage.meters[BYTES].total;
}

static void a_visit_shows_what_the_cells_know(void **state)
{
    (void)state;
    int64_t yesterday;
    charged("alice", BYTES, 7);
    go_to(TODAY + 1);
    scene.call.asks = true;
    assert_int_equal(visited_total("alice", &yesterday), 0);
    assert_int_equal(yesterday, 7);
    scene.call.asks = false;
    charged("alice", BYTES, 2);
    go_to(TODAY);
    assert_int_equal(visited_total("alice", &yesterday), 7);
    assert_int_equal(yesterday, 0);
    go_to(TODAY - 1);
    assert_int_equal(visited_total("alice", &yesterday), 0);
    assert_int_equal(yesterday, 0);
}

/* ---- reopening ----------------------------------------------------------- */

static void a_dirty_subject_is_not_reopened(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    struct snapshot before = look();
    assert_int_equal(reopen("alice", NULL, 0), QLI_MUST_FLUSH);
    expect_unchanged(before);
    assert_int_equal(flush(), 1);
    assert_int_equal(reopen("alice", NULL, 0), QL_OK);
    expect_usage("alice", BYTES, 7, 0);
}

static void reopening_keeps_the_larger_amounts(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    charged("alice", STATEMENTS, 7);
    go_to(TODAY + 1);
    charged("alice", BYTES, 2);
    charged("alice", STATEMENTS, 2);
    assert_int_equal(flush(), 1);
    const struct qli_total totals[] = {{BYTES, TODAY, 9, false},
                                       {BYTES, TODAY + 1, 1, false},
                                       {STATEMENTS, TODAY, 6, false},
                                       {STATEMENTS, TODAY + 1, 3, false}};
    assert_int_equal(reopen("alice", totals, 4), QL_OK);
    expect_usage("alice", BYTES, 2, 9);
    expect_usage("alice", STATEMENTS, 3, 7);
    const struct qli_total other = {BYTES, TODAY + 2, 1, false};
    assert_int_equal(reopen("alice", &other, 1), QL_E_INVALID);
}

/* A later day, which the ledger is not asked for, would be lost. */
static void a_day_that_is_over_is_not_reopened(void **state)
{
    (void)state;
    charged("alice", BYTES, 7);
    assert_int_equal(flush(), 1);
    scene.call.day = TODAY - 1;
    struct snapshot before = look();
    assert_int_equal(reopen("alice", NULL, 0), QL_OK);
    assert_int_equal(reopen("bob", NULL, 0), QL_OK);
    expect_unchanged(before);
}

/* The undo log has room for the largest changes that there are. */
static void all_meters_at_once(void **state)
{
    (void)state;
    struct qli_amount amounts[QL_METERS_MAX];
    struct qli_total totals[2 * QL_METERS_MAX];
    for (uint32_t m = 0; m < QL_METERS_MAX; m++) {
        amounts[m] = (struct qli_amount){m, m + 1};
        totals[2 * m] = (struct qli_total){m, TODAY, m + 1, false};
        totals[2 * m + 1] = (struct qli_total){m, TODAY - 1, m + 2, false};
    }
    assert_int_equal(reopen(LONG_NAME, totals, 2ul * QL_METERS_MAX), QL_OK);
    struct ql_lease first = take(LONG_NAME);
    struct ql_lease lease = take(LONG_NAME);
    struct ql_lease last = take(LONG_NAME);
    go_to(TODAY + 1);
    assert_int_equal(qli_operation_settle(&scene.call, &lease, amounts, QL_METERS_MAX), QL_OK);
    assert_int_equal(qli_operation_revoke(&scene.call, &first), QL_OK);
    struct ql_lease middle = take(LONG_NAME);
    assert_int_equal(qli_operation_revoke(&scene.call, &middle), QL_OK);
    assert_int_equal(qli_operation_revoke(&scene.call, &last), QL_OK);
    assert_int_equal(flush(), 1);
    go_to(TODAY + 2);
    assert_int_equal(qli_operation_settle(&scene.call, &middle, amounts, QL_METERS_MAX), QL_LATE);
    for (uint32_t m = 0; m < QL_METERS_MAX; m++)
        expect_usage(LONG_NAME, m, m + 1, m + 1);
    assert_int_equal(flush(), 1);
    assert_int_equal(flush(), 0);
}

#define TEST_IN(test, room) cmocka_unit_test_setup_teardown(test, room, tear_down)
#define TEST(test) TEST_IN(test, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_charge_makes_its_window_dirty),
        TEST(a_settle_makes_its_windows_dirty),
        TEST(a_store_without_a_ledger_marks_too),
        TEST(what_is_copied_stays_dirty_until_it_is_cleared),
        TEST(what_was_raised_since_the_copy_stays_dirty),
        TEST(a_slot_that_has_another_subject_is_not_cleared),
        TEST(a_window_that_rolled_over_is_cleared_where_it_is_now),
        TEST(a_clean_window_rolls_over_clean),
        TEST(an_amount_that_is_full_is_dirty_anew),
        TEST_IN(all_are_copied_once, set_up_many),
        TEST_IN(all_totals_are_made_dirty, set_up_many),
        TEST(only_totals_are_made_dirty),
        TEST(a_roll_over_drops_no_dirty_window),
        TEST(a_settle_looks_at_all_cells_first),
        TEST(what_adds_nothing_waits_for_nothing),
        TEST(a_dirty_window_waits_behind_an_empty_one),
        TEST(without_a_ledger_nothing_waits),
        TEST(a_dirty_window_that_is_dropped_leaves_no_bit),
        TEST_IN(a_dirty_subject_is_not_evicted, set_up_two),
        TEST_IN(without_a_ledger_a_dirty_subject_is_evicted, set_up_two),
        TEST(restored_totals_are_there_and_clean),
        TEST(only_what_has_a_place_is_restored),
        TEST_IN(restoring_ends_where_the_store_is_full, set_up_two),
        TEST(an_unknown_subject_is_asked_for),
        TEST(a_subject_that_the_ledger_does_not_know_is_made),
        TEST(a_day_that_is_not_open_is_asked_for),
        TEST(a_settle_asks_before_it_ends_its_lease),
        TEST(a_call_that_is_just_behind_uses_the_day_of_the_cell),
        TEST(a_call_that_is_behind_opens_no_day_that_is_over),
        TEST(after_a_step_back_a_window_is_asked_for),
        TEST(a_call_that_is_ahead_opens_no_day_that_was_left),
        TEST(without_a_ledger_nobody_asks),
        TEST(a_visit_shows_what_the_cells_know),
        TEST(a_dirty_subject_is_not_reopened),
        TEST(reopening_keeps_the_larger_amounts),
        TEST(a_day_that_is_over_is_not_reopened),
        TEST_IN(all_meters_at_once, set_up_all_meters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
