/* SPDX-License-Identifier: Apache-2.0
 *
 * A store in memory that is made to believe that it has a ledger, and calls of the
 * engine's own functions on it. The test is the ledger.
 */
#ifndef TESTS_UNIT_LEDGERED_H
#define TESTS_UNIT_LEDGERED_H

#include "engine/dirty.h"
#include "engine/operation.h"
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

extern struct scene scene;

/* The shard as it was; its bytes are freed when they are compared. */
struct snapshot {
    size_t size;
    unsigned char *bytes;
};

/* The store goes to that day, and so does the next call. */
void go_to(int64_t day);

/* Room for 8 subjects, 2, MANY; 8 and all meters that a store can have. */
int set_up(void **state);
int set_up_two(void **state);
int set_up_many(void **state);
int set_up_all_meters(void **state);
int tear_down(void **state); /* verifies first */
void expect_sound(void);

struct qli_name name_of(const char *subject);
enum ql_status charge(const char *subject, uint32_t meter, int64_t amount);
void charged(const char *subject, uint32_t meter, int64_t amount);
enum ql_status admit(const char *subject, bool budgets, bool slot, struct ql_lease *lease);
enum ql_status check(const char *subject);
struct ql_lease take(const char *subject);

enum ql_status usage_of(const char *subject, struct ql_usage *usage);
void expect_usage(const char *subject, uint32_t meter, int64_t total, int64_t yesterday);

/* The dirty subjects of the only shard. */
size_t copy_all(struct qli_dirty_subject found[8]);
void clear(const struct qli_dirty_subject *written, size_t count);

/* What a flush does. Returns how many subjects were dirty. */
size_t flush(void);
void expect_total(const struct qli_dirty_subject *found, size_t i, uint32_t meter, int64_t day,
                  int64_t amount);

/* The only dirty total. */
void expect_dirty(const char *subject, uint32_t meter, int64_t day, int64_t amount);
enum ql_status restore(const char *subject, uint32_t meter, int64_t day, int64_t amount);
enum ql_status reopen(const char *subject, const struct qli_total *totals, size_t count);

struct snapshot look(void);
void expect_unchanged(struct snapshot snapshot);

#define TEST_IN(test, room) cmocka_unit_test_setup_teardown(test, room, tear_down)
#define TEST(test) TEST_IN(test, set_up)

#endif
