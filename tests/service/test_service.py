# SPDX-License-Identifier: Apache-2.0
"""The scan service from outside: its budget under load, kills and restarts."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
from conftest import Service, eventually, hang_up

CAP = 5


def test_two_hundred_at_once_never_pass_the_cap(service: Service) -> None:
    user = "crowd"
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: service.opened(user), range(200)))
        statuses = [answer.status for answer in answers]
        assert statuses.count(200) == CAP
        assert statuses.count(429) == 200 - CAP
        tables = list(pool.map(lambda a: a.read(), answers))
    whole = [body for body, status in zip(tables, statuses, strict=True) if status == 200]
    assert all(pa.ipc.open_stream(body).read_all().num_rows == 3_000_000 for body in whole)
    for answer in answers:
        hang_up(answer)
    eventually(lambda: service.usage(user)["concurrent"] == 0)
    assert service.most_at_once(user) == CAP
    assert service.usage(user)["bytes_today"] == CAP * service.price(select=["*"])


def test_two_hundred_get_through_in_turn(service: Service) -> None:
    user = "queue"

    def insist(_: int) -> int:
        refused = 0
        while (answer := service.scan(user, select=["delay"], limit=1))[0] == 429:
            refused += 1
        assert answer[0] == 200
        return refused

    with ThreadPoolExecutor(200) as pool:
        list(pool.map(insist, range(200)))
    eventually(lambda: service.usage(user)["concurrent"] == 0)
    assert service.most_at_once(user) <= CAP
    assert service.usage(user)["bytes_today"] == 200 * service.price(select=["delay"])


def test_a_killed_worker_gives_its_slots_back(service: Service) -> None:
    """Every finished scan is on the bill once; the scans that the worker had not
    finished when it was killed are not on it."""
    user = "killed"
    price = service.price(select=["origin"])
    for _ in range(3):
        assert service.scan(user, select=["origin"], limit=10)[0] == 200
    streams = [service.opened(user) for _ in range(CAP)]
    assert [stream.status for stream in streams] == [200] * CAP
    assert service.scan(user)[0] == 429
    open_in = [mark.pid for mark in service.marks(user) if mark.event == "begin"][-CAP:]
    victim = open_in[0]
    os.kill(victim, signal.SIGKILL)
    lost = open_in.count(victim)
    eventually(lambda: usage_or_none(service, user) == CAP - lost)
    assert service.usage(user)["bytes_today"] == 3 * price
    # As many as were lost can run again, and no more.
    streams += [service.opened(user) for _ in range(lost)]
    assert [stream.status for stream in streams[CAP:]] == [200] * lost
    assert service.scan(user)[0] == 429
    for stream in streams:
        hang_up(stream)
    eventually(lambda: service.usage(user)["concurrent"] == 0)
    begun = sum(mark.price for mark in service.marks(user) if mark.event == "begin")
    unfinished = lost * service.price(select=["*"])
    assert service.usage(user)["bytes_today"] == begun - unfinished
    eventually(lambda: victim not in workers(service) and len(workers(service)) == 2)


def test_workers_killed_in_the_middle_of_many_scans(service: Service) -> None:
    """A scan whose whole answer has come is on the bill once. One that was cut
    off may be, since its price is charged before the last bytes are sent."""
    user = "battle"
    price = service.price(select=["delay"])
    finished: list[int] = []
    cut_off: list[int] = []
    kills: dict[int, int] = {}

    def scan_on(_: int) -> None:
        while len(kills) < 3 or len(finished) < 60:
            try:
                status, body, _ = service.scan(user, select=["delay"], limit=200_000)
            except (OSError, http.client.HTTPException):
                cut_off.append(1)
                continue
            assert status in (200, 429)
            if status == 200:
                assert pa.ipc.open_stream(body).read_all().num_rows == 200_000
                finished.append(1)

    def more_finished(than: int) -> bool:
        return len(finished) > than

    def kill_one() -> bool:
        """A worker that has a scan open, if one has."""
        marks = [mark for mark in service.marks(user) if mark.pid not in kills]
        running = Counter(mark.pid for mark in marks if mark.event == "begin")
        running.subtract(mark.pid for mark in marks if mark.event == "end")
        for pid in +running:
            kills[pid] = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    with ThreadPoolExecutor(2 * CAP) as pool:
        scans = [pool.submit(scan_on, number) for number in range(2 * CAP)]
        while len(kills) < 3:
            before = len(finished)
            eventually(partial(more_finished, before + CAP))
            eventually(kill_one)
        for scan in scans:
            scan.result()
    eventually(lambda: usage_or_none(service, user) == 0)
    charged, rest = divmod(service.usage(user)["bytes_today"], price)
    assert rest == 0
    assert len(finished) <= charged <= len(finished) + len(cut_off)
    assert service.most_at_once(user, kills) <= CAP


def usage_or_none(service: Service, user: str) -> Any:
    """The slots held; a connection that the dead worker had accepted fails."""
    try:
        return service.usage(user)["concurrent"]
    except (OSError, http.client.HTTPException):
        return None


def workers(service: Service) -> set[int]:
    """The processes that have answered a scan among the last forty."""
    user = "census"
    for _ in range(10):
        service.scan(user, select=["count(*)"])
    return {mark.pid for mark in service.marks(user)[-40:]}


def test_the_day_survives_a_restart(own_service: Callable[..., Service]) -> None:
    user = "regular"
    small = own_service(daily_bytes=20_000_000)
    price = small.price(select=["*"])
    assert small.scan(user, select=["*"], limit=1)[0] == 200
    assert small.query(user, "SELECT * FROM flights LIMIT 1")[0] == 200
    assert small.stop() == 0
    small.start()
    assert small.usage(user)["bytes_today"] == 2 * price
    status, body, headers = small.query(user, "SELECT count(*) FROM flights")
    assert status == 429
    assert set(body) == {"error", "kind", "current", "limit", "retry_after_seconds"}
    assert body["error"] == "quota_exceeded" and body["kind"] == "daily_bytes"
    assert (body["current"], body["limit"]) == (2 * price, 20_000_000)
    assert 0 <= body["retry_after_seconds"] < 86_400
    assert headers.get("Retry-After", "0") == str(body["retry_after_seconds"])
    status, body, _ = small.scan(user, select=["count(*)"])
    assert (status, body["kind"]) == (429, "daily_bytes")


def test_a_refusal_for_concurrency(service: Service) -> None:
    user = "sixth"
    streams = [service.opened(user) for _ in range(CAP)]
    status, body, headers = service.query(user, "SELECT 1")
    assert status == 429 and "Retry-After" not in headers
    assert body == {
        "error": "quota_exceeded",
        "kind": "concurrent_scans",
        "current": CAP,
        "limit": CAP,
        "retry_after_seconds": 0,
    }
    for stream in streams:
        hang_up(stream)


COLUMNS = {
    "date": 1448086,
    "delay": 3167526,
    "distance": 4106233,
    "origin": 2379964,
    "destination": 2380546,
}

SCANS: list[tuple[dict[str, Any], str]] = [
    ({"select": ["count(*)"]}, ""),
    ({"select": ["*"], "limit": 1}, "date delay distance origin destination"),
    ({"select": ["* exclude (date)"], "limit": 1}, "delay distance origin destination"),
    ({"select": ["origin", "origin o"], "limit": 1}, "origin"),
    ({"select": ["origin"], "where": "delay > 600"}, "origin delay"),
    ({"select": ["count(*)"], "where": "delay > 600"}, "delay"),
    ({"select": ["origin"], "order_by": "date desc", "limit": 3}, "origin date"),
    ({"select": ["origin"], "order_by": ["date", "delay desc"], "limit": 3}, "origin date delay"),
    ({"select": ["max(delay)"], "where": "distance > 1e9 -- none"}, "delay distance"),
]

QUERIES = [
    ("SELECT count(*) FROM flights", ""),
    ("SELECT 1 FROM flights LIMIT 1", ""),
    ("SELECT f.delay FROM flights f WHERE f.origin = 'SEA' LIMIT 5", "delay origin"),
    ("SELECT count(*) FROM flights a JOIN flights b USING (date) WHERE a.delay > 1600",
     "date delay"),
    ("WITH x AS (SELECT * FROM flights) SELECT max(delay) FROM x", "delay"),
    ("WITH u AS (SELECT * FROM flights) SELECT max(date) FROM flights", "date"),
    ("SELECT max(d) FROM (SELECT distance d, origin FROM flights)", "distance"),
    ("SELECT count(*) FROM flights WHERE delay > (SELECT avg(distance) FROM flights)",
     "delay distance"),
    ("SELECT delay FROM flights WHERE false", "delay"),
    ("SELECT origin, count(*) FROM flights GROUP BY ALL ORDER BY 2 DESC LIMIT 1", "origin"),
]  # fmt: skip


def test_an_estimate_is_the_charge(service: Service) -> None:
    for number, (fields, columns) in enumerate(SCANS):
        price = sum(COLUMNS[column] for column in columns.split())
        assert service.price(**fields) == price, fields
        status, body, _ = service.scan(f"scan{number}", **fields)
        assert status == 200, (fields, body)
        assert service.usage(f"scan{number}")["bytes_today"] == price, fields
    for number, (sql, columns) in enumerate(QUERIES):
        status, body, _ = service.query(f"query{number}", sql)
        assert status == 200, (sql, body)
        price = sum(COLUMNS[column] for column in columns.split())
        assert body["bytes"] == service.usage(f"query{number}")["bytes_today"] == price, sql
    assert service.usage("estimator")["bytes_today"] == 0
