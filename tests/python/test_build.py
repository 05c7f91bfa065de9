# SPDX-License-Identifier: Apache-2.0
"""What a build from source says on a machine that lacks something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LESS = ("-Dcli=false", "-Dtests=false", "-Dbench=false")


@pytest.mark.parametrize("version", [None, "3.36.0"])
def test_a_build_without_sqlite_says_what_to_install(tmp_path: Path, version: str | None) -> None:
    if version is not None:
        description = f"Name: SQLite\nDescription: too old\nVersion: {version}\n"
        (tmp_path / "sqlite3.pc").write_text(description)
    environment = {**os.environ, "PKG_CONFIG_LIBDIR": str(tmp_path)}
    # Of the sanitized run: meson and the compiler are not its subject.
    environment.pop("LD_PRELOAD", None)
    run = subprocess.run(
        [sys.executable, "-m", "mesonbuild.mesonmain", "setup", *LESS, tmp_path / "build"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    (error,) = (line for line in run.stdout.splitlines() if "ERROR" in line)
    assert run.returncode != 0
    assert "SQLite 3.37 or later" in error
    assert "libsqlite3-dev" in error
