# SPDX-License-Identifier: Apache-2.0
"""The registered tables, and what a query over them costs.

The price is the compressed size of the columns that a query reads, all row
groups, each column once. Which columns it reads is asked of DuckDB: a second,
empty database with the same tables plans the statement, with every optimizer
off but the one that drops unused columns. So names, stars, aliases, subqueries
and joins are bound by the engine that will run them, and the answer depends on
the statement only, not on statistics or on the data. A plan that reads anything
but the tables has no price, and what has no price is not run.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet

from scan_service import statement
from scan_service.engine import one_select, quoted, sealed
from scan_service.statement import BadRequest, first_line

BATCH_ROWS = 64 * 1024

# Operators that read what stands in the statement, or what the plan has read.
_INNER_SCANS = {"DUMMY_SCAN", "COLUMN_DATA_SCAN", "CTE_SCAN", "DELIM_SCAN"}


class Priced(NamedTuple):
    """A checked statement, what it reads and what that costs."""

    sql: str
    price: int
    columns: tuple[str, ...]


class Catalogue:
    """Opens the tables for reading and prices statements. Safe from any thread."""

    def __init__(self, tables: Mapping[str, Path]) -> None:
        self.tables = tuple(tables)
        self._sizes = {name: _column_sizes(path) for name, path in tables.items()}
        self._lock = threading.Lock()

        def build_engine(engine: duckdb.DuckDBPyConnection) -> None:
            for name, path in tables.items():
                engine.execute(f'CREATE VIEW "{name}" AS FROM read_parquet({quoted(path)})')

        def build_planner(planner: duckdb.DuckDBPyConnection) -> None:
            planner.execute("CREATE SCHEMA data")
            for name, path in tables.items():
                parquet = f"FROM read_parquet({quoted(path)}) LIMIT 0"
                planner.execute(f'CREATE TABLE data."{name}" AS {parquet}')
                # A view in both, so that neither has columns that the other lacks (rowid).
                planner.execute(f'CREATE VIEW "{name}" AS FROM data."{name}"')

        self._engine = sealed(build_engine, tables.values())
        self._planner = sealed(build_planner, [], ["unused_columns"])

    def close(self) -> None:
        self._engine.close()
        self._planner.close()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for one statement; it can be interrupted alone."""
        return self._engine.cursor()

    @staticmethod
    def run(cursor: duckdb.DuckDBPyConnection, sql: str) -> pa.RecordBatchReader:
        """The rows, computed as they are asked for."""
        return cursor.sql(one_select(cursor, sql)).to_arrow_reader(BATCH_ROWS)

    def priced(self, sql: str) -> Priced:
        """Checks a statement and says what it reads; raises BadRequest."""
        with self._lock:
            statement.check(statement.parse(self._planner, sql), self.tables)
        return self.planned(sql)

    def priced_scan(self, scan: statement.Scan) -> Priced:
        """The same for the parts of a scan."""
        if scan.table not in self.tables:
            raise BadRequest(
                f"no table {scan.table!r}: table_id is one of {', '.join(self.tables)}"
            )
        with self._lock:
            tree = statement.parse(self._planner, scan.sql())
        scan.check(tree)
        statement.check(tree, self.tables)
        return self.planned(scan.sql())

    def planned(self, sql: str) -> Priced:
        """What a statement reads, by the engine's word alone."""
        try:
            with self._lock:
                query = one_select(self._planner, sql).query
                rows = self._planner.execute(f"EXPLAIN (FORMAT json) {query}").fetchall()
            read = sorted(set(_scanned(json.loads(rows[0][1]))))
        except (duckdb.Error, RecursionError) as error:
            raise BadRequest(f"the statement cannot be run: {first_line(error)}") from None
        price = sum(self._sizes[table][column] for table, column in read)
        return Priced(sql, price, tuple(f"{table}.{column}" for table, column in read))


def _column_sizes(path: Path) -> dict[str, int]:
    """The compressed bytes of each column, in all row groups."""
    metadata = pyarrow.parquet.read_metadata(path)
    sizes: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            # A nested column is stored as several, a.x and a.y.
            name = chunk.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0) + chunk.total_compressed_size
    return sizes


def _scanned(plan: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    waiting = list(plan)
    while waiting:
        node = waiting.pop()
        waiting.extend(node["children"])
        name = node["name"].strip()
        if name == "SEQ_SCAN":
            table = node["extra_info"]["Table"].rsplit(".", 1)[-1]
            columns = node["extra_info"].get("Projections") or []
            for column in [columns] if isinstance(columns, str) else columns:
                yield table, column
        elif not node["children"] and name not in _INNER_SCANS:
            raise BadRequest(f"{name.lower()} is not allowed: read the registered tables")
