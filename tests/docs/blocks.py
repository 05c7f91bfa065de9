# SPDX-License-Identifier: Apache-2.0
"""The fenced blocks of a document."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its document, the line of its fence, and its text."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.document.name}:{self.line}"


def blocks(document, language):
    text = document.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] == language:
            line = text.count("\n", 0, match.start()) + 1
            yield Block(document, line, language, match[2])
