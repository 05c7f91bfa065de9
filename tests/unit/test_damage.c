/* SPDX-License-Identifier: Apache-2.0
 *
 * A region that is damaged while processes are attached to it. Whatever stands
 * there, each call returns with a code: nothing crashes and nothing goes round
 * for ever. Each round is a process of its own, with a deadline.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/handle.h"
#include "base/clock.h"
#include "base/siphash.h"
#include "exercise.h"
#include "harness.h"
#include "plant.h"

#define SEED UINT64_C(20251125)
#define DEADLINE_SECONDS 100
#define THREADS 2

static char directory[KT_PATH];
static int64_t *clock_ns;

static int set_up(void **state)
{
    (void)state;
    kt_directory_make(directory, NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kt_directory_remove(directory);
    return 0;
}

static struct ql *open_store(void)
{
    struct ql_options options = exercise_options(clock_ns);
    return kt_open(directory, &options);
}

/* ---- damage -------------------------------------------------------------- */

static uint64_t *word_at(const struct kt_view *view, uint64_t random)
{
    return (uint64_t *)view->region.base + random % (view->region.size / sizeof(uint64_t));
}

/* What could stand where `old` does. */
static uint64_t damaged(const struct kt_view *view, uint64_t old, uint64_t *random)
{
    uint64_t dice = kt_random(random);
    switch (dice % 8) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX;
    case 2:
        return dice >> 8 & 0x1f; /* an index, perhaps of the wrong slot */
    case 3:
        return *word_at(view, dice >> 8);
    default:
        return old ^ UINT64_C(1) << (dice >> 8) % 64;
    }
}

static void damage(const struct kt_view *view, uint64_t *random)
{
    uint64_t *word = word_at(view, kt_random(random));
    uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED);
    __atomic_store_n(word, damaged(view, old, random), __ATOMIC_RELAXED);
}

/* So that what is poisoned by one damage does not hide from the next. */
static void forgive(const struct kt_view *view)
{
    __atomic_store_n(&view->region.header->corrupt, 0, __ATOMIC_RELAXED);
}

static void expect_end(pid_t pid, uint64_t seed)
{
    int status = kt_wait(pid);
    if (status != 0)
        fail_msg("seed %llu: the process ended with %#x%s", (unsigned long long)seed,
                 (unsigned)status, WTERMSIG(status) == SIGALRM ? ": no end" : "");
}

/* Each on a new store, in a process that run ends. */
static void run_rounds(uint64_t rounds, void (*run)(uint64_t seed))
{
    printf("seed %llu\n", (unsigned long long)SEED);
    for (uint64_t round = 0; round < rounds; round++) {
        kt_directory_remove(directory);
        kt_directory_make(directory, NULL);
        *clock_ns = KT_START_NS;
        pid_t pid = kt_fork();
        if (pid == 0)
            run(SEED + round);
        expect_end(pid, SEED + round);
    }
}

/* ---- words that are damaged between calls -------------------------------- */

static _Noreturn void run_damaged(uint64_t seed)
{
    uint64_t random = seed;
    alarm(DEADLINE_SECONDS);
    struct ql *ql = open_store();
    exercise_fill(ql);
    struct kt_view view = kt_view_open(directory);
    for (int i = 0; i < 4; i++) {
        for (uint64_t n = 1 + kt_random(&random) % 8; n > 0; n--)
            damage(&view, &random);
        exercise_all(ql, &random);
        forgive(&view);
        *clock_ns += (int64_t)(kt_random(&random) % 2) * KT_DAY_NS;
    }
    struct ql_options adopt = exercise_options(clock_ns);
    struct ql *other;
    struct ql_error error;
    adopt.replace_limits = kt_random(&random) % 2 == 0;
    if (ql_open(directory, &adopt, &other, &error) == QL_OK)
        ql_close(other);
    ql_close(ql);
    _exit(0);
}

static void words_damaged_between_calls(void **state)
{
    (void)state;
    run_rounds(1000, run_damaged);
}

/* ---- bits that flip inside calls ------------------------------------------ */

struct flipper {
    struct kt_view view;
    unsigned char *sound; /* a copy of the region before the damage */
    uint64_t random;
    uint64_t flips;
    _Atomic bool stop;
};

/* A word goes bad for a moment or until the region is made sound again. */
static void flip(struct flipper *flipper)
{
    uint64_t dice = kt_random(&flipper->random);
    uint64_t *word = word_at(&flipper->view, dice >> 16);
    uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED);
    for (uint64_t i = dice % 64; i > 0; i--) {
        __atomic_store_n(word, damaged(&flipper->view, old, &flipper->random), __ATOMIC_RELAXED);
        flipper->flips++;
    }
    if (dice >> 8 & 3)
        __atomic_store_n(word, old, __ATOMIC_RELAXED);
}

static void *flip_for_ever(void *context)
{
    struct flipper *flipper = context;
    uint64_t *words = (uint64_t *)flipper->view.region.base;
    const uint64_t *sound = (const uint64_t *)flipper->sound;
    for (uint64_t i = 0; !flipper->stop; i++) {
        flip(flipper);
        forgive(&flipper->view);
        for (size_t w = 0; i % 256 == 0 && w < flipper->view.region.size / sizeof *words; w++)
            __atomic_store_n(&words[w], sound[w], __ATOMIC_RELAXED);
    }
    return NULL;
}

struct caller {
    struct ql *ql;
    uint64_t random;
};

static void *call_everything(void *context)
{
    struct caller *caller = context;
    for (int i = 0; i < 300; i++)
        exercise_all(caller->ql, &caller->random);
    return NULL;
}

static _Noreturn void run_flipped(uint64_t seed)
{
    pthread_t flipping;
    pthread_t threads[THREADS];
    struct caller callers[THREADS];
    alarm(DEADLINE_SECONDS);
    struct ql *ql = open_store();
    exercise_fill(ql);
    struct flipper flipper = {.view = kt_view_open(directory), .random = seed};
    flipper.sound = malloc(flipper.view.region.size);
    KT_CHECK(flipper.sound != NULL, "out of memory");
    memcpy(flipper.sound, flipper.view.region.base, flipper.view.region.size);
    KT_CHECK(pthread_create(&flipping, NULL, flip_for_ever, &flipper) == 0, "pthread_create");
    for (uint64_t i = 0; i < THREADS; i++) {
        callers[i] = (struct caller){.ql = ql, .random = seed ^ i << 32};
        KT_CHECK(pthread_create(&threads[i], NULL, call_everything, &callers[i]) == 0,
                 "pthread_create");
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    flipper.stop = true;
    pthread_join(flipping, NULL);
    KT_CHECK(flipper.flips > 1000, "only %llu flips", (unsigned long long)flipper.flips);
    _exit(0);
}

static void bits_that_flip_inside_calls(void **state)
{
    (void)state;
    run_rounds(10, run_flipped);
}

/* ---- a header that lies ---------------------------------------------------- */

static _Noreturn void run_lying_header(size_t word, uint64_t value)
{
    static const uint64_t key[2];
    uint64_t random = SEED;
    alarm(DEADLINE_SECONDS);
    struct kt_view view = kt_view_open(directory);
    struct qli_region_header *header = view.region.header;
    ((uint64_t *)header)[word] = value;
    header->checksum = qli_siphash(key, header, offsetof(struct qli_region_header, checksum));
    kt_view_close(&view);
    struct ql_options options = exercise_options(clock_ns);
    struct ql *ql;
    struct ql_error error;
    if (ql_open(directory, &options, &ql, &error) == QL_OK) {
        exercise_all(ql, &random);
        ql_close(ql);
    }
    _exit(0);
}

/* Each word of it, with a checksum that is right: what it says is not believed
 * for that. */
static void headers_that_lie(void **state)
{
    (void)state;
    *clock_ns = KT_START_NS;
    for (size_t word = 0; word < offsetof(struct qli_region_header, checksum) / 8; word++) {
        for (int i = 0; i < 8; i++) {
            kt_directory_remove(directory);
            kt_directory_make(directory, NULL);
            struct ql *ql = open_store();
            exercise_fill(ql);
            uint64_t old = ((const uint64_t *)ql->store->engine.region.header)[word];
            ql_close(ql);
            const uint64_t values[] = {0,       old + 1,       old - 1,           old * 2,
                                       old * 8, old + 1000000, UINT64_C(1) << 32, UINT64_MAX};
            pid_t pid = kt_fork();
            if (pid == 0)
                run_lying_header(word, values[i]);
            expect_end(pid, word * 8 + (uint64_t)i);
        }
    }
}

/* ---- a list that goes round ------------------------------------------------ */

/* The refusal that looks for the dead on a list with no end. */
static _Noreturn void run_round(void)
{
    struct ql_lease lease;
    alarm(DEADLINE_SECONDS / 10);
    struct ql *ql = open_store();
    struct kt_view view = kt_view_open(directory);
    struct plant plant = plant_open(&view);
    for (int i = 0; i < 3; i++)
        KT_CHECK(ql_acquire(ql, "alice", &lease, NULL) == QL_OK, "acquire");
    struct qli_subject *alice = plant_subject(&plant, "alice");
    uint64_t first = qli_subject_first_lease(alice);
    alice->leases = qli_subject_leases(first, UINT32_MAX);
    plant_link_lease(&plant, first, first);
    KT_CHECK(ql_acquire(ql, "alice", &lease, NULL) == QL_E_CORRUPT, "the damage was not noticed");
    forgive(&view);
    struct ql_error error;
    KT_CHECK(ql_verify(ql, NULL, &error) == QL_E_CORRUPT, "verify did not notice");
    _exit(0);
}

static void a_list_that_goes_round_ends(void **state)
{
    (void)state;
    *clock_ns = KT_START_NS;
    pid_t pid = kt_fork();
    if (pid == 0)
        run_round();
    expect_end(pid, 0);
}

/* ---- a flush at an impossible time ------------------------------------------ */

/* It was long ago: the next is due, and the lag is seen. */
static void a_flush_to_come_is_long_ago(void **state)
{
    (void)state;
    *clock_ns = KT_START_NS;
    struct ql_options options = exercise_options(clock_ns);
    options.no_thread = true;
    struct ql *ql = kt_open(directory, &options);
    exercise_fill(ql);
    struct qli_flusher *flusher = &ql->store->flusher;
    struct qli_ledger_page *page = flusher->engine->ledger_page;
    uint64_t self = qli_holder_self(&flusher->engine->region);
    const uint64_t times[] = {(uint64_t)(qli_clock_boot_ns() + KT_DAY_NS), INT64_MAX,
                              UINT64_C(1) << 63, UINT64_MAX - (uint64_t)KT_DAY_NS};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        uint64_t done = page->done;
        page->begun_boot_ns = times[i];
        page->done_boot_ns = times[i];
        assert_true(qli_flusher_lag_ms(flusher) > KT_DAY_NS / 1000000);
        qli_flusher_tick(flusher, self, KT_DAY_NS);
        assert_int_equal(page->done, done + 1);
        assert_in_range(qli_flusher_lag_ms(flusher), 0, DEADLINE_SECONDS * 1000);
    }
    ql_close(ql);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(words_damaged_between_calls),
        CASE(bits_that_flip_inside_calls),
        CASE(headers_that_lie),
        CASE(a_list_that_goes_round_ends),
        CASE(a_flush_to_come_is_long_ago),
    };
    clock_ns = kt_shared(sizeof *clock_ns);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
