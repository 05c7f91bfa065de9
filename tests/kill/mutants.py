#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the engine with one fault at a time; some kill test must turn red.

    mutants.py SOURCE_ROOT [NAME...]

Each mutants/NAME.patch is one fault. The tests run with reduced counts; the
engine without a fault has to pass them all with the same ones.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLAGS = ["-std=gnu11", "-O1", "-D_GNU_SOURCE", "-pthread"]
LIBRARY_FOLDERS = ["api", "base", "engine", "region", "rules"]
PROGRAMS = {
    "random_kills": ["random_kills.c", "random_supervisor.c", "random_worker.c", "harness.c"],
    "every_state": ["every_state.c", "operations.c", "stepper.c", "harness.c"],
    "processes": [
        "processes.c",
        "processes_forks.c",
        "processes_holders.c",
        "processes_opening.c",
        "scenario.c",
        "harness.c",
    ],
}
TESTS = [
    ["processes", "late_reaper"],
    ["every_state", "--quick", "charge", "settle", "roll-over", "steal", "attach-over-dead"],
    ["random_kills", "--kills", "300"],
]
TEST_SECONDS = 200


def compile_program(compiler, source, build, name):
    command = [compiler, *FLAGS, f"-I{source}/include", f"-I{build}/src", f"-I{source}/tests/kill"]
    command += [str(source / "tests/kill" / file) for file in PROGRAMS[name]]
    command += [str(build / "engine.a"), "-lm", "-Wl,-z,now", "-o", str(build / name)]
    subprocess.run(command, check=True)


def compile_object(compiler, source, build, file):
    object_file = build / (str(file.relative_to(build / "src")).replace("/", "_") + ".o")
    command = [compiler, *FLAGS, f"-I{source}/include", f"-I{build}/src", "-c", str(file)]
    subprocess.run([*command, "-o", str(object_file)], check=True)
    return str(object_file)


def build_all(source, build):
    compiler = os.environ.get("CC", "cc")
    files = [f for d in LIBRARY_FOLDERS for f in sorted((build / "src" / d).glob("*.c"))]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda f: compile_object(compiler, source, build, f), files))
        subprocess.run(["ar", "rcs", str(build / "engine.a"), *objects], check=True)
        list(pool.map(lambda n: compile_program(compiler, source, build, n), PROGRAMS))


def first_red(build):
    """The first test that fails, with its last line; None if all pass."""
    for test in TESTS:
        command = [str(build / test[0]), *test[1:]]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=TEST_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{' '.join(test)}: no end after {TEST_SECONDS} s"
        if result.returncode != 0:
            lines = (result.stderr.strip() or f"ended with {result.returncode}").splitlines()
            return f"{' '.join(test)}: {lines[0]}"
    return None


def run_mutant(source, patch):
    """What turned red in the engine with this patch (None: without any)."""
    with tempfile.TemporaryDirectory(prefix="quotalite-mutant-") as folder:
        build = Path(folder)
        shutil.copytree(source / "src", build / "src")
        if patch is not None:
            applied = subprocess.run(
                ["patch", "-p1", "--fuzz=0", "-d", folder, "-i", str(patch)],
                capture_output=True,
                text=True,
                check=False,
            )
            if applied.returncode != 0:
                sys.exit(f"FAIL {patch.name} does not apply, renew it:\n{applied.stdout}")
        build_all(source, build)
        return first_red(build)


def main():
    source = Path(sys.argv[1]).resolve()
    patches = sorted((source / "tests/kill/mutants").glob("*.patch"))
    wanted = sys.argv[2:]
    failures = 0
    red = run_mutant(source, None)
    print(f"control: {'green' if red is None else 'RED, ' + red}", flush=True)
    failures += red is not None
    for patch in patches:
        if wanted and patch.stem not in wanted:
            continue
        red = run_mutant(source, patch)
        print(f"{patch.stem}: {'NOT NOTICED' if red is None else 'red: ' + red}", flush=True)
        failures += red is None
    return 1 if failures or not patches else 0


if __name__ == "__main__":
    sys.exit(main())
