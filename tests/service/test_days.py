# SPDX-License-Identifier: Apache-2.0
"""Yesterday and last week, after a reboot too. What a reboot leaves of a store is
its directory without the region; the rows of older days are put into the ledger as
docs/ledger.md describes them."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from conftest import DEADLINE_SECONDS, Service, eventually

Start = Callable[..., Service]
DAY = datetime.timedelta(days=1)
USAGE = {"bytes_today", "max_daily_bytes", "concurrent", "max_concurrent", "resets_at"}


def days_of(service: Service, user: str, count: object) -> tuple[int, Any]:
    status, body, _ = service.call("GET", f"/api/v2/usage?days={count}", None, user)
    return status, body


def today_of(service: Service) -> datetime.date:
    """The service's day, which may not be ours any more."""
    ends = datetime.datetime.fromisoformat(service.usage("calendar")["resets_at"])
    return ends.date() - DAY


def ledger(service: Service) -> closing[sqlite3.Connection]:
    # Each statement is a transaction of its own.
    path = service.store / "ledger.db"
    return closing(sqlite3.connect(path, timeout=DEADLINE_SECONDS, isolation_level=None))


def earlier(service: Service, user: str, amounts: dict[datetime.date, int]) -> None:
    """As if the user had been charged so on earlier days."""
    midnight = datetime.time(tzinfo=datetime.timezone.utc)
    with ledger(service) as database:
        for date, amount in amounts.items():
            start = int(datetime.datetime.combine(date, midnight).timestamp())
            rows = [("day", start, user, "bytes", amount), ("day", start, user, "statements", 1)]
            database.executemany("INSERT INTO totals VALUES (?, ?, ?, ?, ?)", rows)


def reboot(service: Service) -> None:
    """Of a service that has ended."""
    assert not service.processes()
    (service.store / "region").unlink()


def test_a_week_before_and_after_a_reboot(own_service: Start) -> None:
    service = own_service()
    today = today_of(service)
    assert service.stop() == 0
    mine = {today - 9 * DAY: 9, today - 6 * DAY: 6, today - 2 * DAY: 2, today - DAY: 10**15}
    earlier(service, "alice", mine)
    earlier(service, "alice2", {today - DAY: 4, today - 3 * DAY: 5})
    earlier(service, "al", {today - DAY: 7})
    reboot(service)
    service.start()
    assert service.scan("alice", select=["origin"], limit=1)[0] == 200
    mine[today] = service.price(select=["origin"])

    def last(count: int) -> list[dict[str, Any]]:
        dates = [today - age * DAY for age in reversed(range(count))]
        return [{"date": date.isoformat(), "bytes": mine.get(date, 0)} for date in dates]

    for _ in range(2):
        for count in (1, 2, 7, 10, 366):
            status, body = days_of(service, "alice", count)
            assert status == 200
            assert body["days"] == last(count)
            assert body.keys() == USAGE | {"days"}
            assert body["bytes_today"] == mine[today]
        assert service.usage("alice").keys() == USAGE
        assert service.stop() == 0
        reboot(service)
        service.start()


def test_a_user_sees_no_other(service: Service) -> None:
    """Nor do names mean more than themselves."""
    price = service.price(select=["delay"])
    names = ["team", "team/ann", "team%2Fann", "%", "team%"]
    for number, name in enumerate(names):
        for _ in range(number):
            assert service.scan(name, select=["delay"], limit=1)[0] == 200
    for number, name in enumerate(names):
        _, body = days_of(service, name, 2)
        assert body["bytes_today"] == number * price, name
        assert [day["bytes"] for day in body["days"]] == [0, number * price], name


def test_a_budget_that_is_spent_stays_spent_after_a_reboot(own_service: Start) -> None:
    service = own_service(daily_bytes=20_000_000)
    price = service.price(select=["*"])
    for _ in range(2):
        assert service.scan("spender", select=["*"], limit=1)[0] == 200
    assert service.stop() == 0
    reboot(service)
    service.start()
    status, body, _ = service.scan("spender", select=["count(*)"])
    assert (status, body["kind"], body["current"]) == (429, "daily_bytes", 2 * price)
    assert service.scan("other", select=["count(*)"])[0] == 200
    assert days_of(service, "spender", 1)[1]["days"][0]["bytes"] == 2 * price


def test_what_the_last_moment_charged_is_there_after_an_orderly_reboot(
    own_service: Start,
) -> None:
    """Both workers charge it at their end, just before they close the store."""
    service = own_service()
    streams = [service.opened("late") for _ in range(5)]
    assert [stream.status for stream in streams] == [200] * 5
    assert service.usage("late")["bytes_today"] == 0
    assert service.stop() == 0
    reboot(service)
    service.start()
    usage = service.usage("late")
    assert usage["bytes_today"] == 5 * service.price(select=["*"])
    assert usage["concurrent"] == 0


def test_a_power_cut_loses_what_was_not_yet_written_alone(own_service: Start) -> None:
    """All are killed in the middle of many scans, and the region is gone. Till then the
    ledger follows the scans by itself."""
    service = own_service()
    price = service.price(select=["delay"])
    finished: list[int] = []
    stopped = threading.Event()

    def scan_on(_: int) -> None:
        while not stopped.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                if service.scan("cut", select=["delay"], limit=1)[0] == 200:
                    finished.append(1)

    def written() -> int:
        query = "SELECT amount FROM totals WHERE subject = 'cut' AND meter = 'bytes'"
        with ledger(service) as database:
            amounts = [amount for (amount,) in database.execute(query)]
        return sum(amounts) // price

    with ThreadPoolExecutor(5) as pool:
        scans = [pool.submit(scan_on, number) for number in range(5)]
        try:
            for _ in range(5):
                wanted = len(finished) + len(scans)
                eventually(lambda: written() >= wanted)  # noqa: B023
            safe = written()
            service.stop(signal.SIGKILL)
        finally:
            stopped.set()
        for scan in scans:
            scan.result()
    eventually(lambda: not service.processes())
    reboot(service)
    service.start()
    charged, rest = divmod(service.usage("cut")["bytes_today"], price)
    assert rest == 0
    assert 0 < safe <= charged <= sum(mark.event == "begin" for mark in service.marks("cut"))
    assert days_of(service, "cut", 1)[1]["days"][0]["bytes"] == charged * price


WRONG = ["0", "-1", "367", "99999999999999999999", "7.5", "week", "", "7&days=0"]


@pytest.mark.parametrize("days", WRONG)
def test_wrong_days_are_refused(service: Service, days: str) -> None:
    status, body = days_of(service, "careless", days)
    assert status == 400
    assert body.keys() == {"error", "message"}
    assert body["error"] == "bad_request" and "days" in body["message"]


@pytest.fixture
def blocked(service: Service) -> Iterator[sqlite3.Connection]:
    """Another program writes the ledger and does not come to an end."""
    service.usage("anybody")
    with ledger(service) as database:
        database.execute("BEGIN IMMEDIATE")
        yield database


def test_a_ledger_that_cannot_be_written_is_named(
    service: Service, blocked: sqlite3.Connection
) -> None:
    """What does not need it goes on."""
    assert service.scan("patient", select=["delay"], limit=1)[0] == 200
    status, body = days_of(service, "patient", 2)
    assert status == 503
    assert body["error"] == "unavailable" and "QL_E_" in body["message"]
    assert service.usage("patient")["bytes_today"] == service.price(select=["delay"])
    blocked.rollback()
    # The workers write it first, for longer than a history waits where the disk is slow.
    eventually(lambda: days_of(service, "patient", 2)[0] == 200)
    _, body = days_of(service, "patient", 2)
    assert body["days"][-1]["bytes"] == service.price(select=["delay"])
