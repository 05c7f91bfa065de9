# SPDX-License-Identifier: Apache-2.0
"""quotalite.fastapi behind a real server on the loopback."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from conftest import DEADLINE_SECONDS, eventually
from fastapi import Depends, FastAPI, Header
from fastapi.responses import StreamingResponse

import quotalite.fastapi
from quotalite import QuotaTracker
from quotalite.fastapi import Budget


def current_user(x_user: Annotated[str, Header()]) -> str:
    return x_user


def build_app(tracker: QuotaTracker, leave: threading.Event) -> FastAPI:
    app = FastAPI()
    quotalite.fastapi.install(app)
    scan_budget = quotalite.fastapi.budget(lambda: tracker, current_user)
    Scan = Annotated[Budget, Depends(scan_budget)]

    @app.post("/scan")
    def scan(budget: Scan, n: int) -> dict[str, int]:
        budget.record_bytes(n)
        return {"held": tracker.store.usage(budget.user).leases}

    @app.post("/fail")
    async def fail(budget: Scan) -> None:
        raise RuntimeError("the scan failed")

    @app.post("/stream")
    async def stream(budget: Scan) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"begin"
            while not leave.is_set():
                await asyncio.sleep(0.01)
                yield b"."

        return StreamingResponse(body())

    return app


@pytest.fixture
def leave() -> threading.Event:
    return threading.Event()


@pytest.fixture
def client(tracker: QuotaTracker, leave: threading.Event) -> Iterator[httpx.Client]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        build_app(tracker, leave),
        log_level="critical",
        # A connection that the client uses again must not be closed just then.
        timeout_keep_alive=int(DEADLINE_SECONDS),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(
        base_url=url, headers={"x-user": "alice"}, timeout=DEADLINE_SECONDS, trust_env=False
    ) as opened:
        yield opened
    leave.set()
    server.should_exit = True
    thread.join()
    listener.close()


def held(tracker: QuotaTracker) -> int:
    return tracker.store.usage("alice").leases


def test_row_11_a_spent_budget_is_429_with_retry_after(
    client: httpx.Client, tracker: QuotaTracker
) -> None:
    assert client.post("/scan?n=1500").json() == {"held": 1}
    refused = client.post("/scan?n=1")
    assert refused.status_code == 429
    body = refused.json()
    retry = body.pop("retry_after_seconds")
    assert body == {
        "error": "quota_exceeded",
        "kind": "daily_bytes",
        "current": 1500,
        "limit": 1000,
    }
    assert 0 < retry <= 86400
    assert refused.headers["retry-after"] == str(retry)
    assert tracker.bytes_used_today("alice") == 1500
    assert client.post("/scan?n=1", headers={"x-user": "bob"}).status_code == 200


def test_row_11_too_many_at_once_is_429_without_retry_after(
    client: httpx.Client, tracker: QuotaTracker
) -> None:
    with tracker.acquire("alice"), tracker.acquire("alice"):
        refused = client.post("/scan?n=1")
    assert refused.status_code == 429
    assert refused.json() == {
        "error": "quota_exceeded",
        "kind": "concurrent_scans",
        "current": 2,
        "limit": 2,
        "retry_after_seconds": 0,
    }
    assert "retry-after" not in refused.headers
    assert client.post("/scan?n=1").status_code == 200


def test_a_failed_request_gives_its_slot_back(client: httpx.Client, tracker: QuotaTracker) -> None:
    # The server closes the connection of a request that failed: none is kept for the next one.
    for _ in range(3):
        assert client.post("/fail", headers={"connection": "close"}).status_code == 500
        assert eventually(lambda: held(tracker) == 0)


def test_a_stream_holds_its_slot_to_its_end(
    client: httpx.Client, tracker: QuotaTracker, leave: threading.Event
) -> None:
    with client.stream("POST", "/stream") as response:
        chunks = response.iter_raw()
        assert next(chunks).startswith(b"begin")
        for _ in range(5):
            next(chunks)
            assert held(tracker) == 1
        leave.set()
        for _ in chunks:
            pass
    assert eventually(lambda: held(tracker) == 0)


def test_a_client_that_hangs_up_gives_its_slot_back(
    client: httpx.Client, tracker: QuotaTracker
) -> None:
    with client.stream("POST", "/stream") as response:
        chunks = response.iter_raw()  # kept: dropping it hangs up
        next(chunks)
        assert held(tracker) == 1
    assert eventually(lambda: held(tracker) == 0)


def test_an_empty_user_is_not_a_refusal(client: httpx.Client) -> None:
    assert client.post("/scan?n=1", headers={"x-user": ""}).status_code == 500


def test_no_user_is_the_applications_own_error(client: httpx.Client) -> None:
    client.headers.pop("x-user")
    assert client.post("/scan?n=1").status_code == 422


def test_an_application_may_answer_by_itself() -> None:
    make: Callable[..., Any] = quotalite.QuotaExceededError
    response = quotalite.fastapi.refusal(make("daily_bytes", 2, 1, 9))
    assert (response.status_code, response.headers["retry-after"]) == (429, "9")
