# SPDX-License-Identifier: Apache-2.0
"""A DuckDB that reads the files it is given and does nothing else.

It does not rely on what ``statement`` refuses: the files of the machine are out
of reach, no setting can be changed, nothing can be created, and whatever is not
one SELECT is not run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import duckdb

from scan_service.statement import BadRequest, first_line

# In this order: each of the last two forbids what stands before it.
SETTINGS = (
    "autoload_known_extensions = false",
    "temp_directory = ''",
    "memory_limit = '1GB'",
    "threads = 1",
    "allowed_paths = [{paths}]",
    "enable_external_access = false",
    "lock_configuration = true",
)


def quoted(text: object) -> str:
    return "'" + str(text).replace("'", "''") + "'"


def sealed(
    build: Callable[[duckdb.DuckDBPyConnection], None],
    readable: Iterable[Path],
    optimizers: Collection[str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A database with what ``build`` makes in it, and with these optimizers only
    (None: all). It is a file because only a file can be opened read-only; its
    name is gone when this returns."""
    with tempfile.TemporaryDirectory(prefix="scan-service-") as folder:
        path = Path(folder) / "tables.db"
        with duckdb.connect(path) as made:
            build(made)
        engine = duckdb.connect(path, read_only=True)
    if optimizers is not None:
        names = engine.execute("SELECT name FROM duckdb_optimizers()").fetchall()
        off = ",".join(name for (name,) in names if name not in optimizers)
        engine.execute(f"SET disabled_optimizers = {quoted(off)}")
    paths = ", ".join(quoted(path) for path in readable)
    for setting in SETTINGS:
        engine.execute(f"SET {setting.format(paths=paths)}")
    return engine


def one_select(engine: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The statement in the text. An engine that may read a file may overwrite it
    too (COPY), and runs several statements as gladly as one: this stops both."""
    try:
        statements = engine.extract_statements(sql)
        kinds = [statement.type for statement in statements]
    except (duckdb.Error, TypeError, ValueError) as error:
        # A text that is not Unicode is a TypeError, a kind without a name a ValueError.
        raise BadRequest(f"the SQL cannot be parsed: {first_line(error)}") from None
    if kinds != [duckdb.StatementType.SELECT]:
        raise BadRequest("send one SELECT statement and nothing else")
    return statements[0]
