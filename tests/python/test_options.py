# SPDX-License-Identifier: Apache-2.0
"""The options of Store and of QuotaTracker that say where and how it is kept."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

import quotalite
from quotalite import Limit, QuotaTracker, Store

LIMITS = (Limit("jobs", 2), Limit("tokens_a_day", 100, "tokens", "day"))


def test_must_exist_makes_nothing(store_path: str) -> None:
    with pytest.raises(quotalite.Error) as error:
        Store(store_path, must_exist=True)
    assert error.value.status == "QL_E_STORE"
    assert not os.path.exists(store_path)
    with Store(store_path, LIMITS, max_subjects=64) as store:
        store.charge("alice", "tokens", 3)
        with Store(store_path, must_exist=True) as other:
            assert other.usage("alice").meters[0].total == 3


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path


def test_a_region_in_another_directory(store_path: str, elsewhere: Path, tmp_path: Path) -> None:
    with Store(store_path, LIMITS, max_subjects=64, region_directory=elsewhere) as store:
        store.charge("alice", "tokens", 3)
        assert len(list(elsewhere.iterdir())) == 1
        with Store(store_path) as other:
            assert other.usage("alice").meters[0].total == 3
        with pytest.raises(quotalite.Error, match="region_directory") as error:
            Store(store_path, region_directory=str(tmp_path))
        assert error.value.status == "QL_E_STORE"


def test_a_tracker_hands_its_options_on(store_path: str, elsewhere: Path) -> None:
    tracker = QuotaTracker(
        max_concurrent_per_user=1,
        max_daily_bytes_per_user=1,
        store=store_path,
        max_subjects=64,
        region_directory=elsewhere,
    )
    tracker.close()
    assert len(list(elsewhere.iterdir())) == 1


WRONG: dict[str, tuple[Any, ...]] = {
    "durability": ("", "fsync", "Sync", "sync ", "full"),
    "flush_interval_seconds": (0, -1, 86400.5, math.inf, math.nan),
    "history_days": (0, -1, 0.5, 1.5, 2**32 - 1, 2**200, -math.inf, math.nan),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_option_says_what_is_right(store_path: str, name: str, value: Any) -> None:
    right = {"durability": "'none', 'async' and 'sync'"}.get(name, f"{name} is {value}: it must")
    for make in (lambda: Store(store_path, **{name: value}), lambda: tracker_with(name, value)):
        with pytest.raises(ValueError, match="must|there are") as error:
            make()
        assert right in str(error.value)
    assert not os.path.exists(store_path)


def tracker_with(name: str, value: Any) -> QuotaTracker:
    return QuotaTracker(max_concurrent_per_user=1, max_daily_bytes_per_user=1, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("durability", 3),
        ("durability", b"sync"),
        ("region_directory", 3),
        ("flush_interval_seconds", "1"),
        ("history_days", "1"),
    ],
)
def test_an_option_of_another_type_is_a_type_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError):
        Store("memory:", **{name: value})


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [(None, 0), (0.0001, 1), (0.2, 200), (1.001, 1001), (3, 3000), (86400, 86_400_000)],
)
def test_a_flush_interval_in_seconds(seconds: float | None, milliseconds: int) -> None:
    assert quotalite._store.interval_ms_of(seconds) == milliseconds
    Store("memory:", LIMITS, max_subjects=1, flush_interval_seconds=seconds).close()


@pytest.mark.parametrize(
    ("days", "given"),
    [(None, 0), (1, 1), (30.0, 30), (2**32 - 2, 2**32 - 2), (math.inf, 2**32 - 1)],
)
def test_the_days_of_the_history(days: float | None, given: int) -> None:
    assert quotalite._store.days_of(days) == given
    Store("memory:", LIMITS, max_subjects=1, history_days=days).close()


@pytest.mark.parametrize("thread", [True, False])
def test_a_store_with_and_without_a_thread_works(store_path: str, thread: bool) -> None:
    with Store(store_path, LIMITS, max_subjects=64, thread=thread) as store:
        store.charge("alice", "tokens", 3)
    with Store(store_path, thread=thread) as store:
        assert store.usage("alice").meters[0].total == 3


@pytest.mark.parametrize("durability", [None, "none", "async", "sync"])
def test_each_durability_opens_a_store(store_path: str, durability: str | None) -> None:
    with Store(store_path, LIMITS, max_subjects=64, durability=durability) as store:
        store.charge("alice", "tokens", 3)
    with Store(store_path, durability=durability) as store:
        assert store.usage("alice").meters[0].total == 3
