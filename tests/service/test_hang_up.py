# SPDX-License-Identifier: Apache-2.0
"""Clients that go away, or stay and do not read: the slot comes back, the price
is charged once, and the query ends."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import Service, eventually, hang_up

# Nine trillion pairs: no machine gets to their end, and no statistics help it.
ENDLESS = "SELECT count(*) FROM flights a, flights b WHERE (a.delay * b.delay) % 7919 = 1"
ENDLESS_REQUESTS = [
    ("/api/query", {"sql": ENDLESS}),
    ("/api/v2/scan", {"table_id": "flights", "select": ["count(*)"], "where": f"0 < ({ENDLESS})"}),
]


def begun_in(service: Service, user: str) -> int:
    """The worker that runs the user's scan, once it does."""
    marks = eventually(lambda: [m for m in service.marks(user) if m.event == "begin"])
    return int(marks[-1].pid)


def is_idle(pid: int) -> bool:
    """Whether none of its threads wants the processor, now and for ten more looks.
    One that counts pairs always wants it, also where it does not get it."""

    def wants(task: Path) -> bool:
        try:
            return (task / "stat").read_text().rsplit(")")[-1].split()[0] == "R"
        except (FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
            return False

    for _ in range(10):
        if any(wants(task) for task in Path(f"/proc/{pid}/task").iterdir()):
            return False
        time.sleep(0.002)
    return True


def ended_once(service: Service, user: str, price: int) -> None:
    """The slot is free, the price charged once, the query no longer computed."""
    eventually(lambda: service.usage(user)["concurrent"] == 0)
    assert service.usage(user)["bytes_today"] == price
    assert [mark.event for mark in service.marks(user)] == ["begin", "end"]
    eventually(lambda: is_idle(begun_in(service, user)))
    assert service.usage(user)["bytes_today"] == price


@pytest.mark.parametrize(("path", "body"), ENDLESS_REQUESTS, ids=["query", "scan"])
def test_before_the_first_byte(service: Service, path: str, body: dict[str, Any]) -> None:
    user = f"early{path}".replace("/", "-")
    connection = service.send("POST", path, body, user)
    pid = begun_in(service, user)
    assert service.usage(user)["concurrent"] == 1
    # It may have to wait for the disk first.
    eventually(lambda: not is_idle(pid))
    assert service.usage(user)["bytes_today"] == 0
    connection.close()
    ended_once(service, user, service.price(select=["delay"]))


def test_in_the_middle_of_a_stream(service: Service) -> None:
    user = "middle"
    stream = service.opened(user)
    assert stream.read(1000)
    assert service.usage(user)["concurrent"] == 1
    hang_up(stream)
    ended_once(service, user, service.price(select=["*"]))


def test_in_the_middle_of_rows(service: Service) -> None:
    """Rows are sent once they are whole: the slot is free and the price charged."""
    user = "rows"
    connection = service.send(
        "POST", "/api/query", {"sql": "SELECT * FROM flights LIMIT 10000"}, user
    )
    eventually(lambda: [mark for mark in service.marks(user) if mark.event == "end"])
    connection.close()
    ended_once(service, user, service.price(select=["*"]))


def test_again_and_again(service: Service) -> None:
    """More often than there are slots: none is lost, each is charged once."""
    user = "restless"
    for round_number in range(1, 21):
        stream = service.opened(user)
        assert stream.status == 200
        hang_up(stream)
        eventually(lambda: service.usage(user)["concurrent"] == 0)
        price = round_number * service.price(select=["*"])
        assert service.usage(user)["bytes_today"] == price


def held_for_its_second(service: Service, name: str, once: Callable[[str], bool]) -> None:
    """Of one user after another: the second begins before the slot is taken, so on a
    machine with much to do it may be over when the stream begins, or nearly so when
    the slot is taken. What once says is whether it was not over."""
    tries = count()

    def held(user: str) -> bool:
        return once(user) and service.seconds_held(user) > 0.9

    eventually(lambda: held(f"{name}{next(tries)}"))


def begun(stream: http.client.HTTPResponse) -> bool:
    """Whether it has, within its second."""
    assert stream.status in (200, 504)
    if stream.status == 504:
        hang_up(stream)
    return stream.status == 200


def test_a_stream_that_nobody_reads_ends(own_service: Callable[..., Service]) -> None:
    """The client neither reads nor closes. At the limit the slot comes back, and
    later the kernel drops the connection with what was not taken of it."""
    service = own_service(max_seconds=1)

    def once(user: str) -> bool:
        stream = service.opened(user)
        if not begun(stream):
            return False
        ended_once(service, user, service.price(select=["*"]))
        # The kernel forgets a connection without a word; who speaks to it is told.
        with pytest.raises(ConnectionError):
            eventually(lambda: stream.connection.sock.send(b"x") == 0)  # type: ignore[attr-defined]
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            stream.read()
        hang_up(stream)
        return True

    held_for_its_second(service, "sleeper", once)


def test_a_stream_that_is_read_too_slowly_ends(own_service: Callable[..., Service]) -> None:
    """The kernel sees a client that reads, so the limit is the service's own."""
    service = own_service(max_seconds=1)

    def once(user: str) -> bool:
        stream = service.opened(user)
        if not begun(stream):
            return False
        eventually(lambda: stream.read(64 * 1024) and service.usage(user)["concurrent"] == 0)
        ended_once(service, user, service.price(select=["*"]))
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            stream.read()
        hang_up(stream)
        return True

    held_for_its_second(service, "sipper", once)


@pytest.mark.parametrize(("path", "body"), ENDLESS_REQUESTS, ids=["query", "scan"])
def test_a_query_that_does_not_end_ends(
    own_service: Callable[..., Service], path: str, body: dict[str, Any]
) -> None:
    service = own_service(max_seconds=1)

    def once(user: str) -> bool:
        status, answer, _ = service.call("POST", path, body, user)
        assert status == 504 and answer["error"] == "out_of_time"
        assert "within 1 s" in answer["message"]
        ended_once(service, user, service.price(select=["delay"]))
        return True

    held_for_its_second(service, "patient", once)
