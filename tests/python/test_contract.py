# SPDX-License-Identifier: Apache-2.0
"""The contract of QuotaTracker, row by row."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from conftest import Clock, eventually

import quotalite
from quotalite import Limit, QuotaExceededError, QuotaTracker, Store, build_quota_tracker

Make = Callable[..., QuotaTracker]


def test_row_01_acquire_refuses_at_the_limit(tracker: QuotaTracker) -> None:
    with tracker.acquire("alice"), tracker.acquire(user="alice"):
        with pytest.raises(QuotaExceededError) as refusal:
            tracker.acquire("alice").__enter__()
        assert refusal.value == QuotaExceededError("concurrent_scans", 2, 2, 0)
    with tracker.acquire("alice"), tracker.acquire("alice"):
        pass


def test_row_01_acquire_is_lazy_until_entered(tracker: QuotaTracker) -> None:
    slots = [tracker.acquire("alice") for _ in range(3)]
    assert tracker.store.usage("alice").leases == 0
    with slots[0], slots[1]:
        assert tracker.store.usage("alice").leases == 2
        with pytest.raises(QuotaExceededError):
            slots[2].__enter__()


def test_row_01_a_slot_is_given_back_on_failure(tracker: QuotaTracker) -> None:
    for _ in range(5):
        with pytest.raises(KeyError), tracker.acquire("alice"):
            raise KeyError
    assert tracker.store.usage("alice").leases == 0


def test_row_01_leaving_twice_does_not_go_below_zero(tracker: QuotaTracker) -> None:
    slot = tracker.acquire("alice")
    slot.__enter__()
    for _ in range(3):
        slot.__exit__(None, None, None)
    with tracker.acquire("alice"), tracker.acquire("alice"):
        with pytest.raises(QuotaExceededError):
            tracker.acquire("alice").__enter__()


def test_row_02_check_daily_budget_refuses_at_the_cap(make_tracker: Make, clock: Clock) -> None:
    tracker = make_tracker(clock=clock)
    clock.now = datetime(2030, 3, 14, 23, 59, 0, 500000, tzinfo=timezone.utc)
    tracker.record_bytes("alice", 999)
    tracker.check_daily_budget("alice")
    tracker.record_bytes("alice", 1)
    with pytest.raises(QuotaExceededError) as refusal:
        tracker.check_daily_budget("alice")
    assert refusal.value == QuotaExceededError("daily_bytes", 1000, 1000, 59)


def test_row_02_check_looks_at_its_own_limit_only(make_tracker: Make) -> None:
    tracker = make_tracker(max_daily_estimates_per_user=1)
    tracker.record_estimate("alice")
    with tracker.acquire("alice"), tracker.acquire("alice"):
        tracker.check_daily_budget("alice")
    with pytest.raises(QuotaExceededError) as refusal:
        tracker.check_daily_estimates("alice")
    assert refusal.value.kind == "daily_estimates"
    tracker.record_bytes("bob", 5000)
    tracker.check_daily_estimates("bob")


def test_row_03_record_commits_past_the_cap(tracker: QuotaTracker) -> None:
    tracker.record_bytes("alice", 5000)
    tracker.record_bytes(user="alice", n=1)
    assert tracker.bytes_used_today("alice") == 5001


@pytest.mark.parametrize("n", [0, -1, -(2**63), -(2**200), False])
def test_row_03_record_of_nothing_does_nothing(tracker: QuotaTracker, n: int) -> None:
    tracker.record_bytes("alice", n)
    tracker.record_estimate("alice", n)
    assert tracker.bytes_used_today("alice") == 0
    assert tracker.estimates_used_today("alice") == 0
    assert tracker.store.subjects() == []


@pytest.mark.parametrize("n", [2**63 - 1, 2**63, 2**200])
def test_row_03_huge_amounts_saturate(tracker: QuotaTracker, n: int) -> None:
    tracker.record_bytes("alice", n)
    tracker.record_bytes("alice", n)
    assert tracker.bytes_used_today("alice") == 2**63 - 1
    with pytest.raises(QuotaExceededError):
        tracker.check_daily_budget("alice")


@pytest.mark.parametrize("n", [1.0, "1", None])
def test_row_03_a_wrong_amount_is_a_type_error(tracker: QuotaTracker, n: Any) -> None:
    with pytest.raises(TypeError):
        tracker.record_bytes("alice", n)


def test_row_03_true_is_one(tracker: QuotaTracker) -> None:
    tracker.record_bytes("alice", True)
    assert tracker.bytes_used_today("alice") == 1


def test_row_04_bytes_used_today(tracker: QuotaTracker) -> None:
    assert tracker.bytes_used_today("nobody") == 0
    tracker.record_bytes("alice", 3)
    tracker.record_bytes("alice", 4)
    assert tracker.bytes_used_today("alice") == 7
    assert [info.subject for info in tracker.store.subjects()] == ["alice"]


def test_row_05_a_new_day_zeroes_budgets_and_keeps_slots(make_tracker: Make, clock: Clock) -> None:
    tracker = make_tracker(clock=clock)
    clock.now = datetime(2030, 3, 14, 23, 59, 59, 999999, tzinfo=timezone.utc)
    with tracker.acquire("alice"), tracker.acquire("alice"):
        tracker.record_bytes("alice", 1000)
        tracker.record_estimate("alice")
        with pytest.raises(QuotaExceededError) as refusal:
            tracker.check_daily_budget("alice")
        assert refusal.value.retry_after_seconds == 0
        clock.now += timedelta(microseconds=1)
        tracker.check_daily_budget("alice")
        assert tracker.bytes_used_today("alice") == 0
        assert tracker.estimates_used_today("alice") == 0
        with pytest.raises(QuotaExceededError):
            tracker.acquire("alice").__enter__()
    with tracker.acquire("alice"):
        pass


def test_row_05_a_clock_that_steps_back_keeps_the_window(make_tracker: Make, clock: Clock) -> None:
    tracker = make_tracker(clock=clock)
    tracker.record_bytes("alice", 1000)
    clock.now = datetime(2030, 3, 13, 23, 59, tzinfo=timezone.utc)
    assert tracker.bytes_used_today("alice") == 1000
    with pytest.raises(QuotaExceededError) as refusal:
        tracker.check_daily_budget("alice")
    assert refusal.value.retry_after_seconds == 86400 + 60


def test_row_06_users_are_independent(tracker: QuotaTracker) -> None:
    tracker.record_bytes("alice", 1000)
    with tracker.acquire("alice"), tracker.acquire("alice"):
        tracker.check_daily_budget("bob")
        with tracker.acquire("bob"):
            pass
    assert tracker.bytes_used_today("bob") == 0


def test_row_06_all_calls_are_safe_from_any_thread(make_tracker: Make) -> None:
    tracker = make_tracker(max_concurrent_per_user=3)
    rounds, threads = 2000, 4
    inside = 0
    most = 0
    refused = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most, refused
        for _ in range(rounds):
            try:
                with tracker.acquire("alice"):
                    with lock:
                        inside += 1
                        most = max(most, inside)
                    tracker.record_bytes("alice", 3)
                    with lock:
                        inside -= 1
            except QuotaExceededError:
                with lock:
                    refused += 1

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most <= 3
    assert tracker.bytes_used_today("alice") == 3 * (rounds * threads - refused)
    assert tracker.store.usage("alice").leases == 0


def test_row_07_the_error_carries_four_fields_and_prints() -> None:
    error = QuotaExceededError(kind="daily_bytes", current=7, limit=5, retry_after_seconds=60)
    assert str(error) == "daily_bytes: 7/5"
    assert (error.kind, error.current, error.limit) == ("daily_bytes", 7, 5)
    assert error.retry_after_seconds == 60
    assert QuotaExceededError("k", 1, 2).retry_after_seconds == 0


def test_row_08_the_clock_can_be_replaced(make_tracker: Make, clock: Clock) -> None:
    tracker = make_tracker(clock=clock)
    tracker.record_bytes("alice", 1)
    day = tracker.store.usage("alice").limits[1]
    assert day.resets_at == datetime(2030, 3, 15, tzinfo=timezone.utc).timestamp()


def test_row_08_the_clock_of_another_zone_is_the_same_clock(
    make_tracker: Make, clock: Clock
) -> None:
    tracker = make_tracker(clock=clock)
    tracker.record_bytes("alice", 1)
    clock.now = clock.now.astimezone(timezone(timedelta(hours=14)))
    assert tracker.bytes_used_today("alice") == 1


def test_row_08_what_the_clock_raises_comes_through(make_tracker: Make) -> None:
    answers: list[Any] = [datetime(2030, 1, 1, tzinfo=timezone.utc)]

    def clock() -> datetime:
        if not answers:
            raise LookupError("no time")
        return answers[0]

    tracker = make_tracker(clock=clock)
    with tracker.acquire("alice"):
        answers.clear()
        for call in (tracker.check_daily_budget, tracker.bytes_used_today):
            with pytest.raises(LookupError):
                call("alice")
    answers.append(datetime(2030, 1, 1))
    with pytest.raises(ValueError, match="aware"):
        tracker.check_daily_budget("alice")
    answers[0] = datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert tracker.store.usage("alice").leases == 0


@pytest.fixture
def shared_tracker_reset() -> Any:
    yield
    built = quotalite._tracker._shared
    if built is not None:
        built.close()
    quotalite._tracker._reset_shared()


def configuration(**values: Any) -> Callable[..., Any]:
    def get_value(*path: str, default: Any = None) -> Any:
        assert path[:2] == ("api", "scan")
        return values.get(path[2], default)

    return get_value


@pytest.mark.usefixtures("shared_tracker_reset")
def test_row_09_one_shared_tracker_however_many_threads_ask() -> None:
    reads = []
    barrier = threading.Barrier(8)
    built: list[QuotaTracker] = []

    def get_value(*path: str, default: Any) -> Any:
        reads.append(path)
        return default

    def ask() -> None:
        barrier.wait()
        built.append(build_quota_tracker(get_value))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(tracker) for tracker in built}) == 1
    assert len(reads) == len(set(reads))
    built[0].record_bytes("alice", 5)
    assert build_quota_tracker(get_value).bytes_used_today("alice") == 5


@pytest.mark.usefixtures("shared_tracker_reset")
@pytest.mark.parametrize("nothing", [0, None, "missing"])
def test_row_10_defaults_of_the_configuration(nothing: Any) -> None:
    names = ("max_concurrent_per_user", "max_daily_bytes_per_user", "max_daily_estimates_per_user")
    values = {} if nothing == "missing" else dict.fromkeys(names, nothing)
    tracker = build_quota_tracker(configuration(**values))
    assert [limit.cap for limit in tracker.store.limits()] == [5, 53687091200, 500]


@pytest.mark.usefixtures("shared_tracker_reset")
def test_row_10_limits_come_from_the_configuration(store_path: str) -> None:
    tracker = build_quota_tracker(
        configuration(
            max_concurrent_per_user="1",
            max_daily_bytes_per_user=2,
            max_daily_estimates_per_user=3,
            quota_store=store_path,
        )
    )
    assert [(limit.name, limit.cap) for limit in tracker.store.limits()] == [
        ("concurrent_scans", 1),
        ("daily_bytes", 2),
        ("daily_estimates", 3),
    ]


@pytest.mark.usefixtures("shared_tracker_reset")
@pytest.mark.parametrize("nothing", [0, None, "", "missing"])
def test_row_10_without_settings_the_store_keeps_its_own_durability(
    store_path: str, nothing: Any
) -> None:
    names = ("quota_durability", "quota_flush_interval_seconds", "quota_history_days")
    values = {} if nothing == "missing" else dict.fromkeys(names, nothing)
    with Store(store_path, max_subjects=64, limits=SHARED, durability="sync", history_days=7):
        tracker = build_quota_tracker(configuration(quota_store=store_path, **values))
        tracker.record_bytes("alice", 5)
        assert meta_of(store_path) == (3, 7)
        assert amounts_of(store_path) == [5]


@pytest.mark.usefixtures("shared_tracker_reset")
@pytest.mark.parametrize(
    ("durability", "days", "meta"),
    [("sync", 30, (3, 30)), ("async", "30", (2, 30)), ("async", math.inf, (2, 0))],
)
def test_row_10_durability_and_history_come_from_the_configuration(
    store_path: str, durability: str, days: Any, meta: tuple[int, int]
) -> None:
    tracker = build_quota_tracker(
        configuration(
            quota_store=store_path,
            quota_durability=durability,
            quota_history_days=days,
        )
    )
    tracker.record_bytes("alice", 5)
    tracker.store.flush()
    assert meta_of(store_path) == meta


@pytest.mark.usefixtures("shared_tracker_reset")
def test_row_10_the_flush_interval_comes_from_the_configuration(store_path: str) -> None:
    tracker = build_quota_tracker(
        configuration(quota_store=store_path, quota_flush_interval_seconds="86400")
    )
    tracker.record_bytes("alice", 5)
    assert eventually(lambda: tracker.store.flush_lag_ms() > 1000)
    assert amounts_of(store_path) == []


@pytest.mark.usefixtures("shared_tracker_reset")
def test_row_10_a_store_without_a_ledger_comes_from_the_configuration(store_path: str) -> None:
    build_quota_tracker(configuration(quota_store=store_path, quota_durability="none"))
    assert not os.path.exists(f"{store_path}/ledger.db")


SHARED = (
    Limit("concurrent_scans", 5),
    Limit("daily_bytes", 53687091200, "bytes", "day"),
    Limit("daily_estimates", 500, "statements", "day"),
)


def rows_of(store_path: str, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{store_path}/ledger.db?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


def amounts_of(store_path: str) -> list[int]:
    return [amount for (amount,) in rows_of(store_path, "SELECT amount FROM totals")]


def meta_of(store_path: str) -> Any:
    return rows_of(store_path, "SELECT durability, history_days FROM meta")[0]


WRONG_SETTINGS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "max_concurrent_per_user": ("a whole number", ("five", [5], math.nan)),
    "max_daily_bytes_per_user": ("a whole number", ("50 GiB", math.inf)),
    "max_daily_estimates_per_user": ("a whole number", ("many",)),
    "quota_durability": ("async, sync or none", ("fsync", "Sync", False, True, 1, ["sync"])),
    "quota_flush_interval_seconds": (
        "a number of seconds",
        ("200 ms", -1, 86_401, math.inf, math.nan, True, False),
    ),
    "quota_history_days": (
        "a whole number of days",
        ("a year", -1, 0.5, -math.inf, math.nan, True, False, 10**400),
    ),
}


@pytest.mark.usefixtures("shared_tracker_reset")
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, all) in WRONG_SETTINGS.items() for value in all]
)
def test_row_10_a_wrong_setting_is_named_with_what_it_must_be(
    store_path: str, name: str, value: Any
) -> None:
    with pytest.raises(ValueError, match="the setting") as error:
        build_quota_tracker(configuration(quota_store=store_path, **{name: value}))
    assert f"the setting api.scan.{name} is {value!r}: it must be " in str(error.value)
    assert WRONG_SETTINGS[name][0] in str(error.value)
    assert "; leave it out for " in str(error.value)
    assert not os.path.exists(store_path)
    build_quota_tracker(configuration(quota_store=store_path))


@pytest.mark.usefixtures("shared_tracker_reset")
@pytest.mark.parametrize("durability", ["async", "sync"])
def test_row_10_a_durability_without_a_directory_says_that_one_is_missing(durability: str) -> None:
    with pytest.raises(ValueError, match="api.scan.quota_store") as error:
        build_quota_tracker(configuration(quota_durability=durability))
    assert "name a directory" in str(error.value)
    build_quota_tracker(configuration(quota_durability="none"))


def test_row_10_elsewhere_a_cap_of_zero_refuses_everything(make_tracker: Make) -> None:
    tracker = make_tracker(
        max_concurrent_per_user=0, max_daily_bytes_per_user=0, max_daily_estimates_per_user=0
    )
    for call in (
        lambda: tracker.acquire("alice").__enter__(),
        lambda: tracker.check_daily_budget("alice"),
        lambda: tracker.check_daily_estimates("alice"),
    ):
        with pytest.raises(QuotaExceededError) as refusal:
            call()
        assert (refusal.value.current, refusal.value.limit) == (0, 0)


@pytest.mark.parametrize(
    ("given", "cap"),
    [(-1, 0), (2.9, 2), (True, 1), (2**63, 2**63 - 1), (math.inf, 2**63 - 1), (-(2**70), 0)],
)
def test_row_10_caps_become_integers(make_tracker: Make, given: Any, cap: int) -> None:
    tracker = make_tracker(max_concurrent_per_user=given, max_daily_bytes_per_user=given)
    assert [limit.cap for limit in tracker.store.limits()] == [cap, cap, 2**63 - 1]


def test_row_10_daily_estimates(make_tracker: Make) -> None:
    tracker = make_tracker(max_daily_estimates_per_user=3)
    tracker.record_estimate("alice")
    tracker.record_estimate("alice", 2)
    assert tracker.estimates_used_today("alice") == 3
    assert tracker.bytes_used_today("alice") == 0
    with pytest.raises(QuotaExceededError) as refusal:
        tracker.check_daily_estimates("alice")
    assert (refusal.value.kind, refusal.value.limit) == ("daily_estimates", 3)


def test_row_10_without_a_cap_estimates_are_counted(tracker: QuotaTracker) -> None:
    tracker.record_estimate("alice", 10**12)
    tracker.check_daily_estimates("alice")
    assert tracker.estimates_used_today("alice") == 10**12
