# SPDX-License-Identifier: Apache-2.0
"""The routes."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import duckdb
from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import quotalite
import quotalite.fastapi
from scan_service.catalogue import Catalogue, Priced
from scan_service.running import HungUp, OutOfTime, admitted, all_ended, watched
from scan_service.settings import Settings
from scan_service.statement import BadRequest, Scan, first_line

ARROW_STREAM = "application/vnd.apache.arrow.stream"
DAY_SECONDS = 86_400

settings = Settings()
try:
    tracker = quotalite.build_quota_tracker(settings.get_value)
except (ValueError, quotalite.Error) as error:
    sys.exit(f"scan_service: {error}")
catalogue = Catalogue(settings.tables())
max_rows = int(settings.get_value("api", "scan", "max_rows", default=10000))
max_seconds = settings.max_seconds


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield
    await all_ended()
    catalogue.close()
    tracker.close()


app = FastAPI(title="quotalite scan service", lifespan=lifespan)
quotalite.fastapi.install(app)


Text = Annotated[str, Field(max_length=10_000)]


class ScanRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    table_id: str
    select: list[Text] = Field(default=["*"], min_length=1, max_length=100)
    where: Text | None = None
    order_by: Annotated[list[Text], Field(max_length=100)] | Text = Field(default=[])
    limit: int | None = Field(default=None, ge=0, le=2**62)

    def priced(self) -> Priced:
        order_by = [self.order_by] if isinstance(self.order_by, str) else self.order_by
        orders = [order for order in order_by if order]
        return catalogue.priced_scan(
            Scan(self.table_id, self.select, self.where, orders, self.limit)
        )


class QueryRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    sql: str = Field(max_length=20_000)


def current_user(x_user: Annotated[str | None, Header()] = None) -> str:
    """The subject to charge. A real service takes it from its authentication."""
    if not x_user:
        raise BadRequest("name the user in the header X-User")
    try:
        quotalite.segment(x_user)
    except ValueError as error:
        raise BadRequest(f"the header X-User is no user name: {error}") from None
    return x_user


User = Annotated[str, Depends(current_user)]


@app.exception_handler(BadRequest)
async def bad_request(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "bad_request", "message": str(error)}, status_code=400)


@app.exception_handler(RequestValidationError)
async def invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    body = {"error": "bad_request", "message": "; ".join(problems)}
    return JSONResponse(body, status_code=400)


@app.exception_handler(HTTPException)
async def failed_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    body = {"error": "bad_request", "message": error.detail}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


@app.exception_handler(duckdb.Error)
async def failed(_request: Request, error: Exception) -> JSONResponse:
    body = {"error": "bad_request", "message": f"the statement failed: {first_line(error)}"}
    return JSONResponse(body, status_code=400)


@app.exception_handler(OutOfTime)
async def out_of_time(_request: Request, _error: Exception) -> JSONResponse:
    message = f"the answer was not computed and read within {max_seconds:g} s: ask for less"
    return JSONResponse({"error": "out_of_time", "message": message}, status_code=504)


@app.exception_handler(quotalite.Error)
async def unavailable(_request: Request, error: Exception) -> JSONResponse:
    """The machine failed: a disk that is slow or full, a process that is stopped."""
    return JSONResponse({"error": "unavailable", "message": str(error)}, status_code=503)


class ScanResponse(Response):
    """An Arrow IPC stream that holds its slot until it has ended."""

    def __init__(self, user: str, priced: Priced) -> None:
        super().__init__(media_type=ARROW_STREAM)
        del self.headers["content-length"]
        self.headers["x-bytes-charged"] = str(priced.price)
        self._user = user
        self._priced = priced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._started = False
        try:
            await watched(receive, max_seconds, self._stream(send))
        except HungUp:
            pass
        except (OutOfTime, duckdb.Error):
            # What has begun can only be cut off, which the server does on return.
            if not self._started:
                raise

    async def _stream(self, send: Send) -> None:
        async with admitted(tracker, self._user, self._priced, catalogue) as running:
            async for part in running.stream():
                # An error before the first part can still be answered with a 400.
                if not self._started:
                    self._started = True
                    await send(
                        {
                            "type": "http.response.start",
                            "status": 200,
                            "headers": self.raw_headers,
                        }
                    )
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@app.post("/api/v2/scan", response_class=Response)
def scan(request: ScanRequest, user: User) -> Response:
    return ScanResponse(user, request.priced())


@app.post("/api/v2/scan/estimate")
def estimate(request: ScanRequest, _user: User) -> dict[str, Any]:
    priced = request.priced()
    return {"bytes": priced.price, "columns": priced.columns}


class QueryResponse(Response):
    """Rows as JSON; it watches for a client that hangs up."""

    def __init__(self, user: str, priced: Priced) -> None:
        super().__init__()
        self._user = user
        self._priced = priced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await watched(receive, max_seconds, self._rows())
        except HungUp:
            return
        await Response(body, media_type="application/json")(scope, receive, send)

    async def _rows(self) -> bytes:
        async with admitted(tracker, self._user, self._priced, catalogue) as running:
            columns, rows = await running.rows(max_rows)
        return json.dumps(
            {
                "columns": columns,
                "rows": [[plain(value) for value in row] for row in rows[:max_rows]],
                "truncated": len(rows) > max_rows,
                "bytes": self._priced.price,
            }
        ).encode()


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (datetime.date, datetime.datetime, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


@app.post("/api/query", response_class=Response)
def query(request: QueryRequest, user: User) -> Response:
    return QueryResponse(user, catalogue.priced(request.sql))


# Threads of a worker wait for each other here as long as it takes; in the store each
# would wait for 0.1 s, and many at once would be too many for that.
one_history = threading.Lock()

# A year with its leap day: the ledger keeps 400 days, unless it is told otherwise.
Days = Annotated[int | None, Query(ge=1, le=366)]


# A plain function, which FastAPI runs in a thread: the history comes from the disk.
@app.get("/api/v2/usage")
def usage(user: User, days: Days = None) -> dict[str, Any]:
    subject = quotalite.segment(user)
    limits = {limit.name: limit for limit in tracker.store.usage(subject).limits}
    concurrent, daily = limits["concurrent_scans"], limits["daily_bytes"]
    answer: dict[str, Any] = {
        "bytes_today": daily.used,
        "max_daily_bytes": daily.cap,
        "concurrent": concurrent.used,
        "max_concurrent": concurrent.cap,
        "resets_at": utc(daily.resets_at).isoformat(),
    }
    if days is not None:
        answer["days"] = last_days(subject, days, daily)
    return answer


def last_days(subject: str, count: int, daily: quotalite.LimitState) -> list[dict[str, Any]]:
    """What was charged on each of the last days, in order of time. Today is as the
    limit has it, so that the list agrees with the rest of the answer."""
    today = daily.resets_at - DAY_SECONDS
    first = today - (count - 1) * DAY_SECONDS
    with one_history:
        history = tracker.store.history(subject, meter=daily.meter, start=first, end=today)
    charged = {entry.start: entry.amount for entry in history}
    charged[today] = daily.used
    starts = range(first, daily.resets_at, DAY_SECONDS)
    return [
        {"date": utc(start).date().isoformat(), "bytes": charged.get(start, 0)} for start in starts
    ]


def utc(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
