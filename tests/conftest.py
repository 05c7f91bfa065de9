# SPDX-License-Identifier: Apache-2.0
"""What all tests in Python need."""

import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def signals_of_a_terminal():
    """What nohup or a shell's & ignores would be ignored by all that the tests start."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
