# SPDX-License-Identifier: Apache-2.0
"""quotalite run: a slot that is held for as long as a command runs."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from conftest import BINARY, DEADLINE
from test_cli import HOSTILE, assert_harmless, limits

# Says that it is there, and goes on until its standard input ends.
WAIT = ["sh", "-c", "echo ready; read line; exit 3"]

# Says that it is there, and which of these signals comes first.
AWAIT_SIGNAL = [
    sys.executable,
    "-c",
    "import signal, sys\n"
    "signals = {signal.SIGTERM, signal.SIGHUP}\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, signals)\n"
    "print('ready', flush=True)\n"
    "print(signal.sigwait(signals).name, flush=True)\n"
    "sys.exit(5)\n",
]


class Work:
    """A run in the background, whose command has said that it is there."""

    def __init__(self, store, *arguments, **options):
        self.process = subprocess.Popen(
            [BINARY, "--store", store.directory, "run", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
            **options,
        )
        self.first_line = ""

    def begin(self):
        self.first_line = self.process.stdout.readline().strip()
        assert self.first_line.startswith("ready")
        return self

    def end_command(self):
        """Its standard output ends with the last process that has it."""
        self.process.stdin.close()
        assert self.process.stdout.read() == ""

    def wait(self):
        return self.process.wait(DEADLINE)

    def close(self):
        """Ends what is left, commands that run was killed without included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(DEADLINE)
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture
def start(store):
    started = []

    def start_it(*arguments, **options):
        started.append(Work(store, *arguments, **options))
        return started[-1]

    yield start_it
    for work in started:
        work.close()


@pytest.fixture
def alice(cli):
    def look():
        (subject,) = cli("usage", "alice", "--json").json["subjects"]
        return subject

    return look


def totals(subject):
    return {meter["name"]: meter["total"] for meter in subject["meters"]}


def await_leases(alice, count):
    deadline = time.monotonic() + DEADLINE
    while alice()["leases"] != count:
        assert time.monotonic() < deadline


# ---- the command -----------------------------------------------------------


@pytest.mark.parametrize(
    "command, code",
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "exit 75"], 75),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
    ],
)
def test_the_exit_status_is_the_commands(cli, alice, command, code):
    result = cli("run", "alice", "--", *command)
    assert (result.code, result.out, result.err) == (code, "", "")
    assert alice()["leases"] == 0


def test_a_command_that_is_missing_is_127(cli, alice):
    result = cli("run", "alice", "-c", "statements=1", "--", "no-such-command-here")
    assert (result.code, result.out) == (127, "")
    assert "'no-such-command-here'" in result.err
    assert alice()["leases"] == 0 and totals(alice())["statements"] == 0


def test_a_command_that_cannot_be_run_is_126(cli, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for path in (plain, tmp_path):
        result = cli("run", "alice", "--", str(path))
        assert (result.code, result.out) == (126, "")
        assert str(path) in result.err


def test_what_stands_behind_the_dashes_is_the_commands(cli):
    words = ["-l", "--json", "--", "--help", "run"]
    result = cli("run", "alice", "--", "printf", "%s|", *words)
    assert (result.code, result.out) == (0, "".join(f"{word}|" for word in words))
    assert cli("run", "alice", "--help", "--", "echo", "ran").out.startswith("Usage:")


def test_the_command_has_the_token_and_no_other_descriptor_of_the_store(cli, store):
    program = (
        "import os\n"
        "token = os.environ['QUOTALITE_TOKEN_FD']\n"
        "for fd in os.listdir('/proc/self/fd'):\n"
        "    link = os.readlink(f'/proc/self/fd/{fd}') if fd != '3' else ''\n"
        "    if int(fd) > 3: print(fd == token, link)\n"
        "print(oct(int(open(f'/proc/self/fdinfo/{token}').read().split()[3], 8) & 3))\n"
    )
    result = cli("run", "alice", "--", sys.executable, "-c", program)
    lock = os.path.join(store.directory, "lock")
    assert (result.code, result.out) == (0, f"True {lock}\n0o0\n")


# ---- the slot --------------------------------------------------------------


def test_the_slot_is_held_while_the_command_runs(start, alice, cli):
    work = start("alice", "--", *WAIT).begin()
    assert alice()["leases"] == 1
    (lease,) = cli("leases", "alice", "--json").json["leases"]
    assert lease["pid"] == work.process.pid
    work.end_command()
    assert work.wait() == 3
    assert alice()["leases"] == 0


def test_without_a_slot_the_command_does_not_run(cli, start):
    for _ in range(2):
        start("alice", "--", *WAIT).begin()
    result = cli("run", "alice", "--", "echo", "ran")
    assert (result.code, result.out) == (75, "")
    assert result.err == "quotalite: refused: concurrent_scans: 2/2, level 1, retry after 0 s\n"
    assert cli("run", "bob", "--", "echo", "ran").out == "ran\n"


def test_a_refusal_as_json_is_that_of_check(cli, store):
    store.charge("alice", "bytes", 1000)
    result = cli("run", "alice", "--json", "--", "echo", "ran")
    assert (result.code, result.out) == (75, "")
    seconds = re.compile(r'"retry_after_seconds":\d+')
    assert seconds.sub("", result.err) == seconds.sub("", refusal_with_slots(cli))


def refusal_with_slots(cli):
    """What check says, with the concurrent limit, at which run looks too."""
    text = cli("check", "alice", "--json").out
    slots = (
        '{"name":"concurrent_scans","meter":null,"window":null,"cap":2,'
        '"used":0,"remaining":2,"resets_at":null},'
    )
    return text.replace('"limits":[', f'"limits":[{slots}')


def test_a_spent_budget_refuses_unless_only_a_slot_is_wanted(cli, store):
    store.charge("alice", "bytes", 1000)
    refused = cli("run", "alice", "--wait", "3600", "--", "echo", "ran")
    assert (refused.code, refused.out) == (75, "")
    assert "daily_bytes: 1000/1000" in refused.err
    assert cli("run", "alice", "--slot-only", "--", "echo", "ran").out == "ran\n"
    store.acquire("alice")
    store.acquire("alice")
    assert cli("run", "alice", "--slot-only", "--", "echo", "ran").code == 75


def test_wait_tries_until_a_slot_is_free(store, start):
    lease = store.acquire("alice")
    store.acquire("alice")
    work = start("alice", "--wait", str(DEADLINE), "--", *WAIT)
    with pytest.raises(subprocess.TimeoutExpired):
        work.process.wait(0.5)
    assert store.ask("settle", lease)[0] == "QL_OK"
    work.begin()
    work.end_command()
    assert work.wait() == 3


def test_wait_ends(cli, store):
    store.acquire("alice")
    store.acquire("alice")
    began = time.monotonic()
    assert cli("run", "alice", "-w", "1", "--", "echo", "ran").code == 75
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("seconds", ["", "-1", "1.5", "1s", str(2**63), "99999999999"])
def test_wait_takes_whole_seconds_only(cli, seconds):
    result = cli("run", "alice", f"--wait={seconds}", "--", "echo", "ran")
    assert (result.code, result.out) == (2, "") and "seconds" in result.err


# ---- charges ---------------------------------------------------------------


def test_charges_are_made_when_the_command_has_ended(start, alice):
    work = start("alice", "--charge", "statements=2", "-c", "bytes=1500", "--", *WAIT).begin()
    assert totals(alice()) == {"bytes": 0, "statements": 0}
    work.end_command()
    assert work.wait() == 3
    assert totals(alice()) == {"bytes": 1500, "statements": 2}
    assert limits(alice())["concurrent_scans"]["used"] == 0


def test_a_charge_is_made_though_the_slot_was_revoked(start, alice, cli):
    work = start("alice", "--charge", "statements=2", "--", *WAIT).begin()
    (lease,) = cli("leases", "alice", "--json").json["leases"]
    assert cli("leases", "--revoke", lease["lease"]).code == 0
    work.end_command()
    assert work.wait() == 3 and totals(alice())["statements"] == 2


@pytest.mark.parametrize("code, result", [(0, 1), (4, 4)])
def test_a_charge_that_fails_is_an_error(start, store, alice, cli, code, result):
    """The slot is revoked, and what was kept of its lease makes room for others."""
    script = f"echo ready; read line; exit {code}"
    work = start("alice", "-c", "bytes=1", "--", "sh", "-c", script).begin()
    (lease,) = cli("leases", "alice", "--json").json["leases"]
    assert cli("leases", "--revoke", lease["lease"]).code == 0
    answers = [store.ask("acquire", f"user-{i // 2}")[0] for i in range(128)]
    assert answers[-1] == "QL_E_FULL"
    work.end_command()
    assert work.wait() == result
    assert "'alice': the lease has ended" in work.process.stderr.read()
    assert totals(alice())["bytes"] == 0


def test_an_unknown_meter_is_an_error_before_the_command_runs(cli):
    result = cli("run", "alice", "--charge", "tokens=1", "--", "echo", "ran")
    assert (result.code, result.out) == (1, "")
    assert "'tokens'" in result.err and "bytes, statements" in result.err


@pytest.mark.parametrize("charge", ["", "bytes", "bytes=", "bytes=-1", "bytes=1x", "=", "a=b=1"])
def test_charge_takes_a_meter_and_an_amount(cli, charge):
    result = cli("run", "alice", f"--charge={charge}", "--", "echo", "ran")
    assert (result.code, result.out) == (2, "") and "METER=AMOUNT" in result.err


def test_charge_is_given_8_times_at_most(cli, alice):
    charge = ["--charge", "bytes=1"]
    result = cli("run", "alice", *charge * 9, "--", "echo", "ran")
    assert (result.code, result.out) == (2, "") and "more than 8" in result.err
    assert cli("run", "alice", *charge * 8, "--", "true").code == 0
    assert totals(alice())["bytes"] == 8


# ---- run is killed ---------------------------------------------------------


def test_killed_it_leaves_the_slot_to_the_command(start, store, alice):
    work = start("alice", "--charge", "statements=1", "--", *WAIT).begin()
    work.process.kill()
    work.wait()
    store.acquire("alice")
    assert store.ask("acquire", "alice")[0] == "QL_REFUSED"
    assert alice()["leases"] == 2
    work.end_command()
    await_leases(alice, 1)
    store.acquire("alice")
    assert totals(alice())["statements"] == 0


def kill_and_await_end(pid):
    end = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([end], [], [], DEADLINE)[0]
    os.close(end)


BEGIN_ANOTHER = "exec 3<&0; (read line <&3) & echo ready $$; "


def test_killed_it_leaves_the_slot_to_what_the_command_began(start, store, alice):
    work = start("alice", "--", "sh", "-c", BEGIN_ANOTHER + "wait").begin()
    work.process.kill()
    work.wait()
    kill_and_await_end(int(work.first_line.split()[1]))
    store.acquire("alice")
    assert store.ask("acquire", "alice")[0] == "QL_REFUSED"
    work.end_command()
    await_leases(alice, 1)


def test_otherwise_the_slot_ends_with_the_command_itself(start, alice):
    work = start("alice", "--", "sh", "-c", BEGIN_ANOTHER).begin()
    assert work.wait() == 0
    assert alice()["leases"] == 0
    work.end_command()


def test_killed_it_frees_the_slot_of_a_command_that_closed_the_token(start, alice):
    program = (
        "import os, sys\n"
        "os.close(int(os.environ['QUOTALITE_TOKEN_FD']))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    work = start("alice", "--", sys.executable, "-c", program).begin()
    assert alice()["leases"] == 1
    work.process.kill()
    work.wait()
    await_leases(alice, 0)
    work.end_command()


# ---- signals ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_to_end_are_passed_on(start, alice, name):
    work = start("alice", "-c", "statements=1", "--", *AWAIT_SIGNAL).begin()
    work.process.send_signal(signal.SIGINT)  # left to the command, which did not get it
    work.process.send_signal(signal.SIGQUIT)
    work.process.send_signal(signal.Signals[name])
    assert work.wait() == 5
    assert work.process.stdout.read() == f"{name}\n"
    assert alice()["leases"] == 0 and totals(alice())["statements"] == 1


def test_what_nohup_ignores_is_not_passed_on(start):
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    work = start("alice", "--", *AWAIT_SIGNAL, **ignore).begin()
    work.process.send_signal(signal.SIGHUP)
    work.process.send_signal(signal.SIGTERM)
    assert work.wait() == 5
    assert work.process.stdout.read() == "SIGTERM\n"


def test_an_interrupt_from_the_terminal_ends_the_command(start, alice):
    work = start("alice", "-c", "statements=1", "--", *WAIT).begin()
    os.killpg(work.process.pid, signal.SIGINT)
    assert work.wait() == 130
    assert alice()["leases"] == 0 and totals(alice())["statements"] == 1


def set_signals():
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGHUP})


@pytest.mark.parametrize("prepare", [None, set_signals])
def test_the_command_has_the_signals_as_they_were(store, prepare):
    """Those that have names: the C library uses two of the others for itself."""
    command = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    run = [BINARY, "--store", store.directory, "run", "alice", "--", *command]
    seen = []
    for words in (command, run):
        text = subprocess.check_output(words, preexec_fn=prepare, timeout=DEADLINE)
        seen.append([int(line.split()[1], 16) & 0x7FFFFFFF for line in text.splitlines()])
    assert seen[0] == seen[1]
    assert (seen[0] == [0, 0]) == (prepare is None)


# ---- what reaches the terminal ---------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_no_argument_of_run_reaches_the_terminal_raw(cli, text, flags):
    for arguments in (
        ["run", text, "--", "false"],
        ["run", "alice", "--", text],
        ["run", "alice", "--charge", text, "--", "true"],
        ["run", "alice", "--wait", text, "--", "true"],
        ["run", "alice", text, "--", "true"],
    ):
        result = cli(*flags, *arguments)
        assert result.code != 0
        assert_harmless(result.out)
        assert_harmless(result.err)
