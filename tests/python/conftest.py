# SPDX-License-Identifier: Apache-2.0
"""What the tests share: a clock that is set by hand, trackers that are closed,
and processes that are ended by their ids."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import quotalite
from quotalite import QuotaTracker

#: How long a wait for an event may take before a test gives up.
DEADLINE_SECONDS = 60.0


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = datetime(2030, 3, 14, 12, 0, 0, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_tracker() -> Iterator[Callable[..., QuotaTracker]]:
    made: list[QuotaTracker] = []

    def make(**options: Any) -> QuotaTracker:
        options.setdefault("max_concurrent_per_user", 2)
        options.setdefault("max_daily_bytes_per_user", 1000)
        options.setdefault("max_subjects", 1024)
        # Who has a lock may be without a processor for long, where many want it.
        options.setdefault("admit_wait_seconds", DEADLINE_SECONDS)
        options.setdefault("charge_wait_seconds", DEADLINE_SECONDS)
        made.append(QuotaTracker(**options))
        return made[-1]

    yield make
    for tracker in made:
        tracker.close()


@pytest.fixture
def tracker(make_tracker: Callable[..., QuotaTracker]) -> QuotaTracker:
    return make_tracker()


@pytest.fixture
def one_line_for_each_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """None was written before, and the while after which there is another never ends."""
    monkeypatch.setattr(quotalite._support, "_last_logged", {})
    monkeypatch.setattr(quotalite._support, "_LOG_INTERVAL_SECONDS", math.inf)


@pytest.fixture
def store_path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


class Worker:
    """A Python process that runs a script and talks in lines."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(DEADLINE_SECONDS)


@pytest.fixture
def start_worker() -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(script: str, *arguments: str) -> Worker:
        workers.append(Worker(script, *arguments))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.signal(signal.SIGKILL)
            worker.process.wait(DEADLINE_SECONDS)


def in_child(body: Callable[[], None]) -> int:
    """Runs body in a forked child; gives its exit status, 0 if body returned."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException as error:  # noqa: BLE001 - a child must not go on as the test run
            os.write(2, f"in the child: {error!r}\n".encode())
        os._exit(status)
    watchdog = threading.Timer(DEADLINE_SECONDS, os.kill, (child, signal.SIGKILL))
    watchdog.start()
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        watchdog.cancel()


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds before the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.001)
    return True


def threads() -> set[str]:
    """The threads of this process. To count them would not do: one that was joined
    is there for a moment more."""
    return set(os.listdir("/proc/self/task"))
