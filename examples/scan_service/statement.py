# SPDX-License-Identifier: Apache-2.0
"""What may be asked: one SELECT over registered tables, of known functions.

DuckDB's own parser reads the text, so what is checked is what will run. Kinds of
nodes and functions are listed by what is allowed; anything new is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

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
    + - * / // % ^ ** || ~~ !~~ ~~* !~~* ~~~
    abs ceil ceiling floor round trunc sign sqrt ln log log2 log10 exp pow power mod
    greatest least coalesce ifnull nullif
    count count_star sum avg mean min max any_value first last median mode
    arg_max arg_min max_by min_by bool_and bool_or count_if quantile quantile_cont quantile_disc
    approx_count_distinct approx_quantile corr covar_pop covar_samp skewness kurtosis
    stddev stddev_pop stddev_samp variance var_pop var_samp
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value
    nth_value lower upper length strlen trim ltrim rtrim left right substr substring replace concat
    starts_with ends_with contains prefix suffix like_escape not_like_escape regexp_matches
    year month day hour minute second quarter week dayofweek isodow dayofyear dayname monthname
    date_part datepart date_trunc datetrunc date_diff datediff date_add date_sub strftime epoch
    now today current_date to_days to_hours to_minutes to_months to_seconds to_weeks to_years
    """.split()
)

# Names that become functions about the session where no column has them.
_SESSION_NAMES = {
    "current_user", "session_user", "user", "current_role", "role", "current_catalog",
    "current_schema", "current_schemas", "current_database", "current_setting",
}  # fmt: skip

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


def parse(engine: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    """The syntax tree of the one SELECT statement that the text must be."""
    # A NUL would end the text for the parser, but not for its readers.
    if "\0" in sql:
        raise BadRequest("the SQL holds a NUL character: remove it")
    try:
        (text,) = engine.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0]
        answer = json.loads(text)
    except (duckdb.Error, ValueError, RecursionError, UnicodeError) as error:
        raise BadRequest(f"the SQL cannot be parsed: {_first_line(error)}") from None
    if answer["error"]:
        raise BadRequest(f"send one SELECT statement: {answer['error_message'].splitlines()[0]}")
    if len(answer["statements"]) != 1:
        raise BadRequest(f"send one SELECT statement, not {len(answer['statements'])}")
    tree: dict[str, Any] = answer["statements"][0]["node"]
    return tree


def check(tree: dict[str, Any], tables: Collection[str]) -> None:
    """Refuses what is not a read of registered tables by known functions."""
    nodes = list(_nodes(tree))
    known = {name.lower() for name in tables} | set(_cte_names(nodes))
    for node in nodes:
        _check_kind(node)
        if node.get("type") == "BASE_TABLE":
            _check_table(node, known, tables)
        if "function_name" in node:
            _check_function(node)
        if node.get("class") == "COLUMN_REF":
            _check_column(node)


def fragment(engine: duckdb.DuckDBPyConnection, before: str, text: str, field: str) -> str:
    """The text, if it is expressions and nothing else: it cannot close what is
    around it or go on after it. The line break ends a comment."""
    tree = parse(engine, f"SELECT {before}{text}\n" + (")" if before == "(" else ""))
    extra = [m for m in tree.get("modifiers", ()) if m["type"] != "ORDER_MODIFIER"]
    plain = (
        tree["type"] == "SELECT_NODE"
        and tree["from_table"]["type"] == "EMPTY"
        and not any(tree.get(key) for key in ("where_clause", "group_expressions", "having"))
        and not any(tree.get(key) for key in ("qualify", "sample"))
        and not extra
        and (bool(tree["modifiers"]) == ("ORDER BY" in before))
        and (len(tree["select_list"]) == 1 or not before)
    )
    if not plain:
        raise BadRequest(f"{field} must hold expressions only: {text!r} is more than that")
    return f"{text}\n"


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


def _check_function(node: dict[str, Any]) -> None:
    path = node.get("qualified_name", {}).get("path", [node["function_name"]])
    if len(path) != 1 or path[0].lower() not in _FUNCTIONS:
        raise BadRequest(f"the function {'.'.join(path)} is not allowed")


def _check_column(node: dict[str, Any]) -> None:
    if node["column_names"][-1].lower() in _SESSION_NAMES:
        raise BadRequest(f"{node['column_names'][-1]} is not allowed: name a column of the table")


def _cte_names(nodes: list[dict[str, Any]]) -> Iterator[str]:
    for node in nodes:
        for entry in node.get("cte_map", {}).get("map", ()):
            if not _IDENTIFIER.fullmatch(entry["key"]):
                raise BadRequest(f"{entry['key']!r} is no name for a WITH query: use letters")
            yield entry["key"].lower()


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            # A literal is the caller's data, not a part of the tree.
            waiting.extend(child for key, child in value.items() if key != "literal")
        elif isinstance(value, list):
            waiting.extend(value)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
