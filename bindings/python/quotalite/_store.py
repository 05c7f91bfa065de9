# SPDX-License-Identifier: Apache-2.0
"""Store: the library as it is, without the words of the scan service."""

from __future__ import annotations

import atexit
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


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """What still waits in queues is tried a last time."""
    for store in list(_open_stores):
        store.close()
