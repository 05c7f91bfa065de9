# SPDX-License-Identifier: Apache-2.0
"""Workers that are killed at random, with the extension as it is installed:
optimised at link time, which the kill tests of the library are not."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections.abc import Callable

from conftest import DEADLINE_SECONDS, eventually

from quotalite import QuotaExceededError, QuotaTracker

Make = Callable[..., QuotaTracker]

WORKERS = 2
KILLS = 200
SEED = 20300314


class Counters:
    """What the workers have begun and what was acknowledged to them, in memory
    that outlives them. A number is written by one store."""

    def __init__(self) -> None:
        self.numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")

    def get(self, which: int) -> int:
        return self.numbers[which]

    def add(self, which: int) -> None:
        self.numbers[which] += 1

    def begun(self) -> int:
        return sum(self.get(2 * worker) for worker in range(WORKERS))

    def done(self) -> int:
        return sum(self.get(2 * worker + 1) for worker in range(WORKERS))


def work(tracker: QuotaTracker, counters: Counters, worker: int) -> None:
    while True:
        try:
            tracker.check_daily_budget("alice")
            with tracker.acquire("alice"):
                counters.add(2 * worker)
                tracker.record_bytes("alice", 1)
                counters.add(2 * worker + 1)
        except QuotaExceededError:
            pass


def start(tracker: QuotaTracker, counters: Counters, worker: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            work(tracker, counters, worker)
        except BaseException as error:  # noqa: BLE001 - a child must not go on as the test run
            os.write(2, f"in a worker: {error!r}\n".encode())
        finally:
            os._exit(1)
    return child


def wait_for(counters: Counters, number: int) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    target = counters.done() + number
    while counters.done() < target:
        assert time.monotonic() < end


def all_free(tracker: QuotaTracker) -> bool:
    try:
        with tracker.acquire("alice"), tracker.acquire("alice"):
            return True
    except QuotaExceededError:
        return False


def test_random_kills_lose_and_double_nothing(make_tracker: Make, store_path: str) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    tracker = make_tracker(
        store=store_path,
        max_daily_bytes_per_user=2**62,
        admit_wait_seconds=DEADLINE_SECONDS,
        charge_wait_seconds=DEADLINE_SECONDS,
    )
    counters = Counters()
    children = [start(tracker, counters, worker) for worker in range(WORKERS)]
    try:
        for _ in range(KILLS):
            wait_for(counters, chance.randrange(1, 200))
            victim = chance.randrange(WORKERS)
            os.kill(children[victim], signal.SIGKILL)
            assert os.waitpid(children[victim], 0)[1] == signal.SIGKILL
            children[victim] = start(tracker, counters, victim)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert counters.done() <= tracker.bytes_used_today("alice") <= counters.begun()
    inside = counters.begun() - counters.done()
    assert KILLS / 20 <= inside <= KILLS + WORKERS
    assert eventually(lambda: all_free(tracker))
    assert tracker.store.usage("alice").leases == 0
    assert tracker.store.verify().leases == 0
