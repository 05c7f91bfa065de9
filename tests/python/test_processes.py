# SPDX-License-Identifier: Apache-2.0
"""Processes on one store: forks, kills, restarts, deploys."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Worker, eventually, in_child, threads

import quotalite
from quotalite import Limit, QuotaExceededError, QuotaTracker, Store, build_quota_tracker

Make = Callable[..., QuotaTracker]
Start = Callable[..., Worker]

HOLDER = """
import sys
from quotalite import QuotaTracker
tracker = QuotaTracker(max_concurrent_per_user=2, max_daily_bytes_per_user=1000, store=sys.argv[1])
slots = [tracker.acquire("alice") for _ in range(2)]
for slot in slots:
    slot.__enter__()
tracker.record_bytes("alice", 7)
print("held", flush=True)
sys.stdin.readline()
"""


def free(tracker: QuotaTracker) -> bool:
    try:
        with tracker.acquire("alice"), tracker.acquire("alice"):
            return True
    except QuotaExceededError:
        return False


def test_two_processes_share_one_budget(
    make_tracker: Make, store_path: str, start_worker: Start
) -> None:
    worker = start_worker(HOLDER, store_path)
    assert worker.line() == "held"
    tracker = make_tracker(store=store_path)
    assert tracker.bytes_used_today("alice") == 7
    with pytest.raises(QuotaExceededError):
        tracker.acquire("alice").__enter__()
    leases = tracker.store.leases()
    assert {lease.pid for lease in leases} == {worker.process.pid}
    assert not any(lease.own for lease in leases)
    assert worker.end() == 0
    assert free(tracker)


def test_a_killed_holder_gives_its_slots_back(
    make_tracker: Make, store_path: str, start_worker: Start
) -> None:
    tracker = make_tracker(store=store_path)
    worker = start_worker(HOLDER, store_path)
    assert worker.line() == "held"
    assert not free(tracker)
    worker.signal(signal.SIGKILL)
    worker.process.wait()
    assert eventually(lambda: free(tracker))
    assert tracker.bytes_used_today("alice") == 7


def test_a_stuck_lease_of_another_process_can_be_revoked(
    make_tracker: Make, store_path: str, start_worker: Start
) -> None:
    tracker = make_tracker(store=store_path)
    worker = start_worker(HOLDER, store_path)
    assert worker.line() == "held"
    for lease in tracker.store.leases():
        tracker.store.revoke(lease.lease)
    assert free(tracker)
    assert worker.end() == 0


def test_bytes_outlive_the_process(make_tracker: Make, store_path: str) -> None:
    first = make_tracker(store=store_path)
    first.record_bytes("alice", 11)
    first.close()
    assert make_tracker(store=Path(store_path)).bytes_used_today("alice") == 11


def test_the_constructors_limits_become_the_stores(
    make_tracker: Make, store_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "quotalite"):
        old = make_tracker(store=store_path)
        make_tracker(store=store_path)
        assert caplog.records == []
        new = make_tracker(store=store_path, max_concurrent_per_user=1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "concurrent_scans" in caplog.text
    with new.acquire("alice"), pytest.raises(QuotaExceededError) as refusal:
        old.acquire("alice").__enter__()
    assert refusal.value.limit == 1


def test_a_store_with_other_limits_is_an_error(store_path: str) -> None:
    with Store(store_path, [Limit("a", 1)], max_subjects=64):
        with pytest.raises(quotalite.Error) as error:
            Store(store_path, [Limit("a", 2)])
        assert error.value.status == "QL_E_LIMITS"
        with Store(store_path) as adopted:
            assert adopted.limits() == (Limit("a", 1),)


def test_after_fork_both_share_and_slots_stay_with_the_parent(tracker: QuotaTracker) -> None:
    slot = tracker.acquire("alice")
    slot.__enter__()
    dropped = tracker.acquire("alice")
    dropped.__enter__()

    def child() -> None:
        nonlocal dropped
        tracker.record_bytes("alice", 5)
        slot.__exit__(None, None, None)
        dropped = tracker.acquire("bob")
        gc.collect()
        with pytest.raises(QuotaExceededError):
            tracker.acquire("alice").__enter__()

    assert in_child(child) == 0
    assert tracker.bytes_used_today("alice") == 5
    assert tracker.store.usage("alice").leases == 2
    slot.__exit__(None, None, None)
    assert tracker.store.usage("alice").leases == 1


def test_a_child_that_is_killed_gives_its_slots_back(tracker: QuotaTracker) -> None:
    def child() -> None:
        for _ in range(2):
            slot = tracker.acquire("alice")
            slot.__enter__()
            kept.append(slot)
        os.kill(os.getpid(), signal.SIGKILL)

    kept: list[object] = []
    assert in_child(child) == -signal.SIGKILL
    assert eventually(lambda: free(tracker))


def test_preloaded_workers_share_the_tracker_that_was_built_before_the_fork(
    store_path: str,
) -> None:
    """As gunicorn with preload: built in the master, used in the workers."""

    def get_value(*path: str, default: object) -> object:
        return store_path if path[-1] == "quota_store" else default

    def work() -> None:
        tracker = build_quota_tracker(get_value)
        assert tracker is built
        for _ in range(1000):
            with tracker.acquire(str(os.getpid())):
                tracker.record_bytes("alice", 1)

    built = build_quota_tracker(get_value)
    try:
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    work()
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        assert built.bytes_used_today("alice") == 3000
    finally:
        built.close()
        quotalite._tracker._reset_shared()


@pytest.mark.parametrize("thread", [False, True])
def test_a_child_has_a_thread_of_its_own_where_its_parent_has_one(
    store_path: str, thread: bool
) -> None:
    """Without one, a fork is that of a process with a single thread."""

    def child() -> None:
        assert len(threads()) == 1
        store.charge("alice", "b", 2)
        assert len(threads()) == 1 + thread

    before = threads()
    with Store(store_path, [Limit("a", 9, "b", "day")], max_subjects=64, thread=thread) as store:
        assert len(threads() - before) == thread
        assert in_child(child) == 0
        assert store.usage("alice").meters[0].total == 2


def test_a_fork_while_another_thread_builds_does_not_lock_the_child() -> None:
    inside = threading.Event()
    leave = threading.Event()

    def slow(*path: str, default: object) -> object:
        inside.set()
        leave.wait()
        return default

    builder = threading.Thread(target=build_quota_tracker, args=(slow,))
    builder.start()
    inside.wait()
    try:
        assert in_child(lambda: build_quota_tracker(lambda *path, default: default).close()) == 0
    finally:
        leave.set()
        builder.join()
        quotalite._tracker._reset_shared()


def test_a_fork_with_threads_in_calls_leaves_the_child_working(tracker: QuotaTracker) -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            with tracker.acquire("bob"):
                tracker.record_bytes("bob", 1)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(20):
            assert in_child(lambda: tracker.record_bytes("alice", 1)) == 0
    finally:
        stop.set()
        thread.join()
    assert tracker.bytes_used_today("alice") == 20
