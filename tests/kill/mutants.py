#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the engine with one fault at a time; the kill test for it must turn red.

    mutants.py SOURCE_ROOT [NAME...]

Each mutants/NAME.patch is one fault; its line "Red:" names the test that has to
fail. The engine without a fault has to pass all of these tests.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLAGS = ["-std=gnu11", "-O1", "-D_GNU_SOURCE", "-pthread", "-MMD"]
LIBRARY_FOLDERS = ["api", "base", "engine", "ledger", "region", "rules"]
LIBRARIES = ["-lsqlite3", "-lm"]
PROGRAMS = {
    "random_kills": [
        "random_kills.c",
        "random_supervisor.c",
        "random_worker.c",
        "supervising.c",
        "harness.c",
    ],
    "flushers": ["flushers.c", "flushers_worker.c", "supervising.c", "books.c", "harness.c"],
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
        "operations_setups.c",
        "operations_store.c",
        "recovery.c",
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
TEST_SECONDS = 600
SKIPPED = 77  # by a test that needs what this machine does not allow
skipped = set()  # such tests of the engine without a fault; theirs cannot be shown here
# What waits for something that a fault keeps from happening need not wait long.
MUTANT_ENVIRONMENT = {"KT_DEADLINE_SECONDS": "5"}
# Some faults show only when processes meet, which a busy machine may keep from happening.
MUTANT_RUNS = 3


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


def is_stale(build, file, changed):
    """Whether the object was never made, or of something that has changed."""
    made_of = object_of(build, file).with_suffix(".d")
    if not made_of.exists():
        return True
    return any(
        word.endswith(tuple(f"/{name}" for name in changed)) for word in made_of.read_text().split()
    )


def build_programs(source, build, names, changed):
    """Compiles what has changed, or includes that, and links the programs."""
    files = engine_files(build)
    files += [source / "tests/kill" / file for name in names for file in PROGRAMS[name]]
    files = [f for f in files if is_stale(build, f, changed)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda f: compile_object(source, build, f), sorted(set(files))))
        list(pool.map(lambda n: link_program(source, build, n), sorted(names)))


def run_program(command, environment):
    """What it ends with (None: not in time), and its errors. What it has started ends with
    it: a process that is stopped while it is forked would stay, and hold a pipe."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            code = process.wait(TEST_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        errors.seek(0)
        return code, errors.read().strip()


def run_test(build, test, environment):
    """The test with its first line, if it fails; None if it passes."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    command = [str(build / test[0]), *test[1:]]
    # A test that fails may leave its store in that folder.
    with tempfile.TemporaryDirectory(prefix="quotalite-stores-", dir=base) as stores:
        code, errors = run_program(command, {**environment, "KT_BASE": stores})
    if code == SKIPPED:
        skipped.add(test)
    if code in (0, SKIPPED):
        return None
    if code is None:
        return f"{' '.join(test)}: no end after {TEST_SECONDS} s"
    return f"{' '.join(test)}: {(errors or f'ended with {code}').splitlines()[0]}"


def red_test(patch):
    """The command of a patch's line "Red:"."""
    for line in patch.read_text().splitlines():
        if line.startswith("Red: "):
            return tuple(line.split()[1:])
    sys.exit(f"FAIL {patch.name} does not say which test turns red")


def run_control(source, build, tests):
    """The first test that turns red in the engine without a fault."""
    shutil.copytree(source / "src", build / "src")
    (build / "objects").mkdir()
    build_programs(source, build, {test[0] for test in tests}, [])
    with ThreadPoolExecutor(2) as pool:
        return next(filter(None, pool.map(lambda test: run_test(build, test, {}), tests)), None)


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
    runs = (run_test(build, test, MUTANT_ENVIRONMENT) for _ in range(MUTANT_RUNS))
    return next(filter(None, runs), None)


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
        print(f"control: {'green' if red is None else 'RED'}", flush=True)
        failures = [red] if red else []

        def run(patch):
            if red_test(patch) in skipped:
                return patch, f"not run, for {' '.join(red_test(patch))} is skipped here"
            return patch, run_mutant(source, control, Path(folder) / patch.stem, patch)

        with ThreadPoolExecutor(2) as pool:
            for patch, red in pool.map(run, patches):
                print(
                    f"{patch.stem}: {'NOT NOTICED' if red is None else 'red: ' + red}", flush=True
                )
                if red is None:
                    failures.append(f"{patch.stem} was not noticed")
    return "\n".join(f"FAIL {failure}" for failure in failures) or 0


if __name__ == "__main__":
    sys.exit(main())
