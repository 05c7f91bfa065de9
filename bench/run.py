#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks, prints a table, writes build/bench.json.

    bench/run.py [--engine build/release/bench/bench_engine] [--docs]

--docs also writes docs/benchmarks.svg. It measures and judges nothing: slow is
no failure. docs/benchmarks.md says how to read the rows.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from plot import plot  # noqa: E402
from redis_peer import redis_rows  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def lines_of(command):
    """The JSON lines that a program prints, by row."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {row["row"]: row for row in map(json.loads, done.stdout.splitlines())}


def ns(value):
    if value >= 1e6:
        return f"{value / 1e6:.2f} ms"
    return f"{value / 1000:.2f} µs" if value >= 1000 else f"{value:.1f} ns"


def row(name, aim, limit, measured, ratio, reached, note=""):
    return {
        "name": name,
        "aim": aim,
        "limit": limit,
        "measured": measured,
        "ratio": ratio,
        "reached": reached,
        "note": note,
    }


def pair(raw, key, name, factor):
    r = raw[key]
    return row(
        name,
        f"≤ {factor:g} × limit",
        ns(r["limit_ns"]),
        ns(r["ns"]),
        r["ratio"],
        r["ratio"] <= factor,
    )


def four_calls(raw):
    judged = pair(raw, "hot_four_calls", "check + acquire + charge + release, hot", 6)
    if "python_plain" in raw:
        times = raw["python_plain"]["ns"] / raw["hot_four_calls"]["ns"]
        judged["note"] = f"{times:.0f} × the plain Python tracker; aim ≥ 60 ×"
        judged["reached"] = judged["reached"] and times >= 60
    return judged


def processes(raw, key, name, factor):
    r = raw[key]
    return row(
        name,
        f"≥ {factor:g} × one alone",
        f"{r['limit_ratio']:.2f} ×",
        f"{r['ratio']:.2f} ×",
        r["ratio"],
        r["ratio"] >= factor,
        f"one alone: {r['alone_per_second'] / 1e6:.2f} million a second",
    )


def store(raw, key, name):
    r = raw[key]
    return row(
        name,
        "≤ 1.2 × memory:",
        ns(r["limit_ns"]),
        ns(r["ns"]),
        r["ratio"],
        r["ratio"] <= 1.2,
        f"p50 {ns(r['p50_ns'])}, p99 {ns(r['p99_ns'])}, p99.9 {ns(r['p999_ns'])}, "
        f"max {ns(r['max_ns'])}",
    )


def flusher(raw, key, name):
    r = raw[key]
    return row(
        name, "≤ 1.1 × without", ns(r["limit_ns"]), ns(r["ns"]), r["ratio"], r["ratio"] <= 1.1
    )


def rate(per_second):
    return f"{per_second:,.0f} a second"


def charges(raw, durability, callers):
    """Charges a second, beside SQLite with a transaction for each."""
    r, sqlite = raw[f"{durability}_{callers}"], raw[f"sqlite_{callers}"]
    redis = raw.get(f"redis_{callers}", {}).get("per_second")
    aimed = durability == "sync" and callers > 1
    ratio = r["per_second"] / redis if redis else None
    return row(
        f"{durability} charges, {callers} caller{'s' if callers > 1 else ''}",
        "≥ Redis, appendfsync always" if aimed else "",
        rate(redis) if redis else "no Redis here",
        rate(r["per_second"]),
        ratio,
        ratio >= 1 if aimed and ratio else None,
        f"{r['per_second'] / sqlite['per_second']:.1f} × SQLite, one transaction each "
        f"({rate(sqlite['per_second'])})",
    )


def restore(raw):
    r = raw["restore"]
    return row(
        "a region out of a ledger, 1,000,000 totals",
        "seconds",
        "",
        f"{r['restore_ms'] / 1000:.1f} s",
        None,
        None,
        f"writing them all: {r['flush_ms'] / 1000:.1f} s",
    )


def memory(raw):
    r = raw["memory"]
    per_subject = r["bytes_per_subject"]
    return row(
        "memory a subject, two meters, one lease each",
        "≤ 320 bytes",
        "",
        f"{per_subject:.0f} bytes",
        None,
        per_subject <= 320,
    )


def lock_wait(raw):
    r = raw["lock_wait_after_kill"]
    return row(
        "lock wait after a kill inside it",
        "≤ 20 ms",
        "",
        f"mean {r['mean_ms']:.2f}, max {r['max_ms']:.2f} ms",
        None,
        r["max_ms"] <= 20,
        f"{r['inside']} of {r['trials']} kills fell inside",
    )


def python(raw):
    plain, sqlite = raw["python_plain"]["ns"], raw["python_sqlite"]["ns"]
    name = "Python: check + with acquire + record"
    package = raw["python_package"]
    if "missing" in package:
        return row(name, "≤ 0.6 µs", "", "not measured", None, None, package["missing"])
    times = plain / package["ns"]
    return row(
        name,
        "≤ 0.6 µs, ≥ 20 × plain",
        ns(plain),
        ns(package["ns"]),
        package["ns"] / plain,
        package["ns"] <= 600 and times >= 20,
        f"{times:.1f} × the plain tracker, {sqlite / package['ns']:.0f} × SQLite ({ns(sqlite)})",
    )


def judge(raw):
    """The rows of the table; those whose program printed nothing are left out."""
    makers = [
        lambda: pair(raw, "hot_admit_settle", "admit + settle, one thread, hot", 3),
        lambda: four_calls(raw),
        lambda: pair(raw, "million_admit_settle", "admit + settle, 1,000,000 subjects", 1.5),
        lambda: processes(raw, "two_processes_own", "two processes, own subjects", 1.8),
        lambda: processes(raw, "two_processes_hot", "two processes, one hot subject", 0.5),
        lambda: store(raw, "store_tmpfs", "directory on tmpfs"),
        lambda: store(raw, "store_disk", "directory on disk"),
        lambda: flusher(raw, "flusher_tmpfs", "flusher at work, tmpfs"),
        lambda: flusher(raw, "flusher_disk", "flusher at work, disk"),
        lambda: charges(raw, "async", 1),
        lambda: charges(raw, "async", 64),
        lambda: charges(raw, "sync", 1),
        lambda: charges(raw, "sync", 64),
        lambda: restore(raw),
        lambda: memory(raw),
        lambda: lock_wait(raw),
        lambda: python(raw),
    ]
    judged = []
    for make in makers:
        try:
            judged.append(make())
        except KeyError as missing:
            print(f"bench: no figures for {missing}", file=sys.stderr)
    return judged


def print_table(judged):
    heads = ["row", "aim", "bare limit", "measured", "ratio", "reached"]
    cells = [
        [
            r["name"],
            r["aim"],
            r["limit"] or "-",
            r["measured"],
            "-" if r["ratio"] is None else f"{r['ratio']:.2f}",
            {True: "yes", False: "no", None: "-"}[r["reached"]],
        ]
        for r in judged
    ]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    for line, r in zip([heads, *cells], [None, *judged], strict=True):
        print(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=False)).rstrip()
        )
        if r and r["note"]:
            print(f"    {r['note']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default=ROOT / "build/release/bench/bench_engine", type=Path)
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.svg")
    arguments = parser.parse_args()
    if not arguments.engine.exists():
        sys.exit(f"bench: there is no {arguments.engine}: run it by 'make bench'")

    load = os.getloadavg()[0]
    if load > os.cpu_count() / 2:
        print(f"bench: the machine is busy (load {load:.1f}): trust no figure", file=sys.stderr)
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    raw = lines_of([arguments.engine, "--disk", build])
    raw |= lines_of([sys.executable, ROOT / "bench/python_bench.py"])
    raw |= redis_rows(build)
    judged = judge(raw)
    print_table(judged)
    kernel = ".".join(platform.release().split(".")[:2])
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {kernel}",
        "load_before": load,
        "rows": judged,
        "raw": raw,
    }
    (build / "bench.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (build / "benchmarks.svg").write_text(plot(report))
    if arguments.docs:
        (ROOT / "docs/benchmarks.svg").write_text(plot(report))


if __name__ == "__main__":
    main()
