"""EXPORT MODEL: a model's files outside the database, with what the database was told of it.

With `card = yes` a JSON file beside the model states task, licence, labels, preprocessing ... as
the connector `folder` reads them: an import of the folder brings the same facts again.
"""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.connection.model import Model
from sommelier.connection.naming import reference_name, underlined
from sommelier.engine.options import bind_options
from sommelier.engine.result import ColumnInfo, Table
from sommelier.errors import StorageError
from sommelier.storage.copying_out import copy_out, targets_of
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.engine.parameters import Parameters
    from sommelier.grammar import nodes
    from sommelier.records import ModelRecord
    from sommelier.storage.catalog import Catalog

EXPORT_OPTIONS: dict[str, Any] = {"overwrite": bool, "card": bool}
SUFFIX = ".onnx"
_TEXTS = ("task", "family", "license", "homepage")


def export(statement: nodes.ExportModel, db: Connection, known: Parameters) -> Table:
    """The files that EXPORT MODEL wrote, the model first."""
    options = bind_options(statement.options, EXPORT_OPTIONS, known)
    name, version = reference_name(statement.model, known)
    with underlined(statement.model.span):
        model = Model(db, db.catalog.resolve(name, version))
    written = model.export(statement.path, **options)
    columns = (ColumnInfo("file"), ColumnInfo("size", Dimension.BYTES))
    return Table("files", columns, [(str(file), file.stat().st_size) for file in written])


def export_model(
    db: Connection, record: ModelRecord, target: Path, *, overwrite: bool, card: bool
) -> list[Path]:
    """See Model.export. record : of a model with a file."""
    assert record.artifact is not None, "it has a file"
    texts: dict[Path, str] = {}
    if card:
        facts = json.dumps({"models": [_facts(record, target, db.catalog)]}, indent=2)
        texts[target.with_suffix(".json")] = facts + "\n"
    for place in (*targets_of(db.artifacts.files(record.artifact), target), *texts):
        _check_outside(place, db.catalog)
    return copy_out(db.artifacts, record.artifact, target, overwrite=overwrite, texts=texts)


def target_of(path: str | Path, name: str) -> Path:
    """The file a path means: one inside a folder takes the model's name, and one that says nothing
    of its format is ONNX by name too, or no import of its folder would find it."""
    target = Path(path).expanduser().absolute()
    if str(path).endswith(("/", "\\")) or target.is_dir():
        return target / f"{name.rpartition('/')[2]}{SUFFIX}"
    if target.suffix[1:].isdigit() or not target.suffix:  # 'net', 'net-0.2'
        return target.with_name(f"{target.name}{SUFFIX}")
    return target


def _check_outside(place: Path, catalog: Catalog) -> None:
    """Raises StorageError for a place that is the open database's own, whatever may be replaced."""
    itself, found = Path(catalog.path).resolve(), place.resolve()
    log = itself.with_name(f"{itself.name}.wal")
    same = place.exists() and itself.exists() and place.samefile(itself)
    if same or found in (itself, log):
        raise StorageError(f"'{place}' is the database itself", hint="choose another place")
    if found.is_relative_to(catalog.directory.resolve()):
        raise StorageError(
            f"'{place}' lies inside the database, which keeps its own copies",
            hint="choose a place outside of it",
        )


def _facts(record: ModelRecord, target: Path, catalog: Catalog) -> dict[str, object]:
    """What a card says of a model; what nobody stated is left out."""
    texts = {name: getattr(record, name) for name in _TEXTS if getattr(record, name) is not None}
    facts: dict[str, object] = {"match": glob.escape(target.stem), **texts}
    if record.tags:
        facts["tags"] = list(record.tags)
    if record.created is not None:
        facts["created"] = record.created.date().isoformat()
    if not record.output_kind_inferred:
        facts["output_kind"] = record.output_kind.value
    if record.label_space_id is not None:
        space = catalog.label_space(record.label_space_id)
        facts |= {"labels": list(space.labels), "label_space": space.name}
    if record.preprocessing is not None and not record.preprocessing.assumed:
        facts["preprocessing"] = [[name, dict(said)] for name, said in record.preprocessing.steps]
    return facts
