# SPDX-License-Identifier: Apache-2.0
"""The processes of the model test: each has one handle of the store and does what
it is told over a pipe. They are forked, so that a new one takes a millisecond."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import quotalite
from quotalite import Lease, Limit, QuotaExceededError, Store

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

#: What a call answered: ("done", value), ("refused", ...) or ("error", status).
Answer = tuple[Any, ...]

#: What is told to a worker: the name of one of Tasks' functions, and its arguments.
Task = tuple[Any, ...]


class Clock:
    """One time for all processes, in whole seconds."""

    def __init__(self, now: int) -> None:
        self.word = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
        self.now = now

    @property
    def now(self) -> int:
        return self.word[0]

    @now.setter
    def now(self, seconds: int) -> None:
        self.word[0] = seconds


def let_a_millisecond_end() -> None:
    """Whatever lease was taken for one before is over."""
    over = time.clock_gettime(time.CLOCK_BOOTTIME) + 0.002
    while time.clock_gettime(time.CLOCK_BOOTTIME) < over:
        time.sleep(0.001)


class Tasks:
    """What a worker can do; each function gives the value of its answer."""

    def __init__(self, clock: Clock, directory: str, options: dict[str, Any]) -> None:
        self.clock = clock
        self.directory = directory
        self.options = options
        self.skew = 0
        self.store: Any = None
        self.held: dict[str, Lease] = {}

    def handle(self, limits: tuple[Limit, ...] | None) -> Store:
        def now() -> datetime:
            return EPOCH + timedelta(seconds=self.clock.now + self.skew)

        return Store(
            self.directory, limits, replace_limits=limits is not None, clock=now, **self.options
        )

    def open(self, limits: tuple[Limit, ...] | None, skew: int) -> None:
        self.skew = skew
        self.store = self.handle(limits)

    def close(self) -> None:
        self.store.close()
        # Not before: dropping a lease's object releases it.
        self.held.clear()

    def replace(self, limits: tuple[Limit, ...]) -> None:
        self.handle(limits).close()

    def charge(self, subject: str, meter: str, amount: int) -> None:
        self.store.charge(subject, meter, amount)

    def acquire(self, subject: str) -> str:
        return self.keep(self.store.acquire(subject))

    def admit(self, subject: str, kind: str) -> str:
        options = {"held": {}, "timed": {"ttl_ms": 10**9}}
        ends = {"aged": {"max_age_ms": 1}, "brief": {"ttl_ms": 1}}
        text = self.keep(self.store.admit(subject, **(options | ends)[kind]))
        if kind in ends:
            let_a_millisecond_end()
        return text

    def keep(self, lease: Lease) -> str:
        self.held[lease.text] = lease
        return lease.text

    def lease(self, text: str) -> Lease:
        return self.held.get(text) or self.store.lease(text)

    def settle(self, text: str, charges: dict[str, int]) -> bool:
        return self.lease(text).settle(charges)

    def release(self, text: str) -> bool:
        return self.lease(text).release()

    def renew(self, text: str) -> None:
        self.lease(text).renew()

    def revoke(self, text: str) -> None:
        self.store.revoke(text)

    def check(self, subject: str, limit: str | None) -> Any:
        return self.store.check(subject, limit)

    def usage(self, subject: str) -> Any:
        return self.store.usage(subject)

    def subjects(self) -> Any:
        return self.store.subjects()

    def leases(self) -> Any:
        return self.store.leases()

    def limits(self) -> Any:
        return self.store.limits()

    def history(self, subject: str, meter: str | None, start: int | None, end: int | None) -> Any:
        return self.store.history(subject, meter=meter, start=start, end=end)

    def flush(self) -> None:
        self.store.flush()

    def backup(self, path: str) -> None:
        self.store.backup(path)

    def verify(self) -> Any:
        return self.store.verify()


def answer(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    try:
        return ("done", call(*arguments))
    except QuotaExceededError as error:
        return (
            "refused",
            error.kind,
            error.current,
            error.limit,
            error.retry_after_seconds,
            error.level,
        )
    except quotalite.Error as error:
        return ("error", error.status, error.text)
    except ValueError as error:
        return ("error", str(error).rpartition("(")[2].rstrip(")"), str(error))


class Worker:
    """A process, seen from the machine."""

    pipes: set[Connection] = set()

    def __init__(self, tasks: Tasks) -> None:
        self.pipe, theirs = Pipe()
        self.pipes.add(self.pipe)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                serve(theirs, tasks)
            finally:
                os._exit(1)
        theirs.close()

    def send(self, task: Task) -> None:
        self.pipe.send(task)

    def receive(self) -> Answer:
        # A call that hangs is a failure, not a test that never ends.
        if not self.pipe.poll(60):
            raise AssertionError("a call has not come back for a minute")
        result: Answer = self.pipe.recv()
        return result

    def do(self, *task: Any) -> Answer:
        self.send(task)
        return self.receive()

    def kill(self) -> Answer | None:
        """Gives the answer of the call that it was in, if it got that far."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        try:
            last: Answer | None = self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, ConnectionError):
            last = None
        self.pipes.discard(self.pipe)
        self.pipe.close()
        return last


def serve(pipe: Connection, tasks: Tasks) -> None:
    for other in Worker.pipes:
        other.close()
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(getattr(tasks, name), tuple(arguments)))
