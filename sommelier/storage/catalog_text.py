"""Conditions on metadata columns: compiled to SQL, answered as rows of the models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sommelier.errors import BinderError
from sommelier.metrics import TEXT_COLUMNS
from sommelier.records import TextPredicate
from sommelier.storage.catalog_origins import OriginTable
from sommelier.storage.faults import is_bad_pattern, read_fault
from sommelier.storage.naming import nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sommelier.storage.dialects import Dialect
    from sommelier.storage.model_ids import ModelIds

_LABEL_SPACE = "(SELECT l.name FROM store.label_spaces l WHERE l.id = m.label_space_id)"
_EXPRESSIONS = {
    "opset": "m.opset::VARCHAR",
    "tags": "CASE WHEN array_length(m.tags, 1) > 0 THEN array_to_string(m.tags, ',') END",
    "label_space": _LABEL_SPACE,
    "created": "left(m.created::VARCHAR, 19)",
    "added_at": "left(m.added_at::VARCHAR, 19)",
}
_TIMES = ("created", "added_at")
LINK_TEXTS: dict[str, str] = {
    **{
        name: f"m.{name}"
        for name in (
            *("name", "source", "target", "metric", "unit", "architecture", "method"),
            *("state", "reason", "dataset"),
        )
    },
    "created": "left(m.created_at::VARCHAR, 19)",
}
"""Text columns of links, and what they are in the view `links`."""
_COMPARISONS = frozenset({"=", "!=", "<", "<=", ">", ">="})


@dataclass(frozen=True, slots=True)
class TextMask:
    """Where a predicate holds. true_rows, null_rows : int32 rows of `model_ids`, ascending."""

    true_rows: NDArray[np.int32]
    null_rows: NDArray[np.int32]
    all_ids: ModelIds

    @property
    def true_ids(self) -> NDArray[Any]:
        """The ids of the models for which it is true."""
        return self.all_ids[self.true_rows]

    @property
    def null_ids(self) -> NDArray[Any]:
        """The ids of the models whose column is NULL: it is neither true nor false for them."""
        return self.all_ids[self.null_rows]


class TextTable(OriginTable):
    """The part of the catalog that answers WHERE on metadata."""

    def text_mask(self, predicate: TextPredicate) -> TextMask:
        """The models for which a predicate is true, and those for which its column is NULL.

        Times are compared to the precision they are written with: created = '2024-05' is all of
        that May. `opset` is compared as a number. `tags` have no NULL for HAS; for other operators
        they are their words joined by commas. A few ms for 100 000 models. Raises BinderError for
        a column, an operator or a regular expression that does not exist.
        """
        column = _expression(predicate.column)
        if predicate.operator in ("has_any", "has_all") and predicate.column != "tags":
            raise BinderError("HAS asks about tags", hint="write tags HAS 'mobile'")
        condition, parameters, nullable = _compiled(
            predicate, column, "m.tags", self._database.dialect
        )
        wanted = f"({condition}) OR {column} IS NULL" if nullable else condition
        is_null = f"{column} IS NULL" if nullable else "false"
        sql = f"SELECT m.number, {is_null} AS unknown FROM store.models m WHERE {wanted} ORDER BY 1"
        with self._database.steady():
            try:
                found = self._database.columns(sql, parameters)
            except Exception as error:
                raise _explained(predicate, error) from error
            places = self._known_positions()
        rows, unknown = places.of_number[found["number"]], found["unknown"]
        return TextMask(rows[~unknown], rows[unknown], places.ids)

    def link_masks(self, predicate: TextPredicate) -> tuple[set[str], set[str]]:
        """The names of links for which a predicate is true, and of those whose column is NULL.

        As `text_mask`, for the columns of LINK_TEXTS; HAS looks into `source`.
        """
        column = LINK_TEXTS[predicate.column]
        condition, parameters, nullable = _compiled(
            predicate, column, _words("m.source"), self._database.dialect
        )
        is_null = f"{column} IS NULL" if nullable else "false"
        sql = f"SELECT m.name, {is_null} FROM links m WHERE ({condition}) OR {is_null}"
        try:
            rows = self._database.rows(sql, parameters)
        except Exception as error:
            raise _explained(predicate, error) from error
        return {n for n, unknown in rows if not unknown}, {n for n, unknown in rows if unknown}

    def value_masks(
        self, predicate: TextPredicate, values: Sequence[str | None]
    ) -> tuple[list[int], list[int]]:
        """The places of values for which a predicate is true, and of those that are NULL.

        As `text_mask`, for text that is not in the database; HAS looks into words joined by ', '.
        """
        dialect = self._database.dialect
        condition, parameters, nullable = _compiled(
            predicate, "m.value", _words("m.value"), dialect
        )
        is_null = "m.value IS NULL" if nullable else "false"
        sql = (
            f"SELECT m.place - 1, {is_null} FROM (SELECT unnest(v) AS value,"
            " generate_subscripts(v, 1) AS place FROM (SELECT ?::VARCHAR[]"
            f"{dialect.by_code_point} AS v) g) m"
            f" WHERE ({condition}) OR {is_null} ORDER BY 1"
        )
        try:
            rows = self._database.rows(sql, [list(values), *parameters])
        except Exception as error:
            raise _explained(predicate, error) from error
        return [p for p, unknown in rows if not unknown], [p for p, unknown in rows if unknown]

    def text_columns(
        self, names: Sequence[str], ids: Iterable[str] | None = None
    ) -> dict[str, list[Any]]:
        """Metadata of these models (None: all), a list per column in the order of `ids`.

        Values are str or None; tags are a list of str, opset is an int. An unknown id gives None
        everywhere.
        """
        with self._database.steady():  # or "all" may be others by the time they are read
            if ids is None or ids is self._known_positions().ids:
                return self._text_of_all(names)
            return self._text_of(names, list(ids))

    def _text_of_all(self, names: Sequence[str]) -> dict[str, list[Any]]:
        if not names or "tags" in names:  # numpy has no lists, but is 3 times as fast
            listed = ", ".join(["m.id", *(_output(name) for name in names)])
            rows = self._database.rows(f"SELECT {listed} FROM store.models m ORDER BY m.number")
            return {name: [row[place] for row in rows] for place, name in enumerate(names, 1)}
        numbered = ", ".join(f"{_output(name)} AS c{i}" for i, name in enumerate(names))
        columns = self._database.columns(f"SELECT {numbered} FROM store.models m ORDER BY m.number")
        return {name: columns[f"c{i}"].tolist() for i, name in enumerate(names)}

    def _text_of(self, names: Sequence[str], ids: Sequence[str]) -> dict[str, list[Any]]:
        listed = ", ".join(["m.id", *(_output(name) for name in names)])
        found = self._database.rows(
            f"SELECT {listed} FROM store.models m WHERE m.id IN (SELECT unnest(?::VARCHAR[]))",
            [list(ids)],
        )
        by_id = {row[0]: row for row in found}
        nothing = (None,) * (len(names) + 1)
        rows = [by_id.get(model_id, nothing) for model_id in ids]
        return {name: [row[place] for row in rows] for place, name in enumerate(names, 1)}


def _output(column: str) -> str:
    expression = _expression(column)
    return f"m.{column}" if column in ("tags", "opset") else expression


def _number(text: object) -> str:
    """The text of a number, as a question takes it. Raises BinderError."""
    try:
        return f"{float(str(text)):.17g}"
    except ValueError:
        raise BinderError(f"'{text}' is not a number", hint="write opset >= 17") from None


def _expression(column: str) -> str:
    if column not in TEXT_COLUMNS:
        raise BinderError(
            f"there is no metadata column '{column}'",
            suggestions=nearest(column, TEXT_COLUMNS),
            hint=f"columns: {', '.join(TEXT_COLUMNS)}",
        )
    return _EXPRESSIONS.get(column, f"m.{column}")


def _words(column: str) -> str:
    """The words of a text that joins them by ', ', as a list for HAS."""
    return f"string_to_array({column}, ', ')::VARCHAR[]"  # PostgreSQL's own are TEXT[]


def _compiled(
    predicate: TextPredicate, expression: str, words: str, dialect: Dialect
) -> tuple[str, list[Any], bool]:
    """(condition, parameters, whether a NULL column makes it neither true nor false).

    expression : the column in SQL. words : the list that HAS looks into.
    """
    column, operator, values = predicate.column, predicate.operator, predicate.values
    if operator == "is_null":
        return f"{expression} IS NULL", [], False
    if operator in ("has_any", "has_all"):
        sign = "&&" if operator == "has_any" else "@>"
        return f"{words} {sign} ?::VARCHAR[]", [list(values)], False
    if operator == "in":
        return f"{expression} IN (SELECT unnest(?::VARCHAR[]))", [list(values)], True
    compare = _comparison(operator, dialect)
    if compare is None:
        raise BinderError(f"'{operator}' does not compare text")
    if column == "opset" and operator in _COMPARISONS:
        return f"m.opset {operator} ?::DOUBLE PRECISION", [_number(values[0])], True
    if column in _TIMES and operator in _COMPARISONS:
        expression = f"left({expression}, {len(values[0])}){dialect.by_code_point}"
    return compare.format(expression), [values[0]], True


def _comparison(operator: str, dialect: Dialect) -> str | None:
    """A comparison of `{}` with one value; None for an operator that is none."""
    if operator in _COMPARISONS:
        return f"{{}} {operator} ?"
    others = {"like": dialect.like, "ilike": dialect.ilike, "regexp": dialect.matches}
    return others.get(operator)


def _explained(predicate: TextPredicate, error: Exception) -> Exception:
    cause = error.__cause__
    if predicate.operator == "regexp" and cause is not None and is_bad_pattern(cause):
        return BinderError(
            f"'{predicate.values[0]}' is not a regular expression: {read_fault(cause).message}"
        )
    return error
