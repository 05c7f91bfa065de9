# SPDX-License-Identifier: Apache-2.0
"""What a store keeps on the disk: flushes, the history, backups, durability."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE_SECONDS, Clock, eventually, threads

import quotalite
from quotalite import HistoryEntry, Limit, QuotaTracker, Store

LIMITS = (
    Limit("tokens_a_day", 100, "tokens", "day"),
    Limit("bytes_a_day", 100, "bytes", "day"),
)
DAY = 86_400


@pytest.fixture
def store(store_path: str, clock: Clock) -> Iterator[Store]:
    with Store(store_path, LIMITS, max_subjects=64, clock=clock) as opened:
        yield opened


def charge_three_days(store: Store, clock: Clock) -> list[HistoryEntry]:
    """Gives what the history should say of alice's tokens."""
    expected = []
    for amount in (5, 7, 9):
        start = int(clock.now.timestamp()) // DAY * DAY
        store.charge("alice", "tokens", amount)
        store.charge("bob", "tokens", 1)
        store.flush()
        expected.append(HistoryEntry(start, start + DAY, "tokens", amount))
        clock.now += timedelta(days=1)
    return expected


def test_the_history_has_the_days_in_order(store: Store, clock: Clock) -> None:
    expected = charge_three_days(store, clock)
    store.charge("alice", "bytes", 2)
    today = int(clock.now.timestamp()) // DAY * DAY
    last = HistoryEntry(today, today + DAY, "bytes", 2)
    assert store.history("alice") == [*expected, last]
    assert store.history("alice", meter="tokens") == expected
    assert store.history(subject="alice", meter="bytes", start=None, end=None) == [last]
    assert store.history("carol") == []
    second = expected[1]
    assert store.history("alice", start=second.start, end=second.end) == [second]
    assert store.history("alice", start=second.end - 1, end=second.end + 1) == expected[1:]
    assert store.history("alice", start=today) == [last]
    assert store.history("alice", end=second.start) == expected[:1]
    assert store.history("alice", start=second.start, end=second.start) == []


def test_yesterday_is_known_after_a_step_back_and_a_restart(store_path: str, clock: Clock) -> None:
    """The restart finds the clock before the day that was charged; then it goes on."""
    with Store(store_path, LIMITS, max_subjects=64, clock=clock) as store:
        store.charge("alice", "tokens", 5)
    Path(store_path, "region").unlink()
    clock.now -= timedelta(days=1)
    with Store(store_path, LIMITS, max_subjects=64, clock=clock) as store:
        assert store.usage("alice").meters[0][1:] == (0, 0)
        clock.now += timedelta(days=2)
        store.charge("alice", "tokens", 7)
        assert store.usage("alice").meters[0][1:] == (7, 5)


def test_the_history_of_a_store_without_a_ledger_has_two_days(clock: Clock) -> None:
    with Store("memory:", LIMITS, max_subjects=64, clock=clock) as store:
        expected = charge_three_days(store, clock)
        clock.now -= timedelta(days=1)
        assert store.history("alice") == expected[1:]
        store.flush()
        assert store.flush_lag_ms() == 0
        with pytest.raises(ValueError, match="ledger"):
            store.backup("/nowhere")


WRONG: list[tuple[type[Exception], Callable[[Any], Any]]] = [
    (TypeError, lambda store: store.history()),
    (TypeError, lambda store: store.history("alice", "tokens")),
    (TypeError, lambda store: store.history("alice", since=1)),
    (TypeError, lambda store: store.history("alice", start=1.5)),
    (TypeError, lambda store: store.history("alice", meter=7)),
    (TypeError, lambda store: store.history(7)),
    (ValueError, lambda store: store.history("alice", start=2, end=1)),
    (ValueError, lambda store: store.history("a//b")),
    (ValueError, lambda store: store.history("alice", meter="a\0")),
    (TypeError, lambda store: store.backup()),
    (TypeError, lambda store: store.backup(7)),
    (ValueError, lambda store: store.backup("a\0")),
    (ValueError, lambda store: store.backup("")),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_calls(store: Store, number: int) -> None:
    kind, call = WRONG[number]
    with pytest.raises(kind):
        call(store)


def test_what_is_out_of_range_has_no_history(store: Store) -> None:
    store.charge("alice", "tokens", 1)
    assert store.history("alice", end=-5) == []
    assert store.history("alice", start=-(2**70), end=-(2**65)) == []
    assert store.history("alice", start=2**70, end=2**70) == []
    assert len(store.history("alice", start=-1, end=2**70)) == 1


def test_a_closed_store_says_so(store: Store, tmp_path: Path) -> None:
    store.close()
    for call in (
        lambda: store.history("alice"),
        store.flush,
        store.flush_lag_ms,
        lambda: store.backup(tmp_path / "copy"),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_backup_is_a_database_with_all_that_was_charged(
    store: Store, tmp_path: Path, kind: Callable[[Path], str | Path]
) -> None:
    store.charge("alice", "tokens", 5)
    path = tmp_path / "m\u00fcnchen.db"
    store.backup(kind(path))
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert "alice" in "\n".join(database.iterdump())
    with pytest.raises(ValueError, match="name a new file"):
        store.backup(path)


def test_the_thread_flushes(store_path: str) -> None:
    with Store(store_path, LIMITS, max_subjects=64, flush_interval_seconds=0.001) as store:
        store.charge("alice", "tokens", 5)
        assert eventually(lambda: "alice" in ledger_of(store_path))


def test_the_thread_waits_for_its_interval(store_path: str) -> None:
    with Store(store_path, LIMITS, max_subjects=64, flush_interval_seconds=86_400) as store:
        store.charge("alice", "tokens", 5)
        assert eventually(lambda: store.flush_lag_ms() > 1000)
        assert "alice" not in ledger_of(store_path)
        store.flush()
        assert "alice" in ledger_of(store_path)


def test_a_verify_tells_the_lag_that_it_found(store_path: str) -> None:
    options: dict[str, Any] = {"flush_interval_seconds": 86_400, "thread": False}
    with Store(store_path, LIMITS, max_subjects=64, **options) as store:
        store.charge("alice", "tokens", 5)
        assert eventually(lambda: store.flush_lag_ms() > 50)
        since_ns, least = time.monotonic_ns(), store.flush_lag_ms()
        report = store.verify()
        most = least + (time.monotonic_ns() - since_ns) // 1_000_000 + 1
        assert least <= report.flush_lag_ms <= most
        assert "alice" in ledger_of(store_path)
    with Store("memory:", LIMITS, max_subjects=64) as store:
        assert store.verify().flush_lag_ms == 0


@pytest.mark.parametrize("thread", [False, True])
def test_a_store_starts_a_thread_if_it_may(store_path: str, thread: bool) -> None:
    before = threads()
    with Store(store_path, LIMITS, max_subjects=64, thread=thread):
        assert len(threads() - before) == thread


@pytest.mark.parametrize(("history_days", "left"), [(None, 3), (1, 1), (math.inf, 3)])
def test_what_is_too_old_leaves_the_history(
    store_path: str, clock: Clock, history_days: float | None, left: int
) -> None:
    with Store(
        store_path, LIMITS, max_subjects=64, clock=clock, history_days=history_days
    ) as store:
        expected = charge_three_days(store, clock)
        clock.now -= timedelta(hours=12)
        store.charge("bob", "tokens", 1)
        store.flush()
        assert store.history("alice") == expected[-left:]


def ledger_of(store_path: str) -> str:
    with closing(sqlite3.connect(f"file:{store_path}/ledger.db?mode=ro", uri=True)) as database:
        return "\n".join(database.iterdump())


@pytest.mark.parametrize("durability", ["none", "async", "sync"])
def test_the_durability_is_the_stores(store_path: str, durability: str) -> None:
    options: dict[str, Any] = {"max_subjects": 64, "flush_interval_seconds": 86_400}
    with Store(store_path, LIMITS, durability=durability, **options) as store:
        store.charge("alice", "tokens", 5)
        if durability == "sync":
            assert "alice" in ledger_of(store_path)
        assert os.path.exists(f"{store_path}/ledger.db") == (durability != "none")
        other = "async" if durability == "none" else "none"
        with pytest.raises(quotalite.Error) as error:
            Store(store_path, durability=other)
        assert error.value.status == "QL_E_STORE"


def test_a_tracker_may_be_durable(store_path: str) -> None:
    tracker = QuotaTracker(
        max_concurrent_per_user=1,
        max_daily_bytes_per_user=9,
        store=store_path,
        max_subjects=64,
        durability="sync",
    )
    tracker.record_bytes("alice", 5)
    assert "alice" in ledger_of(store_path)
    tracker.close()


@contextmanager
def stuck(store_path: str) -> Iterator[None]:
    """Somebody else is writing to the ledger, and does not go on."""
    with closing(sqlite3.connect(f"{store_path}/ledger.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        yield
        other.execute("rollback")


def test_a_ledger_that_cannot_be_written_is_an_error(store_path: str) -> None:
    options: dict[str, Any] = {"flush_interval_seconds": 86_400, "charge_wait_seconds": 0.05}
    with Store(store_path, LIMITS, max_subjects=64, **options) as store:
        store.charge("alice", "tokens", 5)
        with stuck(store_path), pytest.raises(quotalite.Error) as error:
            store.flush()
        assert error.value.status in ("QL_E_LEDGER", "QL_E_BUSY")
        store.flush()
        assert "alice" in ledger_of(store_path)


@pytest.mark.parametrize("call", ["flush", "verify", "history", "backup"])
def test_a_ledger_that_was_lost_is_written_again_though_nothing_was_charged(
    store_path: str, tmp_path: Path, call: str
) -> None:
    """It is not only what is written next that the ledger lacks."""
    options: dict[str, Any] = {"flush_interval_seconds": 86_400, "thread": False}
    with Store(store_path, LIMITS, max_subjects=64, **options) as store:
        store.charge("alice", "tokens", 5)
        store.flush()
        for file in Path(store_path).glob("ledger.db*"):
            file.unlink()
        arguments = {"history": ["alice"], "backup": [tmp_path / "copy"]}
        answer = getattr(store, call)(*arguments.get(call, []))
        if call == "history":
            assert [entry.amount for entry in answer] == [5]
        assert "alice" in ledger_of(store_path)


def test_a_charge_that_is_not_durable_is_made_once(
    store_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    quotalite._support._last_logged.clear()
    tracker = QuotaTracker(
        max_concurrent_per_user=1,
        max_daily_bytes_per_user=9,
        store=store_path,
        max_subjects=64,
        durability="sync",
        admit_wait_seconds=DEADLINE_SECONDS,  # for the thread, which may be in the ledger too
        charge_wait_seconds=0.05,
    )
    store = tracker.store
    lease = store.admit("alice")
    with stuck(store_path):
        with caplog.at_level(logging.INFO, "quotalite"):
            tracker.record_bytes("alice", 5)
        assert "QL_E_NOT_DURABLE" in caplog.text
        assert (store.drain(), tracker.bytes_used_today("alice")) == (0, 5)
        with pytest.raises(quotalite.Error, match="do not repeat it") as error:
            store.charge("alice", "bytes", 2)
        assert error.value.status == "QL_E_NOT_DURABLE"
        with pytest.raises(quotalite.Error, match="do not repeat it"):
            lease.settle({"bytes": 1})
    assert (tracker.bytes_used_today("alice"), store.usage("alice").leases) == (8, 0)
    tracker.record_estimate("alice")
    assert [(entry.meter, entry.amount) for entry in store.history("alice")] == [
        ("bytes", 8),
        ("statements", 1),
    ]
    tracker.close()
