# SPDX-License-Identifier: Apache-2.0
"""What the engine refuses by itself: the SQL goes straight to the connections
that the service makes, with nothing read or checked before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import hostile
import pyarrow as pa
import pytest
from scan_service import engine
from scan_service.catalogue import Catalogue
from scan_service.statement import BadRequest

REFUSED = (BadRequest, duckdb.Error)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A copy, for the case that something gets through."""
    path = tmp_path_factory.mktemp("table") / "flights.parquet"
    shutil.copy(data, path)
    return path


@pytest.fixture
def catalogue(
    table: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Catalogue]:
    """In an empty folder, which is still empty in the end; so is the table whole."""
    monkeypatch.chdir(tmp_path)
    made = Catalogue({"flights": table})
    yield made
    rows = made.run(made.cursor(), "SELECT count(*) FROM flights").read_all()
    assert rows.column(0).to_pylist() == [3_000_000]
    made.close()
    assert list(tmp_path.iterdir()) == []
    assert table.read_bytes() == data.read_bytes()
    assert [path.name for path in table.parent.iterdir()] == [table.name]


def over_the_table(table: Path) -> str:
    """Writes over the one file that the engine may open."""
    return f"COPY (SELECT 1) TO '{table}' (FORMAT parquet, USE_TMP_FILE false)"


@pytest.mark.parametrize("sql", hostile.STATEMENTS)
def test_it_runs_a_select_only(catalogue: Catalogue, sql: str) -> None:
    with pytest.raises(REFUSED):
        catalogue.run(catalogue.cursor(), sql).read_all()
    with pytest.raises(REFUSED):
        catalogue.planned(sql)


@pytest.mark.parametrize("sql", hostile.READS)
def test_it_gives_a_price_to_reads_of_the_tables_only(catalogue: Catalogue, sql: str) -> None:
    with pytest.raises(REFUSED):
        catalogue.planned(sql)


@pytest.mark.parametrize(
    "sql", [read for read in hostile.READS if "/etc/passwd" in read or "FROM '" in read]
)
def test_it_opens_no_other_file(catalogue: Catalogue, sql: str) -> None:
    with pytest.raises(REFUSED):
        catalogue.run(catalogue.cursor(), sql).read_all()


def test_it_does_not_write_over_the_table(catalogue: Catalogue, table: Path) -> None:
    for sql in (over_the_table(table), f"SELECT 1; {over_the_table(table)}"):
        with pytest.raises(REFUSED):
            catalogue.run(catalogue.cursor(), sql).read_all()
        with pytest.raises(REFUSED):
            catalogue.planned(sql)


# What the settings alone let through: it does no harm, or one_select stops it.
UNSETTLED = {
    "", ";", "-- SELECT 1", "SELECT 1; SELECT 2", "SELECT 1;;SELECT 2", "SELECT '\0'; SELECT 2",
    "BEGIN", "PIVOT flights ON origin",
    "PRAGMA version", "CALL pragma_version()", "SET VARIABLE x = 1", "EXPLAIN SELECT 1",
    "ATTACH ':memory:' AS x (READ_WRITE)", "CREATE SECRET s (TYPE http)",
    "CREATE TEMP VIEW flights AS SELECT 1", "CREATE TEMP TABLE t AS SELECT 1",
    "PREPARE p AS SELECT 1", "VACUUM", "CHECKPOINT", "FORCE CHECKPOINT",
}  # fmt: skip


@pytest.mark.parametrize("sql", [sql for sql in hostile.STATEMENTS if sql not in UNSETTLED])
def test_its_settings_alone_forbid(catalogue: Catalogue, sql: str) -> None:
    with pytest.raises(duckdb.Error):
        catalogue.cursor().execute(sql)


def test_it_does_not_read_variables_of_python(catalogue: Catalogue) -> None:
    variable = pa.table({"x": [1]})
    for sql in ("FROM variable", "SELECT x FROM variable"):
        with pytest.raises(duckdb.Error):
            catalogue.run(catalogue.cursor(), sql)
    assert variable.num_rows == 1


@pytest.mark.parametrize(
    ("setting", "sql"),
    [
        ("enable_external_access", "FROM glob('/etc/passwd')"),
        ("lock_configuration", "SET threads = 2"),
    ],
)
def test_each_setting_is_what_stops_it(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, setting: str, sql: str
) -> None:
    with pytest.raises(duckdb.Error):
        catalogue.cursor().execute(sql)
    others = [line for line in engine.SETTINGS if not line.startswith(setting)]
    assert len(others) == len(engine.SETTINGS) - 1
    monkeypatch.setattr(engine, "SETTINGS", others)
    with engine.sealed(lambda made: None, []) as open_one:
        open_one.execute(sql).fetchall()


def test_its_database_is_read_only(catalogue: Catalogue) -> None:
    for sql in ("CREATE TABLE t AS SELECT 1", "DROP VIEW flights"):
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            catalogue.cursor().execute(sql)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("threads", 1),
        ("memory_limit", "953.6 MiB"),
        ("temp_directory", ""),
        ("autoload_known_extensions", False),
    ],
)
def test_its_limits(catalogue: Catalogue, setting: str, value: object) -> None:
    found = catalogue.cursor().execute(f"SELECT current_setting('{setting}')").fetchall()
    assert found == [(value,)]
