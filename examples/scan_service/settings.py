# SPDX-License-Identifier: Apache-2.0
"""The configuration: instance.yaml, and the environment over it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


class Settings:
    """Values of instance.yaml. The environment names another file with
    SCAN_SERVICE_CONFIG, and the data with SCAN_SERVICE_DATA."""

    def __init__(self) -> None:
        default = Path(__file__).with_name("instance.yaml")
        path = Path(os.environ.get("SCAN_SERVICE_CONFIG") or default)
        self._values: dict[str, Any] = yaml.safe_load(path.read_text()) or {}

    def get_value(self, *keys: str, default: Any = None) -> Any:
        """The value under the keys, as quotalite asks for its limits."""
        value: Any = self._values
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        if keys[-1] == "quota_store" and value and value != "memory:":
            return str(ROOT / value)
        return value

    @property
    def max_seconds(self) -> float:
        """How long a scan may take, the sending of its answer included."""
        return float(self.get_value("api", "scan", "max_seconds", default=60))

    def tables(self) -> dict[str, Path]:
        """The parquet file of each registered table."""
        tables = {name: ROOT / path for name, path in self.get_value("tables", default={}).items()}
        data = os.environ.get("SCAN_SERVICE_DATA")
        if data:
            tables["flights"] = Path(data).absolute()
        return tables
