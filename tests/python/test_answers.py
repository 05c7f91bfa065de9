# SPDX-License-Identifier: Apache-2.0
"""What becomes of a charge or a release after each answer of the library.

Most of the answers come from a disk that fails, so the queue of the extension
is built alone here, on a library that answers as it is told.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quotalite import _support

ROOT = Path(__file__).resolve().parents[2]

HARNESS = """
#include "queue.c"

static enum ql_status answer;
static int asked;

void set_answer(int status) { answer = (enum ql_status)status; }
int calls(void) { return asked; }

enum ql_status ql_charge(struct ql *ql, const char *subject, const char *meter, int64_t amount,
                         const char *operation_id)
{
    (void)ql, (void)subject, (void)meter, (void)amount, (void)operation_id;
    asked++;
    return answer;
}

enum ql_status ql_release(struct ql *ql, struct ql_lease lease)
{
    (void)ql, (void)lease;
    asked++;
    return answer;
}

const char *ql_status_name(enum ql_status status)
{
    (void)status;
    return "told";
}

void store_tick_last(struct store *store) { (void)store; }

static char said[256];

void failure_report(const char *function, const char *detail, int64_t amount)
{
    snprintf(said, sizeof said, "%s %s %lld", function, detail, (long long)amount);
}

const char *last_report(void) { return said; }

static struct store store;

void fail_charge(const char *subject, int64_t amount, int status)
{
    queue_failed_charge(&store, subject, "tokens", amount, (enum ql_status)status);
}

int takes_release(int status) { return queue_takes_release((enum ql_status)status); }

void add_release(void)
{
    queue_add_release(&store, (struct ql_lease){1, 1, 1}, QL_E_BUSY);
}

int drain(void)
{
    queue_drain(&store, true);
    return (int)store.queue.count;
}

void forget(void)
{
    queue_clear(&store);
    asked = 0;
    said[0] = 0;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.PyDLL:
    directory = tmp_path_factory.mktemp("queue")
    (directory / "harness.c").write_text(HARNESS)
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        *("-shared", "-fPIC", "-std=gnu11", "-D_GNU_SOURCE", "-DPy_LIMITED_API=0x030a0000"),
        *(f"-I{ROOT / 'include'}", f"-I{ROOT / 'bindings/python/src'}"),
        f"-I{sysconfig.get_paths()['include']}",
        *("-o", str(directory / "queue.so"), str(directory / "harness.c")),
    ]
    # A sanitizer that this process runs under would look for the compiler's leaks.
    clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run(command, check=True, env=clean)
    built = ctypes.PyDLL(str(directory / "queue.so"))
    built.last_report.restype = ctypes.c_char_p
    built.fail_charge.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int]
    return built


@pytest.fixture
def queue(library: ctypes.PyDLL) -> Iterator[ctypes.PyDLL]:
    library.forget()
    yield library
    library.forget()


OK, LATE = 0, 2
BUSY, FULL, SETTLED, EXPIRED, NOT_OWNER, GONE = -6, -7, -8, -9, -10, -12
NOT_DURABLE, LEDGER = -19, -20


@pytest.mark.parametrize("status", [BUSY, FULL, GONE, LEDGER])
def test_a_charge_that_was_not_made_waits(queue: ctypes.PyDLL, status: int) -> None:
    queue.fail_charge(b"alice", 5, status)
    assert queue.last_report() == b"report_queued told 1"
    queue.set_answer(status)
    assert queue.drain() == 1
    queue.set_answer(OK)
    assert queue.drain() == 0
    assert queue.calls() == 2


def test_a_charge_that_is_only_not_durable_is_never_made_again(queue: ctypes.PyDLL) -> None:
    queue.fail_charge(b"alice", 5, NOT_DURABLE)
    assert queue.last_report() == b"report_not_durable alice 5"
    assert (queue.drain(), queue.calls()) == (0, 0)
    queue.fail_charge(b"alice", 7, BUSY)
    queue.set_answer(NOT_DURABLE)
    assert (queue.drain(), queue.calls()) == (0, 1)
    assert queue.last_report() == b"report_not_durable alice 7"


@pytest.mark.parametrize(("status", "calls", "left"), [(BUSY, 1, 3), (NOT_DURABLE, 1, 2)])
def test_what_would_wait_behind_it_is_not_tried(
    queue: ctypes.PyDLL, status: int, calls: int, left: int
) -> None:
    for subject in (b"alice", b"bob", b"carol"):
        queue.fail_charge(subject, 5, FULL)
    queue.set_answer(status)
    assert (queue.drain(), queue.calls()) == (left, calls)


@pytest.mark.parametrize("status", [LEDGER, FULL])
def test_what_would_not_wait_is_tried(queue: ctypes.PyDLL, status: int) -> None:
    for subject in (b"alice", b"bob", b"carol"):
        queue.fail_charge(subject, 5, FULL)
    queue.set_answer(status)
    assert (queue.drain(), queue.calls()) == (3, 3)


@pytest.mark.parametrize("status", [OK, LATE, SETTLED, EXPIRED, NOT_OWNER, GONE, NOT_DURABLE])
def test_a_release_that_has_nothing_left_to_do_does_not_wait(
    queue: ctypes.PyDLL, status: int
) -> None:
    assert not queue.takes_release(status)
    queue.add_release()
    queue.set_answer(status)
    assert queue.drain() == 0
    assert queue.last_report() == b"report_queued told 1"


@pytest.mark.parametrize("status", [BUSY, LEDGER])
def test_a_release_that_did_nothing_waits(queue: ctypes.PyDLL, status: int) -> None:
    assert queue.takes_release(status)
    queue.add_release()
    queue.set_answer(status)
    assert queue.drain() == 1


@pytest.mark.parametrize(
    ("status", "text", "advice"),
    [
        ("QL_E_NOT_DURABLE", "the charge is made, do not repeat it", "full disk"),
        ("QL_E_LEDGER", "nothing was done", "then try again"),
        ("QL_E_NOT_OWNER", "the lease belongs to another process", "ttl_ms"),
    ],
)
def test_the_error_says_what_to_do(status: str, text: str, advice: str) -> None:
    error = _support.failure_with_hint(status, text)
    assert (type(error), getattr(error, "status", None)) == (_support.Error, status)
    assert str(error).startswith(text) and advice in str(error)


def test_a_charge_that_is_not_durable_is_one_line_in_a_while(
    caplog: pytest.LogCaptureFixture, report: Callable[[str, int], None]
) -> None:
    with caplog.at_level(logging.INFO, "quotalite"):
        report("alice", 5)
        report("bob", 5)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "alice (amount 5)" in caplog.text and "QL_E_NOT_DURABLE" in caplog.text


@pytest.fixture
def report(one_line_for_each_status: None) -> Callable[[str, int], None]:
    return _support.report_not_durable
