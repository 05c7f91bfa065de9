# SPDX-License-Identifier: Apache-2.0
"""QuotaTracker, and the one that a service shares."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from quotalite import _quotalite
from quotalite._store import Store, days_of, interval_ms_of
from quotalite._support import Error, Limit

KIND_CONCURRENT = "concurrent_scans"
KIND_DAILY_BYTES = "daily_bytes"
KIND_DAILY_ESTIMATES = "daily_estimates"

logger = logging.getLogger("quotalite")

_UNLIMITED = 2**63 - 1


class QuotaTracker(_quotalite.Tracker):
    """Quotas for each user: scans at once, bytes a day, statements a day.

    A request checks the budget, holds a slot while it runs, and records what
    it cost::

        tracker.check_daily_budget(user)
        with tracker.acquire(user):
            ...
        tracker.record_bytes(user, n)

    ``store`` says who shares the budget: ``"memory:"`` is this process and its
    forked children, a directory is every process that opens it. A cap of 0
    refuses everything; ``max_daily_estimates_per_user=None`` counts statements
    and never refuses. The limits given here become the store's. ``clock``
    (an aware datetime) is for tests. The other options are those of ``Store``.
    """

    def __init__(
        self,
        *,
        max_concurrent_per_user: int,
        max_daily_bytes_per_user: int,
        max_daily_estimates_per_user: int | None = None,
        store: str | os.PathLike[str] = "memory:",
        clock: Callable[[], datetime] | None = None,
        max_subjects: int | None = None,
        max_leases: int | None = None,
        lease_max_age_seconds: float | None = None,
        admit_wait_seconds: float | None = None,
        charge_wait_seconds: float | None = None,
        allow_any_filesystem: bool = False,
        region_directory: str | os.PathLike[str] | None = None,
        durability: str | None = None,
        flush_interval_seconds: float | None = None,
        history_days: float | None = None,
        thread: bool = True,
    ) -> None:
        limits = (
            Limit(KIND_CONCURRENT, _cap(max_concurrent_per_user)),
            Limit(KIND_DAILY_BYTES, _cap(max_daily_bytes_per_user), "bytes", "day"),
            Limit(KIND_DAILY_ESTIMATES, _cap(max_daily_estimates_per_user), "statements", "day"),
        )

        def opened(replace_limits: bool) -> Store:
            return Store(
                store,
                limits,
                replace_limits=replace_limits,
                clock=clock,
                max_subjects=max_subjects,
                max_leases=max_leases,
                lease_max_age_seconds=lease_max_age_seconds,
                admit_wait_seconds=admit_wait_seconds,
                charge_wait_seconds=charge_wait_seconds,
                allow_any_filesystem=allow_any_filesystem,
                region_directory=region_directory,
                durability=durability,
                flush_interval_seconds=flush_interval_seconds,
                history_days=history_days,
                thread=thread,
            )

        super().__init__(_opened_or_replaced(store, opened))


def _cap(cap: int | None) -> int:
    if cap is None or cap == math.inf:
        return _UNLIMITED
    return min(max(int(cap), 0), _UNLIMITED)


def _opened_or_replaced(store: str | os.PathLike[str], opened: Callable[[bool], Store]) -> Store:
    try:
        return opened(False)
    except Error as error:
        if error.status != "QL_E_LIMITS":
            raise
        logger.warning("the limits of the store %s are replaced: %s", os.fspath(store), error.text)
    return opened(True)


# ---- the shared tracker -----------------------------------------------------

_shared: QuotaTracker | None = None
_shared_lock = threading.Lock()


def build_quota_tracker(get_value: Callable[..., Any]) -> QuotaTracker:
    """The one tracker of this process, built by whoever asks first.

    ``get_value("api", "scan", name, default=...)`` reads the application's
    configuration: ``max_concurrent_per_user`` (5), ``max_daily_bytes_per_user``
    (50 GiB), ``max_daily_estimates_per_user`` (500), ``quota_store``
    (``"memory:"``), ``quota_durability`` (``"async"``, ``"sync"`` or
    ``"none"``), ``quota_flush_interval_seconds`` (0.2) and
    ``quota_history_days`` (a number, or infinity for ever). Missing, None and 0
    mean the default, which for durability and days is what the store has. A
    wrong value is a ``ValueError`` that names its setting, and the next call
    tries anew. Once it is built, calls give the same tracker and do not read
    the configuration again.
    """
    global _shared
    if _shared is None:
        with _shared_lock:
            if _shared is None:
                _shared = _configured(get_value)
    return _shared


def _configured(get_value: Callable[..., Any]) -> QuotaTracker:
    def cap(name: str, default: int) -> int:
        value = get_value("api", "scan", name, default=default) or default
        return int(_read(name, value, int, "a whole number", str(default)))

    def option(name: str, read: Callable[[Any], Any], right: str, default: str) -> Any:
        value = get_value("api", "scan", name, default=None)
        # What YAML makes of "off" is no durability that one would guess.
        if not value and value is not False:
            return None
        return _read(name, value, read, right, default)

    store = get_value("api", "scan", "quota_store", default="memory:") or "memory:"
    durability = option(
        "quota_durability",
        _durability,
        "async, sync or none",
        "what the store has (a new one: async)",
    )
    if store == "memory:" and durability in ("async", "sync"):
        raise ValueError(
            f"the setting api.scan.quota_durability is {durability!r}, but api.scan.quota_store is "
            "'memory:', which has no ledger: name a directory there"
        )
    return QuotaTracker(
        max_concurrent_per_user=cap("max_concurrent_per_user", 5),
        max_daily_bytes_per_user=cap("max_daily_bytes_per_user", 53687091200),
        max_daily_estimates_per_user=cap("max_daily_estimates_per_user", 500),
        store=store,
        durability=durability,
        flush_interval_seconds=option(
            "quota_flush_interval_seconds",
            _checked(interval_ms_of),
            "a number of seconds, more than 0 and at most 86400",
            "0.2",
        ),
        history_days=option(
            "quota_history_days",
            _checked(days_of),
            "a whole number of days from 1, or infinity (.inf in YAML) for ever",
            "what the store has (a new one: 400)",
        ),
    )


def _read(name: str, value: Any, read: Callable[[Any], Any], right: str, default: str) -> Any:
    try:
        return read(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"the setting api.scan.{name} is {value!r}: it must be {right}; "
            f"leave it out for {default}"
        ) from None


def _durability(value: Any) -> Any:
    if value not in ("async", "sync", "none"):
        raise ValueError
    return value


def _checked(check: Callable[[float], int]) -> Callable[[Any], float]:
    """Reads a number that an option of Store takes."""

    def read(value: Any) -> float:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
        check(number)
        return number

    return read


def _reset_shared() -> None:
    """For tests: the next build_quota_tracker builds anew."""
    global _shared
    _shared = None


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held it.
    global _shared_lock
    _shared_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
