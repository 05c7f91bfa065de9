# SPDX-License-Identifier: Apache-2.0
"""The scan service from outside: its budget under load, kills, restarts and hang-ups."""

from __future__ import annotations

import http.client
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from conftest import Service, eventually

CAP = 5
WHOLE_TABLE = {"table_id": "flights", "select": ["*"]}


def opened(service: Service, user: str) -> http.client.HTTPResponse:
    """A scan of the whole table whose stream is not read: far more than sockets
    hold, so it runs for as long as the test wants."""
    connection = service.send("POST", "/api/v2/scan", WHOLE_TABLE, user)
    response = connection.getresponse()
    response.connection = connection  # type: ignore[attr-defined]
    return response


def hang_up(response: http.client.HTTPResponse) -> None:
    response.connection.close()  # type: ignore[attr-defined]
    response.close()


def test_two_hundred_at_once_never_pass_the_cap(service: Service) -> None:
    user = "crowd"
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: opened(service, user), range(200)))
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
    streams = [opened(service, user) for _ in range(CAP)]
    assert [stream.status for stream in streams] == [200] * CAP
    assert service.scan(user)[0] == 429
    open_in = [mark.pid for mark in service.marks(user) if mark.event == "begin"][-CAP:]
    victim = open_in[0]
    os.kill(victim, signal.SIGKILL)
    lost = open_in.count(victim)
    eventually(lambda: usage_or_none(service, user) == CAP - lost)
    assert service.usage(user)["bytes_today"] == 3 * price
    # As many as were lost can run again, and no more.
    streams += [opened(service, user) for _ in range(lost)]
    assert [stream.status for stream in streams[CAP:]] == [200] * lost
    assert service.scan(user)[0] == 429
    for stream in streams:
        hang_up(stream)
    eventually(lambda: service.usage(user)["concurrent"] == 0)
    begun = sum(mark.price for mark in service.marks(user) if mark.event == "begin")
    unfinished = lost * service.price(select=["*"])
    assert service.usage(user)["bytes_today"] == begun - unfinished
    eventually(lambda: victim not in workers(service) and len(workers(service)) == 2)


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


def test_the_day_survives_a_restart(small_service: Service) -> None:
    user = "regular"
    price = small_service.price(select=["*"])
    assert small_service.scan(user, select=["*"], limit=1)[0] == 200
    assert small_service.query(user, "SELECT * FROM flights LIMIT 1")[0] == 200
    assert small_service.stop() == 0
    small_service.start()
    assert small_service.usage(user)["bytes_today"] == 2 * price
    status, body, headers = small_service.query(user, "SELECT count(*) FROM flights")
    assert status == 429
    assert set(body) == {"error", "kind", "current", "limit", "retry_after_seconds"}
    assert body["error"] == "quota_exceeded" and body["kind"] == "daily_bytes"
    assert (body["current"], body["limit"]) == (2 * price, 20_000_000)
    assert 0 <= body["retry_after_seconds"] < 86_400
    assert headers.get("Retry-After", "0") == str(body["retry_after_seconds"])
    assert small_service.stop(signal.SIGTERM) == 0


def test_a_hang_up_gives_the_slot_back_and_costs_the_price(service: Service) -> None:
    user = "impatient"
    stream = opened(service, user)
    assert stream.read(1000)
    assert service.usage(user)["concurrent"] == 1
    hang_up(stream)
    eventually(lambda: service.usage(user)["concurrent"] == 0)
    assert service.usage(user)["bytes_today"] == service.price(select=["*"])


def test_a_refusal_for_concurrency(service: Service) -> None:
    user = "sixth"
    streams = [opened(service, user) for _ in range(CAP)]
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


HOSTILE = [
    "", ";", "SELECT 1; SELECT 2", "SELEC 1", "PRAGMA version", "SET threads = 8", "RESET threads",
    "ATTACH 'x.db'", "DETACH memory", "COPY flights TO 'x.csv'", "CREATE TABLE t AS SELECT 1",
    "DROP VIEW flights", "INSERT INTO flights SELECT * FROM flights", "DELETE FROM flights",
    "INSTALL httpfs", "LOAD httpfs", "CALL pragma_version()", "EXPLAIN SELECT 1", "USE data",
    "DESCRIBE flights", "SUMMARIZE flights", "SHOW TABLES", "EXPORT DATABASE 'x'", "VACUUM",
    "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'", "SELECT * FROM 'x.parquet'", "SELECT * FROM glob('/*')",
    "SELECT * FROM parquet_scan('x.parquet')", "SELECT * FROM duckdb_settings()",
    "SELECT * FROM information_schema.tables", "SELECT * FROM pragma_table_info('flights')",
    "SELECT * FROM data.flights", "SELECT * FROM sqlite_master", "SELECT * FROM range(10)",
    "SELECT getenv('HOME')", "SELECT current_setting('threads')", "SELECT version()",
    "SELECT current_user", "SELECT current_database()", "SELECT main.getenv('HOME')",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))", "SELECT rowid FROM flights",
    "WITH \"/etc/passwd\" AS (SELECT 1) SELECT * FROM \"/etc/passwd\"",
    "WITH RECURSIVE t AS (SELECT 1 i UNION ALL SELECT i FROM t) SELECT * FROM t",
    "SELECT repeat('x', 1000000000)", "SELECT ?", "SELECT nothing FROM flights", "SELECT '\0'",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
]  # fmt: skip

HOSTILE_SCANS = [
    {"table_id": "other"},
    {"table_id": "flights; SELECT 1"},
    {"select": []},
    {"select": ["1 FROM flights; SELECT 2"]},
    {"select": ["origin FROM flights --"]},
    {"select": ["getenv('HOME')"]},
    {"where": "true) UNION SELECT (1"},
    {"where": "true; DROP VIEW flights"},
    {"where": "origin IN (SELECT content FROM read_text('/etc/passwd'))"},
    {"order_by": "1 LIMIT 1"},
    {"limit": -1},
    {"limit": "many"},
    {"unknown": 1},
]


def test_only_reads_of_registered_tables_run(service: Service) -> None:
    for sql in HOSTILE:
        status, body, _ = service.query("mallory", sql)
        assert status == 400 and body["message"], (sql, status, body)
    for fields in HOSTILE_SCANS:
        for route in ("/api/v2/scan", "/api/v2/scan/estimate"):
            request = {"table_id": "flights", **fields}
            status, body, _ = service.call("POST", route, request, "mallory")
            assert status == 400 and body["message"], (fields, status, body)
    assert service.usage("mallory")["bytes_today"] == 0
    assert service.marks("mallory") == []


@pytest.mark.parametrize("user", ["", "x" * 300, "a\tb"])
def test_a_request_without_a_user_is_refused(service: Service, user: str) -> None:
    status, body, _ = service.query(user, "SELECT 1")
    assert status == 400 and "X-User" in body["message"]
