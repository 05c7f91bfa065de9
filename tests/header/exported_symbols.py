#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The shared library exports what the header declares, and nothing else."""

import re
import subprocess
import sys


def exported(library):
    lines = subprocess.run(
        ["nm", "--dynamic", "--defined-only", "--format=posix", library],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return {line.split()[0].split("@")[0] for line in lines}


def declared(header):
    with open(header, encoding="utf-8") as file:
        text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
    return set(re.findall(r"QL_API[^;(]*?\b(ql_\w+)\s*\(", text))


def main():
    library, header = sys.argv[1:]
    have, want = exported(library), declared(header)
    for name in sorted(have - want):
        print(f"exported but not in the header: {name}")
    for name in sorted(want - have):
        print(f"in the header but not exported: {name}")
    print(f"{len(have)} exported, {len(want)} declared")
    return 0 if have == want and want else 1


if __name__ == "__main__":
    sys.exit(main())
