# SPDX-License-Identifier: Apache-2.0
"""The manual pages say what the program and the header have, and render."""

import re
import subprocess

import pytest
from conftest import ROOT

PAGES = ROOT / "docs/man"


def page(name):
    return (PAGES / name).read_text(encoding="utf-8")


def test_the_page_has_the_commands_and_options_of_the_help(run):
    program = run("--help").out
    commands = re.findall(r"^  (\w+)  +", program.split("Commands:")[1].split("\n\n")[0], re.M)
    assert commands == re.findall(r"^\.It Cm (\w+)$", page("quotalite.1"), re.M)
    helps = [program, *(run(command, "--help").out for command in commands)]
    options = set(re.findall(r"^  (-\w), --(\w+)", "\n".join(helps), re.M))
    described = re.findall(r"^\.It Fl (\w) , Fl Fl (\w+)", page("quotalite.1"), re.M)
    assert {(f"-{short}", long) for short, long in described} == options


def test_the_page_has_the_functions_of_the_header():
    header = (ROOT / "include/quotalite.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^QL_API\b[^;(]*?\b(ql_\w+)\(", header, re.M))
    listed = [line for line in page("quotalite.3").splitlines() if line.startswith(".It Fn")]
    assert set(re.findall(r"ql_\w+", "\n".join(listed))) == declared


@pytest.mark.parametrize("name", ["quotalite.1", "quotalite.3"])
def test_the_page_renders_without_a_warning(name):
    done = subprocess.run(
        ["groff", "-ww", "-mdoc", "-Tutf8", "-z", PAGES / name],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
