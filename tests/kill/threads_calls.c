/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads that call, on a store that stays open.
 */
#include <sched.h>
#include <string.h>

#include "threads.h"

/* ---- all operations ------------------------------------------------------ */

#define MIXED_TURNS 2000

struct mixed {
    struct ql *ql;
    _Atomic int64_t shared;
    _Atomic int64_t finished;
};

static void settle_one(struct ql *ql, const char *subject)
{
    struct ql_lease lease;
    struct ql_verdict verdict;
    struct ql_charge charges[] = {{"bytes", 1}, {"statements", 1}};
    kt_expect(ql_admit(ql, subject, NULL, &lease, &verdict), QL_OK, "admit");
    kt_expect(ql_settle(ql, lease, charges, 2), QL_OK, "settle");
}

static void revoke_one(struct ql *ql, const char *subject)
{
    struct ql_lease lease;
    kt_expect(ql_acquire(ql, subject, &lease, NULL), QL_OK, "acquire");
    kt_expect(ql_revoke(ql, lease), QL_OK, "revoke");
    enum ql_status status = ql_release(ql, lease);
    /* EXPIRED: the others have needed the room. */
    KT_CHECK(status == QL_LATE || status == QL_E_EXPIRED, "release: %s", ql_status_name(status));
}

/* Charges own or shared, settles own or shared, evicts idle ones for a crowd of
 * more than there is room for. Returns what it charged to own. */
static int64_t turn(struct ql *ql, const char *own, uint64_t dice, _Atomic int64_t *shared)
{
    char crowd[32];
    bool charges_own = dice & 1;
    bool settles_own = dice & 2;
    snprintf(crowd, sizeof crowd, "crowd-%d", (int)(dice >> 8 & 0x1ff));
    kt_expect(ql_charge(ql, charges_own ? own : "shared", "bytes", 1, NULL), QL_OK, "charge");
    settle_one(ql, settles_own ? own : "shared");
    *shared += !charges_own + !settles_own;
    revoke_one(ql, crowd);
    kt_expect(ql_check(ql, own, NULL, NULL), QL_OK, "check");
    return charges_own + settles_own;
}

/* Every other thread has a handle of its own, which it closes and opens again. */
static void mix(void *context, int number)
{
    struct mixed *mixed = context;
    struct ql *ql = mixed->ql;
    uint64_t random = (uint64_t)number + 1;
    int64_t charged = 0;
    char own[32];
    snprintf(own, sizeof own, "own-%d", number);
    for (int i = 0; i < MIXED_TURNS; i++) {
        struct ql_usage usage;
        if (number % 2 == 1 && i % 16 == 0) {
            if (ql != mixed->ql)
                ql_close(ql);
            ql = kt_open_room(64, 20000);
        }
        charged += turn(ql, own, kt_random(&random), &mixed->shared);
        kt_expect(ql_usage(ql, own, &usage), QL_OK, "usage");
        KT_CHECK(usage.meters[0].total == charged, "%s has %lld, not %lld", own,
                 (long long)usage.meters[0].total, (long long)charged);
    }
    if (ql != mixed->ql)
        ql_close(ql);
    mixed->finished++;
}

static void check_shared(struct ql *ql, int64_t charged)
{
    struct ql_usage usage;
    kt_expect(ql_usage(ql, "shared", &usage), QL_OK, "usage");
    KT_CHECK(usage.meters[0].total == charged && usage.leases == 0, "shared has %lld, not %lld",
             (long long)usage.meters[0].total, (long long)charged);
    kt_verify(ql);
}

int kt_thread_mixed(void)
{
    struct mixed mixed = {.ql = kt_open_room(64, 20000)};
    kt_threads(mix, &mixed);
    check_shared(mixed.ql, mixed.shared);
    ql_close(mixed.ql);
    return 0;
}

/* ---- visits while all changes -------------------------------------------- */

static int read_subject(void *context, const struct ql_subject_info *info)
{
    struct ql_usage usage;
    KT_CHECK(info->subject[0] != '\0' && info->usage.meter_count == 2, "%s", info->subject);
    kt_expect(ql_usage(context, info->subject, &usage), QL_OK, "usage in a visit");
    return 0;
}

static int read_lease(void *context, const struct ql_lease_info *info)
{
    (void)context;
    KT_CHECK(info->subject[0] != '\0' && info->own && info->age_ms == 0, "%s", info->subject);
    return 0;
}

static void visit_or_mix(void *context, int number)
{
    struct mixed *mixed = context;
    if (number != 0) {
        mix(context, number);
        return;
    }
    while (mixed->finished < KT_THREADS - 1) {
        kt_expect(ql_each_subject(mixed->ql, read_subject, mixed->ql, NULL), QL_OK, "subjects");
        kt_expect(ql_each_lease(mixed->ql, read_lease, NULL, NULL), QL_OK, "leases");
        kt_verify(mixed->ql);
    }
}

int kt_thread_visits(void)
{
    struct mixed mixed = {.ql = kt_open_room(64, 20000)};
    kt_threads(visit_or_mix, &mixed);
    check_shared(mixed.ql, mixed.shared);
    ql_close(mixed.ql);
    return 0;
}

/* ---- one thread revokes what another settles ----------------------------- */

#define REVOKE_TURNS 2000

struct exchange {
    struct ql *ql;
    struct {
        struct ql_lease lease;
        enum ql_status revoked;
        _Atomic int state; /* 1: lease is there, 2: revoked is */
    } pairs[KT_THREADS / 2];
    _Atomic int64_t settled;
};

static void settle_or_revoke(void *context, int number)
{
    struct exchange *exchange = context;
    int pair = number / 2;
    _Atomic int *state = &exchange->pairs[pair].state;
    for (int i = 0; i < REVOKE_TURNS; i++) {
        if (number % 2 == 1) {
            while (*state != 1)
                sched_yield();
            exchange->pairs[pair].revoked = ql_revoke(exchange->ql, exchange->pairs[pair].lease);
            *state = 2;
            continue;
        }
        struct ql_charge charge = {"bytes", 1};
        struct ql_lease lease = kt_take(exchange->ql);
        exchange->pairs[pair].lease = lease;
        *state = 1;
        enum ql_status settled = ql_settle(exchange->ql, lease, &charge, 1);
        while (*state != 2)
            sched_yield();
        enum ql_status revoked = exchange->pairs[pair].revoked;
        /* EXPIRED: the other pair has taken the slot meanwhile. */
        KT_CHECK(settled == QL_OK ? revoked == QL_E_SETTLED || revoked == QL_E_EXPIRED
                                  : settled == QL_LATE && revoked == QL_OK,
                 "settle %s, revoke %s", ql_status_name(settled), ql_status_name(revoked));
        exchange->settled++;
        *state = 0;
    }
}

int kt_thread_revoke_across(void)
{
    struct exchange exchange = {.ql = kt_open_store()};
    kt_threads(settle_or_revoke, &exchange);
    KT_CHECK(kt_total(exchange.ql) == exchange.settled, "%lld charged, %lld settled",
             (long long)kt_total(exchange.ql), (long long)exchange.settled);
    KT_CHECK(kt_held(exchange.ql) == 0, "leases were left");
    kt_verify(exchange.ql);
    ql_close(exchange.ql);
    return 0;
}

/* ---- the day changes, and not every clock is right ------------------------ */

#define DAYS 100
#define DAY_TURNS 40

struct calendar {
    struct ql *right;
    struct ql *behind; /* its clock is a day late */
    int64_t late_clock_ns;
    char subject[32];
    _Atomic int64_t charged;
};

static void charge_over_midnight(void *context, int number)
{
    struct calendar *calendar = context;
    struct ql *ql = number % 2 == 1 ? calendar->behind : calendar->right;
    for (int i = 0; i < DAY_TURNS; i++) {
        if (number == 0 && i == DAY_TURNS / 2) {
            __atomic_fetch_add(kt_clock_ns, KT_DAY_NS, __ATOMIC_RELAXED);
            __atomic_fetch_add(&calendar->late_clock_ns, KT_DAY_NS, __ATOMIC_RELAXED);
        }
        kt_expect(ql_charge(ql, calendar->subject, "bytes", 1, NULL), QL_OK, "charge");
        settle_one(ql, calendar->subject);
        calendar->charged += 2;
    }
}

/* The right clock charges first, so that a late one finds its day open already:
 * all of a round lie in the day that it begins in and the next. */
int kt_thread_roll_over(void)
{
    struct calendar calendar = {.late_clock_ns = *kt_clock_ns - KT_DAY_NS};
    struct ql_options options = kt_options(&calendar.late_clock_ns, KT_SLOTS, 64);
    calendar.right = kt_open_room(64, 20000);
    calendar.behind = kt_open(kt_directory, &options);
    for (int day = 0; day < DAYS; day++) {
        struct ql_usage usage;
        snprintf(calendar.subject, sizeof calendar.subject, "day-%d", day);
        kt_expect(ql_charge(calendar.right, calendar.subject, "bytes", 1, NULL), QL_OK, "charge");
        calendar.charged = 1;
        kt_threads(charge_over_midnight, &calendar);
        kt_expect(ql_usage(calendar.right, calendar.subject, &usage), QL_OK, "usage");
        KT_CHECK(usage.meters[0].total + usage.meters[0].yesterday == calendar.charged,
                 "day %d: %lld and %lld, not %lld", day, (long long)usage.meters[0].total,
                 (long long)usage.meters[0].yesterday, (long long)calendar.charged);
    }
    kt_verify(calendar.right);
    ql_close(calendar.behind);
    ql_close(calendar.right);
    return 0;
}

/* ---- leases that end at their maximum age --------------------------------- */

#define AGE_TURNS 100

struct ages {
    struct ql *ql;
    _Atomic int64_t settled;
    _Atomic int64_t forgotten;
};

static struct ql_lease take_in_time(struct ql *ql)
{
    struct ql_lease lease;
    enum ql_status status;
    int64_t deadline_ns = kt_now_ns() + kt_deadline_ns;
    do
        status = ql_admit(ql, "alice", NULL, &lease, NULL);
    while (status == QL_REFUSED && kt_now_ns() < deadline_ns);
    kt_expect(status, QL_OK, "admit");
    return lease;
}

/* Every other lease is never given back: its age has to end it. */
static void take_and_forget(void *context, int number)
{
    struct ages *ages = context;
    (void)number;
    for (int i = 0; i < AGE_TURNS; i++) {
        struct ql_charge charge = {"bytes", 1};
        struct ql_lease lease = take_in_time(ages->ql);
        if (i % 2 == 0)
            continue;
        enum ql_status status = ql_settle(ages->ql, lease, &charge, 1);
        bool charged = status == QL_OK || status == QL_LATE;
        KT_CHECK(charged || status == QL_E_EXPIRED, "settle: %s", ql_status_name(status));
        ages->settled += charged;
        ages->forgotten += !charged;
    }
}

int kt_thread_max_age(void)
{
    struct ql_options options = kt_options(kt_clock_ns, 2, 16);
    options.lease_max_age_ms = 1;
    struct ages ages = {.ql = kt_open(kt_directory, &options)};
    kt_threads(take_and_forget, &ages);
    KT_CHECK(kt_total(ages.ql) == ages.settled, "%lld charged, %lld settled",
             (long long)kt_total(ages.ql), (long long)ages.settled);
    KT_CHECK(ages.settled + ages.forgotten == KT_THREADS * AGE_TURNS / 2, "a settle is missing");
    kt_verify(ages.ql);
    ql_close(ages.ql);
    return 0;
}

/* ---- no room -------------------------------------------------------------- */

#define ROOM 8
#define FULL_TURNS 200

struct fullness {
    struct ql *refusing;
    struct ql *admitting;
    _Atomic int64_t made;
};

static void fill(void *context, int number)
{
    struct fullness *fullness = context;
    char subject[32];
    struct ql_lease lease;
    for (int i = 0; i < FULL_TURNS; i++) {
        snprintf(subject, sizeof subject, "full-%d-%d", number, i);
        enum ql_status status = ql_charge(fullness->refusing, subject, "bytes", 1, NULL);
        KT_CHECK(status == QL_OK || status == QL_E_FULL, "charge: %s", ql_status_name(status));
        fullness->made += status == QL_OK;
    }
    kt_meet();
    for (int i = 0; i < FULL_TURNS; i++) {
        snprintf(subject, sizeof subject, "omitted-%d-%d", number, i);
        kt_expect(ql_acquire(fullness->refusing, subject, &lease, NULL), QL_E_FULL, "acquire");
        kt_expect(ql_acquire(fullness->admitting, subject, &lease, NULL), QL_OK, "acquire");
        kt_expect(ql_release(fullness->admitting, lease), QL_OK, "release");
    }
    kt_meet();
    if (number == 0)
        __atomic_fetch_add(kt_clock_ns, KT_DAY_NS, __ATOMIC_RELAXED);
    kt_meet();
    for (int i = 0; i < ROOM / KT_THREADS; i++) {
        snprintf(subject, sizeof subject, "next-%d-%d", number, i);
        kt_expect(ql_charge(fullness->refusing, subject, "bytes", 1, NULL), QL_OK, "charge");
    }
}

int kt_thread_full(void)
{
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, ROOM);
    struct fullness fullness = {.refusing = kt_open(kt_directory, &options)};
    options.when_full = QL_FULL_ADMIT;
    fullness.admitting = kt_open(kt_directory, &options);
    kt_threads(fill, &fullness);
    struct ql_verify_report report;
    kt_expect(ql_verify(fullness.refusing, &report, NULL), QL_OK, "verify");
    KT_CHECK(fullness.made == ROOM && report.subjects == ROOM, "%lld made, %llu there",
             (long long)fullness.made, (unsigned long long)report.subjects);
    KT_CHECK(report.omissions == (uint64_t)KT_THREADS * FULL_TURNS, "%llu omissions",
             (unsigned long long)report.omissions);
    ql_close(fullness.admitting);
    ql_close(fullness.refusing);
    return 0;
}

/* ---- limits change under load --------------------------------------------- */

#define CHANGES 200

struct change {
    struct ql *ql;
    _Atomic int64_t done;
};

static void replace_limits(int turn)
{
    struct ql_options options = kt_options(kt_clock_ns, KT_SLOTS, 16);
    struct ql_limit limits[] = {{"tokens_a_day", "statements", QL_WINDOW_DAY, 1000000 + turn},
                                {"places", NULL, QL_WINDOW_NONE, 10 + turn}};
    if (turn % 2 == 1) {
        options.limits = limits;
        options.limit_count = 2;
    }
    options.replace_limits = true;
    ql_close(kt_open(kt_directory, &options));
}

static bool known_limit(const struct ql_limit_state *limit)
{
    static const char *const known[] = {"slots", "daily_bytes", "daily_statements", "tokens_a_day",
                                        "places"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(limit->name, known[i]) == 0)
            return true;
    }
    return false;
}

static void call_under_change(void *context, int number)
{
    struct change *change = context;
    if (number == 0) {
        for (int i = 0; i < CHANGES; i++)
            replace_limits(i);
        change->done = 1;
        return;
    }
    while (change->done == 0) {
        struct ql_lease lease;
        struct ql_verdict verdict;
        struct ql_limit limits[QL_LIMITS_MAX];
        size_t count;
        kt_expect(ql_admit(change->ql, "alice", NULL, &lease, &verdict), QL_OK, "admit");
        kt_expect(ql_limits(change->ql, limits, &count), QL_OK, "limits");
        kt_expect(ql_release(change->ql, lease), QL_OK, "release");
        KT_CHECK(verdict.limit_count == 2 || verdict.limit_count == 3, "%u limits",
                 verdict.limit_count);
        for (uint32_t i = 0; i < verdict.limit_count; i++)
            KT_CHECK(known_limit(&verdict.limits[i]), "an unknown limit");
    }
}

int kt_thread_limits(void)
{
    struct change change = {.ql = kt_open_store()};
    kt_threads(call_under_change, &change);
    struct ql_limit limits[QL_LIMITS_MAX];
    size_t count;
    kt_expect(ql_limits(change.ql, limits, &count), QL_OK, "limits");
    KT_CHECK(count == 2 && limits[1].cap == 10 + CHANGES - 1, "%zu limits", count);
    KT_CHECK(kt_held(change.ql) == 0, "leases were left");
    kt_verify(change.ql);
    ql_close(change.ql);
    return 0;
}
