# SPDX-License-Identifier: Apache-2.0
"""A process that is stopped inside a lock: calls wait without the GIL, give up
at their deadline, and what was to be charged or released is not lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from conftest import Worker, eventually

import quotalite
from quotalite import QuotaTracker

HAMMER = """
import signal, sys
from quotalite import QuotaTracker
tracker = QuotaTracker(max_concurrent_per_user=2, max_daily_bytes_per_user=1000, store=sys.argv[1])
running = True
def stop(number, frame):
    global running
    running = False
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
count = 0
while running:
    tracker.record_bytes("alice", 1)
    count += 1
print(count, flush=True)
"""

#: One stop that falls inside the lock is enough.
STOPS = 2000


def is_busy(tracker: QuotaTracker) -> bool:
    try:
        tracker.bytes_used_today("alice")
    except quotalite.Error as error:
        assert error.status == "QL_E_BUSY"
        assert "stopped process" in str(error)
        return True
    return False


def stop_inside_the_lock(worker: Worker, tracker: QuotaTracker) -> None:
    for _ in range(STOPS):
        before = tracker.bytes_used_today("alice")
        assert eventually(lambda before=before: tracker.bytes_used_today("alice") > before + 100)
        worker.signal(signal.SIGSTOP)
        os.waitpid(worker.process.pid, os.WUNTRACED)
        if is_busy(tracker):
            return
        worker.signal(signal.SIGCONT)
    pytest.fail(f"none of {STOPS} stops fell inside the lock")


def test_a_stopped_process_delays_and_loses_nothing(
    make_tracker: Callable[..., QuotaTracker],
    store_path: str,
    start_worker: Callable[..., Worker],
) -> None:
    tracker = make_tracker(store=store_path, admit_wait_seconds=0.02, charge_wait_seconds=0.3)
    slot = tracker.acquire("alice")
    slot.__enter__()
    worker = start_worker(HAMMER, store_path)
    assert worker.line() == "ready"
    stop_inside_the_lock(worker, tracker)

    span: list[float] = []

    def record() -> None:
        span.append(time.monotonic())
        tracker.record_bytes("alice", 5)
        span.append(time.monotonic())

    thread = threading.Thread(target=record)
    thread.start()
    ticks: list[float] = []
    while thread.is_alive():
        ticks.append(time.monotonic())
    begin, end = span
    margin = (end - begin) / 4
    assert any(begin + margin < tick < end - margin for tick in ticks), "the GIL was kept"

    slot.__exit__(None, None, None)
    with pytest.raises(quotalite.Error):
        tracker.acquire("alice").__enter__()
    assert tracker.store.drain() == 2

    worker.signal(signal.SIGCONT)
    assert eventually(lambda: tracker.store.drain() == 0)
    worker.signal(signal.SIGTERM)
    count = int(worker.line())
    assert worker.end() == 0
    assert tracker.bytes_used_today("alice") == count + 5
    assert tracker.store.usage("alice").leases == 0
