"""The files of a model in MLflow, and what its MLmodel says of them; none is run or unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sommelier.connectors.assembling import assembled
from sommelier.connectors.formats import format_of
from sommelier.connectors.mlflow_server import MlflowServer
from sommelier.connectors.naming import printable
from sommelier.errors import MissingDependencyError, RejectedModelError, first_line
from sommelier.storage.cache import cache_folder
from sommelier.storage.external_data import check_location

MLMODEL = "MLmodel"
MAX_MLMODEL_BYTES = 1 << 20
_YAML_FAILS = (
    ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError,
)  # fmt: skip
"""What PyYAML raises besides its own: !!bool x, !!timestamp x and !!int '' fail inside of it."""
EXPORTED, SAVED = "model.pt2", "model.pth"  # as torch.export and torch.save write it


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's file in the cache. external : files of its weights; format : None for ONNX, else
    what Conversion.format calls it."""

    path: Path
    external: tuple[Path, ...] = ()
    format: str | None = None


def fetched(server: MlflowServer, root: str, content: Mapping[str, Any], limit: int) -> ModelFiles:
    """The file of a model that is described by `content` and lies below `root`.

    Raises RejectedModelError if it is of no flavor that is read, ConnectorError if it does not
    come.
    """
    flavors = mapping(content.get("flavors"))
    onnx, pytorch = flavors.get("onnx"), flavors.get("pytorch")
    if isinstance(onnx, dict):
        return _onnx(server, f"{root}/{_inner(onnx.get('data'), 'model.onnx')}", limit)
    if isinstance(pytorch, dict):
        return _pytorch(server, f"{root}/{_inner(pytorch.get('model_data'), 'data')}", limit)
    kinds = printable(", ".join(sorted(flavors)))[:200] or "none"
    raise RejectedModelError(f"its flavors are {kinds}; read are onnx and pytorch")


def description(content: bytes) -> Mapping[str, Any]:
    """What MLflow keeps beside each model in MLmodel, a YAML mapping.

    Raises RejectedModelError if it is none, MissingDependencyError without a YAML library.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            "MLflow describes models in YAML, and there is no library to read it",
            hint="pip install 'sommelier-db[mlflow]'",
        ) from error
    loader = yaml.SafeLoader(content)
    loader.flatten_mapping = lambda _: None  # merges (<<) double in size at each nested level
    try:
        found = loader.get_single_data()
    except (yaml.YAMLError, *_YAML_FAILS) as error:
        raise RejectedModelError(f"{MLMODEL} is no YAML: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise RejectedModelError(f"{MLMODEL} is no mapping")
    return mapping(found)


def mapping(value: object) -> dict[str, Any]:
    """A mapping of YAML with its keys as text; {} if it is none."""
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def _onnx(server: MlflowServer, file: str, limit: int) -> ModelFiles:
    """An ONNX file; with external data, it and its files lie together in a folder of their own."""

    def beside(location: str, left: int) -> Path:
        return server.file(f"{file.rpartition('/')[0]}/{location}", left)

    kept = server.file(file, limit)
    origin = sha256(f"{server.url}/{file}".encode()).hexdigest()[:32]
    target = cache_folder() / "mlflow" / origin / kept.name
    path, external = assembled(kept, target, fetch=beside, max_size=limit)
    return ModelFiles(path, tuple(external))


def _pytorch(server: MlflowServer, folder: str, limit: int) -> ModelFiles:
    """An exported program or TorchScript; a pickled module is refused unopened."""
    names = server.names(folder)
    name = next((name for name in (EXPORTED, SAVED) if name in names), None)
    if name is None:
        raise RejectedModelError(f"its flavor is pytorch, but it has no {EXPORTED} and no {SAVED}")
    path = server.file(f"{folder}/{name}", limit)
    format = format_of(path)
    if format == "torch_weights":  # by its name; MLflow saves whole modules under it
        raise RejectedModelError(
            "a pickled PyTorch module: opening it would run whatever code is in it; log it with "
            "mlflow.pytorch.log_model(..., serialization_format='pt2', input_example=...)"
        )
    return ModelFiles(path, format=format)


def _inner(stated: object, usual: str) -> str:
    """A path inside a model's folder. Raises RejectedModelError if it leads out of it."""
    path = stated if isinstance(stated, str) and stated else usual
    try:
        check_location(path)
    except RejectedModelError as error:
        raise RejectedModelError(
            f"{MLMODEL} names a file outside of its folder: {path[:100]!r}"
        ) from error
    return path
