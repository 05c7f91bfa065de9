# SPDX-License-Identifier: Apache-2.0
"""What all tests in Python need."""

import signal
import time

import pytest

DAY_SECONDS = 86_400

#: Longer than any test takes that asks the system for the day.
BEFORE_MIDNIGHT_SECONDS = 300


@pytest.fixture(scope="session", autouse=True)
def signals_of_a_terminal():
    """What nohup or a shell's & ignores would be ignored by all that the tests start."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def away_from_midnight():
    """A day (UTC) that ends inside a test would be another answer."""
    # Again and again: the clock of the calendar may be slower than that of a sleep.
    while (left := DAY_SECONDS - time.time() % DAY_SECONDS) < BEFORE_MIDNIGHT_SECONDS:
        time.sleep(left)
