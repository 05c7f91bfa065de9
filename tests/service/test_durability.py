# SPDX-License-Identifier: Apache-2.0
"""What the operator chose that a power cut may lose, and that nobody else waits for it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import DEADLINE_SECONDS, Service
from scan_service.catalogue import Priced
from scan_service.running import admitted

from quotalite import QuotaTracker

Start = Callable[..., Service]


def ledger(store: Path) -> closing[sqlite3.Connection]:
    # Each statement is a transaction of its own.
    return closing(sqlite3.connect(store / "ledger.db", isolation_level=None))


def bytes_in_ledger(store: Path, user: str) -> int:
    query = "SELECT coalesce(sum(amount), 0) FROM totals WHERE subject = ? AND meter = 'bytes'"
    with ledger(store) as database:
        return int(database.execute(query, [user]).fetchone()[0])


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_what_was_answered_is_in_the_ledger_of_a_store_that_is_sync(
    own_service: Start, durability: str
) -> None:
    service = own_service(quota_durability=durability, quota_flush_interval_seconds=86_400)
    price = service.price(select=["delay"])
    for charged in (price, 2 * price):
        if charged == price:
            status, _, _ = service.scan("user", select=["delay"])
        else:
            status, _, _ = service.query("user", "SELECT max(delay) FROM flights")
        assert status == 200
        assert service.usage("user")["bytes_today"] == charged
        expected = charged if durability == "sync" else 0
        assert bytes_in_ledger(service.store, "user") == expected
    assert service.stop() == 0
    assert bytes_in_ledger(service.store, "user") == 2 * price


def test_without_a_ledger_there_is_none(own_service: Start) -> None:
    service = own_service(quota_durability="none")
    assert service.scan("user", select=["delay"])[0] == 200
    assert not (service.store / "ledger.db").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("quota_durability", "fsync"), ("quota_history_days", "a year")]
)
def test_a_wrong_setting_ends_the_service_and_is_named(
    own_service: Start, name: str, value: str
) -> None:
    service = own_service(**{name: value})
    assert service.wait() == 1
    errors = service.errors()
    assert f"scan_service: the setting api.scan.{name} is {value!r}: it must be" in errors
    assert "Traceback" not in errors


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[QuotaTracker]:
    made = QuotaTracker(
        max_concurrent_per_user=1,
        max_daily_bytes_per_user=9,
        store=tmp_path / "quota",
        max_subjects=64,
        durability="sync",
        flush_interval_seconds=86_400,
        charge_wait_seconds=DEADLINE_SECONDS,
    )
    yield made
    made.close()


async def one_scan(tracker: QuotaTracker) -> None:
    catalogue: Any = SimpleNamespace(cursor=lambda: SimpleNamespace(close=lambda: None))
    async with admitted(tracker, "alice", Priced("", 5, ()), catalogue):
        pass


async def made(tracker: QuotaTracker) -> None:
    """Its charge counts, and waits for the disk."""
    while tracker.bytes_used_today("alice") == 0:
        await asyncio.sleep(0.001)


def test_a_charge_that_waits_for_the_disk_lets_others_go_on(
    tracker: QuotaTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def both(database: sqlite3.Connection) -> None:
        scan = asyncio.create_task(one_scan(tracker))
        await made(tracker)
        assert not scan.done()
        database.execute("ROLLBACK")
        await scan

    with ledger(tmp_path / "quota") as database, caplog.at_level(logging.INFO, "quotalite"):
        database.execute("BEGIN IMMEDIATE")
        asyncio.run(both(database))
    assert caplog.text == ""
    assert bytes_in_ledger(tmp_path / "quota", "alice") == 5


def test_who_is_cancelled_in_its_charge_keeps_its_slot_until_that_is_made(
    tracker: QuotaTracker, tmp_path: Path
) -> None:
    async def cancelled(database: sqlite3.Connection) -> None:
        scan = asyncio.create_task(one_scan(tracker))
        await made(tracker)
        scan.cancel()
        await asyncio.wait([scan], timeout=0.05)
        assert tracker.store.usage("alice").leases == 1
        database.execute("ROLLBACK")
        with pytest.raises(asyncio.CancelledError):
            await scan

    with ledger(tmp_path / "quota") as database:
        database.execute("BEGIN IMMEDIATE")
        asyncio.run(cancelled(database))
    assert tracker.store.usage("alice").leases == 0
    assert bytes_in_ledger(tmp_path / "quota", "alice") == 5
