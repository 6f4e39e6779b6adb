"""Connection.ingest: a torch module of the running program becomes a model of the database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sommelier.connection.importing import FACT_OPTIONS, register_artifact
from sommelier.engine.names import nearest
from sommelier.errors import BinderError, ReadOnlyError
from sommelier.grammar.builder import model_name
from sommelier.notes import joined
from sommelier.records import Artifact, ModelRecord

if TYPE_CHECKING:
    from torch import nn

    from sommelier.connection.connection import Connection

SOURCE = "ingest"
FACTS = (*FACT_OPTIONS, "task", "preprocessing")


def ingest(
    db: Connection,
    module: nn.Module,
    example_inputs: object,
    name: str,
    declared: Mapping[str, object],
) -> ModelRecord:
    """The record of the module, exported in this process and compared with itself.

    name : may say a version, 'mine@2'. Raises RejectedModelError with the reason, BinderError for
    an unknown fact.
    """
    from sommelier.analysis.conversion.torch_export import export_module, given_examples
    from sommelier.analysis.conversion.torch_requests import require_torch
    from sommelier.analysis.fingerprint import content_fingerprint

    if db.read_only:
        raise ReadOnlyError(f"{db.path} is open read-only", hint="connect without read_only=True")
    _check_facts(declared)
    require_torch()
    own, version = model_name(name)
    from sommelier.analysis.conversion.torch_caller import unwrapped  # imports torch

    module = unwrapped(module)
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    examples = given_examples(module, example_inputs)
    with TemporaryDirectory(prefix="sommelier-ingest-") as folder:
        made = export_module(module, examples, Path(folder) / "model.onnx")
        beside = [str(f) for f in sorted(Path(folder).iterdir()) if f != made.path]
        note = (str(declared.get("note") or ""), made.described("a torch module"))
        facts = {
            "producer": made.producer,
            **declared,
            "note": joined(note),
            "external_data": beside,
        }
        register_artifact(db, Artifact(own, version, SOURCE, kind, made.path, facts))
        db.catalog.publish()
        return db.catalog.model(content_fingerprint(made.path, [*map(Path, beside)]))


def _check_facts(declared: Mapping[str, object]) -> None:
    for fact in declared:
        if fact not in FACTS:
            raise BinderError(
                f"ingest takes no '{fact}'",
                suggestions=nearest(fact, FACTS),
                hint=f"it takes {', '.join(FACTS)}",
            )
