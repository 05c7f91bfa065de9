#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the engine with one fault at a time; the kill test for it must turn red.

    mutants.py SOURCE_ROOT [NAME...]

Each mutants/NAME.patch is one fault; its line "Red:" names the test that has to
fail. The engine without a fault has to pass all of these tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLAGS = ["-std=gnu11", "-O1", "-D_GNU_SOURCE", "-pthread"]
LIBRARY_FOLDERS = ["api", "base", "engine", "ledger", "region", "rules"]
LIBRARIES = ["-lsqlite3", "-lm"]
PROGRAMS = {
    "random_kills": ["random_kills.c", "random_supervisor.c", "random_worker.c", "harness.c"],
    "flushers": ["flushers.c", "flushers_worker.c", "books.c", "harness.c"],
    "ledgers": [
        "ledgers.c",
        "ledgers_clocks.c",
        "ledgers_forks.c",
        "ledgers_reboots.c",
        "ledgers_replaced.c",
        "ledgers_stopped.c",
        "scenario.c",
        "books.c",
        "harness.c",
    ],
    "every_state": [
        "every_state.c",
        "flushing.c",
        "operations.c",
        "stepper.c",
        "books.c",
        "harness.c",
    ],
    "processes": [
        "processes.c",
        "processes_forks.c",
        "processes_holders.c",
        "processes_ledger.c",
        "processes_opening.c",
        "processes_stopped.c",
        "processes_tokens.c",
        "scenario.c",
        "harness.c",
    ],
}
TEST_SECONDS = 200
SKIPPED = 77  # by a test that needs what this machine does not allow
skipped = set()  # such tests of the engine without a fault; theirs cannot be shown here
# What waits for something that a fault keeps from happening need not wait long.
MUTANT_ENVIRONMENT = {"KT_DEADLINE_SECONDS": "5"}


def object_of(build, file):
    return build / "objects" / f"{file.parent.name}_{file.stem}.o"


def compile_object(source, build, file):
    command = [os.environ.get("CC", "cc"), *FLAGS]
    command += [f"-I{source}/include", f"-I{build}/src", f"-I{source}/tests/kill"]
    command += ["-c", str(file), "-o", str(object_of(build, file))]
    subprocess.run(command, check=True)


def link_program(source, build, name):
    """A program of this engine."""
    files = engine_files(build) + [source / "tests/kill" / file for file in PROGRAMS[name]]
    command = [os.environ.get("CC", "cc"), *FLAGS, *[str(object_of(build, f)) for f in files]]
    subprocess.run([*command, *LIBRARIES, "-Wl,-z,now", "-o", str(build / name)], check=True)


def engine_files(build):
    return [f for d in LIBRARY_FOLDERS for f in sorted((build / "src" / d).glob("*.c"))]


def build_programs(source, build, names, changed):
    """Compiles what has changed (a header: everything) and links the programs."""
    files = engine_files(build)
    files += [source / "tests/kill" / file for files in PROGRAMS.values() for file in files]
    if not any(name.endswith(".h") for name in changed):
        files = [
            f for f in files if f.is_relative_to(build) and str(f.relative_to(build)) in changed
        ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda f: compile_object(source, build, f), sorted(set(files))))
        list(pool.map(lambda n: link_program(source, build, n), sorted(names)))


def first_red(build, tests, environment):
    """The first test that fails, with its first line; None if all pass."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="quotalite-stores-", dir=base) as stores:
        return first_red_below(stores, build, tests, environment)


def first_red_below(stores, build, tests, environment):
    """The same; a test that fails may leave its store in that folder."""
    for test in tests:
        command = [str(build / test[0]), *test[1:]]
        try:
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=TEST_SECONDS,
                check=False,
                env={**os.environ, **environment, "KT_BASE": stores},
            )
        except subprocess.TimeoutExpired:
            return f"{' '.join(test)}: no end after {TEST_SECONDS} s"
        if result.returncode == SKIPPED:
            skipped.add(test)
        elif result.returncode != 0:
            lines = (result.stderr.strip() or f"ended with {result.returncode}").splitlines()
            return f"{' '.join(test)}: {lines[0]}"
    return None


def red_test(patch):
    """The command of a patch's line "Red:"."""
    for line in patch.read_text().splitlines():
        if line.startswith("Red: "):
            return tuple(line.split()[1:])
    sys.exit(f"FAIL {patch.name} does not say which test turns red")


def run_control(source, build, tests):
    """What turns red in the engine without a fault."""
    shutil.copytree(source / "src", build / "src")
    (build / "objects").mkdir()
    build_programs(source, build, {test[0] for test in tests}, ["every.h"])
    return first_red(build, tests, {})


def run_mutant(source, control, build, patch):
    """What turns red in the engine with this patch."""
    shutil.copytree(control / "src", build / "src")
    shutil.copytree(control / "objects", build / "objects")
    applied = subprocess.run(
        ["patch", "-p1", "--fuzz=0", "-d", str(build), "-i", str(patch)],
        capture_output=True,
        text=True,
        check=False,
    )
    if applied.returncode != 0:
        sys.exit(f"FAIL {patch.name} does not apply, renew it:\n{applied.stdout}")
    changed = [
        line.removeprefix("+++ b/").strip()
        for line in patch.read_text().splitlines()
        if line.startswith("+++ b/")
    ]
    test = red_test(patch)
    build_programs(source, build, {test[0]}, changed)
    return first_red(build, [test], MUTANT_ENVIRONMENT)


def main():
    source = Path(sys.argv[1]).resolve()
    wanted = sys.argv[2:]
    patches = sorted((source / "tests/kill/mutants").glob("*.patch"))
    patches = [p for p in patches if not wanted or p.stem in wanted]
    if not patches:
        sys.exit("FAIL there are no mutants")
    with tempfile.TemporaryDirectory(prefix="quotalite-mutants-") as folder:
        control = Path(folder) / "control"
        red = run_control(source, control, sorted({red_test(p) for p in patches}))
        print(f"control: {'green' if red is None else 'RED, ' + red}", flush=True)
        failures = red is not None

        def run(patch):
            if red_test(patch) in skipped:
                return patch, f"not run, for {' '.join(red_test(patch))} is skipped here"
            return patch, run_mutant(source, control, Path(folder) / patch.stem, patch)

        with ThreadPoolExecutor(2) as pool:
            for patch, red in pool.map(run, patches):
                print(
                    f"{patch.stem}: {'NOT NOTICED' if red is None else 'red: ' + red}", flush=True
                )
                failures += red is None
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
