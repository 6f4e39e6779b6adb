"""What a model was before it became ONNX, made again."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sommelier.errors import SommelierError

if TYPE_CHECKING:
    from torch import nn

    from sommelier.connection.connection import Connection
    from sommelier.records import ModelRecord


def original_module(db: Connection, record: ModelRecord, *, trust: bool) -> nn.Module:
    """See Model.original."""
    from sommelier.analysis.conversion.table import original
    from sommelier.analysis.conversion.values import ConversionRequest

    found = db.catalog.original(record.id)
    if found is None:
        raise SommelierError(
            f"nothing is kept of what '{record.name}' was before: it came as ONNX, or from a "
            "running program",
            hint="Model.load() runs its ONNX file",
        )
    path = None if found.path is None else Path(found.path)
    if path is not None and not path.exists():
        raise SommelierError(f"what '{record.name}' was made of has gone: {path}",
                             hint=f"import it again from {record.source}")  # fmt: skip
    options = {**found.options, **({"trust": True} if trust else {})}
    with TemporaryDirectory(prefix="sommelier-original-") as folder:  # nothing is written
        return original(found.format, ConversionRequest(path, Path(folder), options))
