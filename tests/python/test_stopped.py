# SPDX-License-Identifier: Apache-2.0
"""A process that is stopped inside a lock: calls wait without the GIL, give up
at their deadline, and what was to be charged or released is not lost. And a
call that takes long by itself."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest
from conftest import DEADLINE_SECONDS, Clock, Worker, eventually, in_child

import quotalite
from quotalite import Limit, QuotaTracker, Store

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


def is_busy(probe: QuotaTracker) -> bool:
    try:
        probe.bytes_used_today("alice")
    except quotalite.Error as error:
        assert error.status == "QL_E_BUSY"
        assert "stopped process" in str(error)
        return True
    return False


def stop_inside_the_lock(worker: Worker, probe: QuotaTracker) -> None:
    """probe does not wait. What it finds locked is where the worker was an
    instant ago, or where it still is if the kernel let it pause there."""
    end = time.monotonic() + DEADLINE_SECONDS
    for _ in range(STOPS):
        while not is_busy(probe):
            assert time.monotonic() < end
        worker.signal(signal.SIGSTOP)
        os.waitpid(worker.process.pid, os.WUNTRACED)
        if is_busy(probe):
            return
        worker.signal(signal.SIGCONT)
    pytest.fail(f"none of {STOPS} stops fell inside the lock")


def start_and_wait_for_its_wait(body: Callable[[], None]) -> threading.Thread:
    """A thread that runs body, which waits for a lock: the GIL comes back then."""
    inside = threading.Event()

    def run() -> None:
        inside.set()
        body()

    thread = threading.Thread(target=run)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(DEADLINE_SECONDS)
    thread.start()
    inside.wait()
    sys.setswitchinterval(interval)
    return thread


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
    stop_inside_the_lock(worker, make_tracker(store=store_path, admit_wait_seconds=0))

    tracker.record_bytes("alice", 5)
    slot.__exit__(None, None, None)
    with pytest.raises(quotalite.Error):
        tracker.acquire("alice").__enter__()
    assert tracker.store.drain() == 2
    # It was tried just now, so this goes ahead of it, and joins it while main tries again.
    thread = start_and_wait_for_its_wait(lambda: tracker.record_estimate("alice", 7))
    assert is_busy(tracker)
    tracker.store.drain()
    thread.join()
    assert tracker.store.drain() == 3
    # This one waits until the worker goes on.
    patient = make_tracker(store=store_path)
    made = threading.Event()

    def charge() -> None:
        patient.record_bytes("alice", 11)
        made.set()

    thread = start_and_wait_for_its_wait(charge)
    assert not made.is_set(), "the GIL was kept"

    worker.signal(signal.SIGCONT)
    thread.join()
    assert eventually(lambda: tracker.store.drain() == 0)
    worker.signal(signal.SIGTERM)
    count = int(worker.line())
    assert worker.end() == 0
    assert tracker.bytes_used_today("alice") == count + 5 + 11
    assert tracker.estimates_used_today("alice") == 7
    assert tracker.store.usage("alice").leases == 0


def test_a_charge_that_a_close_overtakes_is_not_lost_silently(
    make_tracker: Callable[..., QuotaTracker],
    store_path: str,
    start_worker: Callable[..., Worker],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = make_tracker(store=store_path, charge_wait_seconds=0.3)
    worker = start_worker(HAMMER, store_path)
    assert worker.line() == "ready"
    stop_inside_the_lock(worker, make_tracker(store=store_path, admit_wait_seconds=0))
    thread = start_and_wait_for_its_wait(lambda: tracker.record_bytes("alice", 5))
    tracker.close()
    with pytest.raises(ValueError, match="closed"):
        tracker.check_daily_budget("alice")
    thread.join()
    assert "bytes of alice (amount 5)" in caplog.text


#: It may be over before this thread has woken; if it keeps the GIL it always is.
VERIFIES = 200


@pytest.mark.parametrize("given", [False, True], ids=["system clock", "given clock"])
def test_a_verify_lets_others_run_and_a_close_waits_for_it(clock: Clock, given: bool) -> None:
    def verify(store: Store, reports: list[quotalite.VerifyReport]) -> None:
        reports.append(store.verify())

    for _ in range(VERIFIES):
        reports: list[quotalite.VerifyReport] = []
        store = Store("memory:", [Limit("jobs", 1)], clock=clock if given else None)
        thread = start_and_wait_for_its_wait(lambda: verify(store, reports))  # noqa: B023
        overtaken = not reports
        store.close()
        with pytest.raises(ValueError, match="closed"):
            store.verify()
        thread.join()
        assert [report.subjects for report in reports] == [0]
        if overtaken:
            return
    pytest.fail(f"the GIL was kept in each of {VERIFIES} verifies")


def test_a_fork_during_a_verify_leaves_a_child_that_can_close(store_path: str) -> None:
    def close() -> None:
        if reports:
            return  # it was over before the fork
        store.close()
        opened = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd")]
        assert not any(name.startswith(store_path) for name in opened), opened
        os._exit(7)

    reports: list[quotalite.VerifyReport] = []
    with Store(store_path, [Limit("jobs", 1)]) as store:
        for _ in range(VERIFIES):
            reports.clear()
            thread = start_and_wait_for_its_wait(lambda: reports.append(store.verify()))
            status = in_child(close)
            thread.join()
            if status == 7:
                return
            assert status == 0
    pytest.fail(f"none of {VERIFIES} forks fell into a verify")
