# SPDX-License-Identifier: Apache-2.0
"""Quotas in a FastAPI application (0.118 or later).

How an application uses it::

    quotalite.fastapi.install(app)
    scan_budget = quotalite.fastapi.budget(tracker, current_user)

    @app.post("/scan")
    def scan(budget: Annotated[Budget, Depends(scan_budget)]):
        ...
        budget.record_bytes(n)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Depends, FastAPI, Request, __version__
from fastapi.responses import JSONResponse

from quotalite import QuotaExceededError, QuotaTracker

# Before 0.118 a dependency ended before a StreamingResponse was sent, and a
# slot would have been given back while its stream still ran.
if tuple(int(part) for part in __version__.split(".")[:2]) < (0, 118):
    raise ImportError(f"quotalite.fastapi needs fastapi 0.118 or later, not {__version__}")


def refusal(error: QuotaExceededError) -> JSONResponse:
    """The refusal as a response: 429, and Retry-After where a wait helps."""
    body = {
        "error": "quota_exceeded",
        "kind": error.kind,
        "current": error.current,
        "limit": error.limit,
        "retry_after_seconds": error.retry_after_seconds,
    }
    headers = {}
    if error.retry_after_seconds:
        headers["Retry-After"] = str(error.retry_after_seconds)
    return JSONResponse(body, status_code=429, headers=headers)


async def _handle(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QuotaExceededError)
    return refusal(error)


def install(app: FastAPI) -> None:
    """Answers each QuotaExceededError of the application with its refusal."""
    app.add_exception_handler(QuotaExceededError, _handle)


class Budget:
    """One request's part of a user's budget."""

    def __init__(self, tracker: QuotaTracker, user: str) -> None:
        self.tracker = tracker
        self.user = user

    def record_bytes(self, n: int) -> None:
        """Charges what the request has cost. It waits for the disk where the store
        is ``"sync"``: call it in a thread then, as that of a ``def`` route is."""
        self.tracker.record_bytes(self.user, n)


def budget(
    tracker: QuotaTracker | Callable[[], QuotaTracker], user: Callable[..., Any]
) -> Callable[..., AsyncIterator[Budget]]:
    """A dependency that checks the daily budget, then holds a slot until the
    response has been sent, a stream to its end, or until the client has hung up.

    ``user`` is a dependency that gives the user's id. ``tracker`` may be a
    function that gives the tracker at the first request.
    """

    async def dependency(user_id: str = Depends(user)) -> AsyncIterator[Budget]:
        shared = tracker if isinstance(tracker, QuotaTracker) else tracker()
        shared.check_daily_budget(user_id)
        async with shared.acquire(user_id):
            yield Budget(shared, user_id)

    return dependency
