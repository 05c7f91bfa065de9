# SPDX-License-Identifier: Apache-2.0
"""What the extension needs in Python: exceptions, plain values, log lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

logger = logging.getLogger("quotalite")


class Error(Exception):
    """A call failed. ``status`` is the library's name for it, such as
    ``"QL_E_FULL"``; the text says what to do. Nothing was changed, but for
    ``"QL_E_NOT_DURABLE"``: then the charge is made, and must not be repeated."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text

    def __str__(self) -> str:
        return f"{self.text} ({self.status})"


class QuotaExceededError(Exception):
    """A limit is reached: ``kind`` is its name, ``current`` what is used,
    ``limit`` the cap, ``retry_after_seconds`` the time to the window's end (0
    for a concurrent limit)."""

    def __init__(self, kind: str, current: int, limit: int, retry_after_seconds: int = 0) -> None:
        super().__init__(kind, current, limit, retry_after_seconds)
        self.kind = kind
        self.current = current
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds
        #: The state of the limits that were looked at, in declared order.
        self.limits: tuple[LimitState, ...] = ()
        #: The number of segments of the subject that refused.
        self.level = 1

    def _fields(self) -> tuple[str, int, int, int]:
        return (self.kind, self.current, self.limit, self.retry_after_seconds)

    def __str__(self) -> str:
        return f"{self.kind}: {self.current}/{self.limit}"

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(kind={self.kind!r}, current={self.current!r}, "
            f"limit={self.limit!r}, retry_after_seconds={self.retry_after_seconds!r})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuotaExceededError) or type(other) is not type(self):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __reduce__(self) -> tuple[Any, ...]:
        # Fields may have been assigned since, so args is not what counts.
        return (type(self), self._fields(), self.__dict__)


class Limit(NamedTuple):
    """A named cap. With a meter: on its amount in a window (``"day"``, UTC).
    Without: on the leases held at once."""

    name: str
    cap: int
    meter: str | None = None
    window: str | None = None


class LimitState(NamedTuple):
    """One limit as it stands for one subject."""

    name: str
    meter: str | None
    window: str | None
    cap: int
    used: int
    remaining: int
    resets_at: int


class MeterState(NamedTuple):
    """One meter of one subject: its amount in this UTC day and in the last."""

    name: str
    total: int
    yesterday: int


class Usage(NamedTuple):
    """A subject as it stands."""

    leases: int
    limits: tuple[LimitState, ...]
    meters: tuple[MeterState, ...]


class SubjectInfo(NamedTuple):
    """A subject of the store."""

    subject: str
    usage: Usage


class LeaseInfo(NamedTuple):
    """A lease that is held or timed. ``expires_in_ms`` is 0 without a maximum
    age or deadline; ``pid`` is for display only, and 0 for a timed lease."""

    lease: str
    subject: str
    since: int
    age_ms: int
    expires_in_ms: int
    pid: int
    own: bool
    timed: bool


class HistoryEntry(NamedTuple):
    """What one meter added up to in one window, from ``start`` up to ``end``."""

    start: int
    end: int
    meter: str
    amount: int


class VerifyReport(NamedTuple):
    """What a verify has walked through. ``flush_lag_ms`` is as of
    ``Store.flush_lag_ms()`` before it; the verify itself flushes."""

    subjects: int
    leases: int
    holders: int
    omissions: int
    max_subjects: int
    max_leases: int
    region_bytes: int
    flush_lag_ms: int


# ---- called by the extension ------------------------------------------------

_WHAT_TO_DO = {
    "QL_E_FULL": "make a larger store (max_subjects, max_leases), or wait until leases end",
    "QL_E_BUSY": "look for a stopped process that has the store open; then try again",
    "QL_E_LIMIT": "use the name of a windowed limit, as Store.limits() lists them",
    "QL_E_METER": "declare a limit on this meter, or use a declared one",
    "QL_E_NOT_OWNER": "settle it in the process that took it, or take timed leases (ttl_ms)",
    "QL_E_CORRUPT": "stop the processes that use it, keep a copy, remove it, and report this",
    "QL_E_NOT_DURABLE": "look for a slow or full disk",
    "QL_E_LEDGER": "look whether the disk of the store is full or read-only; then try again",
}


def failure(status: str, text: str) -> Exception:
    """The exception for a failed call whose text says what to do."""
    if status in ("QL_E_SUBJECT", "QL_E_INVALID"):
        return ValueError(f"{text} ({status})")
    return Error(status, text)


def failure_with_hint(status: str, text: str) -> Exception:
    """The same where the text is the status' own and says what is wrong alone."""
    hint = _WHAT_TO_DO.get(status)
    return failure(status, f"{text}: {hint}" if hint else text)


def refusal(
    kind: str,
    current: int,
    limit: int,
    retry_after_seconds: int,
    level: int,
    limits: tuple[LimitState, ...],
) -> QuotaExceededError:
    """The exception for a refusal."""
    error = QuotaExceededError(kind, current, limit, retry_after_seconds)
    error.level = level
    error.limits = limits
    return error


_LOG_INTERVAL_SECONDS = 10.0
_last_logged: dict[str, float] = {}


def _due(key: str) -> bool:
    now = time.monotonic()
    last = _last_logged.get(key)
    if last is not None and now - last < _LOG_INTERVAL_SECONDS:
        return False
    _last_logged[key] = now
    return True


def report_queued(status: str, waiting: int) -> None:
    """A charge or release was put into the queue."""
    if _due(status):
        logger.warning(
            "the store did not take a charge or release (%s); %d wait in this process and are "
            "tried again by its next calls and at its end",
            status,
            waiting,
        )


def report_not_durable(subject: str, amount: int) -> None:
    """A charge was made, but may be lost in a power cut."""
    if _due("QL_E_NOT_DURABLE"):
        logger.warning(
            "a charge of %s (amount %d) is made, but not yet in the ledger (QL_E_NOT_DURABLE): "
            "look for a slow or full disk",
            subject,
            amount,
        )


def report_lost(what: str, amount: int) -> None:
    """A charge or release will never be carried out."""
    logger.error("lost: %s (amount %d): the store did not take it", what, amount)


def report_more_lost(_: str, count: int) -> None:
    """What was lost beyond the lines that named it."""
    logger.error("lost: %d further charges and releases: the store did not take them", count)


# ---- the clock ---------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def nanoseconds_of(clock: Callable[[], datetime]) -> Callable[[], int]:
    """The clock as the extension wants it."""

    def nanoseconds() -> int:
        now = clock()
        if not isinstance(now, datetime) or now.utcoffset() is None:
            raise ValueError(
                f"the clock gave {now!r}: it must give an aware datetime, such as "
                "datetime.now(timezone.utc)"
            )
        return (now - _EPOCH) // _MICROSECOND * 1000

    return nanoseconds
