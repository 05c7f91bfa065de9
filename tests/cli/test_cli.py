# SPDX-License-Identifier: Apache-2.0
"""The command line tool, driven as its users do."""

import json
import os
import re

import pytest

COMMANDS = ["usage", "leases", "check", "charge", "run", "history", "verify", "backup"]
ARGUMENTS = {
    "check": ["alice"],
    "charge": ["alice", "bytes", "1"],
    "run": ["alice", "--", "echo", "ran"],
    "history": ["alice"],
    "backup": ["/nonexistent/backup.db"],
}
MAX = 2**63 - 1


def rows(text):
    return [line.split() for line in text.splitlines()[1:]]


def limits(answer):
    return {limit["name"]: limit for limit in answer["limits"]}


# ---- the program -----------------------------------------------------------


def test_version(run):
    result = run("--version")
    assert result.code == 0
    assert re.fullmatch(r"quotalite \d+\.\d+\.\d+\n", result.out)


def test_help_documents_commands_exit_status_and_examples(run):
    result = run("--help")
    assert result.code == 0 and result.err == ""
    for word in [*COMMANDS, "Examples:", "Exit status:", "75", "QUOTALITE_STORE"]:
        assert word in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples(run, command):
    result = run(command, "--help")
    assert result.code == 0 and result.err == ""
    assert result.out.startswith(f"Usage: quotalite {command}")
    for word in ["Examples:", "Exit status:", "--json"]:
        assert word in result.out
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no command"),
        (["frobnicate"], "'frobnicate'"),
        (["usage", "--frobnicate"], "'--frobnicate'"),
        (["usage", "a", "b"], "'b'"),
        (["check"], "missing"),
        (["charge", "alice", "bytes"], "missing"),
        (["verify", "alice"], "'alice'"),
        (["usage", "--limit", "x"], "--limit"),
        (["check", "alice", "--revoke", "x"], "--revoke"),
        (["check", "alice", "--wait", "1"], "--wait"),
        (["charge", "alice", "bytes", "1", "--charge", "bytes=1"], "--charge"),
        (["usage", "--slot-only"], "--slot-only"),
        (["history"], "missing"),
        (["history", "alice", "bob"], "'bob'"),
        (["usage", "--csv"], "--csv"),
        (["leases", "--meter", "bytes"], "--meter"),
        (["backup", "f", "--from", "2026-01-01"], "--from"),
        (["verify", "--to", "2026-01-01"], "--to"),
        (["backup"], "missing"),
        (["backup", "one", "two"], "'two'"),
        (["run", "--", "true"], "missing"),
        (["--", "run", "alice", "true"], "missing"),
        (["run", "alice"], "--"),
        (["run", "alice", "true"], "'--'"),
        (["run", "alice", "bob", "--", "true"], "'bob'"),
        (["usage", "--store"], "--store"),
        (["usage"], "QUOTALITE_STORE"),
        (["usage", "--store", ""], "QUOTALITE_STORE"),
    ],
)
def test_wrong_command_line_is_exit_2(run, arguments, message):
    result = run(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert message in result.err


def test_output_that_cannot_be_written_is_an_error(cli):
    with open("/dev/full", "wb") as full:
        result = cli("verify", stdout=full)
    assert result.code == 1
    assert "cannot write" in result.err


# ---- the store -------------------------------------------------------------


def test_store_comes_from_option_or_environment(run, store):
    by_environment = run("verify", env={"QUOTALITE_STORE": store.directory})
    assert by_environment.code == 0
    option_wins = run(
        "verify", "-s", store.directory, env={"QUOTALITE_STORE": "/nonexistent/store"}
    )
    assert option_wins.code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_store_is_an_error_and_not_made(run, tmp_path, command):
    arguments = [command, *ARGUMENTS.get(command, [])]
    missing = tmp_path / "missing"
    result = run("--store", str(missing), *arguments)
    assert result.code == 1 and result.out == ""
    assert str(missing) in result.err and "makes the store" in result.err
    assert not missing.exists()

    empty = tmp_path / "empty"
    empty.mkdir()
    result = run("--store", str(empty), *arguments)
    assert result.code == 1 and result.out == ""
    assert "no file 'lock'" in result.err
    assert list(empty.iterdir()) == []


def test_a_store_without_its_region_is_not_made_anew(cli, store):
    store.stop()
    region = os.path.join(store.directory, "region")
    os.unlink(region)
    result = cli("usage")
    assert result.code == 1 and result.out == ""
    assert "has no region" in result.err and "start the program" in result.err
    assert not os.path.exists(region)


def test_memory_is_no_store_of_this_program(run):
    result = run("usage", "--store", "memory:")
    assert result.code == 1
    assert "private" in result.err


def test_errors_are_json_on_standard_error_with_json(run, tmp_path):
    result = run("usage", "--json", "--store", str(tmp_path / "missing"))
    assert result.code == 1 and result.out == ""
    error = json.loads(result.err)["error"]
    assert error["status"] == "QL_E_STORE"
    assert "missing" in error["text"]


def test_a_store_that_holds_garbage_is_an_error(cli, store):
    store.stop()
    with open(os.path.join(store.directory, "region"), "r+b") as region:
        region.write(b"garbage " * 64)
    for command in COMMANDS:
        result = cli(command, *ARGUMENTS.get(command, []))
        assert result.code == 1 and result.out == ""
        assert result.err.startswith("quotalite: ")


# ---- usage -----------------------------------------------------------------


def test_usage_of_all_subjects_is_sorted_and_aligned(cli, store):
    for subject, amount in [("zoe", 7), ("alice", 123), ("bob/x", 0), ("mia", 1000)]:
        store.charge(subject, "bytes", amount or 5)
    store.acquire("alice")
    result = cli("usage")
    assert result.code == 0 and result.err == ""
    table = rows(result.out)
    subjects = [row[0] for row in table]
    assert subjects == [s for s in ["alice", "bob/x", "mia", "zoe"] for _ in range(3)]
    assert table[0] == ["alice", "concurrent_scans", "-", "1", "2", "1", "-"]
    assert table[1][:6] == ["alice", "daily_bytes", "bytes", "123", "1000", "877"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00Z", table[1][6])
    assert table[2][:6] == ["alice", "daily_statements", "statements", "0", "none", "-"]

    heading, *lines = result.out.splitlines()
    end = heading.index(" CAP") + 4
    assert {line[:end].split()[-1] for line in lines} == {"2", "1000", "none"}
    assert cli("usage").out == result.out


def test_usage_of_one_subject_as_json(cli, store):
    store.charge("alice", "bytes", 41)
    store.charge("alice", "statements", MAX)
    store.acquire("alice")
    store.charge("bob", "bytes", 1)
    result = cli("usage", "alice", "--json")
    assert result.code == 0
    (alice,) = result.json["subjects"]
    assert alice["subject"] == "alice" and alice["leases"] == 1
    concurrent = limits(alice)["concurrent_scans"]
    assert concurrent == {
        "name": "concurrent_scans",
        "meter": None,
        "window": None,
        "cap": 2,
        "used": 1,
        "remaining": 1,
        "resets_at": None,
    }
    assert limits(alice)["daily_bytes"]["used"] == 41
    assert limits(alice)["daily_bytes"]["resets_at"] % 86400 == 0
    assert {m["name"]: m["total"] for m in alice["meters"]} == {"bytes": 41, "statements": MAX}
    everybody = cli("usage", "--json").json["subjects"]
    assert [s["subject"] for s in everybody] == ["alice", "bob"]


def test_usage_of_an_unknown_subject_is_zero_and_makes_nothing(cli):
    result = cli("usage", "nobody")
    assert result.code == 0
    assert [row[3] for row in rows(result.out)] == ["0", "0", "0"]
    assert cli("usage", "--json").json == {"subjects": []}


def test_usage_shows_meters_that_no_limit_names_any_more(cli, store):
    store.charge("alice", "bytes", 9)
    assert store.ask("close")[0] == "QL_OK"
    assert store.ask("open", store.directory, "one-limit")[0] == "QL_OK"
    table = rows(cli("usage", "alice").out)
    assert ["alice", "-", "bytes", "9", "none", "-", "-"] in table
    assert "daily_bytes" not in str(table)


@pytest.mark.parametrize("subject", ["", "/a", "a//b", "a/b/c/d/e", "x" * 256, "50%", b"a\xff"])
def test_a_bad_subject_is_an_error(cli, subject):
    for command in (["usage"], ["leases"], ["check"]):
        result = cli(*command, subject)
        assert result.code == 1 and result.out == ""
        assert "subject" in result.err


# ---- leases ----------------------------------------------------------------


def test_leases_lists_who_holds_what(cli, store):
    assert rows(cli("leases").out) == []
    bob = store.acquire("bob")
    first = store.acquire("alice")
    second = store.acquire("alice")
    result = cli("leases")
    assert result.code == 0
    table = rows(result.out)
    assert {(row[0], row[1]) for row in table} == {
        (first, "alice"),
        (second, "alice"),
        (bob, "bob"),
    }
    assert [row[1] for row in table] == ["alice", "alice", "bob"]
    assert {(row[4], row[5]) for row in table} == {("-", str(store.pid))}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", table[0][2])
    assert re.fullmatch(r"\d+\.\ds|\d+m\d\ds", table[0][3])

    (lease,) = cli("leases", "bob", "--json").json["leases"]
    assert lease["lease"] == bob and lease["subject"] == "bob"
    assert lease["pid"] == store.pid and lease["age_ms"] >= 0 and lease["since"] > 0
    assert lease["expires_in_ms"] is None
    assert cli("leases", "nobody", "--json").json == {"leases": []}


def test_leases_tells_when_a_lease_expires(cli, store):
    assert store.ask("acquire", "alice", 3600000)[0] == "QL_OK"
    (lease,) = cli("leases", "--json").json["leases"]
    assert 3500000 < lease["expires_in_ms"] <= 3600000
    assert re.fullmatch(r"5\dm\d\ds|1h00m", rows(cli("leases").out)[0][4])


def test_revoke_frees_a_slot_once(cli, store):
    stuck = store.acquire("alice")
    store.acquire("alice")
    assert store.ask("acquire", "alice")[0] == "QL_REFUSED"

    result = cli("leases", "--revoke", stuck)
    assert (result.code, result.out, result.err) == (0, f"revoked {stuck}\n", "")
    assert len(rows(cli("leases").out)) == 1
    assert store.ask("settle", stuck, 5)[0] == "QL_LATE"
    store.acquire("alice")

    again = cli("leases", "--revoke", stuck)
    assert again.code == 1 and again.out == "" and "not held" in again.err


def test_revoke_as_json(cli, store):
    lease = store.acquire("alice")
    result = cli("leases", "--json", "--revoke", lease)
    assert result.code == 0 and result.json == {"revoked": lease}


def test_revoke_of_what_is_no_lease(cli):
    for text in ["", "1", "0.0.0", "zz.1.1", "1.1.1.1", "1.1.1 "]:
        result = cli("leases", "--revoke", text)
        assert result.code == 1 and result.out == "" and result.err != ""


# ---- check -----------------------------------------------------------------


def test_check_allows_and_refuses(cli, store):
    allowed = cli("check", "alice")
    assert allowed.code == 0 and allowed.out.startswith("allowed\n")

    store.charge("alice", "bytes", 1000)
    refused = cli("check", "alice")
    assert refused.code == 75 and refused.err == ""
    assert re.match(r"refused: daily_bytes: 1000/1000, level 1, retry after \d+ s\n", refused.out)
    assert cli("check", "alice", "--limit", "daily_statements").code == 0
    assert cli("check", "alice", "--limit", "daily_bytes").code == 75
    assert cli("check", "bob").code == 0


def test_check_refusal_as_json_has_its_fields(cli, store):
    store.charge("alice", "bytes", 1234)
    result = cli("check", "alice", "--json")
    assert result.code == 75
    answer = result.json
    assert answer["allowed"] is False and answer["subject"] == "alice"
    assert (answer["kind"], answer["current"], answer["limit"]) == ("daily_bytes", 1234, 1000)
    assert 0 <= answer["retry_after_seconds"] <= 86400
    assert limits(answer)["daily_bytes"]["remaining"] == 0

    allowed = cli("check", "bob", "--json")
    assert allowed.code == 0
    assert allowed.json["allowed"] is True and "kind" not in allowed.json


@pytest.mark.parametrize("name", ["nothing", "concurrent_scans"])
def test_check_of_a_limit_that_is_no_budget_names_those_that_are(cli, name):
    result = cli("check", "alice", "--limit", name)
    assert result.code == 1
    assert f"'{name}'" in result.err and "daily_bytes, daily_statements" in result.err


# ---- charge ----------------------------------------------------------------


def test_charge_adds_past_the_cap(cli):
    result = cli("charge", "alice", "bytes", "1500")
    assert (result.code, result.out, result.err) == (0, "charged alice bytes 1500\n", "")
    result = cli("charge", "alice", "bytes", "7", "--json")
    assert result.json == {"subject": "alice", "meter": "bytes", "charged": 7}
    (alice,) = cli("usage", "alice", "--json").json["subjects"]
    assert limits(alice)["daily_bytes"]["used"] == 1507


def test_charge_saturates(cli):
    for _ in range(2):
        assert cli("charge", "alice", "bytes", str(MAX)).code == 0
    (alice,) = cli("usage", "alice", "--json").json["subjects"]
    assert limits(alice)["daily_bytes"]["used"] == MAX


@pytest.mark.parametrize(
    "amount", ["", "1x", " 1", "1 ", "+1", "0x10", "1.0", "1e3", "٣", str(2**63), "9" * 40]
)
def test_charge_takes_whole_numbers_only(cli, amount):
    result = cli("charge", "alice", "bytes", amount)
    assert result.code == 2 and result.out == ""
    assert "amount" in result.err
    assert cli("usage", "--json").json == {"subjects": []}


def test_charge_of_a_negative_amount_is_wrong(cli):
    assert cli("charge", "alice", "bytes", "-1").code == 2
    assert cli("charge", "--", "alice", "bytes", "-1").code == 2
    assert cli("usage", "--json").json == {"subjects": []}


def test_charge_of_an_unknown_meter_names_those_that_are(cli):
    result = cli("charge", "alice", "tokens", "1")
    assert result.code == 1
    assert "'tokens'" in result.err and "bytes, statements" in result.err


# ---- verify ----------------------------------------------------------------


def test_verify_prints_counts(cli, store):
    store.acquire("alice")
    store.charge("bob", "bytes", 1)
    result = cli("verify", "--json")
    assert result.code == 0
    report = result.json
    assert report["sound"] is True
    assert (report["subjects"], report["leases"], report["max_subjects"]) == (2, 1, 64)
    assert report["holders"] == 2 and report["omissions"] == 0
    assert 0 <= report["flush_lag_ms"] < 60_000

    text = cli("verify")
    assert text.code == 0
    assert text.out.splitlines()[0] == "sound"
    assert re.search(r"^subjects +2 of 64 ", text.out, re.M)
    assert re.search(r"^flush lag +\d+ ms$", text.out, re.M)


# ---- what reaches the terminal ---------------------------------------------

HOSTILE = ["a\x1b[31mb", "a\nb", "a\x7fb", "a\u009b31mb", "a\u202eb", "a\tb", b"a\x9bb"]


def assert_harmless(text):
    for character in text:
        assert character == "\n" or character.isprintable(), repr(text)


@pytest.mark.parametrize("subject", HOSTILE)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_no_argument_reaches_the_terminal_raw(cli, subject, flags):
    for arguments in (
        ["usage", subject],
        ["leases", subject],
        ["leases", "--revoke", subject],
        ["check", subject],
        ["check", "alice", "--limit", subject],
        ["charge", subject, "bytes", "1"],
        ["charge", "alice", subject, "1"],
        ["charge", "alice", "bytes", subject],
        ["history", subject],
        ["history", "alice", "--meter", subject],
        ["history", "alice", "--from", subject],
        ["history", "alice", "--to", subject],
        ["backup", subject + (b"/x" if isinstance(subject, bytes) else "/x")],
        [subject],
        ["--store", subject, "usage"],
    ):
        result = cli(*flags, *arguments)
        assert result.out + result.err != ""
        assert_harmless(result.out)
        assert_harmless(result.err)
    assert_harmless(cli("usage").out)


def test_names_in_other_scripts_are_shown_and_aligned(cli, store):
    for subject in ["żółw", "名前", "back\\slash"]:
        store.charge(subject, "bytes", 1)
    result = cli("usage")
    assert "żółw" in result.out and "名前" in result.out and "back\\\\slash" in result.out
    names = {s["subject"] for s in cli("usage", "--json").json["subjects"]}
    assert names == {"żółw", "名前", "back\\slash"}
