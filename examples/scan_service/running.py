# SPDX-License-Identifier: Apache-2.0
"""Runs one statement under the budget of one user, and ends it when its client
hangs up or its time is over: the query is interrupted, the price charged, the
slot given back."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
from starlette.types import Receive

from quotalite import QuotaTracker
from scan_service.catalogue import Catalogue, Priced

T = TypeVar("T")

_threads = ThreadPoolExecutor(64, "scan")
# Of their own, so that no charge waits for a scan to end.
_charging = ThreadPoolExecutor(16, "charge")
_works: set[asyncio.Task[Any]] = set()
_trace_file = os.environ.get("SCAN_SERVICE_TRACE")


class HungUp(Exception):
    """The client has gone; there is nobody to answer."""


class OutOfTime(Exception):
    """The scan has had all the time that it may have."""


class Running:
    """A statement that holds a slot."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        sql: str,
        charge: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._cursor = cursor
        self._sql = sql
        self._charge = charge

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        future = asyncio.get_running_loop().run_in_executor(_threads, call, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Again and again: an interrupt that comes before the query is lost.
            while not future.done():
                self._cursor.interrupt()
                await asyncio.wait([future], timeout=0.02)
            future.exception()
            raise

    async def _reader(self) -> pa.RecordBatchReader:
        return await self._in_thread(Catalogue.run, self._cursor, self._sql)

    async def stream(self) -> AsyncIterator[bytes]:
        """The Arrow IPC stream; the next batch is computed when it is asked for.
        The price is charged before the end of the stream is given out, so who
        has seen the end finds it on the bill."""
        reader = await self._reader()
        buffer = io.BytesIO()
        writer = pa.ipc.new_stream(buffer, reader.schema)
        while (batch := await self._in_thread(_next, reader)) is not None:
            writer.write_batch(batch)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
        writer.close()
        await self._charge()
        yield buffer.getvalue()

    async def rows(self, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The names of the columns, and at most limit + 1 rows."""
        reader = await self._reader()
        rows: list[tuple[Any, ...]] = []
        while len(rows) <= limit:
            batch = await self._in_thread(_next, reader)
            if batch is None:
                break
            columns = (column.to_pylist() for column in batch.slice(0, limit + 1 - len(rows)))
            rows.extend(zip(*columns, strict=True))
        return reader.schema.names, rows


def _next(reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
    try:
        return next(reader, None)
    except OSError as error:
        # How pyarrow passes on an error of the engine.
        raise duckdb.Error(str(error)) from None


async def _charged(call: Callable[[], None]) -> None:
    """Calls it in a thread, since a charge of a store that is ``sync`` waits for the
    disk. It is not left before its end: the slot is given back after the charge."""
    future = asyncio.get_running_loop().run_in_executor(_charging, call)
    cancelled = False
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            cancelled = True
    future.result()
    if cancelled:
        raise asyncio.CancelledError


@asynccontextmanager
async def admitted(
    tracker: QuotaTracker, user: str, priced: Priced, catalogue: Catalogue
) -> AsyncIterator[Running]:
    """Checks the budget, then holds a slot. A statement that was started costs
    its price, once, however it ends."""
    charged = False

    async def charge() -> None:
        nonlocal charged
        if not charged:
            charged = True
            await _charged(lambda: tracker.record_bytes(user, priced.price))

    tracker.check_daily_budget(user)
    async with tracker.acquire(user):
        _trace("begin", user, priced.price)
        cursor = catalogue.cursor()
        try:
            yield Running(cursor, priced.sql, charge)
        finally:
            try:
                await charge()
            finally:
                cursor.close()
                _trace("end", user, priced.price)


async def watched(receive: Receive, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when the client hangs up or
    when so many seconds are over."""

    async def hung_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watcher = asyncio.create_task(hung_up())
    task = asyncio.create_task(work)
    _works.add(task)
    try:
        both = [watcher, task]
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HungUp if watcher.done() else OutOfTime
    except asyncio.CancelledError:
        # The server stops, and its clients will see no more of it.
        raise HungUp from None
    finally:
        watcher.cancel()
        task.cancel()
        # The slot is given back by the task itself: wait for its end.
        await asyncio.wait([watcher, task])
        _works.discard(task)
        if not task.cancelled():
            task.exception()


async def all_ended() -> None:
    """Once every work has charged its price and given its slot back."""
    if _works:
        await asyncio.wait(_works)


def _trace(event: str, user: str, price: int) -> None:
    """For tests: one line for each event, counted apart from the tracker."""
    if _trace_file:
        line = f"{event} {os.getpid()} {user} {price} {time.monotonic_ns()}\n"
        handle = os.open(_trace_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, line.encode())
        os.close(handle)
