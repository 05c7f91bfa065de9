# SPDX-License-Identifier: Apache-2.0
"""One interpreter of a process has the package; it may import it again."""

from __future__ import annotations

from collections.abc import Callable

from conftest import Worker

Start = Callable[..., Worker]

#: run(script) runs a script in an interpreter beside the main one.
BESIDE = """
import importlib, sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
beside = interpreters.create()
def run(script):
    interpreters.run_string(beside, script)
def say(text):
    print(text, flush=True)
"""

IMPORT = '''
TRY = """
try:
    import quotalite
    print("imported", flush=True)
except ImportError as error:
    print(error, flush=True)
"""
'''

MAIN_FIRST = f"""{BESIDE}{IMPORT}
from quotalite import QuotaTracker
tracker = QuotaTracker(max_concurrent_per_user=1, max_daily_bytes_per_user=9, max_subjects=9)
run(TRY)
run(TRY)
tracker.record_bytes("alice", 7)
say(tracker.bytes_used_today("alice"))
"""

BESIDE_FIRST = f"""{BESIDE}{IMPORT}
run(TRY)
exec(TRY)
"""


def refuses(line: str) -> bool:
    """Interpreters with a GIL of their own are refused by Python itself."""
    return "one interpreter of a process" in line or "loading in subinterpreters" in line


def test_a_second_interpreter_is_refused(start_worker: Start) -> None:
    worker = start_worker(MAIN_FIRST)
    assert refuses(worker.line())
    assert refuses(worker.line())
    assert worker.line() == "7"
    assert worker.end() == 0


def test_the_first_interpreter_need_not_be_the_main_one(start_worker: Start) -> None:
    worker = start_worker(BESIDE_FIRST)
    beside, main = worker.line(), worker.line()
    assert (beside == "imported" and refuses(main)) or (refuses(beside) and main == "imported")
    assert worker.end() == 0


AGAIN = """
import sys
import quotalite
old = quotalite
options = {"max_concurrent_per_user": 0, "max_daily_bytes_per_user": 0, "max_subjects": 9}
first = quotalite.QuotaTracker(**options)
for name in [name for name in sys.modules if name.startswith("quotalite")]:
    del sys.modules[name]
import quotalite
assert quotalite is not old
second = quotalite.QuotaTracker(**options)
lease = old.Store("memory:", [old.Limit("jobs", 1)], max_subjects=9).acquire("alice")
assert isinstance(lease, quotalite.Lease)
for tracker in (first, second):
    try:
        tracker.check_daily_budget("alice")
    except quotalite.QuotaExceededError as refusal:
        print(refusal, flush=True)
"""


def test_the_package_may_be_imported_again(start_worker: Start) -> None:
    worker = start_worker(AGAIN)
    assert worker.line() == "daily_bytes: 0/0"
    assert worker.line() == "daily_bytes: 0/0"
    assert worker.end() == 0
