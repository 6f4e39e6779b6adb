"""A model's page: what is known of it, what answers alike, where it comes from, and its parts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sommelier.engine.result import Table
from sommelier.errors import BinderError, SommelierError
from sommelier.grammar import nodes
from sommelier.grammar.builder import model_name
from sommelier.grammar.spelling import write_model, write_name
from sommelier.shell.explorer.frame import asked, page
from sommelier.shell.explorer.markup import Markup, joined, tag
from sommelier.shell.explorer.questions import answered, beginning_with
from sommelier.shell.explorer.tables import answer_table
from sommelier.shell.output import human

if TYPE_CHECKING:
    from sommelier.connection import Connection
    from sommelier.records import ModelRecord

_NEIGHBOURS = 20
_ROWS = 200
_FIRST = ("segment", "donor", "kind", "part")  # what a row is about; the rest may be scrolled to
_SHORT = ("name", "version")  # of the facts, which the heading has


def model_page(db: Connection, given: Mapping[str, str]) -> bytes:
    """given : `id`, or `name` as statements write it, 'net@2'. Raises SommelierError."""
    record = _record(db, given)
    written = _written(record)
    reference = nodes.ModelRef(record.name, record.version)
    return page(
        record.name,
        tag("h1", record.name, " ", tag("small", f"version {record.version}")),
        _facts(db, reference, written),
        _listed(
            db, "Profile", nodes.Show("profiles", of=(reference,)), f"SHOW PROFILES OF {written}"
        ),
        _neighbours(db, written),
        _listed(
            db, "Lineage", nodes.Show("lineage", of=(reference,)), f"SHOW LINEAGE OF {written}"
        ),
        _listed(
            db, "Segments", nodes.Show("segments", of=(reference,)), f"SHOW SEGMENTS OF {written}"
        ),
        db=db,
    )


def _record(db: Connection, given: Mapping[str, str]) -> ModelRecord:
    if "id" in given:
        return db.catalog.model(db.catalog.resolve(given["id"]).id)
    if "name" not in given:
        raise BinderError("a model's page needs its name", hint="/model?name=resnet50")
    return db.catalog.resolve(*model_name(given["name"]))


def _written(record: ModelRecord) -> str:
    """As statements name it."""
    try:
        return write_model(record.name, record.version)
    except ValueError:  # a version that no statement can have
        return write_name(record.id)


def _facts(db: Connection, reference: nodes.ModelRef, written: str) -> Markup:
    """What DESCRIBE says, but the numbers, which have a table of their own."""
    table = db.run(nodes.Describe(reference, "model"))
    assert isinstance(table, Table), "a DESCRIBE"
    profiled = len(db.run(nodes.Show("profiles", of=(reference,))))  # type: ignore[arg-type]
    rows = table.rows[: len(table.rows) - profiled]
    facts = [
        joined(tag("dt", str(name)), tag("dd", human(value, None)))
        for name, value in rows
        if name not in _SHORT
    ]
    return joined(tag("dl", *facts, class_="facts"), asked(f"DESCRIBE MODEL {written}"))


def _listed(db: Connection, title: str, statement: nodes.Show, text: str) -> Markup:
    began = time.perf_counter()
    try:
        found = beginning_with(_FIRST, answered(db.run(statement), _ROWS, began))
    except SommelierError as error:
        return _section(title, _missing(error), None)
    if not found.rows:
        notes = [tag("p", note) for note in found.notes] or [tag("p", "nothing is known yet")]
        return _section(title, joined(*notes), text)
    return _section(title, answer_table(found, caption=title), text)


def _neighbours(db: Connection, written: str) -> Markup:
    """Who may stand in for it, by equivalence, with how sure that is."""
    text = (
        f"SELECT MODELS name, version, equivalence, agreement, confidence, probes\n"
        f"CORR {written} >= 0%\nORDER BY equivalence DESC LIMIT {_NEIGHBOURS}"
    )
    began = time.perf_counter()
    try:
        found = answered(db.execute(text), _NEIGHBOURS, began)
    except SommelierError as error:
        return _section("Neighbours", _missing(error), None)
    if not found.rows:
        told = joined(
            tag("p", "no model was compared with it"),
            *(tag("p", note, class_="hint") for note in found.notes),
        )
        return _section("Neighbours", told, text)
    return _section("Neighbours", answer_table(found, caption="Neighbours by equivalence"), text)


def _missing(error: SommelierError) -> Markup:
    hint = tag("p", "Hint: ", tag("code", error.hint), class_="hint") if error.hint else None
    return joined(tag("p", error.message), hint)


def _section(title: str, content: Markup, text: str | None) -> Markup:
    return tag("section", tag("h2", title), content, None if text is None else asked(text))
