# SPDX-License-Identifier: Apache-2.0
"""Bad requests: each is answered with a 4xx that says what to do, and takes nothing."""

from __future__ import annotations

import http.client
import json
from typing import Any

import hostile
import pytest
from conftest import DEADLINE_SECONDS, Service

SCAN, ESTIMATE, QUERY = "/api/v2/scan", "/api/v2/scan/estimate", "/api/query"


def refused(service: Service, path: str, body: Any) -> None:
    status, answer, _ = service.call("POST", path, body, "mallory")
    assert status == 400, (body, status, answer)
    assert answer["error"] == "bad_request" and answer["message"], (body, answer)


def took_nothing(service: Service) -> None:
    usage = service.usage("mallory")
    assert (usage["bytes_today"], usage["concurrent"]) == (0, 0)
    assert service.marks("mallory") == []


def test_hostile_sql(service: Service) -> None:
    for sql in hostile.STATEMENTS + hostile.READS + hostile.EXPRESSIONS:
        refused(service, QUERY, {"sql": sql})
    took_nothing(service)


def test_heavy_sql(service: Service) -> None:
    for sql in hostile.HEAVY.values():
        refused(service, QUERY, {"sql": sql})
    refused(service, QUERY, {"sql": "SELECT '" + "x" * 10_000_000 + "'"})
    took_nothing(service)


@pytest.mark.parametrize("path", [SCAN, ESTIMATE])
def test_hostile_scans(service: Service, path: str) -> None:
    for fields in hostile.SCANS + hostile.FORMS:
        refused(service, path, {"table_id": "flights", **fields})
    took_nothing(service)


@pytest.mark.parametrize("body", [None, [], "SELECT 1", {}, {"sql": None}, {"sql": 1}, {"sql": []}])
def test_wrong_types(service: Service, body: Any) -> None:
    for path in (SCAN, ESTIMATE, QUERY):
        refused(service, path, body)
    took_nothing(service)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"sql=SELECT 1", b'{"sql": "SELECT 1"', b'{"sql": "\xff"}', b"[" * 100_000, b"NaN"],
    ids=range(7),
)
def test_bad_json(service: Service, content: bytes) -> None:
    for path in (SCAN, ESTIMATE, QUERY):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=DEADLINE_SECONDS)
        headers = {"X-User": "mallory", "Content-Type": "application/json"}
        connection.request("POST", path, content, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        assert response.status == 400 and answer["message"], (content[:20], answer)
    took_nothing(service)


@pytest.mark.parametrize("user", ["", "x" * 300, "a\tb"])
def test_without_a_user(service: Service, user: str) -> None:
    for path, body in ((QUERY, {"sql": "SELECT 1"}), (SCAN, {"table_id": "flights"})):
        status, answer, _ = service.call("POST", path, body, user)
        assert status == 400 and "X-User" in answer["message"]


def test_unknown_routes_and_methods(service: Service) -> None:
    for method, path, wanted in (("GET", QUERY, 405), ("POST", "/api/v1/scan", 404)):
        status, answer, _ = service.call(method, path, None, "mallory")
        assert status == wanted and answer["message"]


def test_an_error_while_it_runs(service: Service) -> None:
    """It had started, so it costs its price; the slot is free again."""
    for path, body in (
        (QUERY, {"sql": "SELECT origin::INTEGER FROM flights"}),
        (SCAN, {"table_id": "flights", "select": ["origin::INTEGER"]}),
    ):
        user = f"failing{path}".replace("/", "-")
        status, answer, _ = service.call("POST", path, body, user)
        assert status == 400 and "Could not convert" in answer["message"]
        usage = service.usage(user)
        assert (usage["bytes_today"], usage["concurrent"]) == (service.price(select=["origin"]), 0)


def test_an_error_after_the_first_rows(service: Service) -> None:
    """The answer is cut off, so that nobody takes it for whole."""
    user = "cut"
    told_before = len(service.errors())
    # Late in the table, where a part of the answer has long been sent.
    select = "CASE WHEN date < '2001-03-31' THEN 0 ELSE origin::INTEGER END"
    stream = service.opened(user, select=[select])
    assert stream.status == 200
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        stream.read()
    usage = service.usage(user)
    assert usage["bytes_today"] == service.price(select=["origin", "date"])
    assert usage["concurrent"] == 0
    assert "Traceback" not in service.errors()[told_before:]
