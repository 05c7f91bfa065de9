# SPDX-License-Identifier: Apache-2.0
"""The blocks of the package's README run, in their order."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import quotalite

README = Path(__file__).resolve().parents[2] / "bindings" / "python" / "README.md"


def test_the_blocks_of_the_readme_run_one_after_the_other(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    text = text.replace("/backup", str(tmp_path))
    tracker, *blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    unbilled: list[Any] = []
    names: dict[str, Any] = {
        "time": time,
        "answer": lambda: 55,
        "bill_later": lambda *what: unbilled.append(what),
    }
    # They are programs of their own, with other limits, so they have stores of their own.
    exec(tracker.replace("/var/lib/app/quota", f"{tmp_path}/tracker"), names)
    names["tracker"].close()
    for block in blocks:
        if "fastapi" not in block:
            exec(block.replace("/var/lib/app/quota", f"{tmp_path}/store"), names)
    store = names["store"]
    assert isinstance(store, quotalite.Store)
    with store:
        assert unbilled == []
        assert store.usage("acme/alice").leases == 0
        assert sum(day.amount for day in store.history("acme/alice")) == 1234 + 1234 + 55
        assert (tmp_path / "quota.db").exists()
