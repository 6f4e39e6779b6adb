"""Questions of programs: POST /query, and what the page's script asks for completion, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from sommelier.engine.result import Report
from sommelier.errors import BinderError, QueryError, SommelierError
from sommelier.shell.explorer.questions import Answer, Parameters, ask
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.connection import Connection

Said = tuple[int, str, bytes]
MOST_ROWS = 10_000
MOST_BYTES = 16 << 20  # of rows
_BASE_UNITS = {
    Dimension.BYTES: "B",
    Dimension.FLOPS: "FLOPs",
    Dimension.TIME: "ms",
    Dimension.ENERGY: "J",
    Dimension.RATE: "rps",
    Dimension.FRACTION: "fraction",
}
_EXPECTED = {"statement", "params", "limit"}


def answer(db: Connection, head: dict[str, Any], body: bytes) -> Said:
    """(status, content type, body). Raises SommelierError."""
    if head["path"] == "complete":
        from sommelier.shell.explorer.completing import completions

        text = parse_qs(head["query"]).get("q", [""])[0]
        return _json(200, {"completions": completions(db, text)})
    asked = _object(body)
    statement, params, limit = asked.get("statement"), asked.get("params"), asked.get("limit")
    if not isinstance(statement, str):
        raise BinderError("'statement' is no text", hint='{"statement": "SHOW MODELS"}')
    _check(params, limit)
    most = MOST_ROWS if limit is None else min(limit, MOST_ROWS)
    return _json(200, told(ask(db, statement, params, most=most)))


def told(found: Answer) -> dict[str, Any]:
    """An answer as values of JSON, in base units; what is unknown is null."""
    rows, size = [], 0
    for row in found.rows:
        rows.append([_plain(value) for value in row])
        size += len(json.dumps(rows[-1], ensure_ascii=False))
        if size > MOST_BYTES:
            break
    data = {"report": _plain(found.outcome.data)} if isinstance(found.outcome, Report) else {}
    return {
        "columns": list(_columns(found)),
        "rows": rows,
        "total": found.total,
        "truncated": found.cut or len(rows) < len(found.rows),
        "notes": list(found.notes),
        "took_ms": round(found.took_ms, 3),
        **data,
    }


def failure(error: BaseException, status: int) -> Said:
    """What went wrong, with its place in the statement where it has one."""
    message = error.message if isinstance(error, SommelierError) else str(error)
    said: dict[str, Any] = {"code": getattr(error, "code", "system"), "message": message}
    said["title"] = getattr(error, "title", "System Error")
    if isinstance(error, SommelierError):
        said |= {"hint": error.hint, "suggestions": list(error.suggestions)}
    if isinstance(error, QueryError):
        said["expected"] = list(error.expected)
        span = error.span
        said["place"] = span and {
            "line": span.line,
            "column": span.column,
            "start": span.start,
            "end": span.end,
        }
    return _json(status, {"error": said})


def _columns(found: Answer) -> Iterator[dict[str, Any]]:
    for column in found.columns:
        dimension = column.dimension
        yield {
            "name": column.name,
            "dimension": None if dimension is None else dimension.value,
            "unit": None if dimension is None else _BASE_UNITS.get(dimension),
        }


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
        json.dumps(asked, ensure_ascii=False).encode()  # no half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise BinderError(f"the question is no JSON: {error}") from None
    if not isinstance(asked, dict) or not asked.keys() <= _EXPECTED:
        keys = ", ".join(sorted(_EXPECTED))
        raise BinderError(f"the question is an object with {keys}")
    return asked


def _check(params: Parameters, limit: object) -> None:
    if params is not None and not isinstance(params, dict | list):
        raise BinderError("'params' is neither an object nor an array")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise BinderError("'limit' is no number of rows")


def _plain(value: Any) -> Any:
    """A value that JSON has."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        return _plain(value.item())
    return str(value)


def _json(status: int, value: object) -> Said:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return status, "application/json", text.encode(errors="backslashreplace")
