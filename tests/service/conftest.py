# SPDX-License-Identifier: Apache-2.0
"""The real service: two worker processes on a free port and a store of the test's own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

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


class Service:
    """One store; the processes over it may be stopped and started again."""

    def __init__(self, folder: Path, data: Path, daily_bytes: int) -> None:
        self._trace = folder / "trace"
        config = folder / "instance.yaml"
        scan = {
            "max_concurrent_per_user": 5,
            "max_daily_bytes_per_user": daily_bytes,
            "quota_store": str(folder / "quota"),
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
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scan_service", "--port", "0"],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = re.search(r"http://127.0.0.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        else:
            pytest.fail("the service did not start")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ends all processes, as Ctrl-C in a terminal does; gives the exit code."""
        os.killpg(self._process.pid, number)
        code = self._process.wait(DEADLINE_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def end(self) -> None:
        """Whatever the test left, by the id of the group that we started."""
        if self._process.poll() is None:
            self.stop(signal.SIGKILL)

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

    def usage(self, user: str) -> Any:
        return self.call("GET", "/api/v2/usage", None, user)[1]

    def marks(self, user: str) -> list[Mark]:
        if not self._trace.exists():
            return []
        lines = (line.split() for line in self._trace.read_text().splitlines())
        marks = [Mark(event, int(pid), name, int(price)) for event, pid, name, price, _ in lines]
        return [mark for mark in marks if mark.user == user]

    def most_at_once(self, user: str) -> int:
        running = most = 0
        for mark in self.marks(user):
            running += {"begin": 1, "end": -1}.get(mark.event, 0)
            most = max(most, running)
        return most


@pytest.fixture(scope="session")
def data() -> Path:
    path = Path(os.environ.get("SCAN_SERVICE_DATA") or ROOT / "var" / "flights-3m.parquet")
    subprocess.run([ROOT / "tools" / "fetch_flights", path], check=True)
    return path


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Service]:
    """Budgets that no test reaches by accident; each test is a user of its own."""
    running = Service(tmp_path_factory.mktemp("service"), data, 10**12)
    running.start()
    yield running
    running.end()


@pytest.fixture
def small_service(tmp_path: Path, data: Path) -> Iterator[Service]:
    """A budget of two scans of the whole table."""
    running = Service(tmp_path, data, 20_000_000)
    running.start()
    yield running
    running.end()
