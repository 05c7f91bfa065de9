# SPDX-License-Identifier: Apache-2.0
"""What may be asked: one SELECT over registered tables, of known functions.

DuckDB's own parser reads the text, so what is checked is what will run. Kinds of
nodes, functions and types are listed by what is allowed; anything new is refused.
No function or type is listed that makes a value much longer than those it is
given: nested, a few of them make a short text fill the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import duckdb


class BadRequest(Exception):
    """The caller's mistake; the text says what to do."""


_NODES = {
    "SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE",
    "BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "SUBQUERY",
    "DISTINCT_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "ORDER_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING", "ORDER_ASCENDING", "ORDER_DESCENDING",
}  # fmt: skip

_CLASSES = {
    "BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT",
    "FUNCTION", "OPERATOR", "STAR", "SUBQUERY", "TYPE", "WINDOW",
}  # fmt: skip

_FUNCTIONS = set(
    """
    + - * / // % ^ ** ~~ !~~ ~~* !~~* ~~~
    abs ceil ceiling floor round trunc sign sqrt ln log log2 log10 exp pow power mod
    greatest least coalesce ifnull nullif
    count count_star sum avg mean min max any_value first last median mode
    arg_max arg_min max_by min_by bool_and bool_or count_if quantile quantile_cont quantile_disc
    approx_count_distinct approx_quantile corr covar_pop covar_samp skewness kurtosis
    stddev stddev_pop stddev_samp variance var_pop var_samp
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value
    nth_value lower upper length strlen trim ltrim rtrim left right substr substring
    starts_with ends_with contains prefix suffix like_escape not_like_escape regexp_matches
    year month day hour minute second quarter week dayofweek isodow dayofyear dayname monthname
    date_part datepart date_trunc datetrunc date_diff datediff date_add date_sub strftime epoch
    now today current_date to_days to_hours to_minutes to_months to_seconds to_weeks to_years
    """.split()
)

_TYPES = set(
    """
    BOOL BOOLEAN TINYINT SMALLINT INT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT
    INT1 INT2 INT4 INT8 FLOAT FLOAT4 FLOAT8 REAL DOUBLE DECIMAL NUMERIC CHAR VARCHAR TEXT STRING
    DATE TIME TIMESTAMP TIMESTAMPTZ INTERVAL
    """.split()
) | {"TIMESTAMP WITH TIME ZONE"}

# Names that become functions about the session where no column has them.
_SESSION_NAMES = {
    "current_user", "session_user", "user", "current_role", "role", "current_catalog",
    "current_schema", "current_schemas", "current_database", "current_setting",
}  # fmt: skip

# Tables and stars multiply columns, names that a SELECT gives and uses multiply
# expressions; either would double with every few characters of the text.
_MOST_SOURCES = 20
_MOST_NAME_USES = 8


class Scan(NamedTuple):
    """A SELECT in parts."""

    table: str
    select: list[str]
    where: str | None
    order_by: list[str]
    limit: int | None

    def sql(self) -> str:
        # Each line break ends a comment that the part before it may have begun.
        lines = ["SELECT " + "\n, ".join(self.select), f'FROM "{self.table}"']
        if self.where:
            lines += [f"WHERE ({self.where}", ")"]
        if self.order_by:
            lines.append("ORDER BY " + "\n, ".join(self.order_by))
        if self.limit is not None:
            lines.append(f"LIMIT {self.limit}")
        return "\n".join(lines)

    def check(self, tree: dict[str, Any]) -> None:
        """Refuses parts that have become more than the expressions they should be."""
        wanted = ["ORDER_MODIFIER"] * bool(self.order_by)
        wanted += ["LIMIT_MODIFIER"] * (self.limit is not None)
        source = tree.get("from_table", {})
        plain = (
            tree["type"] == "SELECT_NODE"
            and source["type"] == "BASE_TABLE"
            and source["qualified_name"]["path"] == [self.table]
            and [modifier["type"] for modifier in tree["modifiers"]] == wanted
            and not any(modifier.get("offset") for modifier in tree["modifiers"])
            and not any(tree[key] for key in ("group_expressions", "having", "qualify", "sample"))
        )
        if not plain:
            raise BadRequest("select, where and order_by must hold expressions only")


def parse(engine: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    """The syntax tree of the one SELECT statement that the text must be."""
    # A NUL would end the text for the parser, but not for its readers.
    if "\0" in sql:
        raise BadRequest("the SQL holds a NUL character: remove it")
    try:
        (text,) = engine.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0]
        answer = json.loads(text)
    except (duckdb.Error, ValueError, RecursionError) as error:
        raise BadRequest(f"the SQL cannot be parsed: {first_line(error)}") from None
    if answer["error"]:
        raise BadRequest(f"send one SELECT statement: {answer['error_message'].splitlines()[0]}")
    if len(answer["statements"]) != 1:
        raise BadRequest(f"send one SELECT statement, not {len(answer['statements'])}")
    tree: dict[str, Any] = answer["statements"][0]["node"]
    return tree


def check(tree: dict[str, Any], tables: Collection[str]) -> None:
    """Refuses what is not a read of registered tables by known functions."""
    sources = 0
    for node, known in _nodes(tree, frozenset(name.lower() for name in tables)):
        _check_kind(node)
        if node.get("type") == "BASE_TABLE":
            _check_table(node, known, tables)
        if "function_name" in node:
            _check_listed(node, "function", _FUNCTIONS, str.lower)
        if "type_name" in node:
            _check_listed(node, "type", _TYPES, str.upper)
        if node.get("class") == "COLUMN_REF":
            _check_column(node)
        if "select_list" in node:
            _check_names(node["select_list"])
        sources += node.get("type") in ("BASE_TABLE", "STAR")
    if sources > _MOST_SOURCES:
        raise BadRequest(f"use at most {_MOST_SOURCES} tables and stars, not {sources}")


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


def _check_kind(node: dict[str, Any]) -> None:
    if "class" in node:
        if node["class"] not in _CLASSES:
            raise BadRequest(f"{node['class'].lower()} is not allowed here")
    elif node.get("type", "SELECT_NODE") not in _NODES:
        what = node["type"].lower().replace("_", " ")
        raise BadRequest(f"{what} is not allowed: select from the registered tables")


def _check_table(node: dict[str, Any], known: Collection[str], tables: Collection[str]) -> None:
    path = node["qualified_name"]["path"]
    if len(path) != 1 or path[0].lower() not in known:
        raise BadRequest(f"no table {'.'.join(path)!r}: there are {', '.join(tables)}")


def _check_listed(
    node: dict[str, Any], what: str, allowed: Collection[str], spelled: Callable[[str], str]
) -> None:
    path = node["qualified_name"]["path"]
    if len(path) != 1 or spelled(path[0]) not in allowed:
        raise BadRequest(f"the {what} {'.'.join(path)} is not allowed")


def _check_column(node: dict[str, Any]) -> None:
    path = node["column_names"]
    if len(path) > 2:
        raise BadRequest("name a column as column or as table.column")
    if path[-1].lower() in _SESSION_NAMES:
        raise BadRequest(f"{path[-1]} is not allowed: name a column of the table")


def _check_names(select: list[dict[str, Any]]) -> None:
    given = {entry["alias"].lower() for entry in select if entry["alias"]}
    used = (
        node["column_names"][-1].lower() in given
        for node, _ in _nodes(select, frozenset())
        if node.get("class") == "COLUMN_REF"
    )
    if sum(used) > _MOST_NAME_USES:
        raise BadRequest(f"use names that the same SELECT gives at most {_MOST_NAME_USES} times")


def _nodes(value: Any, known: frozenset[str]) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Each node, with the names that are tables there: a WITH query is one for
    those after it, not for itself and not outside."""
    waiting = [(value, known)]
    while waiting:
        value, known = waiting.pop()
        if isinstance(value, dict):
            for entry in value.get("cte_map", {}).get("map", ()):
                waiting.append((entry["value"], known))
                known |= {entry["key"].lower()}
            yield value, known
            # A literal is the caller's data, not a part of the tree.
            rest = (child for key, child in value.items() if key not in ("cte_map", "literal"))
            waiting.extend((child, known) for child in rest)
        elif isinstance(value, list):
            waiting.extend((child, known) for child in value)
