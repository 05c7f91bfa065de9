# SPDX-License-Identifier: Apache-2.0
"""history, backup and verify: the ledger as those on call meet it."""

import contextlib
import json
import os
import resource
import shutil
import sqlite3
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Program
from test_cli import HOSTILE, MAX, assert_harmless, rows

DAY = 86_400
ASIDE = ["ledger.db", "ledger.db-wal", "ledger.db-shm"]


def today():
    return datetime.now(UTC).date()


def start_of(day):
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


@pytest.fixture
def slow(tmp_path):
    """A program that flushes only when it is asked to, or ends."""
    program = Program(tmp_path / "store", "slow")
    yield program
    program.stop()


@pytest.fixture
def ask(run, tmp_path):
    """Runs a command on the store at tmp_path."""

    def run_on_store(*arguments, **options):
        return run("--store", str(tmp_path / "store"), *arguments, **options)

    return run_on_store


def file_of(program, name="ledger.db"):
    return Path(program.directory, name)


@contextlib.contextmanager
def database(path):
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as opened, opened:
        yield opened


def totals(path):
    with database(path) as ledger:
        return ledger.execute("SELECT subject, meter, amount FROM totals").fetchall()


def change(program, sql, *values):
    with database(file_of(program)) as ledger:
        ledger.execute("PRAGMA ignore_check_constraints = 1")
        ledger.execute(sql, values)


def add_days(program, days, subject="alice", meter="bytes"):
    """Rows of earlier days, as a program of those days left them."""
    for day, amount in days.items():
        change(
            program,
            "INSERT INTO totals VALUES ('day', ?, ?, ?, ?)",
            start_of(day),
            subject,
            meter,
            amount,
        )


def move_away(program):
    for name in ASIDE:
        file_of(program, name).unlink(missing_ok=True)


def put_back(program, backup):
    """As docs/ledger.md says."""
    shutil.move(backup, file_of(program))
    for name in ASIDE[1:]:
        file_of(program, name).unlink(missing_ok=True)


def used(ask, subject="alice"):
    (answer,) = ask("usage", subject, "--json").json["subjects"]
    return {meter["name"]: meter["total"] for meter in answer["meters"]}


def history(ask, *arguments):
    result = ask("history", *arguments, "--json")
    assert result.code == 0, result.err
    return [(entry["start"], entry["meter"], entry["amount"]) for entry in result.json["history"]]


# ---- history ---------------------------------------------------------------


def test_history_has_a_line_for_each_day_and_meter(ask, slow):
    assert slow.ask("flush")[0] == "QL_OK"
    days = {today() - timedelta(days=n): n + 5 for n in (40, 3, 1)}
    add_days(slow, days)
    add_days(slow, {today() - timedelta(days=3): MAX}, meter="statements")
    add_days(slow, {today() - timedelta(days=2): 99}, subject="alice/x")
    slow.charge("alice", "bytes", 7)

    result = ask("history", "alice")
    assert (result.code, result.err) == (0, "")
    heading, *lines = result.out.splitlines()
    assert heading.split() == ["DAY", "METER", "AMOUNT"]
    expected = [[str(day), "bytes", str(amount)] for day, amount in days.items()]
    expected.insert(2, [str(today() - timedelta(days=3)), "statements", str(MAX)])
    expected.append([str(today()), "bytes", "7"])
    assert [line.split() for line in lines] == expected
    assert len(set(map(len, lines))) == 1

    assert rows(ask("history", "alice", "--meter", "statements").out) == [expected[2]]
    assert rows(ask("history", "alice", "--meter", "scans").out) == []


def test_history_as_csv_and_json(ask, slow):
    slow.charge("alice", "bytes", MAX)
    slow.charge("alice", "statements", 2)
    day, start = today(), start_of(today())
    assert ask("history", "alice", "--csv").out.splitlines() == [
        "day,meter,amount",
        f"{day},bytes,{MAX}",
        f"{day},statements,2",
    ]
    assert ask("history", "alice", "--json").json == {
        "history": [
            {"start": start, "end": start + DAY, "meter": "bytes", "amount": MAX},
            {"start": start, "end": start + DAY, "meter": "statements", "amount": 2},
        ]
    }


def test_history_of_somebody_unknown_is_empty_and_makes_nothing(ask, slow):
    assert ask("history", "nobody").out.split() == ["DAY", "METER", "AMOUNT"]
    assert ask("history", "nobody", "--csv").out == "day,meter,amount\n"
    assert ask("history", "nobody", "--json").json == {"history": []}
    assert ask("usage", "--json").json == {"subjects": []}


def test_history_from_a_day_to_a_day(ask, slow):
    assert slow.ask("flush")[0] == "QL_OK"
    first = date(2024, 2, 28)
    add_days(slow, {first + timedelta(days=n): n + 1 for n in range(4)})

    def amounts(*arguments):
        return [amount for _, _, amount in history(ask, "alice", *arguments)]

    assert amounts() == [1, 2, 3, 4]
    assert amounts("--from", "2024-02-29") == [2, 3, 4]
    assert amounts("--to", "2024-02-29") == [1, 2]
    assert amounts("--from", "2024-02-29", "--to", "2024-02-29") == [2]
    assert amounts("--from", "1970-01-01", "--to", "9999-12-31") == [1, 2, 3, 4]
    assert amounts("--from", "2024-03-03") == []


@pytest.mark.parametrize(
    "day",
    ["", "today", "2026-02-29", "2026-13-01", "2026-1-1", "2026-01-01 ", " 2026-01-01",
     "2026-01-01T00:00:00Z", "20260101", "-2026-01-01", "1969-12-31", "12026-01-01", "٢٠٢٦-01-01"],
)  # fmt: skip
def test_a_bad_day_is_a_wrong_command_line(ask, slow, day):
    for option in ("--from", "--to"):
        result = ask("history", "alice", f"{option}={day}")
        assert (result.code, result.out) == (2, "")
        assert "2026-03-31" in result.err


def test_days_in_the_wrong_order_and_two_formats_are_wrong(ask, slow):
    result = ask("history", "alice", "--from", "2026-03-02", "--to", "2026-03-01")
    assert (result.code, result.out) == (2, "") and "not after" in result.err
    result = ask("history", "alice", "--json", "--csv")
    assert (result.code, result.out) == (2, "") and "choose one" in result.err


@pytest.mark.parametrize("subject", ["", "/a", "a//b", "a/b/c/d/e", "x" * 256, "50%", b"a\xff"])
@pytest.mark.parametrize("format", [[], ["--csv"]])
def test_a_bad_subject_has_no_history(ask, slow, subject, format):
    result = ask("history", subject, *format)
    assert (result.code, result.out) == (1, "") and "subject" in result.err


def test_no_row_of_the_ledger_reaches_the_terminal_raw(ask, slow):
    """Somebody may have edited it."""
    assert slow.ask("flush")[0] == "QL_OK"
    for text in (item for item in HOSTILE if isinstance(item, str)):
        change(slow, "INSERT INTO totals VALUES ('day', 0, 'alice', ?, 5)", text)
        change(slow, "INSERT INTO totals VALUES ('day', 0, ?, 'bytes', 5)", text)
        for flags in ([], ["--csv"], ["--json"]):
            assert_harmless(ask("history", "alice", *flags).out)
            assert_harmless(ask("history", text, *flags).err)


def test_a_store_without_a_ledger_knows_today(ask, run, tmp_path):
    program = Program(tmp_path / "store", "no-ledger")
    program.charge("alice", "bytes", 3)
    assert history(ask, "alice") == [(start_of(today()), "bytes", 3)]
    assert history(ask, "alice", "--to", str(today() - timedelta(days=1))) == []
    result = ask("backup", str(tmp_path / "copy.db"))
    assert result.code == 1 and "no ledger" in result.err
    assert ask("verify", "--json").json["flush_lag_ms"] == 0
    assert sorted(os.listdir(program.directory)) == ["lock", "region"]
    program.stop()


def seconds_of_children():
    """Of processors; children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_window_far_away_is_soon_found(ask, slow):
    """Days without a row cost nothing, however many there are between two that have.
    What a processor did counts, not how long others kept it from that."""
    assert slow.ask("flush")[0] == "QL_OK"
    for start in (0, -5 * DAY, 2**62):
        change(slow, "INSERT INTO totals VALUES ('day', ?, 'alice', 'bytes', 5)", start)
    slow.charge("alice", "bytes", 2)
    before = seconds_of_children()
    assert history(ask, "alice") == [(0, "bytes", 5), (start_of(today()), "bytes", 2)]
    assert seconds_of_children() - before < 2


# ---- backup ----------------------------------------------------------------


def test_backup_while_a_program_charges(ask, store, tmp_path):
    copies = []
    for number in range(1, 5):
        store.charge("alice", "bytes", number)
        store.charge(f"subject-{number}", "statements", 1)
        copies.append(tmp_path / f"copy-{number}.db")
        result = ask("backup", str(copies[-1]))
        assert (result.code, result.out, result.err) == (0, f"{copies[-1]}\n", "")
    for number, copy in enumerate(copies, 1):
        with database(copy) as ledger:
            assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert ledger.execute("PRAGMA user_version").fetchone() == (1,)
            assert ledger.execute("PRAGMA application_id").fetchone() == (0x716C6C67,)
        others = [(f"subject-{n}", "statements", 1) for n in range(1, number + 1)]
        assert totals(copy) == [("alice", "bytes", number * (number + 1) // 2), *others]
    assert totals(copies[-1]) == totals(file_of(store))
    assert {path.name for path in tmp_path.iterdir()} == {"store", *(c.name for c in copies)}


def test_backup_as_json(ask, slow, tmp_path):
    path = str(tmp_path / "copy\u202e.db")
    assert ask("backup", path, "--json").json == {"backup": path}


def test_nobody_else_may_read_a_backup(ask, slow, tmp_path):
    before = os.umask(0)
    try:
        assert ask("backup", str(tmp_path / "copy.db")).code == 0
    finally:
        os.umask(before)
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600


def test_backup_touches_nothing_that_exists(ask, slow, tmp_path):
    slow.charge("alice", "bytes", 1)
    link, copy = tmp_path / "link.db", tmp_path / "copy.db"
    for name in ("copy.db", "copy.db.new"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    link.symlink_to(tmp_path / "nowhere")
    for path in (copy, link, tmp_path):
        result = ask("backup", str(path))
        assert (result.code, result.out) == (1, "") and "exists" in result.err
    assert copy.read_text(encoding="utf-8") == "mine"
    copy.unlink()
    assert ask("backup", str(copy)).code == 0
    assert (tmp_path / "copy.db.new").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_backup_into_a_directory_that_is_missing(ask, slow, tmp_path):
    path = tmp_path / "missing" / "copy.db"
    result = ask("backup", str(path), "--json")
    assert (result.code, result.out) == (1, "")
    error = json.loads(result.err)["error"]
    assert error["status"] == "QL_E_SYSTEM"
    assert str(path) in error["text"] and "No such file or directory" in error["text"]
    assert "ledger.db" not in error["text"]


OLDER = today() - timedelta(days=100)


def make_backup(ask, program, tmp_path):
    """A backup with an older day, and a store that has gone on since."""
    assert program.ask("flush")[0] == "QL_OK"
    add_days(program, {OLDER: 50})
    program.charge("alice", "bytes", 5)
    backup = tmp_path / "copy.db"
    assert ask("backup", str(backup)).code == 0
    program.charge("alice", "bytes", 2)
    program.charge("bob", "bytes", 1)
    assert program.ask("flush")[0] == "QL_OK"
    return backup


def test_going_back_to_a_backup_while_a_program_runs(ask, slow, tmp_path):
    put_back(slow, make_backup(ask, slow, tmp_path))
    old = (start_of(OLDER), "bytes", 50)
    assert ask("verify").code == 0
    assert history(ask, "alice") == [old, (start_of(today()), "bytes", 7)]
    assert used(ask) == {"bytes": 7, "statements": 0}
    slow.charge("alice", "bytes", 1)
    slow.stop()
    assert sorted(totals(file_of(slow))) == [
        ("alice", "bytes", 8),
        ("alice", "bytes", 50),
        ("bob", "bytes", 1),
    ]


def test_going_back_to_a_backup_after_a_reboot(ask, slow, tmp_path):
    backup = make_backup(ask, slow, tmp_path)
    slow.stop()
    file_of(slow, "region").unlink()
    put_back(slow, backup)
    again = Program(slow.directory)
    assert used(ask) == {"bytes": 5, "statements": 0}
    assert [amount for _, _, amount in history(ask, "alice")] == [50, 5]
    assert ask("verify").code == 0
    again.stop()


@pytest.mark.parametrize("command", ["verify", "history", "backup", "flush"])
def test_a_ledger_that_was_moved_away_is_written_anew(ask, slow, tmp_path, command):
    """By whatever looks at it first, though nothing was charged since."""
    slow.charge("alice", "bytes", 5)
    assert slow.ask("flush")[0] == "QL_OK"
    move_away(slow)
    copy = tmp_path / "copy.db"
    if command == "verify":
        assert ask("verify").code == 0
    elif command == "history":
        assert history(ask, "alice") == [(start_of(today()), "bytes", 5)]
    elif command == "backup":
        assert ask("backup", str(copy)).code == 0
        assert totals(copy) == [("alice", "bytes", 5)]
    else:
        assert slow.ask("flush")[0] == "QL_OK"
    assert totals(file_of(slow)) == [("alice", "bytes", 5)]


# ---- verify, and ledgers that are not as they should be ----------------------


def test_verify_finds_a_row_that_was_edited(ask, slow):
    slow.charge("alice", "bytes", 41)
    assert ask("verify").code == 0
    for amount in (40, 42):
        change(slow, "UPDATE totals SET amount = ? WHERE subject = 'alice'", amount)
        result = ask("verify")
        assert (result.code, result.out) == (1, "")
        for word in ("[T1]", "alice, bytes", " 41 ", f" {amount}:", "report"):
            assert word in result.err
        report = ask("verify", "--json").json
        assert (report["sound"], report["status"]) == (False, "QL_E_CORRUPT")
    change(slow, "UPDATE totals SET amount = 41 WHERE subject = 'alice'")
    assert ask("verify").code == 0


def garble(path):
    path.write_bytes(b"garbage " * 1024)


def truncate(path):
    os.truncate(path, 5000)


def use_another_programs(path):
    path.unlink()
    with database(path) as other:
        other.execute("CREATE TABLE songs (title TEXT)")


def use_a_newer_format(path):
    with database(path) as ledger:
        ledger.execute("PRAGMA user_version = 2")


BROKEN = [
    (garble, "QL_E_LEDGER", ["damaged", "backup", "move it away"]),
    (truncate, "QL_E_LEDGER", ["damaged", "backup", "move it away"]),
    (use_another_programs, "QL_E_LEDGER", ["another program", "move it away"]),
    (use_a_newer_format, "QL_E_VERSION", ["format 2", "to 1", "newer quotalite"]),
]


def break_ledger(program, how):
    """The file, checkpointed, without programs."""
    path = file_of(program)
    with database(path) as ledger:
        for number in range(200):
            row = (f"somebody-{number}", number)
            ledger.execute("INSERT INTO totals VALUES ('day', 0, ?, 'bytes', ?)", row)
    with database(path) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger.execute("PRAGMA journal_mode = DELETE")
    for name in ASIDE[1:]:
        file_of(program, name).unlink(missing_ok=True)
    how(path)
    return path.read_bytes()


@pytest.mark.parametrize("how, status, words", BROKEN)
@pytest.mark.parametrize("command", [["verify"], ["history", "alice"], ["backup", "copy.db"]])
def test_a_ledger_that_cannot_be_used_is_an_error_that_says_what_to_do(
    ask, slow, tmp_path, how, status, words, command
):
    slow.charge("alice", "bytes", 5)
    slow.stop()
    break_ledger(slow, how)
    if command[0] == "backup":
        command = ["backup", str(tmp_path / "copy.db")]
    result = ask(*command)
    assert (result.code, result.out) == (1, "")
    assert all(word in result.err for word in words), result.err
    error = json.loads(ask(*command, "--json").err)["error"]
    assert error["status"] == status
    assert sorted(os.listdir(tmp_path)) == ["store"]
    assert used(ask)["bytes"] == 5
    assert ask("charge", "alice", "bytes", "1").code == 0


@pytest.mark.parametrize("how, status, words", BROKEN)
def test_a_ledger_that_cannot_be_used_after_a_reboot(ask, slow, how, status, words):
    slow.charge("alice", "bytes", 5)
    slow.stop()
    file_of(slow, "region").unlink()
    before = break_ledger(slow, how)
    again = Program(slow.directory, opens=False)
    for _ in range(2):
        answer, text = again.open()
        assert answer == status
        assert "cannot be opened without its budgets" in text
        assert all(word in text for word in words), text
    assert file_of(slow).read_bytes() == before
    assert not {"region", "region.new"} & set(os.listdir(slow.directory))
    again.stop()


def test_a_damaged_ledger_is_moved_away_while_a_program_runs(ask, slow):
    slow.charge("alice", "bytes", 5)
    assert slow.ask("flush")[0] == "QL_OK"
    with database(file_of(slow)) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    garble(file_of(slow))
    assert ask("verify").code == 1
    slow.charge("alice", "bytes", 1)
    move_away(slow)
    assert slow.ask("flush")[0] == "QL_OK"
    assert ask("verify").code == 0
    assert totals(file_of(slow)) == [("alice", "bytes", 6)]
