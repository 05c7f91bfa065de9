/* SPDX-License-Identifier: Apache-2.0
 *
 * quotalite: exact quotas for expensive requests, shared by every process that
 * opens the same store. This header is the manual.
 *
 *   struct ql *ql;
 *   struct ql_limit limits[] = {
 *       {"concurrent_scans", NULL, QL_WINDOW_NONE, 5},
 *       {"daily_bytes", "bytes", QL_WINDOW_DAY, 53687091200},
 *   };
 *   struct ql_options options = QL_OPTIONS_INIT;
 *   options.limits = limits;
 *   options.limit_count = 2;
 *   if (ql_open("/var/lib/app/quota", &options, &ql, &error) != QL_OK) ...
 *
 *   struct ql_lease lease;
 *   struct ql_verdict verdict;
 *   if (ql_admit(ql, "alice", NULL, &lease, &verdict) == QL_OK) {
 *       ... the work, whose price is known only now ...
 *       struct ql_charge charge = {"bytes", 123456};
 *       ql_settle(ql, lease, &charge, 1);
 *   }
 *
 * Words
 *   subject  who is charged: 1 to 4 segments joined by '/', 1 to 255 bytes of
 *            valid UTF-8, no empty segment, no control character. The only
 *            escapes are %25 and %2F; a '%' that starts neither is refused. Each
 *            whole subject is counted by itself, whatever segments others share.
 *   meter    what is counted: a name and an int64_t amount.
 *   limit    a named cap, either on leases held at once (concurrent) or on a
 *            meter's amount per calendar window (windowed; UTC).
 *   lease    a slot that is held. A held lease dies with the process that took
 *            it, or at its maximum age if it has one; a timed lease belongs to no
 *            process and dies at its deadline unless it is renewed. A reboot ends
 *            all of them.
 *   store    where the state lives: "memory:" or a directory on a local file
 *            system. A process that opens the same directory shares the budget.
 *   epoch    the life of a store's region: from its making to a reboot, or until
 *            somebody removes it.
 *   holder   one attached process.
 *
 * Results
 *   Every call that can fail returns enum ql_status: QL_OK (0) is done and
 *   allowed, QL_REFUSED (1) and QL_LATE (2) are answers, failures are negative.
 *   Whoever tests for 0 fails closed. Unless a call says otherwise, a failure has
 *   changed nothing and gives the caller nothing to free; what it would have
 *   filled in (a verdict, a usage, a report) then means nothing.
 *   Each call names the answers that are its own. Besides them a call on a handle
 *   may return QL_E_INVALID (NULL where that is not allowed), QL_E_CORRUPT,
 *   QL_E_GONE, QL_E_DETACHED, QL_E_CLOCK and QL_E_NOMEM (the limits have changed);
 *   one that looks at a budget or charges, QL_E_LEDGER, QL_E_VERSION (nothing was done;
 *   only where the clock was set back, or a window that the ledger lacks is in the
 *   way) and QL_E_FULL (there is no room to open the subject's windows then);
 *   and the first one in a forked child, which has to become a holder,
 *   QL_E_FULL (max_holders), QL_E_BUSY, QL_E_STORE and QL_E_SYSTEM.
 *
 * Threads, processes, forks
 *   A handle may be used by any number of threads at once, until ql_close. The
 *   library takes its own locks; there is nothing for the caller to lock.
 *   A handle may be used after fork() in the child too: the child becomes a
 *   holder of its own at its next call. Leases stay with the parent; a settle
 *   of one in the child is QL_E_NOT_OWNER. After a raw clone() without an exec
 *   the parent's death is noticed once the child calls, execs or ends.
 *   No call is async-signal-safe. A thread that is ended alone inside a call
 *   (pthread_cancel, siglongjmp out of a handler) is outside the promise; a
 *   process that is killed at any instruction is inside it.
 *   A host that closes descriptors which it did not open (closefrom) loses the
 *   store: calls return QL_E_DETACHED within a second, and its leases end. It may
 *   open the store again and charge; but if it had written the ledger it does so no
 *   more: other processes do, or it itself when it was started again.
 *   A host that reads the ledger with SQLite itself closes that before it forks;
 *   else the child charges, but leaves the ledger to other processes in the same way.
 *
 * Blocking
 *   Calls wait only for locks (and, where said, for the disk): that of a shard, and
 *   that of the limits where they have changed. Another thread or process holds one
 *   for well under a microsecond; for as long as it takes to walk the shard where it
 *   makes room, ends leases of the dead, or verifies; and on and on if it is stopped
 *   (SIGSTOP). The deadline of each wait is options.admit_wait_ms or
 *   options.charge_wait_ms. QL_E_BUSY: it has passed, and the call has changed
 *   nothing. A call waits once as a rule, but some times over where it has to make
 *   room or needs the ledger first.
 *   ql_open and ql_close say for themselves how long they wait; the first call in
 *   a forked child enters the store and waits as ql_open does. While a thread is
 *   in ql_open or ql_close, those of other threads wait for it, and so does fork().
 *   fork() also waits for what its process is doing with the ledger: a flush, a
 *   backup, verify, a history; and ql_open and ql_close for that fork.
 *   What waits for the disk says so: charge and settle of a store that is
 *   QL_DURABILITY_SYNC, the calls about the ledger, ql_close, and with
 *   options.no_thread any call, now and then.
 *
 * Units
 *   Amounts are int64_t, not negative; totals saturate at 2^63-1. Times are
 *   Unix seconds (UTC); durations carry their unit in the name.
 *
 * Clocks
 *   A store has one day for all its calls, by CLOCK_REALTIME. Midnight UTC moves
 *   it at the next call. Setting the clock does not refill a budget: a time that
 *   is more than a minute ahead of what CLOCK_BOOTTIME makes one expect (which
 *   goes on in a suspend) is believed once it has been seen for a minute; until
 *   then a refusal may carry retry_after_seconds 0. A clock that is set back keeps
 *   the day that is open. If that begins more than an hour later, the earlier day
 *   is opened again with what it had; but a store without a ledger keeps the later
 *   one. An injected clock (options.clock) is believed at once when it is ahead.
 *   Ages and deadlines of leases are by CLOCK_BOOTTIME alone.
 */
#ifndef QUOTALITE_H
#define QUOTALITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QL_VERSION_MAJOR 0
#define QL_VERSION_MINOR 1
#define QL_VERSION_PATCH 0

#if defined(__GNUC__)
#define QL_API __attribute__((visibility("default")))
#define QL_MUST_USE __attribute__((warn_unused_result))
#else
#define QL_API
#define QL_MUST_USE
#endif

#define QL_SUBJECT_MAX 255   /* bytes, without the terminating NUL */
#define QL_NAME_MAX 31       /* bytes of a limit's or a meter's name */
#define QL_LIMITS_MAX 8      /* limits of a store */
#define QL_METERS_MAX 8      /* meters of a store */
#define QL_LEASE_TEXT_MAX 64 /* bytes of a lease's text, with its NUL */

/* ---- status ------------------------------------------------------------ */

/* One table makes codes, names and texts: X(name, value, text). */
#define QL_STATUS_TABLE(X)                                                                         \
    X(QL_OK, 0, "done")                                                                            \
    X(QL_REFUSED, 1, "refused: a limit is reached")                                                \
    X(QL_LATE, 2, "done: the charge was made, though the lease had ended before")                  \
    X(QL_E_INVALID, -1, "an argument is invalid")                                                  \
    X(QL_E_SUBJECT, -2, "the subject is not 1 to 4 segments of valid UTF-8, 255 bytes at most")    \
    X(QL_E_METER, -3, "no limit of this store has ever named this meter")                          \
    X(QL_E_LIMIT, -4, "the store has no windowed limit of this name")                              \
    X(QL_E_LIMITS, -5, "the store has other limits than those given")                              \
    X(QL_E_BUSY, -6, "another process holds the lock and does not go on; nothing was done")        \
    X(QL_E_FULL, -7, "the store is full and nothing idle can be evicted")                          \
    X(QL_E_SETTLED, -8, "the lease was settled before; nothing was charged")                       \
    X(QL_E_EXPIRED, -9, "the lease has ended; nothing was charged here: charge the subject")       \
    X(QL_E_NOT_OWNER, -10, "the lease belongs to another process")                                 \
    X(QL_E_CORRUPT, -11, "the store is damaged")                                                   \
    X(QL_E_GONE, -12, "the store was removed while in use; open it again")                         \
    X(QL_E_DETACHED, -13, "the host closed the store's descriptors; open it again")                \
    X(QL_E_VERSION, -14, "the store was made by another version of quotalite")                     \
    X(QL_E_CLOCK, -15, "the store runs on another kind of clock, or the clock gave no time")       \
    X(QL_E_STORE, -16, "the store cannot be opened")                                               \
    X(QL_E_SYSTEM, -17, "a system call failed")                                                    \
    X(QL_E_NOMEM, -18, "out of memory")                                                            \
    X(QL_E_NOT_DURABLE, -19, "the charge is made, but not yet in the ledger; do not repeat it")    \
    X(QL_E_LEDGER, -20, "the store's ledger cannot be read or written; nothing was done")

enum ql_status {
#define QL_STATUS_ENUM(name, value, text) name = (value),
    QL_STATUS_TABLE(QL_STATUS_ENUM)
#undef QL_STATUS_ENUM
};

/* The code's name ("QL_E_BUSY") and text; static strings, never NULL. */
QL_API const char *ql_status_name(enum ql_status status);
QL_API const char *ql_status_text(enum ql_status status);

/* "0.1.0"; a static string. */
QL_API const char *ql_version(void);

/* Filled by ql_open, ql_verify, ql_flush and ql_backup when they fail: what is wrong, where, and
 * what to do about it. Always NUL-terminated. */
struct ql_error {
    enum ql_status status;
    int system_errno; /* the errno behind it, or 0 */
    char text[512];
};

/* ---- limits and options ------------------------------------------------ */

enum ql_window {
    QL_WINDOW_NONE = 0, /* a concurrent limit */
    QL_WINDOW_DAY = 1,  /* a calendar day, UTC */
};

/* A limit. Names of limits and meters are 1 to QL_NAME_MAX bytes of a-z, 0-9,
 * '_', '-' and '.'. A store has at most QL_LIMITS_MAX limits, of which at most
 * one is concurrent (meter NULL, window NONE). cap >= 0; 0 refuses everything;
 * INT64_MAX counts and never refuses. */
struct ql_limit {
    const char *name;
    const char *meter;
    enum ql_window window;
    int64_t cap;
};

enum ql_when_full {
    QL_FULL_REFUSE = 0, /* an acquire or admit that finds no room is QL_E_FULL */
    QL_FULL_ADMIT = 1,  /* it is admitted with an uncounted lease, and counted as an omission */
};

/* What a power cut, or a crash of the machine, may lose. A process that dies loses
 * nothing in any of them. It belongs to the store. */
enum ql_durability {
    QL_DURABILITY_STORE = 0, /* as the store has it; a new one: QL_DURABILITY_ASYNC */
    QL_DURABILITY_NONE = 1,  /* everything: there is no ledger. "memory:" is always so */
    QL_DURABILITY_ASYNC = 2, /* what was charged since the last completed flush began */
    QL_DURABILITY_SYNC = 3,  /* nothing that charge or settle has acknowledged */
};

/* Options of ql_open. Start from QL_OPTIONS_INIT; zero means the default. */
struct ql_options {
    size_t size; /* sizeof(struct ql_options), so that it may grow */

    /* The store's limits, in the order in which they are checked and reported.
     * NULL adopts those of the store. Limits belong to the store: others than
     * the store's are QL_E_LIMITS unless replace_limits is set. */
    const struct ql_limit *limits;
    size_t limit_count;
    bool replace_limits;

    /* The size of a new store; an existing one keeps its own. Each meter takes
     * 32 bytes a subject. One that a limit has ever named keeps its room, so
     * limits that would name more than max_meters in all are QL_E_FULL: make a
     * store with room for those that later releases of a program will count. */
    uint32_t max_subjects; /* default 65536; 1 to 16777216 */
    uint32_t max_leases;   /* default max_subjects; 1 to 16777216 */
    uint32_t max_meters;   /* to QL_METERS_MAX; default 2 more than the limits name, 4 at least */
    uint32_t max_holders;  /* default 1024; 1 to 32768 processes at once */

    enum ql_when_full when_full; /* of this handle */

    /* Of the held leases that this handle takes, to 366 days; 0: no maximum. */
    int64_t lease_max_age_ms;

    /* For a lock or for the ledger, to one day; -1: do not wait. Default 100 and 5000. */
    int64_t admit_wait_ms;  /* in check, acquire, admit, usage, limits, visits, history,
                             * flush_lag and token_fd */
    int64_t charge_wait_ms; /* in charge, settle, release, renew, revoke, verify, flush, backup */

    /* A clock for tests: nanoseconds since the Unix epoch, negative for "no
     * time" (QL_E_CLOCK). A store is made for the system clock or for an
     * injected one, and refuses handles of the other kind. Called on the
     * caller's thread, never under a lock. */
    int64_t (*clock)(void *context);

    /* Called on the caller's thread before a call goes to sleep for a lock or waits for
     * the disk, and after it woke, so that an interpreter can give up its own lock meanwhile.
     * What the first returns the second receives. Both or neither; they must not fork.
     * No lock of the library is held. Not called in
     * ql_open and ql_close, nor where a forked child enters the store or a call makes
     * the flush of a store without a thread, as that is due. */
    void *(*wait_begin)(void *context);
    void (*wait_end)(void *context, void *token);

    void *context; /* for the three functions above */

    bool allow_any_filesystem; /* open on file systems that are not known to be local */

    /* Make nothing, neither directory nor file: QL_E_STORE if there is no store,
     * or if its region was removed or is of an earlier boot. For tools, whose
     * sizes are not those of the program that the store belongs to. */
    bool must_exist;

    /* Open a store that runs on another kind of clock too, to verify it: with such a
     * handle, calls that look at the time are QL_E_CLOCK. It makes nothing, as with
     * must_exist. */
    bool any_clock;

    /* Where a new store keeps its region: NULL beside its lock file; otherwise a
     * directory that exists, on a tmpfs (such as /dev/shm) for those who want no
     * write-back of a disk inside their calls. It belongs to the store: later
     * opens find it by the record in the lock file, and one that names another
     * directory is QL_E_STORE. All processes of the store have to see the same
     * directory there, also those in containers. Whoever removes a store removes
     * its file there too. */
    const char *region_directory;

    /* QL_DURABILITY_ASYNC and _SYNC replace each other while the store is in use,
     * for all its processes. Between them and _NONE only a new region changes:
     * QL_E_STORE. */
    enum ql_durability durability;
    int64_t flush_interval_ms; /* between two flushes; 1 to one day, default 200; of the process:
                                * the last open's */
    uint32_t history_days;     /* how long the ledger keeps a window; default 0: what the store has,
                                * 400 for a new one. UINT32_MAX: for ever */

    /* Start no thread. Otherwise each process has one for each store with a ledger that
     * it has open, which ends leases of the dead and flushes. Without it calls do
     * both, when it is time, and may take as long as the disk does. */
    bool no_thread;
};

#define QL_OPTIONS_INIT                                                                            \
    {                                                                                              \
        .size = sizeof(struct ql_options)                                                          \
    }

/* A handle. Opaque. */
struct ql;

/* Opens a store: "memory:" makes a private one that is shared with forked
 * children only; anything else is a directory, whose last component is made
 * (mode 0700) if it is missing. options may be NULL. On success *ql is the
 * caller's, to be given to ql_close. On failure *ql is NULL and *error, if not
 * NULL, says what to do. Blocks while another process makes or enters the
 * same store, 5 s at most (then QL_E_BUSY). One that is stopped inside the lock
 * of a shard is in nobody's way here, unless no holder's slot is free but those
 * of the dead whose leases that lock covers (QL_E_BUSY after 1 s). One that is
 * stopped inside the lock of the limits is in the way of an open that gives some
 * (QL_E_BUSY after 5 s).
 *
 * QL_E_INVALID, QL_E_LIMITS, QL_E_VERSION, QL_E_CLOCK, QL_E_CORRUPT, QL_E_LEDGER
 * (a region has to be made, and the ledger cannot be read: docs/ledger.md),
 * QL_E_STORE, QL_E_BUSY, QL_E_FULL, QL_E_SYSTEM, QL_E_NOMEM. */
QL_API QL_MUST_USE enum ql_status ql_open(const char *store, const struct ql_options *options,
                                          struct ql **ql, struct ql_error *error);

/* Closes the handle. No other thread may be in a call with it. Writes to the ledger
 * what it lacks, which takes as long as the disk does, and waits 1 s at most for
 * others to end theirs. The last close of a store in a process releases the leases
 * that the process still holds; in a forked child that made no call they are the
 * parent's, and stay. Waits 0.1 s at most for each lock that is held by a process
 * that does not go on; leases behind it are then ended as those of the dead, by
 * whoever looks next. NULL is
 * allowed. */
QL_API void ql_close(struct ql *ql);

/* ---- verdicts ---------------------------------------------------------- */

/* One limit as it stands for one subject. name and meter stay valid until the
 * handle is closed. */
struct ql_limit_state {
    const char *name;
    const char *meter; /* NULL for the concurrent limit */
    enum ql_window window;
    int64_t cap;
    int64_t used;      /* leases held, or the amount in the current window */
    int64_t remaining; /* cap - used, not below 0 */
    int64_t resets_at; /* Unix seconds at which the window ends; 0 for the concurrent limit */
};

/* The answer of check, acquire and admit. Refused: the first limit, in
 * declared order, that refuses. Allowed: kind is NULL. In both cases limits
 * has the state of those that were looked at, in declared order, before the
 * call took anything. */
struct ql_verdict {
    const char *kind; /* the refusing limit's name, or NULL */
    int64_t current;
    int64_t limit;
    int64_t
        retry_after_seconds; /* whole seconds to the window's end, truncated; 0 for concurrent */
    uint32_t level;          /* of the subject that refused: the number of its segments */
    uint32_t limit_count;
    struct ql_limit_state limits[QL_LIMITS_MAX];
};

/* ---- leases ------------------------------------------------------------ */

/* A lease is a value: copy it, keep it, pass it to another thread. {0} is no
 * lease. */
struct ql_lease {
    uint64_t epoch;
    uint64_t generation;
    uint64_t index;
};

struct ql_charge {
    const char *meter;
    int64_t amount; /* >= 0 */
};

/* What an admit asks for. Zero means the default. */
struct ql_request {
    size_t size;        /* sizeof(struct ql_request) */
    int64_t max_age_ms; /* of a held lease, to 366 days; 0: the handle's lease_max_age_ms */
    int64_t ttl_ms;     /* > 0: a timed lease, until so long after it was taken or renewed, to
                         * 366 days. max_age_ms must be 0. */
};

#define QL_REQUEST_INIT                                                                            \
    {                                                                                              \
        .size = sizeof(struct ql_request)                                                          \
    }

/* Asks whether the budgets allow work now: the windowed limit of that name, or
 * all windowed limits if limit is NULL. A budget refuses when used >= cap.
 * Takes nothing, creates nothing (but, while a clock that was set back makes it ask
 * the ledger, a place for the subject). verdict may be NULL. Waits up to
 * admit_wait_ms.
 *
 * QL_REFUSED, QL_E_SUBJECT, QL_E_LIMIT, QL_E_BUSY. */
QL_API QL_MUST_USE enum ql_status ql_check(struct ql *ql, const char *subject, const char *limit,
                                           struct ql_verdict *verdict);

/* Takes a slot under the concurrent limit; looks at no budget. On anything but
 * QL_OK *lease is zero. A slot whose holder is dead, or whose maximum age is
 * over, does not count. verdict may be NULL. Waits up to admit_wait_ms.
 *
 * QL_REFUSED, QL_E_SUBJECT, QL_E_FULL, QL_E_BUSY. */
QL_API QL_MUST_USE enum ql_status ql_acquire(struct ql *ql, const char *subject,
                                             struct ql_lease *lease, struct ql_verdict *verdict);

/* Check of all limits and acquire, as one step. On anything but QL_OK *lease is
 * zero. request and verdict may be NULL. Waits up to admit_wait_ms.
 *
 * QL_REFUSED, QL_E_INVALID (a request out of its ranges), QL_E_SUBJECT,
 * QL_E_FULL, QL_E_BUSY. */
QL_API QL_MUST_USE enum ql_status ql_admit(struct ql *ql, const char *subject,
                                           const struct ql_request *request, struct ql_lease *lease,
                                           struct ql_verdict *verdict);

/* Charges the amounts to the lease's subject and gives the slot back, as one
 * step, once. Never refused because the money is spent. count <= QL_METERS_MAX;
 * charges may be NULL if count is 0. Any thread of the process that took a held
 * lease may settle it; a timed one, any process. Waits up to charge_wait_ms;
 * after QL_E_BUSY the lease is as it was and the call may be repeated.
 *
 * A lease that was revoked, is over its maximum age or deadline, or whose holder
 * is dead, gave its slot back then; its settle, by anybody, still charges, once:
 * QL_LATE. Its record is kept for that until its room is needed, the oldest
 * first. When the record is gone, or the store is of a later epoch (after a
 * reboot), QL_E_EXPIRED: whether the lease was settled is not known here, and
 * nothing was charged.
 *
 * In a store that is QL_DURABILITY_SYNC it returns once the ledger has the charges.
 * QL_E_NOT_DURABLE: it has not yet, after charge_wait_ms more, but the lease is
 * settled and charged: do not repeat it.
 *
 * QL_LATE, QL_E_NOT_DURABLE, QL_E_INVALID (a zero lease, a negative amount),
 * QL_E_METER, QL_E_SETTLED, QL_E_EXPIRED, QL_E_NOT_OWNER, QL_E_FULL (an uncounted
 * lease with charges: charge the subject), QL_E_BUSY. */
QL_API QL_MUST_USE enum ql_status ql_settle(struct ql *ql, struct ql_lease lease,
                                            const struct ql_charge *charges, size_t count);

/* Settle with no charge, with the same answers. */
QL_API QL_MUST_USE enum ql_status ql_release(struct ql *ql, struct ql_lease lease);

/* Moves a timed lease's deadline to its ttl_ms from now. Any process may. What is
 * over is not brought back. Waits up to charge_wait_ms.
 *
 * QL_E_INVALID (a zero or held lease), QL_E_SETTLED, QL_E_EXPIRED (it is over: its
 * settle would be late), QL_E_BUSY. */
QL_API QL_MUST_USE enum ql_status ql_renew(struct ql *ql, struct ql_lease lease);

/* Ends a lease of any process, for a slot that is stuck. Its settle is then
 * QL_LATE. The work itself is not stopped. Waits up to charge_wait_ms.
 *
 * QL_E_INVALID (a zero lease), QL_E_SETTLED, QL_E_EXPIRED (it had ended), QL_E_BUSY. */
QL_API QL_MUST_USE enum ql_status ql_revoke(struct ql *ql, struct ql_lease lease);

/* Makes a descriptor for the processes that do the work. While anybody has it, or a
 * copy of it, open, the death of this process ends none of its held leases in the
 * store, also those that it takes later, and its place among max_holders stays
 * taken. The last one to be closed ends them, as that death would have. It keeps
 * nothing else: while they are held only this process may settle them; ql_close,
 * ql_revoke and a maximum age end them as ever; and a lock in which it dies is
 * free at once.
 *
 * Each call makes a new one, which is the caller's to close. It has O_CLOEXEC: a
 * forked child has it as it is, and a program that the child executes once
 * FD_CLOEXEC is cleared there. Every child that is forked while it is open has it
 * too, and one that lives on keeps the leases: open it late, close it soon. In a
 * forked child this is the child's own, as all calls are. May register, as any
 * first call in a forked child; waits up to admit_wait_ms then. On failure *fd is
 * -1.
 *
 * QL_E_BUSY, QL_E_SYSTEM (errno says which: as a rule there is no descriptor
 * left). */
QL_API QL_MUST_USE enum ql_status ql_token_fd(struct ql *ql, int *fd);

/* A lease as text ("index.generation.epoch", hexadecimal) and back. Format
 * always succeeds; parse gives QL_E_INVALID for anything that format does not
 * make. */
QL_API void ql_lease_format(struct ql_lease lease, char text[QL_LEASE_TEXT_MAX]);
QL_API QL_MUST_USE enum ql_status ql_lease_parse(const char *text, struct ql_lease *lease);

/* ---- charging and reading ---------------------------------------------- */

/* Adds an amount to a meter of a subject, past the cap if need be. 0 does
 * nothing. operation_id is reserved and must be NULL. Waits up to
 * charge_wait_ms, and as long again for the ledger in a store that is
 * QL_DURABILITY_SYNC. QL_OK, QL_E_NOT_DURABLE: the charge is made, once (and not in
 * the ledger yet). Anything else: it is not.
 *
 * QL_E_NOT_DURABLE, QL_E_INVALID (a negative amount), QL_E_SUBJECT, QL_E_METER,
 * QL_E_FULL, QL_E_BUSY. */
QL_API QL_MUST_USE enum ql_status ql_charge(struct ql *ql, const char *subject, const char *meter,
                                            int64_t amount, const char *operation_id);

struct ql_meter_state {
    const char *name;  /* valid until the handle is closed */
    int64_t total;     /* in the current UTC day */
    int64_t yesterday; /* in the UTC day before it */
};

struct ql_usage {
    int64_t leases; /* held or timed, none of them over its age or deadline */
    uint32_t limit_count;
    uint32_t meter_count;
    struct ql_limit_state limits[QL_LIMITS_MAX];
    struct ql_meter_state meters[QL_METERS_MAX];
};

/* The subject as it stands. One that is unknown has used nothing, and is not
 * created unless the ledger has to be asked for it. Waits up to admit_wait_ms.
 *
 * QL_E_SUBJECT, QL_E_BUSY. */
QL_API QL_MUST_USE enum ql_status ql_usage(struct ql *ql, const char *subject,
                                           struct ql_usage *usage);

/* The store's limits, in declared order. limits has room for QL_LIMITS_MAX. Their
 * names are valid until the handle is closed. Waits up to admit_wait_ms where
 * they have changed.
 *
 * QL_E_BUSY. */
QL_API QL_MUST_USE enum ql_status ql_limits(struct ql *ql, struct ql_limit *limits, size_t *count);

struct ql_subject_info {
    const char *subject; /* valid during the callback */
    struct ql_usage usage;
};

struct ql_lease_info {
    struct ql_lease lease;
    const char *subject;   /* valid during the callback */
    int64_t since;         /* Unix seconds at which it was taken */
    int64_t age_ms;        /* by the store's clock; not below 0 */
    int64_t expires_in_ms; /* to its maximum age or deadline; 0: it has none */
    int64_t pid;           /* of the holder, in its own pid namespace; for display only; 0: timed */
    bool own;              /* held by this process */
    bool timed;
};

/* Visits every subject (every lease, held or timed), in no order. One that stays
 * is seen once, as it stood at one moment; one that comes or goes meanwhile may
 * be seen or not. The callback runs without locks, may call quotalite, and may fork:
 * where the child returns from it too, the visit goes on there as the child's
 * own. A value other than 0 ends the visit and is returned through *stopped (may
 * be NULL). Waits up to admit_wait_ms for each lock.
 *
 * QL_E_BUSY: the visit ends there; what was seen before was seen. */
typedef int (*ql_subject_visitor)(void *context, const struct ql_subject_info *subject);
typedef int (*ql_lease_visitor)(void *context, const struct ql_lease_info *lease);
QL_API QL_MUST_USE enum ql_status ql_each_subject(struct ql *ql, ql_subject_visitor visit,
                                                  void *context, int *stopped);
QL_API QL_MUST_USE enum ql_status ql_each_lease(struct ql *ql, ql_lease_visitor visit,
                                                void *context, int *stopped);

/* ---- the ledger -------------------------------------------------------- */

/* Writes to the ledger what it lacks, now. Waits up to charge_wait_ms for a flush
 * of another process, and for the disk. In a store without a ledger there is
 * nothing to do. error may be NULL.
 *
 * QL_E_LEDGER, QL_E_BUSY, QL_E_VERSION. What was not written stays in the region, to
 * be written by the next flush. */
QL_API QL_MUST_USE enum ql_status ql_flush(struct ql *ql, struct ql_error *error);

/* Milliseconds since the last completed flush began: what a power cut would lose
 * was charged since then. 0 in a store without a ledger, whatever was charged. A
 * lag of many times the flush interval says that the ledger cannot be written:
 * ql_flush says why. Waits up to admit_wait_ms where the limits have changed. */
QL_API QL_MUST_USE enum ql_status ql_flush_lag(struct ql *ql, int64_t *lag_ms);

/* What one meter added up to in one window. */
struct ql_history_entry {
    int64_t start;     /* Unix seconds at which the window begins */
    int64_t end;       /* and at which it ends */
    const char *meter; /* valid during the callback */
    int64_t amount;
};

/* Visits what a subject was charged in the windows that overlap [from, to), in
 * order of time; meter NULL: all meters. A window without charges is left out. What
 * was charged before the call is in it. A store without a ledger knows the current
 * day and the one before it. The callback runs without locks and may call
 * quotalite; a value other than 0 ends the visit and is returned through *stopped
 * (may be NULL). Waits up to admit_wait_ms for the ledger, and for the disk.
 *
 * QL_E_INVALID (to < from), QL_E_SUBJECT, QL_E_LEDGER, QL_E_VERSION, QL_E_BUSY. */
typedef int (*ql_history_visitor)(void *context, const struct ql_history_entry *entry);
QL_API QL_MUST_USE enum ql_status ql_history(struct ql *ql, const char *subject, const char *meter,
                                             int64_t from, int64_t to, ql_history_visitor visit,
                                             void *context, int *stopped);

/* Copies the ledger, with all that was charged before the call, into a new file,
 * while others go on. The file is an SQLite database, whole or not there; one that
 * exists is not touched. To go back to it see docs/ledger.md. error may be NULL.
 *
 * QL_E_INVALID (the file exists, or the store has no ledger), QL_E_LEDGER,
 * QL_E_VERSION, QL_E_BUSY, QL_E_SYSTEM. */
QL_API QL_MUST_USE enum ql_status ql_backup(struct ql *ql, const char *path,
                                            struct ql_error *error);

/* ---- care -------------------------------------------------------------- */

struct ql_verify_report {
    uint64_t subjects;
    uint64_t leases;
    uint64_t holders;
    uint64_t omissions;    /* admissions with an uncounted lease since the store was made */
    uint64_t max_subjects; /* the room that there is */
    uint64_t max_leases;
    uint64_t region_bytes;
    int64_t flush_lag_ms; /* as of ql_flush_lag, before */
};

/* Checks the invariants of limits, subjects, leases and totals ([C], [S], [L], [U]
 * and [D] of docs/crash-safety.md), shard by shard, while others go on; then, after
 * a flush, the ledger's file and whether it agrees with the region ([T]).
 * Holds one shard's lock at a time, for as long as it takes to walk that shard.
 * report and error may be NULL. Waits up to charge_wait_ms for each lock.
 *
 * QL_E_CORRUPT (*error names the first invariant that does not hold), QL_E_LEDGER,
 * QL_E_VERSION, QL_E_BUSY, QL_E_NOMEM. */
QL_API QL_MUST_USE enum ql_status ql_verify(struct ql *ql, struct ql_verify_report *report,
                                            struct ql_error *error);

#ifdef __cplusplus
}
#endif

#endif
