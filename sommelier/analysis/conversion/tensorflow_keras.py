"""What a Keras file would do beyond computing, read before Keras sees it.

Runs in TensorFlow's environment. Such a file may carry Python code, and an HDF5 file may lead to
other files, whose contents would become weights. The first is refused unless the user trusts it,
the second always.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from sommelier.analysis.conversion.values import TRUST
from sommelier.errors import RejectedModelError
from sommelier.storage.zips import opened_zip

KERAS = (
    "3.13.2"  # mends CVE-2026-1669 and CVE-2026-0897; before 3.11.3 code in .h5 files ran unasked
)
CONFIG_BYTES = 64 * 10**6
CODE = frozenset(
    {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
)
"""Layers and functions kept as bytecode or pickles, or that load a file of another format."""
HDF5 = (".h5", ".hdf5")


def check_keras(source: Path, *, trusted: bool) -> None:
    """Raises RejectedModelError for a Keras file with code in it, unless trusted; for one that
    leads to other files or has no architecture; and for a Keras that has known holes."""
    _check_version()
    if source.suffix in HDF5:
        _check_h5(source, trusted=trusted)
    elif source.suffix == ".keras":
        _check_archive(source, trusted=trusted)
    else:
        raise RejectedModelError(f"Keras reads .keras, .h5 and .hdf5 files, not '{source.suffix}'")


def _check_version() -> None:
    import keras
    from packaging.version import Version

    if Version(keras.__version__) < Version(KERAS):
        raise RejectedModelError(
            f"Keras {keras.__version__} has known holes that a model's file can use",
            hint=f"keras>={KERAS} in TensorFlow's environment",
        )


def _check_h5(source: Path, *, trusted: bool) -> None:
    if zipfile.is_zipfile(source):
        raise RejectedModelError("it is an HDF5 file and a zip archive in one")
    with _opened(source) as content:
        _check_code(content.attrs.get("model_config", ""), trusted=trusted)
        _check_links(content)


def _check_archive(source: Path, *, trusted: bool) -> None:
    if not zipfile.is_zipfile(source):
        raise RejectedModelError("a .keras file is a zip archive, which this is not")
    with opened_zip(source) as archive:
        with archive.open("config.json") as file:
            text = file.read(CONFIG_BYTES + 1)
        _check_code(text, trusted=trusted)
        for member in archive.infolist():
            if member.filename.endswith(HDF5):
                with archive.open(member) as packed, TemporaryFile() as weights:
                    shutil.copyfileobj(packed, weights)
                    with _opened(weights) as content:
                        _check_links(content)


def _check_code(text: Any, *, trusted: bool) -> None:
    """text : the architecture as JSON."""
    if len(text) > CONFIG_BYTES:
        raise RejectedModelError("its architecture is described by more than 64 MB")
    if not text:
        raise RejectedModelError(
            "it holds weights and no architecture", hint="save the model, not its weights"
        )
    code = sorted(CODE & set(_class_names(json.loads(text))))
    if code and not trusted:
        raise RejectedModelError(f"it carries Python code ({', '.join(code)})", hint=TRUST)


@contextmanager
def _opened(source: Path | IO[bytes]) -> Iterator[Any]:
    import h5py

    with h5py.File(source, "r") as content:
        yield content


def _check_links(content: Any) -> None:
    """Raises RejectedModelError for links, and for data that is kept in another file."""
    import h5py

    def link(name: str, found: Any) -> str | None:
        return name if isinstance(found, h5py.ExternalLink | h5py.SoftLink) else None

    def outside(name: str, found: Any) -> str | None:
        kept = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
        return name if kept else None

    if name := content.visititems_links(link):  # the first that is not None
        raise RejectedModelError(f"'{name[:100]}' is a link")
    if name := content.visititems(outside):
        raise RejectedModelError(f"'{name[:100]}' is kept in another file")


def _class_names(value: Any) -> Iterator[str]:
    """Every class the configuration names; without recursion, for it may be as deep as it likes."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield str(item.get("class_name"))
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
