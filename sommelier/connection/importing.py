"""IMPORT and REGISTER MODEL: from a connector's artifacts to records, files and numbers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.connection.nothing_came import nothing_came
from sommelier.connection.originals import kept_original
from sommelier.engine.options import Many
from sommelier.engine.parameters import as_parameters
from sommelier.errors import (
    CancelledError,
    ConnectorError,
    RejectedModelError,
    SommelierError,
    first_line,
)
from sommelier.grammar import nodes
from sommelier.like import like_pattern
from sommelier.origin_records import Original
from sommelier.records import Artifact, Measurement, ModelRecord, Rejection

if TYPE_CHECKING:
    from sommelier.analysis.inspection import Inspection, Inspector
    from sommelier.connection.connection import Connection

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None, str | None], None]

FACT_OPTIONS: dict[str, Any] = {
    "family": str,
    "license": str,
    "tags": Many(str),
    "labels": Many(str),
    "output_kind": str,
    "note": str,
    "homepage": str,
}
CONVERSION_OPTIONS: dict[str, Any] = {
    "inputs": str, "module": str, "arguments": str, "signature": str, "trust": bool
}  # fmt: skip
REGISTER_OPTIONS: dict[str, Any] = {**FACT_OPTIONS, "copy": bool, **CONVERSION_OPTIONS}
REASONS_SHOWN = 8
ROWS_PER_TRANSACTION = 500  # of declared metadata; a model file has a transaction of its own


@dataclass(frozen=True, slots=True)
class Found:
    """A model that was accepted and is to be stored. original : where it was converted."""

    item: Artifact
    inspection: Inspection
    original: Original | None = None


@dataclass(slots=True)
class ImportSummary:
    """How an import went, by outcome."""

    outcomes: Counter[str] = field(default_factory=Counter)
    rejections: list[Rejection] = field(default_factory=list)
    remarks: tuple[str, ...] = ()

    @property
    def accepted(self) -> int:
        """How many came that were not there before."""
        return sum(self.outcomes.values()) - self.outcomes["unchanged"]

    def notes(self) -> tuple[str, ...]:
        """What happened, as sentences; the first rejections with their reason."""
        kinds = {
            "new": "new",
            "alias": "known under another name (kept as alias)",
            "version": "new contents under a known name (kept as a new version)",
            "unchanged": "already there",
        }
        lines = [f"{count} {kinds.get(kind, kind)}" for kind, count in self.outcomes.items()]
        lines += [f"rejected {r.revision}: {r.reason}" for r in self.rejections[:REASONS_SHOWN]]
        rest = len(self.rejections) - REASONS_SHOWN
        if rest > 0:
            lines.append(f"and {rest} more rejected: SHOW REJECTIONS")
        return (*lines, *self.remarks)


def import_models(
    db: Connection,
    statement: nodes.Import,
    *,
    options: Mapping[str, object],
    parameters: Any = None,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> ImportSummary:
    """Fetches, inspects and stores what the statement names; each model is one transaction.

    What is refused is recorded as a rejection and the import goes on. Raises ConnectorError when
    the source itself cannot be read, CancelledError when the user cancels.
    """
    from sommelier.connection import searching
    from sommelier.connection.repositories import origin
    from sommelier.connectors.options import flag

    def fetching(what: str, done: int, total: int | None) -> None:
        progress("fetching", done, total, what)

    settings = dict(options)
    copy = flag({"copy": settings.pop("copy", True)}, "copy")
    summary = ImportSummary()
    source = origin(db, statement.connector, statement.locations, settings)
    if searching.searches(statement, source):
        search = searching.Search(statement, source, as_parameters(parameters))
        found = searching.fetched(search, fetching)
        chosen = _chosen(found, like=None, limit=statement.limit)
    else:
        search, like = None, as_parameters(parameters).text(statement.like)
        chosen = _chosen(source.fetched(fetching), like=like, limit=statement.limit)
    _store_all(db, chosen, summary, copy=copy, progress=progress, cancelled=cancelled)
    if search is not None:
        summary.remarks = search.notes()
    if not summary.outcomes and statement.limit != 0:
        raise nothing_came(statement, source, summary.rejections, search)
    return summary


def register_model(
    db: Connection,
    name: str,
    path: Path,
    *,
    version: str | None,
    declared: Mapping[str, object],
) -> ImportSummary:
    """Stores one model under a chosen name; what is wrong beside it is in the notes.

    Raises RejectedModelError if it is not acceptable, ConnectorError if the path has several.
    """
    from sommelier.connectors.registry import connector

    facts = dict(declared)
    copy = bool(facts.pop("copy", True))
    asked = {name: facts.pop(name) for name in CONVERSION_OPTIONS if name in facts}
    found = list(connector("folder").fetch((str(path),), options=asked, progress=None))
    count = sum(isinstance(item, Artifact) for item in found)
    if count > 1:
        raise ConnectorError(
            f"'{path}' holds {count} models, and REGISTER MODEL gives a name to one",
            hint=f"name its file, or IMPORT MODELS FROM folder '{path}'",
        )
    summary = ImportSummary()
    renamed = [
        replace(item, name=name, version=version, declared={**item.declared, **facts})
        if isinstance(item, Artifact)
        else item
        for item in found
    ]
    _store_all(db, renamed, summary, copy=copy, progress=None, cancelled=lambda: False)
    if summary.outcomes:
        return summary
    if summary.rejections:
        raise RejectedModelError(f"'{path}' is not accepted: {summary.rejections[-1].reason}")
    raise ConnectorError(f"there is no model file at '{path}'")


def register_artifact(db: Connection, artifact: Artifact) -> None:
    """Stores one model, its file copied. Raises RejectedModelError if it is not acceptable."""
    summary = ImportSummary()
    _store_all(db, [artifact], summary, copy=True, progress=None, cancelled=lambda: False)
    if summary.rejections:
        raise RejectedModelError(f"not accepted: {summary.rejections[0].reason}")


def _store_all(
    db: Connection,
    found: Iterable[Artifact | Rejection],
    summary: ImportSummary,
    *,
    copy: bool,
    progress: Progress | None,
    cancelled: Callable[[], bool],
) -> None:
    from sommelier.analysis.inspection import Inspector

    waiting: list[Found] = []
    try:
        with Inspector() as inspector:
            for done, item in enumerate(found):
                if cancelled():
                    raise CancelledError("import cancelled", hint="what was read is kept")
                if isinstance(item, Rejection):
                    _reject(db, item, summary)
                    continue
                if progress is not None:
                    progress("importing", done, None, item.name)
                accepted = _read(db, inspector, item, copy=copy, cancelled=cancelled)
                if isinstance(accepted, Rejection):
                    _reject(db, accepted, summary)
                    continue
                waiting.append(accepted)
                if accepted.item.path is not None or len(waiting) >= ROWS_PER_TRANSACTION:
                    _store(db, waiting, summary)
    finally:
        _store(db, waiting, summary)


def _read(
    db: Connection,
    inspector: Inspector,
    item: Artifact,
    *,
    copy: bool,
    cancelled: Callable[[], bool],
) -> Found | Rejection:
    """What is to be stored of an artifact, or why nothing is. What nobody foresaw in a model is a
    reason too, so that it does not stop the others; errors of this database are raised."""
    try:
        original = kept_original(item)  # of the files as they are before they are converted
        with _as_onnx(db, item, cancelled) as ready:
            found = _accepted(db, inspector, ready, copy=copy or ready is not item)
        return replace(found, original=original) if isinstance(found, Found) else found
    except SommelierError:
        raise
    except Exception as error:
        logger.exception("%s from %s cannot be read", item.name, item.source)
        reason = f"unexpected {type(error).__name__}: {first_line(error)}"
        return Rejection(item.source, item.revision or item.name, reason)


@contextmanager
def _as_onnx(
    db: Connection, item: Artifact, cancelled: Callable[[], bool]
) -> Iterator[Artifact | Rejection]:
    """The artifact itself, or converted to a file that is there as long as the context."""
    if item.conversion is None:
        yield item
        return
    from sommelier.analysis.conversion import converted

    with db.artifacts.workplace() as folder:
        made, hint = converted(item, folder, cancelled=cancelled), item.conversion.hint
        if isinstance(made, Rejection) and hint is not None:
            made = replace(made, reason=f"{made.reason} ({hint})")
        yield made


def _accepted(
    db: Connection, inspector: Inspector, item: Artifact | Rejection, *, copy: bool
) -> Found | Rejection:
    """What is to be stored of an artifact, its file in the artifact store, or why nothing is."""
    if isinstance(item, Rejection):
        return item
    try:
        inspection = inspector.inspect(item)
        return _with_artifact(db, Found(item, inspection), copy=copy)
    except RejectedModelError as error:
        return Rejection(item.source, item.revision or item.name, str(error))


def _store(db: Connection, waiting: list[Found], summary: ImportSummary) -> None:
    """Keeps what waits, in one transaction, and empties the list."""
    if not waiting:
        return
    catalog = db.catalog
    outcomes: Counter[str] = Counter()
    measurements: list[Measurement] = []
    with catalog.transaction():
        for found in waiting:
            inspection = found.inspection
            added = catalog.add_model(inspection.record, label_space=inspection.label_space)
            model_id = added.record.id
            if added.status == "unchanged":
                catalog.update_model(_restated(added.record, inspection.record))
            measurements += (replace(m, model_id=model_id) for m in inspection.measurements)
            if inspection.profile is not None:
                catalog.add_profile(replace(inspection.profile, model_id=model_id))
            if found.original is not None:
                catalog.save_original(model_id, found.original)
            outcomes[str(added.status)] += 1
        catalog.add_measurements(measurements)
    summary.outcomes += outcomes
    waiting.clear()


def _with_artifact(db: Connection, found: Found, *, copy: bool) -> Found:
    """The same, with its file in the artifact store; outside any transaction: it may be large."""
    item, inspection = found.item, found.inspection
    if item.path is None:
        return found
    external = [Path(str(path)) for path in _list(item.declared.get("external_data"))]
    key = db.artifacts.put(item.path, external=external, reference_in_place=not copy)
    record = replace(inspection.record, artifact=key)
    return replace(found, inspection=replace(inspection, record=record))


_STATED = (
    "task", "family", "license", "label_space_id", "preprocessing", "note", "homepage", "created"
)  # fmt: skip


def _restated(known: ModelRecord, said: ModelRecord) -> ModelRecord:
    """The known record with what its source says now; silence changes nothing."""
    facts = {name: getattr(said, name) for name in _STATED if getattr(said, name) is not None}
    if not said.output_kind_inferred:
        facts |= {"output_kind": said.output_kind, "output_kind_inferred": False}
    tags = tuple(dict.fromkeys((*known.tags, *said.tags)))
    return replace(known, **facts, tags=tags)


def _reject(db: Connection, rejection: Rejection, summary: ImportSummary) -> None:
    db.catalog.add_rejection(rejection)
    summary.rejections.append(rejection)


def _chosen(
    found: Iterator[Artifact | Rejection], *, like: str | None, limit: int | None
) -> Iterator[Artifact | Rejection]:
    """The artifacts whose name matches the LIKE pattern, at most `limit`; every rejection."""
    pattern = None if like is None else like_pattern(like)
    taken = 0
    if limit == 0:
        return
    for item in found:
        if isinstance(item, Artifact):
            if pattern is not None and not pattern.fullmatch(item.name):
                continue
            taken += 1
        yield item
        if limit is not None and taken >= limit:
            return  # before the next one is fetched


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []
