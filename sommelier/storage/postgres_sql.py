"""Read-only SQL over the catalog's views on PostgreSQL, with catalog_sql.py's answers and errors.

A statement becomes the query of a cursor: that takes nothing but a SELECT, WITH, VALUES or TABLE,
by the server's own judgement. It travels in the protocol that takes one statement at a time, in a
transaction that is READ ONLY and rolled back. What the server's functions let its user do (read the
server's files, for a superuser) nobody here can forbid: give Sommelier an ordinary user.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import errors

from sommelier.errors import CatalogSqlError
from sommelier.storage.catalog_sql import ONLY_READS, SqlResult, only_reads
from sommelier.storage.database import Parameters
from sommelier.storage.postgres_faults import sql_error

_DECLARE = "DECLARE answer NO SCROLL CURSOR FOR "
_READS = ("SELECT", "WITH", "VALUES", "TABLE", "FROM", "(")
_DUCKDBS = {"SUMMARIZE": "only DuckDB summarizes; DESCRIBE lists the columns"}
_TOKEN = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/
    | \$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?P=tag)?\$
    | (?P<next>\?) | \$(?P<number>\d+) | \$(?P<name>[A-Za-z_]\w*)""",
    re.VERBOSE | re.DOTALL,
)
_FIRST = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\(|\w+|\S)?", re.DOTALL)
_SHOW = re.compile(r"\s*SHOW\s+TABLES\s*;?\s*", re.IGNORECASE)
_DESCRIBE = re.compile(r"\s*(?:DESCRIBE|DESC)\s+(?:main\.)?\"?(\w+)\"?\s*;?\s*", re.IGNORECASE)
_TABLES = "SELECT table_name::text AS name FROM information_schema.tables"
_TABLES += " WHERE table_schema = 'main' ORDER BY 1"
_COLUMNS = """
    SELECT a.attname::text AS column_name, format_type(a.atttypid, a.atttypmod) AS column_type,
        CASE WHEN a.attnotnull THEN 'NO' ELSE 'YES' END AS "null"
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = to_regclass('main.' || quote_ident($1)) AND a.attnum > 0
    ORDER BY a.attnum"""
_TYPES: Mapping[int, str] = {  # DuckDB's names
    16: "BOOLEAN", 17: "BLOB", 20: "BIGINT", 21: "SMALLINT", 23: "INTEGER", 25: "VARCHAR",
    700: "FLOAT", 701: "DOUBLE", 705: "VARCHAR", 1043: "VARCHAR", 1114: "TIMESTAMP",
    1184: "TIMESTAMP WITH TIME ZONE", 1700: "DOUBLE", 1009: "VARCHAR[]", 1015: "VARCHAR[]",
    1082: "DATE", 1186: "INTERVAL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Sent:
    """A statement as the server gets it. moved : (place there, place in the user's text), of the
    pieces that were replaced, in order."""

    text: str
    values: list[object]
    moved: tuple[tuple[int, int], ...]

    def position(self, error: psycopg.Error) -> int | None:
        """The character of the user's text that an error is about."""
        told = error.diag.statement_position
        if told is None:
            return None
        place = int(told) - 1 - len(_DECLARE)
        back = [(sent, own) for sent, own in self.moved if sent <= place]
        sent, own = back[-1] if back else (place, 0)
        return max(0, own + place - sent)


def run_sql(
    raw: psycopg.Connection[Any],
    text: str,
    parameters: Parameters | None = None,
    limit: int | None = None,
) -> SqlResult:
    """The rows of one SELECT, WITH, VALUES, TABLE, SHOW TABLES or DESCRIBE view.

    Raises CatalogSqlError with the words at fault, CancelledError.
    """
    if _SHOW.fullmatch(text):
        return _run(raw, text, _Sent(_TABLES, [], ()), limit)
    if described := _DESCRIBE.fullmatch(text):
        found = _run(raw, text, _Sent(_COLUMNS, [described[1].lower()], ()), limit)
        if found.rows:
            return found
        text = f"SELECT * FROM {described[1]}"  # which says what is wrong with it
    _check(text)
    return _run(raw, text, _sent(text, parameters), limit)


def _run(raw: psycopg.Connection[Any], text: str, sent: _Sent, limit: int | None) -> SqlResult:
    with psycopg.RawCursor(raw) as cursor:
        try:
            cursor.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # binary: or a text without values would go by the protocol of several statements
            cursor.execute((_DECLARE + sent.text).encode(), sent.values, binary=True, prepare=False)
            cursor.execute(f"FETCH FORWARD {'ALL' if limit is None else limit + 1} FROM answer")
            described, rows = cursor.description or [], cursor.fetchall()
        except psycopg.Error as error:
            if _writes(error):
                raise only_reads(text) from error
            raise sql_error(error, text, sent.position(error)) from error
        finally:
            with contextlib.suppress(psycopg.Error):
                raw.execute("ROLLBACK")
    more = limit is not None and len(rows) > limit
    plain = [tuple(map(_plain, row)) for row in (rows[:limit] if more else rows)]
    return SqlResult(
        columns=[column.name for column in described],
        types=[_TYPES.get(column.type_code, column.type_display.upper()) for column in described],
        rows=plain,
        more=more,
    )


def _check(text: str) -> None:
    """Refuse what does not begin as a statement that reads."""
    word = _first_word(text)
    if word in ("", ";"):
        raise CatalogSqlError("there is no statement", text=text)
    if word.upper() not in _READS:
        raise only_reads(text, hint=_DUCKDBS.get(word.upper(), ONLY_READS))


def _first_word(text: str) -> str:
    first = _FIRST.match(text)
    return (first[1] or "") if first else ""


def _writes(error: psycopg.Error) -> bool:
    """Whether a statement that begins as a SELECT was refused because it changes something."""
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return True
    return "must not contain data-modifying" in str(error) or "INTO is not allowed" in str(error)


def _sent(text: str, parameters: Parameters | None) -> _Sent:
    """The statement with PostgreSQL's places for values in place of ?, $1 or $name.

    FROM models, as DuckDB has it, becomes SELECT * FROM models.
    """
    given = parameters if parameters is not None else ()
    names = list(given) if isinstance(given, Mapping) else []
    lead = "SELECT * " if _first_word(text).upper() == "FROM" else ""
    pieces, moved = [lead], [(len(lead), 0)]
    values: list[object] = list(given.values()) if isinstance(given, Mapping) else list(given)
    used: set[int] = set()
    at, length = 0, len(lead)
    for token in _TOKEN.finditer(text):
        number = _number(token, names, len(used))
        if number is None:
            continue
        used.add(number)
        pieces += [text[at : token.start()], f"${number}"]
        length += token.start() - at + len(pieces[-1])
        at = token.end()
        moved.append((length, at))
    if used != set(range(1, len(values) + 1)):
        raise CatalogSqlError(
            f"the statement has places for {len(used)} values, and {len(values)} were given",
            text=text,
        )
    return _Sent("".join([*pieces, text[at:]]), values, tuple(moved))


def _number(token: re.Match[str], names: Sequence[str], used: int) -> int | None:
    """Which value belongs in a place, from 1 on; None for what is no place."""
    if token["next"]:
        return used + 1
    if token["number"]:
        return int(token["number"])
    if token["name"]:
        return names.index(token["name"]) + 1 if token["name"] in names else len(names) + 1
    return None


def _plain(value: object) -> object:
    """A value as DuckDB gives it: sums of whole numbers are numbers of Python."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
