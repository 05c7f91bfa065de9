# SPDX-License-Identifier: Apache-2.0
"""What the service must refuse, by who must refuse it."""

from __future__ import annotations

from typing import Any

#: Not one SELECT: the parser refuses it, and so does the engine by itself.
STATEMENTS = [
    "", ";", "-- SELECT 1", "SELECT 1; SELECT 2", "SELECT 1;\n/* ; */ DROP VIEW flights",
    "SELECT 1;;SELECT 2", "SELECT '\0'; SELECT 2", "BEGIN", "COMMIT", "SELEC 1", "SELECT 1 INTO x",
    "PRAGMA version", "PRAGMA enable_profiling", "PRAGMA profiling_output = 'x'",
    "CALL pragma_version()",
    "SET threads = 8", "RESET threads", "SET lock_configuration = false",
    "PRAGMA lock_configuration = false", "SET GLOBAL enable_external_access = true",
    "PRAGMA memory_limit = '10GB'", "SET VARIABLE x = 1", "USE data", "CALL enable_logging()",
    "ATTACH 'x.db'", "ATTACH ':memory:' AS x", "ATTACH ':memory:' AS x (READ_WRITE)",
    "DETACH tables",
    "COPY flights TO 'x.csv'", "COPY (SELECT 1) TO '/dev/stdout'", "EXPORT DATABASE 'x'",
    "IMPORT DATABASE 'x'", "COPY FROM DATABASE tables TO tables",
    "INSTALL httpfs", "FORCE INSTALL httpfs", "LOAD httpfs", "LOAD 'x.duckdb_extension'",
    "UPDATE EXTENSIONS", "CREATE SECRET s (TYPE s3)", "CREATE PERSISTENT SECRET s (TYPE s3)",
    "CREATE TABLE t AS SELECT 1", "CREATE TEMP TABLE t AS SELECT 1", "CREATE VIEW v AS SELECT 1",
    "CREATE OR REPLACE VIEW flights AS SELECT 1", "CREATE TEMP VIEW flights AS SELECT 1",
    "CREATE MACRO lower(x) AS 1", "CREATE FUNCTION f(x) AS x", "CREATE SCHEMA s",
    "DROP VIEW flights", "ALTER VIEW flights RENAME TO f", "COMMENT ON VIEW flights IS 'x'",
    "INSERT INTO flights SELECT * FROM flights", "DELETE FROM flights",
    "UPDATE flights SET delay = 0",
    "TRUNCATE flights", "WITH x AS (DELETE FROM flights RETURNING *) SELECT * FROM x",
    "MERGE INTO flights USING flights f ON true WHEN MATCHED THEN DELETE",
    "EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT * FROM read_text('/etc/passwd')",
    "PREPARE p AS SELECT 1", "EXECUTE p", "VACUUM", "CHECKPOINT", "FORCE CHECKPOINT",
    "PIVOT flights ON origin",
]  # fmt: skip

#: A SELECT of something else than the tables: both refuse it too.
READS = [
    "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')", "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'", "FROM 'x.parquet'", 'FROM "x.csv"', "FROM '*.parquet'",
    "FROM 'https://example.com/x.parquet'", "FROM 's3://x/x.parquet'", "SELECT * FROM glob('/*')",
    "SELECT * FROM parquet_scan('x.parquet')", "FROM parquet_metadata('x.parquet')",
    "FROM sniff_csv('/etc/passwd')", "FROM read_parquet(['x.parquet', '/etc/passwd'])",
    "FROM query('FROM read_text(''/etc/passwd'')')", "FROM query('SELECT 1; SELECT 2')",
    "SELECT * FROM duckdb_settings()", "SELECT * FROM duckdb_secrets()", "FROM duckdb_views()",
    "SELECT * FROM information_schema.tables", "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM pragma_table_info('flights')", "SELECT * FROM sqlite_master", "SHOW TABLES",
    "SHOW ALL TABLES", "SHOW DATABASES", "SELECT * FROM range(10)",
    "SELECT * FROM test_all_types()",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT 1 WHERE EXISTS (FROM read_text('/etc/passwd'))",
    "SELECT * FROM flights, LATERAL (FROM read_text('/etc/passwd'))",
    "SELECT * FROM flights UNION ALL FROM read_text('/etc/passwd')",
    "SELECT delay FROM flights ORDER BY (SELECT count(*) FROM duckdb_settings())",
    "SELECT count(*) OVER (ORDER BY (SELECT count(*) FROM sqlite_master)) FROM flights",
    "SELECT count(*) FILTER (1 = (SELECT count(*) FROM sqlite_master)) FROM flights",
    "SELECT delay FROM flights LIMIT (SELECT count(*) FROM sqlite_master)",
    "VALUES ((SELECT count(*) FROM sqlite_master))",
    "WITH x AS (FROM read_text('/etc/passwd')) SELECT 1 FROM x",
    # A WITH query is a table where it can be seen, not elsewhere.
    "WITH sqlite_master AS (FROM sqlite_master) FROM sqlite_master",
    "SELECT * FROM (WITH sqlite_master AS (SELECT 1) SELECT 1) x, sqlite_master",
    "WITH x AS (FROM sqlite_master), sqlite_master AS (SELECT 1) FROM x",
    "WITH RECURSIVE t AS (SELECT 1 i UNION ALL SELECT i FROM t) SELECT * FROM t",
    "SELECT rowid FROM flights", "SELECT nothing FROM flights", "SELECT ?", "SELECT $x",
    # Look-alikes: a full-width semicolon, a space of no width, a Cyrillic letter.
    "SELECT 1\uff1b SELECT 2", "FROM fli\u200bghts", "FROM fl\u0456ghts", "SELECT '\ud800'",
]  # fmt: skip

#: What reads nothing, so that the engine has no reason: the parser alone refuses it.
EXPRESSIONS = [
    "SELECT getenv('HOME')", "SELECT main.getenv('HOME')", "SELECT system.main.lower('X')",
    "SELECT current_setting('threads')", "SELECT current_database()", "SELECT version()",
    "SELECT current_user", "SELECT flights.current_schema FROM flights", "SELECT txid_current()",
    "SELECT nextval('x')", "SELECT error('x')", "SELECT write_log('x')", "SELECT sleep_ms(1)",
    "SELECT list_transform([1], x -> x)", "SELECT {'a': 1}", "SELECT 'a' COLLATE nocase",
    "SELECT unnest([1, 2])", "SELECT COLUMNS(lambda x: true) FROM flights",
    "FROM data.flights", "FROM main.flights", "DESCRIBE flights", "SUMMARIZE flights",
    # Values that grow with each turn.
    "SELECT repeat('x', 1000000000)", "SELECT replace('aa', 'a', 'aa')", "SELECT 'a' || 'a'",
    "SELECT concat('a', 'a')", "SELECT lpad('', 1000000000, 'x')", "SELECT range(1000000000)",
    "SELECT 'aaaa'::BLOB::BIT::VARCHAR", "SELECT CAST(1 AS INT[])", "SELECT CAST(1 AS data.t)",
]  # fmt: skip


def _nested(before: str, inner: str, after: str, times: int) -> str:
    return before * times + inner + after * times


#: Texts that cost more than they look. The parser refuses them before they are planned.
HEAVY = {
    "parentheses": "SELECT " + _nested("(", "1", ")", 9_000),
    "signs": "SELECT " + "- " * 9_000 + "1",
    "sums": "SELECT " + "+".join(["1"] * 9_000),
    "subqueries": _nested("SELECT (", "SELECT 1", ")", 1_500),
    "tables in tables": _nested("SELECT * FROM (", "FROM flights", ")", 1_200),
    "WITH in WITH": _nested("WITH x AS (", "SELECT 1", ") SELECT 1", 900),
    "cases": "SELECT " + _nested("CASE WHEN true THEN ", "1", " END", 700),
    "open brackets": "SELECT " + "[" * 9_000,
    "open comments": "/*" * 9_000,
    "a join of many": "SELECT count(*) FROM flights" + " CROSS JOIN flights" * 900,
    "a path of many": "SELECT " + ".".join(["a"] * 9_000),
    "names that double": "SELECT 1 AS a0"
    + "".join(f", a{i} + a{i} AS a{i + 1}" for i in range(60)),
    "tables that double": "WITH a0 AS (FROM flights)"
    + "".join(f", a{i + 1} AS (FROM a{i} x, a{i} y)" for i in range(40))
    + " FROM a40",
    "stars that double": _nested("SELECT *, * FROM (", "FROM flights", ")", 40),
}

#: Fields of a scan. The first list is right in form, so that both routes get to the SQL.
SCANS: list[dict[str, Any]] = [
    {"table_id": "other"},
    {"table_id": "flights; SELECT 1"},
    {"table_id": 'flights" --'},
    {"table_id": "sqlite_master"},
    {"select": ["1 FROM flights; SELECT 2"]},
    {"select": ["origin FROM flights --"]},
    {"select": ["origin FROM sqlite_master /*"], "order_by": "*/"},
    {"select": ["origin FROM sqlite_master, /*"], "where": "*/ flights) WHERE (true"},
    {"select": ["DISTINCT origin"]},
    {"select": ["getenv('HOME')"]},
    {"select": ["(SELECT count(*) FROM information_schema.tables)"]},
    {"select": [""]},
    {"where": "true) UNION SELECT (1"},
    {"where": "true) GROUP BY (origin"},
    {"where": "true) QUALIFY (true"},
    {"where": "true; DROP VIEW flights"},
    {"where": "origin IN (SELECT content FROM read_text('/etc/passwd'))"},
    {"where": "EXISTS (FROM information_schema.tables)"},
    {"where": "/*"},
    {"order_by": "1 LIMIT 1"},
    {"order_by": "1 OFFSET 1", "limit": 1},
    {"order_by": "(SELECT count(*) FROM information_schema.tables)"},
    {"order_by": ["origin", "delay; SELECT 1"]},
]

FORMS: list[dict[str, Any]] = [
    {"select": []},
    {"select": "*"},
    {"select": ["*"] * 101},
    {"select": [1]},
    {"where": "x" * 10_001},
    {"where": True},
    {"order_by": ["x" * 10_001]},
    {"order_by": ["delay"] * 101},
    {"order_by": 1},
    {"limit": -1},
    {"limit": 1.5},
    {"limit": 2**63},
    {"limit": "many"},
    {"table_id": None},
    {"unknown": 1},
]
