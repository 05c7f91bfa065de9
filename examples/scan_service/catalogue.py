# SPDX-License-Identifier: Apache-2.0
"""The registered tables, and what a query over them costs.

The price is the compressed size of the columns that a query reads, all row
groups, each column once. Which columns it reads is asked of DuckDB: a second,
empty database with the same tables plans the statement, with every optimizer
off but the one that drops unused columns. So names, stars, aliases, subqueries
and joins are bound by the engine that will run them, and the answer depends on
the statement only, not on statistics or on the data.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow.parquet

from scan_service import statement
from scan_service.statement import BadRequest


class Priced(NamedTuple):
    """A checked statement, what it reads and what that costs."""

    sql: str
    price: int
    columns: tuple[str, ...]


def _quoted(text: object) -> str:
    return "'" + str(text).replace("'", "''") + "'"


def _locked(engine: duckdb.DuckDBPyConnection, readable: list[Path]) -> None:
    """Nothing outside of the named files can be reached, nor this be undone."""
    engine.execute("SET python_enable_replacements = false")
    engine.execute("SET autoinstall_known_extensions = false")
    engine.execute("SET autoload_known_extensions = false")
    engine.execute("SET temp_directory = ''")
    engine.execute("SET memory_limit = '1GB'")
    engine.execute("SET threads = 1")
    paths = ", ".join(_quoted(path) for path in readable)
    engine.execute(f"SET allowed_paths = [{paths}]")
    engine.execute("SET enable_external_access = false")
    engine.execute("SET lock_configuration = true")


class Catalogue:
    """Opens the tables for reading and prices statements. Safe from any thread."""

    def __init__(self, tables: Mapping[str, Path]) -> None:
        self.tables = tuple(tables)
        self._sizes: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._engine = duckdb.connect(":memory:")
        self._planner = duckdb.connect(":memory:")
        self._planner.execute("CREATE SCHEMA data")
        for name, path in tables.items():
            self._register(name, path)
        _locked(self._engine, list(tables.values()))
        rows = self._planner.execute("SELECT name FROM duckdb_optimizers()").fetchall()
        off = ",".join(name for (name,) in rows if name != "unused_columns")
        self._planner.execute(f"SET disabled_optimizers = {_quoted(off)}")
        _locked(self._planner, [])

    def _register(self, name: str, path: Path) -> None:
        metadata = pyarrow.parquet.read_metadata(path)
        for column in range(metadata.num_columns):
            groups = (metadata.row_group(i).column(column) for i in range(metadata.num_row_groups))
            column_name = metadata.schema.column(column).path.split(".")[0]
            size = sum(group.total_compressed_size for group in groups)
            key = (name, column_name)
            self._sizes[key] = self._sizes.get(key, 0) + size
        parquet = f"SELECT * FROM read_parquet({_quoted(path)})"
        self._engine.execute(f'CREATE VIEW "{name}" AS {parquet}')
        self._planner.execute(f'CREATE TABLE data."{name}" AS {parquet} LIMIT 0')
        # A view in both, so that neither has columns that the other lacks (rowid).
        self._planner.execute(f'CREATE VIEW "{name}" AS SELECT * FROM data."{name}"')

    def close(self) -> None:
        self._engine.close()
        self._planner.close()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for one statement; it can be interrupted alone."""
        return self._engine.cursor()

    def priced(self, sql: str) -> Priced:
        """Checks a statement and says what it reads; raises BadRequest."""
        with self._lock:
            statement.check(statement.parse(self._planner, sql), self.tables)
            return self._planned(sql)

    def priced_scan(
        self,
        table: str,
        select: list[str],
        where: str | None,
        order_by: list[str],
        limit: int | None,
    ) -> Priced:
        """The same for the parts of a scan."""
        if table not in self.tables:
            raise BadRequest(f"no table {table!r}: table_id is one of {', '.join(self.tables)}")
        with self._lock:
            engine = self._planner
            columns = [statement.fragment(engine, "", text, "select") for text in select]
            sql = f'SELECT {", ".join(columns)}FROM "{table}"'
            if where:
                sql += f" WHERE ({statement.fragment(engine, '(', where, 'where')})"
            if order_by:
                orders = (
                    statement.fragment(engine, "1 ORDER BY ", text, "order_by") for text in order_by
                )
                sql += f" ORDER BY {', '.join(orders)}"
            if limit is not None:
                sql += f" LIMIT {limit}"
            statement.check(statement.parse(engine, sql), self.tables)
            return self._planned(sql)

    def _planned(self, sql: str) -> Priced:
        try:
            rows = self._planner.execute(f"EXPLAIN (FORMAT json) {sql}").fetchall()
        except (duckdb.Error, RecursionError) as error:
            first = str(error).strip().split("\n", 1)[0]
            raise BadRequest(f"the statement cannot be run: {first}") from None
        read = sorted(set(_scanned(json.loads(rows[0][1]))))
        price = sum(self._sizes[column] for column in read)
        return Priced(sql, price, tuple(f"{table}.{column}" for table, column in read))


def _scanned(plan: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    waiting = list(plan)
    while waiting:
        node = waiting.pop()
        waiting.extend(node["children"])
        if node["name"].strip() == "SEQ_SCAN":
            table = node["extra_info"]["Table"].rsplit(".", 1)[-1]
            columns = node["extra_info"].get("Projections") or []
            for column in [columns] if isinstance(columns, str) else columns:
                yield table, column
