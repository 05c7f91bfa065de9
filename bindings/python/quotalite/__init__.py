# SPDX-License-Identifier: Apache-2.0
"""Exact quotas for expensive requests, shared by every process that opens the
same store."""

from quotalite._quotalite import Lease, Slot, __version__, segment
from quotalite._store import Store
from quotalite._support import (
    Error,
    HistoryEntry,
    LeaseInfo,
    Limit,
    LimitState,
    MeterState,
    QuotaExceededError,
    SubjectInfo,
    Usage,
    VerifyReport,
)
from quotalite._tracker import (
    KIND_CONCURRENT,
    KIND_DAILY_BYTES,
    KIND_DAILY_ESTIMATES,
    QuotaTracker,
    build_quota_tracker,
)

__all__ = [
    "KIND_CONCURRENT",
    "KIND_DAILY_BYTES",
    "KIND_DAILY_ESTIMATES",
    "Error",
    "HistoryEntry",
    "Lease",
    "LeaseInfo",
    "Limit",
    "LimitState",
    "MeterState",
    "QuotaExceededError",
    "QuotaTracker",
    "Slot",
    "Store",
    "SubjectInfo",
    "Usage",
    "VerifyReport",
    "__version__",
    "build_quota_tracker",
    "segment",
]
