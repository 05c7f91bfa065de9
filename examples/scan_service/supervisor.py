# SPDX-License-Identifier: Apache-2.0
"""Keeps a number of worker processes alive, and leaves none behind.

Workers are forked from a process that has neither threads nor an open store. All
signals are waited for in one place, so none comes between two steps.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WATCHED = {*_STOP, signal.SIGCHLD}
_PR_SET_PDEATHSIG = 1

# Longer than a worker takes by itself.
_PATIENCE_SECONDS = 10.0


def supervise(count: int, work: Callable[[], None]) -> int:
    """Runs ``work`` in so many processes until a signal to stop; gives the exit
    code. A worker that was killed is replaced; one that ends by itself could not
    start, and the next one could not either."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    workers = {_started(work) for _ in range(count)}
    code = 0
    while code == 0 and signal.sigwait(_WATCHED) == signal.SIGCHLD:
        for pid, status in _ended():
            workers.discard(pid)
            if os.WIFSIGNALED(status):
                workers.add(_started(work))
            else:
                code = 1
    _stop(workers)
    return code


def _started(work: Callable[[], None]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    # Whoever kills this process's parent ends the service, not a part of it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # A terminal that closes tells every process; here the supervisor decides.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    if os.getppid() == parent:
        work()
    sys.exit()


def _ended() -> Iterator[tuple[int, int]]:
    """The children that have ended: one signal may stand for several."""
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended
    except ChildProcessError:
        pass


def _stop(workers: set[int]) -> None:
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while workers and (left := deadline - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, left)
        workers -= {pid for pid, _ in _ended()}
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
