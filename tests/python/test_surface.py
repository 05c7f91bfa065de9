# SPDX-License-Identifier: Apache-2.0
"""User ids, slots, exceptions, stubs, and what Store adds."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import pickle
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock

import quotalite
from quotalite import Lease, Limit, QuotaExceededError, QuotaTracker, Slot, Store, segment

Make = Callable[..., QuotaTracker]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("alice@x.com", "alice@x.com"),
        ("acme/alice", "acme%2Falice"),
        ("50%", "50%25"),
        ("%2F", "%252F"),
        ("/", "%2F"),
        ("münchen", "münchen"),
        ("\U0001f600" * 63, "\U0001f600" * 63),
        ("x" * 255, "x" * 255),
        ("/" * 85, "%2F" * 85),
    ],
)
def test_a_user_id_is_one_segment(tracker: QuotaTracker, user: str, expected: str) -> None:
    assert segment(user) == expected
    tracker.record_bytes(user, 1)
    with tracker.acquire(user):
        assert tracker.bytes_used_today(user) == 1
    assert [info.subject for info in tracker.store.subjects()] == [expected]


def spelled(user: str) -> str | None:
    """What segment gives, said simply; None if it refuses."""
    if any(unicodedata.category(letter) == "Cc" for letter in user):
        return None
    return user.replace("%", "%25").replace("/", "%2F")


@pytest.mark.parametrize(
    "letter", ["\0", "\x1f", " ", "%", "/", "~", "\x7f", "\x80", "\x9f", "é", "€"]
)
def test_a_letter_is_seen_wherever_it_stands(letter: str) -> None:
    for length in range(1, 42):
        for place in range(length):
            user = "a" * place + letter + "z" * (length - place - 1)
            if (expected := spelled(user)) is not None:
                assert segment(user) == expected
                continue
            with pytest.raises(ValueError, match="control character"):
                segment(user)


HOSTILE = {
    "empty": "",
    "nul": "a\0b",
    "only nul": "\0",
    "newline": "a\n",
    "delete": "a\x7f",
    "c1": "a\x85",
    "surrogate": "\ud800",
    "surrogate later": "alice\udcff",
    "256 bytes": "x" * 256,
    "258 escaped": "/" * 86,
    "256 wide": "\U0001f600" * 64,
    "64 KiB": "x" * 65536,
    "64 KiB of slashes": "/" * 65536,
}


@pytest.mark.parametrize("user", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_user_ids_are_value_errors(tracker: QuotaTracker, user: str) -> None:
    for call in calls_of(tracker):
        with pytest.raises(ValueError, match="user id"):
            call(user)
    assert tracker.store.subjects() == []


@pytest.mark.parametrize("user", [None, 7, b"alice", ["alice"]])
def test_other_types_are_type_errors(tracker: QuotaTracker, user: Any) -> None:
    for call in calls_of(tracker):
        with pytest.raises(TypeError, match="user id"):
            call(user)


def calls_of(tracker: QuotaTracker) -> list[Callable[[Any], Any]]:
    return [
        segment,
        tracker.acquire,
        tracker.check_daily_budget,
        lambda user: tracker.record_bytes(user, 1),
        lambda user: tracker.record_bytes(user, 0),
        tracker.bytes_used_today,
        tracker.check_daily_estimates,
        tracker.record_estimate,
        tracker.estimates_used_today,
    ]


def test_wrong_calls_are_type_errors(tracker: Any) -> None:
    for call in (
        lambda: tracker.acquire(),
        lambda: tracker.acquire("a", "b"),
        lambda: tracker.acquire(usr="a"),
        lambda: tracker.record_bytes("a"),
        lambda: tracker.record_bytes("a", 1, user="b"),
        lambda: QuotaTracker(5, 5),  # type: ignore[misc]
        lambda: quotalite.Slot(),
        lambda: quotalite.Lease(),
    ):
        with pytest.raises(TypeError):
            call()


def test_a_slot_may_not_be_entered_twice(tracker: QuotaTracker) -> None:
    slot = tracker.acquire("alice")
    with slot, pytest.raises(RuntimeError):
        slot.__enter__()
    with pytest.raises(RuntimeError):
        slot.__enter__()
    assert tracker.store.usage("alice").leases == 0


@pytest.mark.parametrize("given", [False, True], ids=["system clock", "given clock"])
def test_a_slot_may_be_left_on_another_thread(
    make_tracker: Make, clock: Clock, given: bool
) -> None:
    tracker = make_tracker(clock=clock if given else None)
    slot = tracker.acquire("alice")
    slot.__enter__()
    thread = threading.Thread(target=slot.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert tracker.store.usage("alice").leases == 0


def test_a_dropped_slot_is_released(tracker: QuotaTracker) -> None:
    slot = tracker.acquire("alice")
    slot.__enter__()
    assert tracker.store.usage("alice").leases == 1
    del slot
    gc.collect()
    assert tracker.store.usage("alice").leases == 0


def test_async_with(tracker: QuotaTracker) -> None:
    async def request(started: asyncio.Event, leave: asyncio.Event) -> None:
        async with tracker.acquire("alice") as nothing:
            assert nothing is None
            started.set()
            await leave.wait()

    async def scenario() -> None:
        started, leave = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(request(started, leave)) for _ in range(2)]
        await started.wait()
        await asyncio.sleep(0)
        with pytest.raises(QuotaExceededError):
            async with tracker.acquire("alice"):
                pass
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert tracker.store.usage("alice").leases == 1
        leave.set()
        await tasks[1]

    asyncio.run(scenario())
    assert tracker.store.usage("alice").leases == 0


def test_a_closed_tracker_says_so(make_tracker: Make) -> None:
    tracker = make_tracker()
    slot = tracker.acquire("alice")
    slot.__enter__()
    tracker.close()
    tracker.close()
    slot.__exit__(None, None, None)
    for call in (tracker.check_daily_budget, tracker.bytes_used_today, tracker.record_estimate):
        with pytest.raises(ValueError, match="closed"):
            call("alice")


def test_a_subclass_that_forgets_init_is_an_error() -> None:
    class Forgetful(QuotaTracker):
        def __init__(self) -> None:
            pass

    tracker = Forgetful()
    with pytest.raises(RuntimeError):
        tracker.check_daily_budget("alice")
    with pytest.raises(RuntimeError):
        tracker.acquire("alice").__enter__()
    tracker.close()


def test_the_refusal_is_hashable_comparable_and_picklable() -> None:
    error = QuotaExceededError("daily_bytes", 7, 5, 60)
    error.level = 2
    again = pickle.loads(pickle.dumps(error))
    assert again == error
    assert (again.level, hash(again)) == (2, hash(error))
    assert error != QuotaExceededError("daily_bytes", 7, 5, 61)
    assert error != ValueError("daily_bytes")
    assert len({error, again}) == 1
    assert repr(again) == repr(error)


def test_the_error_is_picklable() -> None:
    error = pickle.loads(pickle.dumps(quotalite.Error("QL_E_FULL", "full")))
    assert (error.status, str(error)) == ("QL_E_FULL", "full (QL_E_FULL)")


LIMITS = (Limit("jobs", 2), Limit("tokens_a_day", 100, "tokens", "day"))


@pytest.fixture
def store() -> Any:
    with Store("memory:", LIMITS, max_subjects=64) as opened:
        yield opened


def test_store_admit_and_settle(store: Store) -> None:
    with store.admit("acme/alice") as lease:
        assert lease.subject == "acme/alice"
        lease.settle({"tokens": 100})
        with pytest.raises(quotalite.Error) as error:
            lease.settle({"tokens": 1})
        assert error.value.status == "QL_E_SETTLED"
    usage = store.usage("acme/alice")
    assert (usage.leases, usage.meters[0].name, usage.meters[0].total) == (0, "tokens", 100)
    for refused in (store.admit, store.check):
        with pytest.raises(QuotaExceededError) as refusal:
            refused("acme/alice")
        assert (refusal.value.kind, refusal.value.level) == ("tokens_a_day", 2)
        assert refusal.value.limits[-1].remaining == 0
    store.acquire("acme/alice").release()


def test_store_check_gives_the_states(store: Store) -> None:
    store.charge("alice", "tokens", 30)
    (state,) = store.check("alice", limit="tokens_a_day")
    assert (state.name, state.used, state.cap, state.remaining) == ("tokens_a_day", 30, 100, 70)


def test_store_leases_and_revoke(store: Store) -> None:
    first, second = store.acquire("alice"), store.acquire("alice")
    listed = store.leases()
    assert {info.lease for info in listed} == {first.text, second.text}
    assert all(info.own and info.subject == "alice" for info in listed)
    store.revoke(first)
    store.revoke(second.text)
    assert first.settle({"tokens": 3}) is True  # late, and charged
    with pytest.raises(quotalite.Error) as error:
        first.settle()
    assert error.value.status == "QL_E_SETTLED"
    assert store.usage("alice").meters[0].total == 3
    assert store.leases() == []
    for text in ("", "x", "1.2", 7):
        with pytest.raises((ValueError, TypeError)):
            store.revoke(text)  # type: ignore[arg-type]


def test_store_wrong_arguments(store: Store) -> None:
    lease = store.acquire("alice")
    with pytest.raises(ValueError):
        store.charge("alice", "tokens", -1)
    with pytest.raises(quotalite.Error, match="QL_E_METER"):
        store.charge("alice", "unknown", 1)
    with pytest.raises(quotalite.Error, match="QL_E_LIMIT"):
        store.check("alice", "unknown")
    for subject in ("", "/", "a//b", "%zz", "a/b/c/d/e", "a\0", "x" * 256):
        with pytest.raises(ValueError):
            store.acquire(subject)
    with pytest.raises(ValueError):
        lease.settle({"tokens": -1})
    with pytest.raises(ValueError):
        lease.settle({f"m{n}": 1 for n in range(9)})
    lease.release()
    with pytest.raises(ValueError):
        Store("memory:", LIMITS, max_subjects=0)
    with pytest.raises(ValueError):
        Store("memory:", [Limit("x", 1, "tokens", "week")])
    with pytest.raises(TypeError):
        Store("memory:", [None])  # type: ignore[list-item]


def test_a_dropped_lease_is_released(store: Store) -> None:
    lease = store.acquire("alice")
    assert store.usage("alice").leases == 1
    del lease
    gc.collect()
    assert store.usage("alice").leases == 0


def test_yesterday(clock: Clock) -> None:
    with Store("memory:", LIMITS, clock=clock, max_subjects=64) as store:
        store.charge("alice", "tokens", 3)
        clock.now += timedelta(days=1)
        (meter,) = store.usage("alice").meters
        assert (meter.total, meter.yesterday) == (0, 3)


def test_many_subjects_are_listed_once(store: Store) -> None:
    with Store("memory:", LIMITS, max_subjects=2048) as large:
        names = {f"user{number}" for number in range(1000)}
        for name in names:
            large.charge(name, "tokens", 1)
        listed = [info.subject for info in large.subjects()]
        assert (len(listed), set(listed)) == (1000, names)
        assert large.verify().subjects == 1000


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [(None, 0), (0, -1), (-1.5, -1), (0.0001, 1), (0.25, 250), (math.inf, 2**62)],
)
def test_waits_in_seconds(seconds: float | None, milliseconds: int) -> None:
    assert quotalite._store._wait_ms(seconds) == milliseconds


def test_a_store_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "store", tmp_path / "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(quotalite.Error) as error:
            QuotaTracker(max_concurrent_per_user=1, max_daily_bytes_per_user=1, store=path)
        assert str(path.name) in str(error.value) or str(path.parent) in str(error.value)


SAMPLE = """
from quotalite import QuotaExceededError, QuotaTracker, Store, Limit
tracker = QuotaTracker(max_concurrent_per_user=1, max_daily_bytes_per_user=2, store="memory:")
def scan(user: str) -> int:
    tracker.check_daily_budget(user)
    with tracker.acquire(user):
        tracker.record_bytes(user, 1)
    try:
        tracker.check_daily_estimates(user)
    except QuotaExceededError as error:
        return error.retry_after_seconds
    return tracker.bytes_used_today(user=user)
async def stream(user: str) -> None:
    async with tracker.acquire(user):
        tracker.record_estimate(user)
def general(store: Store) -> str:
    with store.admit("a/b") as lease:
        lease.settle({"bytes": 1})
    return store.usage("a/b").limits[0].name + Limit("x", 1).name
"""


def test_a_text_that_says_what_to_do_gets_no_second_advice(store_path: str) -> None:
    meters = [quotalite.Limit(f"daily_{name}", 1, name, "day") for name in ("a", "b")]
    with quotalite.Store(store_path, meters[:1], max_meters=1) as store:
        with pytest.raises(quotalite.Error) as failed:
            quotalite.Store(store_path, meters, replace_limits=True)
        assert str(failed.value).endswith("with max_meters of at least 2 (QL_E_FULL)")
        with pytest.raises(quotalite.Error, match="declare a limit on this meter"):
            store.charge("alice", "b", 1)


def test_the_stubs_serve_a_strict_type_checker(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    for command in (
        ["mypy", "--config-file=", "--strict", str(sample)],
        ["mypy.stubtest", "quotalite"],
    ):
        run = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stdout + run.stderr


def test_every_call_shows_its_signature() -> None:
    shown = {
        f"{kind.__name__}.{name}": str(inspect.signature(member))
        for kind in (quotalite._quotalite.Tracker, quotalite._quotalite.Store, Lease, Slot)
        for name, member in vars(kind).items()
        if callable(member) and name != "__new__"
    }
    assert shown["Tracker.acquire"] == "(self, /, user)"
    assert shown["Tracker.record_estimate"] == "(self, /, user, n=1)"
    assert shown["Store.check"] == "(self, /, subject, limit=None)"
    assert shown["Slot.__aexit__"] == "(self, kind, error, traceback, /)"
    assert str(QuotaTracker.record_bytes.__doc__).startswith("Charges n bytes")
