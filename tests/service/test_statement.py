# SPDX-License-Identifier: Apache-2.0
"""What the parser refuses by itself: it has DuckDB's grammar, but no tables, and
nothing of the engine is in its way."""

from __future__ import annotations

from typing import Any

import duckdb
import hostile
import pytest
from scan_service import statement
from scan_service.statement import BadRequest, Scan

TABLES = ["flights"]


def checked(sql: str) -> None:
    statement.check(statement.parse(duckdb.connect(), sql), TABLES)


def checked_scan(fields: dict[str, Any]) -> None:
    order_by = fields.get("order_by", [])
    scan = Scan(
        fields.get("table_id", "flights"),
        fields.get("select", ["*"]),
        fields.get("where"),
        [order_by] if isinstance(order_by, str) else order_by,
        fields.get("limit"),
    )
    tree = statement.parse(duckdb.connect(), scan.sql())
    scan.check(tree)
    statement.check(tree, TABLES)


# What only the binder can know.
BOUND = {"SELECT rowid FROM flights", "SELECT nothing FROM flights"}


@pytest.mark.parametrize(
    "sql", hostile.STATEMENTS + [r for r in hostile.READS if r not in BOUND] + hostile.EXPRESSIONS
)
def test_it_refuses(sql: str) -> None:
    with pytest.raises(BadRequest, match=r"\w"):
        checked(sql)


@pytest.mark.parametrize("name", hostile.HEAVY)
def test_it_refuses_what_would_take_for_ever(name: str) -> None:
    assert len(hostile.HEAVY[name]) <= 25_000
    with pytest.raises(BadRequest, match=r"\w"):
        checked(hostile.HEAVY[name])


@pytest.mark.parametrize("fields", hostile.SCANS)
def test_it_refuses_parts_of_a_scan(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"\w"):
        checked_scan(fields)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT * FROM flights;",
        "FROM flights -- ; DROP VIEW flights",
        "/* ; */ SELECT '; DROP VIEW flights' FROM FLIGHTS f",
        'SELECT "delay" FROM "flights"',
        "\ufeffSELECT\u00a01",
        "SELECT delay::REAL::NUMERIC(9, 2)::int8, date::timestamptz, "
        "origin::text, TRY_CAST(origin AS FLOAT8) FROM flights",
        "SELECT DATE '2001-01-01' + INTERVAL 3 DAY, 1e9, -delay, x'00' FROM flights",
        "SELECT Count(*), SUM(delay) FILTER (delay > 0) FROM flights "
        "GROUP BY ALL HAVING count(*) > 1",
        "SELECT row_number() OVER (PARTITION BY origin ORDER BY date DESC NULLS LAST) FROM flights",
        "SELECT DISTINCT ON (origin) * EXCLUDE (date) FROM flights ORDER BY ALL LIMIT 10% OFFSET 1",
        "SELECT CASE origin WHEN 'SEA' THEN 1 END, origin IN ('A', 'B'), NOT delay IS NULL, "
        "delay BETWEEN 1 AND 2, origin LIKE 'S%', origin ILIKE 's%', extract(year FROM date), "
        "coalesce(delay, 0) FROM flights",
        "WITH a AS (FROM flights), b AS (FROM a) SELECT * FROM a JOIN b USING (date)",
        "WITH sqlite_master AS (SELECT 1) FROM sqlite_master",
        'WITH "/etc/passwd" AS (SELECT 1) FROM "/etc/passwd"',
        "WITH a AS (SELECT 1) SELECT (SELECT count(*) FROM a) FROM flights",
        "SELECT delay AS a, a + a AS b, b * 2 AS c FROM flights",
        "(SELECT 1) UNION ALL (SELECT 2) EXCEPT VALUES (3)",
        "SELECT " + "(SELECT " * 50 + "1" + ")" * 50,
        "SELECT delay FROM flights WHERE delay IN (" + ", ".join(["1"] * 5_000) + ")",
    ],
)
def test_it_lets_reads_of_the_tables_through(sql: str) -> None:
    checked(sql)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"select": ["origin, delay", "count(*) AS n -- all"], "where": "delay > 1 -- ) UNION"},
        {"where": "true) AND (false", "order_by": ["date DESC", "delay -- last"], "limit": 0},
        {"where": "delay > (SELECT avg(delay) FROM flights)"},
    ],
)
def test_it_lets_scans_through(fields: dict[str, Any]) -> None:
    checked_scan(fields)
