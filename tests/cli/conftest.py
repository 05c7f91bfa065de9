# SPDX-License-Identifier: Apache-2.0
"""The real program, and a program with a store for it to look at."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("QUOTALITE_BIN", ROOT / "build/gcc/src/cli/quotalite"))
DEADLINE = 60


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


class Program:
    """A process that has the store open."""

    def __init__(self, directory, kind="", opens=True):
        self.directory = str(directory)
        self.process = subprocess.Popen(
            [BINARY.parent / "cli_store_fixture"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self.pid = self.process.pid
        if opens:
            assert self.open(kind) == ("QL_OK", "")

    def open(self, kind=""):
        return self.ask("open", self.directory, kind)

    def ask(self, *words):
        self.process.stdin.write("\t".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        status, text = self.process.stdout.readline().rstrip("\n").split("\t")
        return status, text

    def acquire(self, subject):
        status, lease = self.ask("acquire", subject)
        assert status == "QL_OK"
        return lease

    def charge(self, subject, meter, amount):
        assert self.ask("charge", subject, meter, amount) == ("QL_OK", "")

    def stop(self):
        if self.process.stdin.closed:
            return
        self.process.stdin.close()
        self.process.wait(DEADLINE)
        self.process.stdout.close()


@pytest.fixture
def store(tmp_path):
    program = Program(tmp_path / "store")
    yield program
    program.stop()


@pytest.fixture
def run():
    """Runs the program as given."""

    def run_it(*arguments, env=None, stdout=subprocess.PIPE):
        clean = {k: v for k, v in os.environ.items() if k != "QUOTALITE_STORE"}
        done = subprocess.run(
            [BINARY, *arguments],
            env={**clean, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=DEADLINE,
        )
        return Result(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())

    return run_it


@pytest.fixture
def cli(run, store):
    """Runs a command on the fixture's store."""

    def run_on_store(*arguments, **options):
        return run("--store", store.directory, *arguments, **options)

    return run_on_store
