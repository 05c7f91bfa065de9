# SPDX-License-Identifier: Apache-2.0
"""Runs one statement under the budget of one user, and ends it when its client
hangs up: the query is interrupted, the price charged, the slot given back."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pyarrow as pa
from starlette.types import Receive

from quotalite import QuotaTracker
from scan_service.catalogue import Catalogue, Priced

T = TypeVar("T")

BATCH_ROWS = 64 * 1024

_threads = ThreadPoolExecutor(64, "scan")
_trace_file = os.environ.get("SCAN_SERVICE_TRACE")


def _trace(event: str, user: str, price: int) -> None:
    """For tests: one line for each event, counted apart from the tracker."""
    if _trace_file:
        line = f"{event} {os.getpid()} {user} {price} {time.monotonic_ns()}\n"
        handle = os.open(_trace_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, line.encode())
        os.close(handle)


class HungUp(Exception):
    """The client has gone; there is nobody to answer."""


class Running:
    """A statement that holds a slot. ``charge`` once it has been worked off."""

    def __init__(self, tracker: QuotaTracker, user: str, priced: Priced, catalogue: Catalogue):
        self._tracker = tracker
        self._user = user
        self._priced = priced
        self._charged = False
        self._cursor = catalogue.cursor()

    def charge(self) -> None:
        if not self._charged:
            self._charged = True
            self._tracker.record_bytes(self._user, self._priced.price)
            _trace("charged", self._user, self._priced.price)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(_threads, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Again and again: an interrupt that comes before the query is lost.
            while not future.done():
                self._cursor.interrupt()
                await asyncio.wait([future], timeout=0.02)
            future.exception()
            raise

    async def reader(self) -> pa.RecordBatchReader:
        cursor = self._cursor
        return await self._in_thread(
            lambda: cursor.sql(self._priced.sql).to_arrow_reader(BATCH_ROWS)
        )

    async def batches(self, reader: pa.RecordBatchReader) -> AsyncIterator[bytes]:
        """The Arrow IPC stream; the next batch is computed when it is asked for.
        The price is charged before the end of the stream is given out, so who
        has seen the end finds it on the bill."""
        buffer = io.BytesIO()
        writer = pa.ipc.new_stream(buffer, reader.schema)
        while (batch := await self._in_thread(lambda: next(iter(reader), None))) is not None:
            writer.write_batch(batch)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
        writer.close()
        self.charge()
        yield buffer.getvalue()

    async def rows(self, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The names of the columns, and at most limit + 1 rows."""
        cursor = self._cursor

        def fetched() -> tuple[list[str], list[tuple[Any, ...]]]:
            cursor.execute(self._priced.sql)
            return [column[0] for column in cursor.description or ()], cursor.fetchmany(limit + 1)

        return await self._in_thread(fetched)

    def close(self) -> None:
        self._cursor.close()


@asynccontextmanager
async def admitted(
    tracker: QuotaTracker, user: str, priced: Priced, catalogue: Catalogue
) -> AsyncIterator[Running]:
    """Checks the budget, then holds a slot. A statement that was started costs
    its price, however it ends."""
    tracker.check_daily_budget(user)
    async with tracker.acquire(user):
        running = Running(tracker, user, priced, catalogue)
        _trace("begin", user, priced.price)
        try:
            yield running
        finally:
            running.charge()
            running.close()
            _trace("end", user, priced.price)


async def unless_hung_up(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when the client hangs up."""

    async def hung_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watcher = asyncio.create_task(hung_up())
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([watcher, task], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HungUp
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()
        # The slot is given back by the task itself: wait for its end.
        await asyncio.wait([watcher, task])
        if not task.cancelled():
            task.exception()
