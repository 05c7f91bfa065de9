# SPDX-License-Identifier: Apache-2.0
"""Each call and each way to fail, thousands of times: nothing may be left over.

What Python allocates is counted in blocks, references by the counts of objects
that every call handles, what the library opens in descriptors and mappings.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock

import quotalite
from quotalite import Limit, QuotaExceededError, QuotaTracker, Store, segment

TIMES = 10_000
TIMES_OPENED = 400

LIMITS = (Limit("jobs", 2), Limit("tokens_a_day", 100, "tokens", "day"))
LONG = "x" * 256
WIDE = "m\u00fcnchen"


class World:
    """What the calls are made on."""

    def __init__(self, path: str) -> None:
        self.clock = Clock()
        self.fails = False
        self.path = path
        self.region_directory = path + "-region"
        os.mkdir(self.region_directory)
        options: dict[str, Any] = {"max_concurrent_per_user": 2, "max_subjects": 64}
        self.tracker = QuotaTracker(max_daily_bytes_per_user=2**62, **options)
        self.spent = QuotaTracker(
            max_daily_bytes_per_user=0, max_daily_estimates_per_user=0, **options
        )
        self.timed = QuotaTracker(max_daily_bytes_per_user=2**62, clock=self.time, **options)
        self.full = QuotaTracker(
            max_concurrent_per_user=2, max_daily_bytes_per_user=9, max_subjects=1
        )
        self.closed = QuotaTracker(max_daily_bytes_per_user=9, **options)
        self.held = [self.tracker.acquire("held") for _ in range(2)]
        self.held.append(self.full.acquire("held"))
        for slot in self.held:
            slot.__enter__()
        self.closed_slot = self.closed.acquire("alice")
        self.closed_slot.__enter__()
        self.closed.close()
        self.store = Store("memory:", LIMITS, max_subjects=64)
        self.lease = self.store.acquire("acme/held")
        self.old = self.store.acquire("acme/old")
        self.old.release()
        self.disk = Store(path, LIMITS, max_subjects=64)

    def time(self) -> Any:
        if self.fails:
            raise LookupError("no time")
        return self.clock.now

    def close(self) -> None:
        for opened in (self.tracker, self.spent, self.timed, self.full, self.store, self.disk):
            opened.close()


class Forgetful(QuotaTracker):
    def __init__(self) -> None:
        pass


def enter_and_drop(tracker: QuotaTracker, user: str) -> None:
    tracker.acquire(user).__enter__()


def hold(tracker: QuotaTracker, user: str) -> None:
    with tracker.acquire(user):
        pass


def hold_and_fail(world: World) -> None:
    with world.tracker.acquire("alice"):
        raise KeyError


def enter_twice(world: World) -> None:
    with world.tracker.acquire("alice") as nothing, world.tracker.acquire("alice") as slot:
        assert nothing is slot is None
    again = world.tracker.acquire("alice")
    with again:
        again.__enter__()


async def hold_awaited(tracker: QuotaTracker, user: str) -> None:
    async with tracker.acquire(user):
        pass


def run_awaited(tracker: QuotaTracker, user: str) -> None:
    running = hold_awaited(tracker, user)
    try:
        running.send(None)
    except StopIteration:
        pass


def fail_with_clock(world: World, call: Callable[[], Any]) -> None:
    world.fails = True
    try:
        call()
    finally:
        world.fails = False


def lose_a_clock(world: World) -> None:
    with world.timed.acquire("alice"):
        world.fails = True
    world.fails = False


def settle(world: World, charges: Any) -> None:
    with world.store.admit("acme/alice") as lease:
        lease.settle(charges)


def settle_timed(world: World, subject: str) -> None:
    lease = world.store.admit(subject, ttl_ms=60_000)
    lease.renew()
    with world.store.lease(lease.text) as again:
        again.settle({"tokens": 0})
        lease.settle()


def queue(world: World) -> None:
    world.full.record_bytes("queued", 1)


CALLS: dict[str, Callable[[World], Any]] = {
    "check": lambda w: w.tracker.check_daily_budget("alice"),
    "check by name": lambda w: w.tracker.check_daily_budget(user="alice"),
    "check refused": lambda w: w.spent.check_daily_budget("alice"),
    "check a wide user": lambda w: w.tracker.check_daily_budget(WIDE + str(id(w))),
    "check an escaped user": lambda w: w.tracker.check_daily_budget("acme/alice"),
    "check nothing": lambda w: w.tracker.check_daily_budget(""),
    "check a control character": lambda w: w.tracker.check_daily_budget("a\n"),
    "check a surrogate": lambda w: w.tracker.check_daily_budget("\ud800"),
    "check a long user": lambda w: w.tracker.check_daily_budget(LONG),
    "check a long escaped user": lambda w: w.tracker.check_daily_budget("/" * 86),
    "check no str": lambda w: w.tracker.check_daily_budget(b"alice"),  # type: ignore[arg-type]
    "check without arguments": lambda w: w.tracker.check_daily_budget(),  # type: ignore[call-arg]
    "check too many": lambda w: w.tracker.check_daily_budget("a", "b"),  # type: ignore[call-arg]
    "check a wrong name": lambda w: w.tracker.check_daily_budget(usr="a"),  # type: ignore[call-arg]
    "check estimates": lambda w: w.tracker.check_daily_estimates("alice"),
    "check estimates refused": lambda w: w.spent.check_daily_estimates("alice"),
    "check closed": lambda w: w.closed.check_daily_budget("alice"),
    "check without a store": lambda w: Forgetful().check_daily_budget("alice"),
    "check with a clock": lambda w: w.timed.check_daily_budget("alice"),
    "check with a clock that fails": lambda w: fail_with_clock(
        w, lambda: w.timed.check_daily_budget("alice")
    ),
    "used": lambda w: w.tracker.bytes_used_today("alice"),
    "used by the unknown": lambda w: w.tracker.estimates_used_today("unknown"),
    "used, with a clock that fails": lambda w: fail_with_clock(
        w, lambda: w.timed.bytes_used_today("alice")
    ),
    "record": lambda w: w.tracker.record_bytes("alice", 1),
    "record by name": lambda w: w.tracker.record_bytes(n=1, user="alice"),
    "record nothing": lambda w: w.tracker.record_bytes("alice", -1),
    "record much": lambda w: w.tracker.record_bytes("alice", 2**200),
    "record little": lambda w: w.tracker.record_bytes("alice", -(2**200)),
    "record no number": lambda w: w.tracker.record_bytes("alice", 1.5),  # type: ignore[arg-type]
    "record twice named": lambda w: w.tracker.record_bytes("alice", 1, user="bob"),  # type: ignore[misc]
    "record closed": lambda w: w.closed.record_bytes("alice", 1),
    "record with a clock that fails": lambda w: fail_with_clock(
        w, lambda: w.timed.record_bytes("alice", 1)
    ),
    "record into the queue": queue,
    "record an estimate": lambda w: w.tracker.record_estimate("alice"),
    "record estimates": lambda w: w.tracker.record_estimate("alice", n=2),
    "acquire": lambda w: w.tracker.acquire("alice"),
    "acquire an escaped user": lambda w: w.tracker.acquire("acme/alice"),
    "acquire nothing": lambda w: w.tracker.acquire(""),
    "acquire without a store": lambda w: Forgetful().acquire("alice"),
    "enter": lambda w: hold(w.tracker, "alice"),
    "enter an escaped user": lambda w: hold(w.tracker, "50%"),
    "enter and fail": hold_and_fail,
    "enter and drop": lambda w: enter_and_drop(w.tracker, "alice"),
    "enter refused": lambda w: hold(w.tracker, "held"),
    "enter full": lambda w: hold(w.full, "alice"),
    "enter twice": enter_twice,
    "enter closed": lambda w: hold(w.closed, "alice"),
    "enter with a clock": lambda w: hold(w.timed, "alice"),
    "enter with a clock that fails": lambda w: fail_with_clock(w, lambda: hold(w.timed, "alice")),
    "leave with a clock that fails": lose_a_clock,
    "leave closed": lambda w: w.closed_slot.__exit__(None, None, None),
    "await": lambda w: run_awaited(w.tracker, "alice"),
    "await refused": lambda w: run_awaited(w.tracker, "held"),
    "segment": lambda w: segment("a/b"),
    "segment refused": lambda w: segment("\0"),
    "store check": lambda w: w.store.check("acme/alice"),
    "store check one": lambda w: w.store.check("acme/alice", limit="tokens_a_day"),
    "store check unknown": lambda w: w.store.check("acme/alice", "unknown"),
    "store check no limit": lambda w: w.store.check("acme/alice", 7),  # type: ignore[arg-type]
    "store charge": lambda w: w.store.charge("acme/bob", "tokens", 1),
    "store charge negative": lambda w: w.store.charge("acme/bob", "tokens", -1),
    "store charge unknown": lambda w: w.store.charge("acme/bob", "unknown", 1),
    "store charge nul": lambda w: w.store.charge("a\0", "tokens", 1),
    "store acquire": lambda w: w.store.acquire("acme/alice"),
    "store acquire refused": lambda w: [w.store.acquire("acme/held") for _ in range(2)],
    "store acquire wrong": lambda w: w.store.acquire("a//b"),
    "store admit": lambda w: w.store.admit("acme/alice", max_age_ms=1000),
    "store admit wrong": lambda w: w.store.admit("acme/alice", "soon"),  # type: ignore[arg-type]
    "store admit and settle timed": lambda w: settle_timed(w, "acme/alice"),
    "store admit timed, drop, revoke": lambda w: w.store.revoke(
        w.store.admit("acme/alice", ttl_ms=60_000).text
    ),
    "store admit both": lambda w: w.store.admit("acme/alice", 1, 1),
    "store admit for too long": lambda w: w.store.admit("acme/alice", ttl_ms=2**200),
    "store lease": lambda w: w.store.lease(w.lease.text).subject,
    "store lease, then settle": lambda w: w.store.lease(w.old.text).settle(),
    "store lease wrong": lambda w: w.store.lease("x"),
    "store lease no text": lambda w: w.store.lease(w.lease),  # type: ignore[arg-type]
    "renew a held lease": lambda w: w.lease.renew(),
    "renew what is over": lambda w: w.old.renew(),
    "store usage": lambda w: w.store.usage("acme/held"),
    "store limits": lambda w: w.store.limits(),
    "store subjects": lambda w: w.store.subjects(),
    "store leases": lambda w: w.store.leases(),
    "store history": lambda w: w.store.history("acme/held", meter="tokens", start=1),
    "store history wrong": lambda w: w.store.history("acme/held", start=2, end=1),
    "store history of no subject": lambda w: w.store.history("a//b"),
    "store flush": lambda w: w.store.flush(),
    "store flush lag": lambda w: w.store.flush_lag_ms(),
    "store backup without a ledger": lambda w: w.store.backup(w.path + "-copy"),
    "store backup over a file": lambda w: w.disk.backup(w.path + "/ledger.db"),
    "store backup nowhere": lambda w: w.store.backup(7),  # type: ignore[arg-type]
    "store drain": lambda w: w.store.drain(),
    "store verify": lambda w: w.store.verify(),
    "settle": lambda w: settle(w, None),
    "settle charges": lambda w: settle(w, {"tokens": 0}),
    "settle unknown": lambda w: settle(w, {"unknown": 1}),
    "settle no dict": lambda w: settle(w, [("tokens", 1)]),
    "settle too many": lambda w: settle(w, {f"m{n}": 1 for n in range(9)}),
    "settle twice": lambda w: w.old.settle(),
    "release twice": lambda w: w.old.release(),
    "lease text": lambda w: (w.lease.text, w.lease.subject),
    "revoke": lambda w: w.store.revoke(w.store.acquire("acme/bob").text),
    "revoke twice": lambda w: w.store.revoke(w.old),
    "revoke wrong": lambda w: w.store.revoke("x"),
    "revoke no lease": lambda w: w.store.revoke(7),  # type: ignore[arg-type]
    "initialise twice": lambda w: quotalite._quotalite.Tracker.__init__(w.tracker, w.store),
    "initialise wrong": lambda w: quotalite._quotalite.Tracker(7),  # type: ignore[arg-type]
    "open the missing": lambda w: Store(w.path + "/no/where"),
    "open a wrong window": lambda w: Store("memory:", [Limit("x", 1, "tokens", "week")]),
    "open no limit": lambda w: Store("memory:", [None]),  # type: ignore[list-item]
    "open too many limits": lambda w: Store("memory:", [Limit(f"l{n}", 1) for n in range(9)]),
    "open a wrong durability": lambda w: Store("memory:", LIMITS, durability="no"),
    "open a wrong history": lambda w: Store("memory:", LIMITS, history_days=0),
    "open what must exist": lambda w: Store(w.path + "-none", must_exist=True),
    "open with a wrong option": lambda w: Store(colour=1),  # type: ignore[call-arg]
}

#: These open a store each, or write to the disk.
OPENING: dict[str, Callable[[World], Any]] = {
    "open": lambda w: Store("memory:", LIMITS, max_subjects=1).close(),
    "open and drop": lambda w: Store("memory:", LIMITS, max_subjects=1),
    "open with a clock": lambda w: Store("memory:", LIMITS, max_subjects=1, clock=w.clock),
    "open on disk": lambda w: Store(w.path + "-own", LIMITS, max_subjects=1).close(),
    "open again on disk": lambda w: Store(w.path, LIMITS).close(),
    "open other limits": lambda w: Store(w.path, [Limit("jobs", 3)]),
    "open with all options": lambda w: Store(
        w.path + "-options",
        LIMITS,
        max_subjects=1,
        region_directory=w.region_directory,
        durability="none",
        flush_interval_seconds=1,
        history_days=7,
        thread=False,
    ),
    "open with a clock on disk": lambda w: Store(w.path, clock=w.clock),
    "open with a clock that fails": lambda w: fail_with_clock(
        w, lambda: Store("memory:", LIMITS, max_subjects=1, clock=w.time)
    ),
    "a cycle through the clock": lambda w: cycle(),
    "history on disk": lambda w: w.disk.history("acme/alice"),
    "flush on disk": lambda w: w.disk.flush(),
    "drop with a queue": lambda w: drop_with_a_queue(),
}


def cycle() -> None:
    """Only a collection finds it."""

    class Service:
        def __init__(self) -> None:
            self.tracker = QuotaTracker(
                max_concurrent_per_user=1,
                max_daily_bytes_per_user=1,
                max_subjects=1,
                clock=self.time,
            )
            self.tracker.check_daily_budget("alice")

        def time(self) -> Any:
            return Clock().now

    Service()
    gc.collect()


def drop_with_a_queue() -> None:
    tracker = QuotaTracker(max_concurrent_per_user=1, max_daily_bytes_per_user=1, max_subjects=1)
    with tracker.acquire("alice"):
        tracker.record_bytes("bob", 1)
        tracker.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    logging.disable()  # pytest would keep every line
    made = World(str(tmp_path_factory.mktemp("leaks") / "store"))
    yield made
    made.close()
    logging.disable(logging.NOTSET)


#: More references than this has what Python keeps for ever and does not count.
IMMORTAL = 2**30


def watched(world: World) -> list[Any]:
    objects = [
        None,
        True,
        (),
        "alice",
        "acme/alice",
        WIDE,
        quotalite.KIND_CONCURRENT,
        quotalite.KIND_DAILY_BYTES,
        QuotaExceededError,
        quotalite.Error,
        quotalite.Slot,
        quotalite.Lease,
        quotalite._quotalite,
        quotalite._support,
        Limit,
        quotalite.LimitState,
        *vars(world).values(),
    ]
    return [each for each in objects if sys.getrefcount(each) < IMMORTAL]


def counted(objects: list[Any]) -> list[int]:
    gc.collect()
    return [sys.getrefcount(each) for each in objects] + [sys.getallocatedblocks()]


def repeat(call: Callable[[World], Any], world: World, times: int) -> None:
    for _ in range(times):
        try:
            call(world)
        except (QuotaExceededError, quotalite.Error, ValueError, TypeError, LookupError):
            pass
        except RuntimeError:
            pass


def grown(call: Callable[[World], Any], world: World, times: int) -> list[str]:
    """What the calls left over, in each of three rounds: what the interpreter
    itself frees or keeps for once does not come back."""
    for _ in range(3):
        left_over = grown_once(call, world, times)
        if not left_over:
            break
    return left_over


def grown_once(call: Callable[[World], Any], world: World, times: int) -> list[str]:
    """Less than one for every second call is the interpreter's own coming and going."""
    objects = watched(world)
    repeat(call, world, 100)
    before = counted(objects)
    repeat(call, world, times)
    after = counted(objects)
    names = [f"references to {each!r}" for each in objects] + ["blocks"]
    return [
        f"{name}: {then} became {now}"
        for name, then, now in zip(names, before, after, strict=True)
        if abs(now - then) > times // 2
    ]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_nothing_over(world: World, name: str) -> None:
    assert grown(CALLS[name], world, TIMES) == []


def opened() -> tuple[int, int]:
    """Descriptors and mappings of this process."""
    return len(os.listdir("/proc/self/fd")), len(Path("/proc/self/maps").read_bytes().splitlines())


@pytest.mark.parametrize("name", OPENING)
def test_an_open_leaves_nothing_over(world: World, name: str) -> None:
    repeat(OPENING[name], world, 20)
    descriptors, mappings = opened()
    assert grown(OPENING[name], world, TIMES_OPENED) == []
    descriptors_after, mappings_after = opened()
    assert descriptors_after == descriptors
    assert abs(mappings_after - mappings) < TIMES_OPENED // 2


def test_a_leak_would_be_seen(world: World) -> None:
    kept: list[Any] = []
    assert grown(lambda w: kept.append(w.tracker.acquire("alice")), world, TIMES) != []
    assert asyncio.run(hold_awaited(world.tracker, "alice")) is None
