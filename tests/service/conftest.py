# SPDX-License-Identifier: Apache-2.0
"""The real service: two worker processes on a free port and a store of the test's own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

#: How long a wait for an event may take before a test gives up.
DEADLINE_SECONDS = 60.0


def eventually(condition: Callable[[], Any]) -> Any:
    """The first true value of the condition; fails at the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "the event did not come"
        time.sleep(0.01)
    return value


class Mark(NamedTuple):
    """One line of the trace, written by the workers, not by quotalite."""

    event: str
    pid: int
    user: str
    price: int
    time_ns: int


class Service:
    """One store; the processes over it may be stopped and started again."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        daily_bytes: int = 10**12,
        max_seconds: float = 600,
        **settings: Any,
    ) -> None:
        self.store = folder / "quota"
        self._trace = folder / "trace"
        self._output = folder / "output"
        self._errors = folder / "errors"
        config = folder / "instance.yaml"
        scan = {
            "max_concurrent_per_user": 5,
            "max_daily_bytes_per_user": daily_bytes,
            "quota_store": str(self.store),
            "max_seconds": max_seconds,
            **settings,
        }
        config.write_text(yaml.safe_dump({"api": {"scan": scan}, "tables": {"flights": str(data)}}))
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "examples"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SCAN_SERVICE_CONFIG": str(config),
            "SCAN_SERVICE_DATA": str(data),
            "SCAN_SERVICE_TRACE": str(self._trace),
        }

    def start(self) -> None:
        with self._output.open("wb") as output, self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scan_service", "--port", "0"],
                env=self._environment,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        found = eventually(self._address)
        assert isinstance(found, re.Match), f"the service did not start:\n{self.errors()}"
        self.port = int(found[1])

    def _address(self) -> re.Match[str] | int | None:
        """What it has printed, or else the code with which it has ended."""
        found = re.search(r"http://127.0.0.1:(\d+)", self._output.read_text())
        return found or self._process.poll()

    @property
    def supervisor(self) -> int:
        return self._process.pid

    def errors(self) -> str:
        """What it has written to stderr."""
        return self._errors.read_text()

    def processes(self) -> set[int]:
        """All that live in the session that we started, zombies left out."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    state, _, _, session = (entry / "stat").read_text().rsplit(")")[-1].split()[:4]
                    if int(session) == self._process.pid and state != "Z":
                        found.add(int(entry.name))
        return found

    def wait(self) -> int:
        """The exit code of the supervisor, once it has ended."""
        return self._process.wait(DEADLINE_SECONDS)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ends all processes, as Ctrl-C in a terminal does; gives the exit code."""
        os.killpg(self._process.pid, number)
        return self.wait()

    def end(self) -> None:
        """Whatever the test left, by the id of the group that we started."""
        while self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.poll()
        self._process.wait()

    def send(self, method: str, path: str, body: Any, user: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        headers = {"X-User": user, "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection

    def call(self, method: str, path: str, body: Any, user: str) -> tuple[int, Any, Any]:
        """Status, body and headers of a whole answer."""
        connection = self.send(method, path, body, user)
        try:
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        arrow = "arrow" in response.headers["content-type"]
        return response.status, content if arrow else json.loads(content), response.headers

    def scan(self, user: str, **fields: Any) -> tuple[int, Any, Any]:
        return self.call("POST", "/api/v2/scan", {"table_id": "flights", **fields}, user)

    def query(self, user: str, sql: str) -> tuple[int, Any, Any]:
        return self.call("POST", "/api/query", {"sql": sql}, user)

    def price(self, **fields: Any) -> int:
        body = {"table_id": "flights", **fields}
        status, answer, _ = self.call("POST", "/api/v2/scan/estimate", body, "estimator")
        assert status == 200, answer
        return int(answer["bytes"])

    def opened(self, user: str, **fields: Any) -> http.client.HTTPResponse:
        """A scan of the whole table whose stream is not read: far more than
        sockets hold, so it runs for as long as the test wants."""
        body = {"table_id": "flights", "select": ["*"], **fields}
        connection = self.send("POST", "/api/v2/scan", body, user)
        response = connection.getresponse()
        response.connection = connection  # type: ignore[attr-defined]
        return response

    def usage(self, user: str) -> Any:
        return self.call("GET", "/api/v2/usage", None, user)[1]

    def marks(self, user: str) -> list[Mark]:
        if not self._trace.exists():
            return []
        # The last line may be half written.
        whole, _, _ = self._trace.read_text().rpartition("\n")
        lines = (line.split() for line in whole.splitlines())
        marks = [Mark(e, int(pid), name, int(price), int(ns)) for e, pid, name, price, ns in lines]
        return [mark for mark in marks if mark.user == user]

    def seconds_held(self, user: str) -> float:
        """Of a user with one scan: how long it had its slot."""
        begin, end = self.marks(user)
        return (end.time_ns - begin.time_ns) / 1e9

    def most_at_once(self, user: str, kills: dict[int, int] | None = None) -> int:
        """The most scans at any one time; those of a process that was killed end
        at the time of its kill."""
        kills = kills or {}
        marks = [m for m in self.marks(user) if m.time_ns < kills.get(m.pid, m.time_ns + 1)]
        marks += [Mark("killed", pid, user, 0, time_ns) for pid, time_ns in kills.items()]
        # Sorting is stable: without kills it is the order in which they were written.
        if kills:
            marks.sort(key=lambda mark: mark.time_ns)
        running: Counter[int] = Counter()
        most = 0
        for mark in marks:
            if mark.event == "killed":
                del running[mark.pid]
            else:
                running[mark.pid] += 1 if mark.event == "begin" else -1
            most = max(most, running.total())
        return most


def hang_up(response: http.client.HTTPResponse) -> None:
    """Ends what ``opened`` has begun."""
    response.connection.close()  # type: ignore[attr-defined]
    response.close()


@pytest.fixture(scope="session")
def data() -> Path:
    path = Path(os.environ.get("SCAN_SERVICE_DATA") or ROOT / "var" / "flights-3m.parquet")
    subprocess.run([ROOT / "tools" / "fetch_flights", path], check=True)
    return path


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Service]:
    """Budgets that no test reaches by accident; each test is a user of its own."""
    running = Service(tmp_path_factory.mktemp("service"), data)
    running.start()
    yield running
    running.end()


@pytest.fixture
def own_service(tmp_path: Path, data: Path) -> Iterator[Callable[..., Service]]:
    """A service of the test's own, with the limits that it names."""
    made: list[Service] = []

    def start(**limits: Any) -> Service:
        made.append(Service(tmp_path, data, **limits))
        made[-1].start()
        return made[-1]

    yield start
    for running in made:
        running.end()
