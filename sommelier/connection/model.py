"""A model of the catalog as an object: its record, its numbers, and a way to run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.connection import model_display
from sommelier.errors import MissingDependencyError, SommelierError
from sommelier.records import Measurement, ModelRecord

if TYPE_CHECKING:
    from torch import nn

    from sommelier.connection.connection import Connection


class Model:
    """One model of a database. Attributes of its record are attributes of the object."""

    def __init__(self, connection: Connection, record: ModelRecord) -> None:
        self._connection = connection
        self.record = record

    @property
    def name(self) -> str:
        """What the model is called, without its version."""
        return self.record.name

    @property
    def profile(self) -> list[Measurement]:
        """Every number the catalog holds of this model, with context and provenance."""
        return self._connection.catalog.measurements(self.record.id)

    @property
    def onnx_path(self) -> Path:
        """The model's file. Raises SommelierError if only its metadata was imported."""
        if self.record.artifact is None:
            raise SommelierError(
                f"'{self.record.name}' is a metadata row from {self.record.source}: "
                "there is no model file",
                hint="import the model itself from a folder or a wheel",
            )
        return self._connection.artifacts.path(self.record.artifact)

    def export(
        self, path: str | Path, *, overwrite: bool = False, card: bool = False
    ) -> list[Path]:
        """What EXPORT MODEL writes: the model's file, its external data, and with `card` a JSON
        file of what is known of it, which an import of that folder reads.

        path : of the file, or of a folder. The files written, the model first, whole or not at
        all. Raises SommelierError if only its metadata was imported, StorageError if a file is
        there and not to be overwritten, or if the disk refuses.
        """
        from sommelier.connection.exporting import export_model, target_of

        _ = self.onnx_path  # says why, where there is no file
        target = target_of(path, self.record.name)
        return export_model(self._connection, self.record, target, overwrite=overwrite, card=card)

    def original(self, *, trust: bool = False) -> nn.Module:
        """The torch module that this model was converted from, made again in this process.

        trust : that code which came with it may run, as an import says it (TorchScript, .pt2,
        PyTorch Hub). Raises SommelierError for a model that came as ONNX or from a running program,
        or whose files have gone; RejectedModelError with what an import would say.
        """
        from sommelier.connection.originals import original_module

        return original_module(self._connection, self.record, trust=trust)

    def load(self, *, provider: str = "CPUExecutionProvider") -> Any:
        """An onnxruntime.InferenceSession of the model.

        Raises MissingDependencyError without onnxruntime, SommelierError if the provider asked
        for is not the one that runs (onnxruntime falls back silently; we do not).
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                "running a model needs onnxruntime",
                hint="pip install 'sommelier-db[cpu]' (or [gpu])",
            ) from error
        session = onnxruntime.InferenceSession(str(self.onnx_path), providers=[provider])
        if provider not in session.get_providers():
            raise SommelierError(
                f"'{provider}' is not available here",
                hint=f"available: {', '.join(session.get_providers())}",
            )
        return session

    def __repr__(self) -> str:
        return model_display.line(self.record, self._connection.catalog)

    def _repr_html_(self) -> str:
        return model_display.as_html(self.record, self._connection.catalog)
