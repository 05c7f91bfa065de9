# SPDX-License-Identifier: Apache-2.0
"""The README's C and Python blocks run when pasted, against an installed
library and the installed package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, blocks

README = ROOT / "README.md"
BUILD = Path(os.environ.get("QUOTALITE_BUILD", ROOT / "build/gcc"))


def run(command, **kwargs):
    done = subprocess.run(
        command,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kwargs,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The C library as `meson install` leaves it, for pkg-config."""
    root = tmp_path_factory.mktemp("installed")
    run(
        ["meson", "install", "-C", str(BUILD), "--no-rebuild", "--quiet", "--destdir", str(root)],
    )
    (pc,) = root.rglob("quotalite.pc")
    environment = os.environ | {
        "PKG_CONFIG_PATH": str(pc.parent),
        "PKG_CONFIG_SYSROOT_DIR": str(root),
    }
    return environment, pc.parent.parent


def test_the_library_is_installed_where_pkg_config_looks():
    """Below /usr/local, whatever prefix this build was last installed with."""
    options = json.loads(run(["meson", "introspect", "--buildoptions", str(BUILD)]))
    (libdir,) = (option["value"] for option in options if option["name"] == "libdir")
    looked = run(["pkg-config", "--variable=pc_path", "pkg-config"]).strip().split(":")
    assert f"/usr/local/{libdir}/pkgconfig" in looked


def test_readme_has_a_block_of_each_language():
    assert list(blocks(README, "python"))
    assert list(blocks(README, "c"))


@pytest.mark.parametrize("block", list(blocks(README, "python")), ids=str)
def test_python_block_runs(block, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(block.text, encoding="utf-8")
    run([sys.executable, str(script)], cwd=tmp_path)


@pytest.mark.parametrize("block", list(blocks(README, "c")), ids=str)
def test_c_block_compiles_and_runs(block, installed, tmp_path):
    environment, libraries = installed
    source = tmp_path / "block.c"
    source.write_text(block.text, encoding="utf-8")
    flags = run(["pkg-config", "--cflags", "--libs", "quotalite"], env=environment).split()
    run(
        ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", str(source), *flags]
        + [f"-Wl,-rpath,{libraries}", "-o", str(tmp_path / "block")],
    )
    run([str(tmp_path / "block")], cwd=tmp_path)


def test_make_targets_named_in_the_documents_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE))
        assert named <= targets, f"{name}: {sorted(named - targets)}"
