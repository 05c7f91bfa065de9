# SPDX-License-Identifier: Apache-2.0
"""One request's quota work in Python: check the budget, hold a slot, record bytes.

The same three steps by the package, by a plain tracker in this process (a lock
and a dict, which no other process sees), and by SQLite with a transaction a
step (which every process sees, and which outlives a power cut only with a sync
per transaction; here it has none). Turn by turn on one processor, so that all
of them see the same machine; one JSON line a row, with the median of the turns.
"""

import json
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

TURNS = 15
USER = "alice@example.com"
SLOTS = 5
BUDGET = 1 << 62


class PlainTracker:
    """Right for one process; each step looks first whether a new day has begun."""

    def __init__(self):
        self.mutex = threading.Lock()
        self.users = {}

    def entry(self, user):
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        entry = self.users.get(user)
        if entry is None:
            entry = self.users[user] = {"day": day, "held": 0, "spent": 0}
        elif entry["day"] != day:
            entry.update(day=day, spent=0)
        return entry

    def check(self, user):
        with self.mutex:
            if self.entry(user)["spent"] >= BUDGET:
                raise RuntimeError("over budget")

    @contextmanager
    def slot(self, user):
        with self.mutex:
            entry = self.entry(user)
            if entry["held"] >= SLOTS:
                raise RuntimeError("too many at once")
            entry["held"] += 1
        try:
            yield
        finally:
            with self.mutex:
                self.entry(user)["held"] -= 1

    def record(self, user, amount):
        with self.mutex:
            self.entry(user)["spent"] += amount


class SqliteTracker:
    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.execute("CREATE TABLE slots (user TEXT PRIMARY KEY, held INTEGER)")
        self.db.execute(
            "CREATE TABLE spent (user TEXT, day TEXT, bytes INTEGER, PRIMARY KEY (user, day))"
        )

    @staticmethod
    def day():
        return datetime.now(UTC).date().isoformat()

    def check(self, user):
        row = self.db.execute(
            "SELECT bytes FROM spent WHERE user = ? AND day = ?", (user, self.day())
        ).fetchone()
        if row and row[0] >= BUDGET:
            raise RuntimeError("over budget")

    @contextmanager
    def slot(self, user):
        taken = self.db.execute(
            "INSERT INTO slots VALUES (?, 1)"
            " ON CONFLICT DO UPDATE SET held = held + 1 WHERE held < ?",
            (user, SLOTS),
        )
        if taken.rowcount != 1:
            raise RuntimeError("too many at once")
        try:
            yield
        finally:
            self.db.execute("UPDATE slots SET held = held - 1 WHERE user = ?", (user,))

    def record(self, user, amount):
        self.db.execute(
            "INSERT INTO spent VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
            (user, self.day(), amount),
        )


def by_steps(tracker):
    """A loop over the three steps of PlainTracker and SqliteTracker."""

    def loop(count):
        check, slot, record = tracker.check, tracker.slot, tracker.record
        begin = time.perf_counter()
        for _ in range(count):
            check(USER)
            with slot(USER):
                pass
            record(USER, 1)
        return time.perf_counter() - begin

    return loop


def by_package(store):
    from quotalite import QuotaTracker

    tracker = QuotaTracker(
        max_concurrent_per_user=SLOTS, max_daily_bytes_per_user=BUDGET, store=store
    )

    def loop(count):
        check, acquire, record = (
            tracker.check_daily_budget,
            tracker.acquire,
            tracker.record_bytes,
        )
        begin = time.perf_counter()
        for _ in range(count):
            check(USER)
            with acquire(USER):
                pass
            record(USER, 1)
        return time.perf_counter() - begin

    return loop


def main():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as directory:
        sides = {
            "python_plain": (by_steps(PlainTracker()), 20000),
            "python_sqlite": (by_steps(SqliteTracker(directory + "/quota.db")), 500),
        }
        try:
            sides["python_package"] = (by_package("memory:"), 100000)
        except ImportError as error:
            print(json.dumps({"row": "python_package", "missing": str(error)}), flush=True)
        measured = {name: [] for name in sides}
        for loop, count in sides.values():
            loop(count // 4)
        for _ in range(TURNS):
            for name, (loop, count) in sides.items():
                measured[name].append(loop(count) / count * 1e9)
    for name, values in measured.items():
        print(json.dumps({"row": name, "ns": round(statistics.median(values), 1)}), flush=True)


if __name__ == "__main__":
    main()
