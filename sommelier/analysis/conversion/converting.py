"""One artifact converted: the sandbox around a converter, and what is kept of its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sommelier.analysis.conversion.table import CONVERTERS, Converter, convert
from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel
from sommelier.analysis.sandbox import FILE_BYTES, Sandbox
from sommelier.errors import CancelledError, RejectedModelError, SommelierError, reason
from sommelier.notes import joined
from sommelier.records import Artifact, Conversion, Rejection
from sommelier.units import Dimension, format_value


def converted(
    artifact: Artifact, folder: Path, *, cancelled: Callable[[], bool] = bool
) -> Artifact | Rejection:
    """The artifact as an ONNX file below `folder`, which is empty, or why there is none.

    Temporary files go there too. One that needs no conversion is given back. Raises CancelledError
    only.
    """
    if artifact.conversion is None:
        return artifact
    try:
        made, external = _run(artifact.path, artifact.conversion, folder, cancelled)
    except CancelledError:
        raise
    except SommelierError as error:
        return Rejection(artifact.source, artifact.revision or artifact.name, reason(error))
    words = CONVERTERS[artifact.conversion.format].words
    said = (str(artifact.declared.get("note") or ""), made.described(words))
    declared = {
        "producer": made.producer,
        **artifact.declared,
        "note": joined(said),
        "external_data": [str(path) for path in external],
    }
    return replace(artifact, path=made.path, declared=declared, conversion=None)


def _run(
    source: Path | None, conversion: Conversion, folder: Path, cancelled: Callable[[], bool]
) -> tuple[ConvertedModel, list[Path]]:
    """The model and its other files."""
    converter: Converter | None = CONVERTERS.get(conversion.format)
    if converter is None:
        known = ", ".join(sorted(CONVERTERS))
        raise RejectedModelError(f"'{conversion.format}' cannot be converted; known: {known}")
    place, scratch = folder / "model", folder / "scratch"
    place.mkdir()
    scratch.mkdir()
    request = ConversionRequest(source, place, conversion.options)
    with Sandbox(
        time_limit_s=converter.seconds,
        memory_limit_bytes=converter.memory_bytes,
        cancelled=cancelled,
        scratch=scratch,
    ) as sandbox:
        made = sandbox.call(convert, conversion.format, request)
    if not isinstance(made, ConvertedModel):
        raise RejectedModelError("its converter answered something else than a model")
    return made, files_beside(made.path, place)


def files_beside(path: Path, folder: Path) -> list[Path]:
    """The other files in the folder, all of which lie in it: the sandbox ran what we do not trust.

    Raises RejectedModelError where the file, or what a link means, is elsewhere, and for more than
    a file may have.
    """
    home = folder.resolve()
    files = [file for file in sorted(folder.rglob("*")) if not file.is_dir()]
    astray = [file for file in (path, *files) if not file.resolve().is_relative_to(home)]
    if astray or not path.is_file():
        raise RejectedModelError("its converter left no file in the folder it was given")
    if sum(file.stat().st_size for file in files) > FILE_BYTES:
        raise RejectedModelError(
            f"converted, it has more than {format_value(FILE_BYTES, Dimension.BYTES)}"
        )
    return [file for file in files if file.resolve() != path.resolve()]
