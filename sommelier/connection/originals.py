"""What a model was before it became ONNX: what is kept of it, and the module made again.

A catalog may come from a stranger: nothing that is kept in it says that code may run. Who asks for
the module says so, for files that are still what they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sommelier.errors import SommelierError
from sommelier.origin_records import Original
from sommelier.storage.artifacts import fingerprint

if TYPE_CHECKING:
    from torch import nn

    from sommelier.connection.connection import Connection
    from sommelier.records import Artifact, ModelRecord

TRUST = "trust"
MODULE = "module"


def kept_original(item: Artifact) -> Original | None:
    """What is kept of an artifact that is to be converted; None of one that is ONNX."""
    if item.conversion is None:
        return None
    format = item.conversion.format
    options = {name: value for name, value in item.conversion.options.items() if name != TRUST}
    if MODULE in options:
        options[MODULE] = _absolute(str(options[MODULE]))
    if item.path is None:
        return Original(format, None, options)
    path = item.path.absolute()
    files = list(_files(format, path, options))
    try:
        content = fingerprint(files) if files else None
    except OSError:  # what cannot be read is not converted either
        content = None
    return Original(format, str(path), options, content)


def original_module(db: Connection, record: ModelRecord, *, trust: bool) -> nn.Module:
    """See Model.original."""
    from sommelier.analysis.conversion.table import CONVERTERS, original
    from sommelier.analysis.conversion.values import ConversionRequest

    found = db.catalog.original(record.id)
    if found is None:
        raise SommelierError(
            f"nothing is kept of what '{record.name}' was before: it came as ONNX, or from a "
            "running program",
            hint="Model.load() runs its ONNX file",
        )
    if found.format not in CONVERTERS:
        raise SommelierError(
            f"'{record.name}' was converted from '{found.format}', which this Sommelier does not "
            "know",
            hint="Model.load() runs its ONNX file",
        )
    path = None if found.path is None else Path(found.path)
    if path is not None:
        _check_files(found, path, record)
    options = {name: value for name, value in found.options.items() if name != TRUST}
    if trust:
        options[TRUST] = True
    with TemporaryDirectory(prefix="sommelier-original-") as folder:  # nothing is written
        return original(found.format, ConversionRequest(path, Path(folder), options))


def _check_files(found: Original, path: Path, record: ModelRecord) -> None:
    """Raises SommelierError unless the files are those that the model was made of."""
    again = f"import it again from {record.source}"
    files = list(_files(found.format, path, found.options))
    gone = [file for file in (path, *files) if not file.exists()]
    if gone:
        raise SommelierError(f"what '{record.name}' was made of has gone: {gone[0]}", hint=again)
    if found.fingerprint is None:
        return
    try:
        now = fingerprint(files)
    except OSError as error:
        raise SommelierError(
            f"what '{record.name}' was made of cannot be read: {error.strerror or error}",
            hint=again,
        ) from error
    if now != found.fingerprint:
        raise SommelierError(
            f"what '{record.name}' was made of has changed since it was imported: {path}",
            hint=again,
        )


def _files(format: str, path: Path, options: Mapping[str, object]) -> Iterator[Path]:
    """The files that a module of this format is made of; none of a format that is not made here."""
    from sommelier.analysis.conversion.table import CONVERTERS
    from sommelier.analysis.conversion.torch_weights import whole_of

    if format not in CONVERTERS or CONVERTERS[format].original is None:
        return
    yield path
    if format == "torchhub":
        yield from _code_beside(path)
    elif format == "transformers":
        yield from _weights_beside(path, "", ".safetensors")
    elif format == "torch_weights":
        whole = whole_of(path)
        if whole is not None:
            yield from _weights_beside(path, whole.stem, whole.suffix)
        code = str(options.get(MODULE, "")).rpartition(":")[0]
        if code.endswith(".py"):
            yield Path(code)


def _weights_beside(path: Path, stem: str, suffix: str) -> Iterator[Path]:
    """The other files of weights in several files, and the list of these."""
    from sommelier.analysis.conversion.torch_weights import INDEX

    endings = (suffix, f"{suffix}{INDEX}")
    for file in sorted(path.parent.iterdir() if path.parent.is_dir() else ()):
        if file != path and file.name.startswith(stem) and file.name.endswith(endings):
            yield file


def _code_beside(hubconf: Path) -> Iterator[Path]:
    """The other Python files of a repository, hidden folders left out."""
    folder = hubconf.parent
    for file in sorted(folder.rglob("*.py")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file != hubconf and not hidden and file.is_file():
            yield file


def _absolute(named: str) -> str:
    """'file.py:name' with the file's whole path, so that it is the same one in every folder."""
    where, colon, name = named.rpartition(":")
    return f"{Path(where).expanduser().absolute()}{colon}{name}" if where.endswith(".py") else named
