# SPDX-License-Identifier: Apache-2.0
"""Store: the library as it is, without the words of the scan service."""

from __future__ import annotations

import atexit
import math
import os
import weakref
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType

from quotalite import _quotalite
from quotalite._support import Limit, nanoseconds_of


class Store(_quotalite.Store):
    """An open store: ``"memory:"`` (private, shared with forked children) or a
    directory, which every process that opens it shares.

    ``limits`` are the store's limits in the order in which they are checked;
    None adopts those that it has. Others than the store's raise ``Error`` with
    status ``QL_E_LIMITS`` unless ``replace_limits`` is set. Sizes hold for a
    new store only; None is the default. A wait of 0 or less does not wait.

    ``must_exist`` makes nothing: ``QL_E_STORE`` if there is no store.
    ``region_directory`` is where a new store keeps its region, on a tmpfs for
    instance; None is beside its lock file.

    ``durability`` is what a power cut may lose: all of it (``"none"``), what was
    charged since the last flush (``"async"``), or nothing that was acknowledged
    (``"sync"``). None is what the store has, ``"async"`` for a new one.
    ``flush_interval_seconds`` (0.2) is the time between two flushes.
    ``history_days`` is how long the ledger keeps a day; ``math.inf`` is for
    ever, None is what the store has, 400 for a new one. ``thread=False`` starts
    no thread that flushes and ends leases of the dead, so that a fork later on
    is one of a process with a single thread: calls do it when it is time, and
    may take as long as the disk does.
    """

    def __new__(
        cls,
        store: str | os.PathLike[str] = "memory:",
        limits: Iterable[Limit] | None = None,
        *,
        replace_limits: bool = False,
        max_subjects: int | None = None,
        max_leases: int | None = None,
        max_meters: int | None = None,
        max_holders: int | None = None,
        admit_when_full: bool = False,
        lease_max_age_seconds: float | None = None,
        admit_wait_seconds: float | None = None,
        charge_wait_seconds: float | None = None,
        allow_any_filesystem: bool = False,
        clock: Callable[[], datetime] | None = None,
        must_exist: bool = False,
        region_directory: str | os.PathLike[str] | None = None,
        durability: str | None = None,
        flush_interval_seconds: float | None = None,
        history_days: float | None = None,
        thread: bool = True,
    ) -> Store:
        self = super().__new__(
            cls,
            os.fspath(store),
            None if limits is None else tuple(limits),
            replace_limits=replace_limits,
            max_subjects=_size(max_subjects, "max_subjects"),
            max_leases=_size(max_leases, "max_leases"),
            max_meters=_size(max_meters, "max_meters"),
            max_holders=_size(max_holders, "max_holders"),
            admit_when_full=admit_when_full,
            lease_max_age_ms=_age_ms(lease_max_age_seconds),
            admit_wait_ms=_wait_ms(admit_wait_seconds),
            charge_wait_ms=_wait_ms(charge_wait_seconds),
            allow_any_filesystem=allow_any_filesystem,
            clock=None if clock is None else nanoseconds_of(clock),
            must_exist=must_exist,
            region_directory=None if region_directory is None else os.fspath(region_directory),
            durability=durability,
            flush_interval_ms=interval_ms_of(flush_interval_seconds),
            history_days=days_of(history_days),
            no_thread=not thread,
        )
        _open_stores.add(self)
        return self

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_SIZE_MAX = 2**32 - 1


def _size(value: int | None, name: str) -> int:
    if value is None:
        return 0
    if not 1 <= value <= _SIZE_MAX:
        raise ValueError(f"{name} is {value}: it must be at least 1; None is the default")
    return value


def _age_ms(seconds: float | None) -> int:
    if seconds is None:
        return 0
    if not seconds > 0:
        raise ValueError(f"lease_max_age_seconds is {seconds}: None means no maximum")
    return max(1, int(min(seconds * 1000, 2.0**62)))


def _wait_ms(seconds: float | None) -> int:
    if seconds is None:
        return 0
    return max(1, int(min(seconds * 1000, 2.0**62))) if seconds > 0 else -1


_INTERVAL_MAX_SECONDS = 86400


def interval_ms_of(seconds: float | None) -> int:
    if seconds is None:
        return 0
    if not 0 < seconds <= _INTERVAL_MAX_SECONDS:
        raise ValueError(
            f"flush_interval_seconds is {seconds}: it must be more than 0 and at most one day "
            f"({_INTERVAL_MAX_SECONDS}); None is the default"
        )
    return max(1, round(seconds * 1000))


_DAYS_FOR_EVER = 2**32 - 1


def days_of(days: float | None) -> int:
    if days is None:
        return 0
    if days == math.inf:
        return _DAYS_FOR_EVER
    if not 1 <= days < _DAYS_FOR_EVER or days != int(days):
        raise ValueError(
            f"history_days is {days}: it must be a whole number of days from 1, math.inf for "
            "ever, or None for what the store has"
        )
    return int(days)


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """What still waits in queues is tried a last time."""
    for store in list(_open_stores):
        store.close()


def _after_fork_in_child() -> None:
    for store in list(_open_stores):
        store._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
