# SPDX-License-Identifier: Apache-2.0
"""Starting and stopping, as ``make run`` does: nothing is left behind, whoever is
killed, and what was done is on the bill."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DEADLINE_SECONDS, ROOT, Service, eventually

Start = Callable[..., Service]


class UnderWay:
    """A stream that nobody reads, a query that does not end, and a connection
    that is kept, all of them for as long as this lives."""

    def __init__(self, service: Service, user: str) -> None:
        sql = "SELECT count(*) FROM flights a, flights b WHERE (a.delay * b.delay) % 7919 = 1"
        self._stream = service.opened(user)
        self._query = service.send("POST", "/api/query", {"sql": sql}, user)
        self._idle = service.send("GET", "/api/v2/usage", None, user)
        self._idle.getresponse().read()
        eventually(lambda: len(service.marks(user)) == 2)
        assert service.usage(user)["concurrent"] == 2
        self.price = service.price(select=["*"]) + service.price(select=["delay"])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def nothing_is_left(service: Service) -> None:
    eventually(lambda: not service.processes())
    eventually(lambda: is_free(service.port))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("to_all", [True, False], ids=["group", "supervisor"])
def test_it_stops_with_all_it_started(own_service: Start, number: int, to_all: bool) -> None:
    service = own_service()
    clients = UnderWay(service, "user")
    assert len(service.processes()) == 3
    if to_all:
        assert service.stop(number) == 0
    else:
        os.kill(service.supervisor, number)
        assert service.wait() == 0
    # At once: whoever waits for it finds no worker, not even one on its way out.
    assert service.processes() == set()
    nothing_is_left(service)
    assert "Traceback" not in service.errors()
    service.start()
    usage = service.usage("user")
    assert (usage["bytes_today"], usage["concurrent"]) == (clients.price, 0)


def test_it_can_be_stopped_before_it_answers(own_service: Start) -> None:
    """Workers that still import their modules go as quietly."""
    service = own_service()
    eventually(lambda: len(service.processes()) == 3)
    assert service.stop() == 0
    nothing_is_left(service)
    assert service.errors() == ""


def test_workers_end_with_their_supervisor(own_service: Start) -> None:
    service = own_service()
    clients = UnderWay(service, "orphan")
    os.kill(service.supervisor, signal.SIGKILL)
    assert service.wait() == -signal.SIGKILL
    nothing_is_left(service)
    service.start()
    usage = service.usage("orphan")
    assert (usage["bytes_today"], usage["concurrent"]) == (clients.price, 0)


def test_killing_everything_loses_no_finished_scan(own_service: Start) -> None:
    service = own_service()
    assert service.scan("done", select=["origin"], limit=1)[0] == 200
    clients = UnderWay(service, "undone")
    service.stop(signal.SIGKILL)
    nothing_is_left(service)
    service.start()
    assert service.usage("done")["bytes_today"] == service.price(select=["origin"])
    usage = service.usage("undone")
    assert (usage["bytes_today"], usage["concurrent"]) == (0, 0)
    del clients
    assert service.stop() == 0


def test_each_killed_worker_is_replaced(own_service: Start) -> None:
    service = own_service()
    service.usage("user")
    first = service.processes() - {service.supervisor}
    for worker in first:
        os.kill(worker, signal.SIGKILL)
    # Connections that they had not yet accepted wait for those that come.
    assert service.scan("user", select=["count(*)"])[0] == 200
    eventually(lambda: len(service.processes() - first) == 3)
    assert service.stop() == 0


def test_only_workers_open_the_store(own_service: Start) -> None:
    """A fork after the open would take the store along, but not its thread."""
    service = own_service()

    def opens(pid: int) -> bool:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            # It may have been closed meanwhile.
            with contextlib.suppress(OSError):
                if os.readlink(file).startswith(f"{service.store}/"):
                    return True
        return False

    def threads(pid: int) -> list[str]:
        names = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            # It may have ended meanwhile.
            with contextlib.suppress(OSError):
                names.append((task / "comm").read_text().strip())
        return names

    eventually(lambda: len(service.processes()) == 3)
    workers = service.processes() - {service.supervisor}
    eventually(lambda: all(map(opens, workers)))
    eventually(lambda: [threads(pid).count("quotalite") for pid in workers] == [1, 1])
    assert not opens(service.supervisor)
    assert len(threads(service.supervisor)) == 1
    assert service.stop() == 0


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A service that cannot start."""
    return subprocess.run(
        [sys.executable, "-m", "scan_service", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "examples"), **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )


def test_a_taken_port_is_named(service: Service) -> None:
    answer = run(["--port", str(service.port)])
    assert answer.returncode == 1
    assert f"port {service.port} is taken" in answer.stderr and "--port" in answer.stderr


def test_workers_that_cannot_start_end_the_service(tmp_path: Path, data: Path) -> None:
    """Rather than being replaced for ever."""
    config = tmp_path / "instance.yaml"
    config.write_text(f"tables: {{flights: {data}}}\napi: {{scan: {{max_rows: many}}}}\n")
    answer = run(["--port", "0"], SCAN_SERVICE_CONFIG=str(config), SCAN_SERVICE_DATA=str(data))
    assert answer.returncode == 1
    assert "many" in answer.stderr
