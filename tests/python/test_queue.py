# SPDX-License-Identifier: Apache-2.0
"""Charges that the machine does not let through: the store is full for real."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from conftest import Worker, in_child

import quotalite
from quotalite import Limit, QuotaTracker, Store

Make = Callable[..., QuotaTracker]


@pytest.fixture
def full(make_tracker: Make, one_line_for_each_status: None) -> QuotaTracker:
    """There is room for one subject, and as long as it holds a slot it stays."""
    return make_tracker(max_subjects=1)


def test_a_charge_waits_until_there_is_room(
    full: QuotaTracker, caplog: pytest.LogCaptureFixture
) -> None:
    with full.acquire("alice"):
        with caplog.at_level(logging.INFO, "quotalite"):
            for _ in range(3):
                full.record_bytes("bob", 5)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "QL_E_FULL" in caplog.text
        assert full.bytes_used_today("bob") == 0
        assert full.store.drain() == 1
    while full.store.drain() > 0:
        pass
    assert full.bytes_used_today("bob") == 15


def test_the_next_call_drains(full: QuotaTracker) -> None:
    with full.acquire("alice"):
        full.record_bytes("bob", 5)
    while full.bytes_used_today("bob") == 0:
        full.check_daily_budget("carol")
    assert full.bytes_used_today("bob") == 5


def test_what_gets_through_is_charged_once_and_the_rest_stays(full: QuotaTracker) -> None:
    with full.acquire("alice"):
        full.record_bytes("bob", 5)
        full.record_bytes("carol", 7)
    while full.bytes_used_today("bob") == 0:
        full.store.drain()
    for _ in range(3):
        assert full.store.drain() == 1
    assert full.bytes_used_today("bob") == 5
    assert full.bytes_used_today("carol") == 0


def test_a_forked_child_does_not_charge_what_its_parent_queued(full: QuotaTracker) -> None:
    slot = full.acquire("alice")
    slot.__enter__()
    full.record_bytes("bob", 5)

    def child() -> None:
        assert full.store.drain() == 0

    assert in_child(child) == 0
    slot.__exit__(None, None, None)
    full.store.drain()
    assert full.bytes_used_today("bob") == 5


def test_what_is_lost_is_said(full: QuotaTracker, caplog: pytest.LogCaptureFixture) -> None:
    with full.acquire("alice"):
        full.record_bytes("bob", 5)
        with caplog.at_level(logging.ERROR, "quotalite"):
            full.close()
    assert "bytes of bob (amount 5)" in caplog.text


def test_the_queue_is_bounded(full: QuotaTracker, caplog: pytest.LogCaptureFixture) -> None:
    with full.acquire("alice"), caplog.at_level(logging.ERROR, "quotalite"):
        store = full.store
        for number in range(10_001):
            full.record_bytes(f"user{number}", 1)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "user10000" in caplog.text
        caplog.clear()
        assert store.drain() == 10_000
    caplog.set_level(logging.CRITICAL, "quotalite")


AT_EXIT = """
import sys, threading
from quotalite import QuotaTracker
tracker = QuotaTracker(max_concurrent_per_user=2, max_daily_bytes_per_user=1000, max_subjects=1,
                       store=sys.argv[1])
slot = tracker.acquire("alice")
slot.__enter__()
tracker.record_bytes("bob", 9)
slot.__exit__(None, None, None)
# It outlives the interpreter: nothing but the exit closes it.
threading.Thread(target=lambda kept: threading.Event().wait(), args=(tracker,), daemon=True).start()
print("queued", flush=True)
"""


def test_the_end_of_the_interpreter_drains(
    make_tracker: Make, store_path: str, start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker(AT_EXIT, store_path)
    assert worker.line() == "queued"
    assert worker.end() == 0
    assert make_tracker(store=store_path).bytes_used_today("bob") == 9


def test_what_the_store_cannot_mean_is_raised_and_not_queued() -> None:
    with Store("memory:", [Limit("jobs", 1)], max_subjects=1) as store:
        tracker = quotalite._quotalite.Tracker(store)
        with pytest.raises(quotalite.Error, match="QL_E_METER"):
            tracker.record_bytes("alice", 1)
        assert store.drain() == 0


def test_an_acquire_of_a_full_store_is_an_error(full: QuotaTracker) -> None:
    with full.acquire("alice"):
        with pytest.raises(quotalite.Error, match="max_subjects") as error:
            full.acquire("bob").__enter__()
        assert error.value.status == "QL_E_FULL"
