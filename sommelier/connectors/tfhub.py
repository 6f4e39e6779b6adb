"""Connector `tfhub`: models of TensorFlow, from TF-Hub, Kaggle, their caches, or folders.

SavedModels, Keras files and TensorFlow Lite files are found and described without TensorFlow; an
import converts them to ONNX in an environment of TensorFlow's own (analysis.conversion).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sommelier.connectors import kaggle
from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.cards import Card, load_card
from sommelier.connectors.formats import ONNX, TENSORFLOW
from sommelier.connectors.naming import distinct_names, kinds_of, printable
from sommelier.connectors.saved_model import DEFAULTS, FILE, SavedModelFacts, Signature, read_facts
from sommelier.connectors.tfhub_handles import ENDPOINT, Handle, fetched, parsed
from sommelier.connectors.web import shown
from sommelier.errors import ConnectorError, RejectedModelError, SommelierError, reason
from sommelier.notes import joined
from sommelier.records import Artifact, Conversion, Rejection
from sommelier.storage.external_data import external_files, too_large

_DESCRIPTOR = ".descriptor.txt"  # beside each folder of tensorflow_hub's cache


@dataclass(frozen=True, slots=True)
class _Found:
    """A model on this machine: a SavedModel's folder, or a file. homepage : where it came from."""

    name: str
    version: str | None
    revision: str
    path: Path
    homepage: str | None = None

    @property
    def format(self) -> str | None:
        """A SavedModel's folder, a file by its suffix, or what a hub gives as TFLite; None for
        ONNX."""
        if self.path.is_dir():
            return "savedmodel"
        suffix = self.path.suffix.lower()
        return None if suffix == ONNX else TENSORFLOW.get(suffix, "tflite")


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What USING says."""

    signature: str | None
    trust: bool
    max_size: int
    card: Card | None
    handles: tuple[Handle, ...]


class TfHubConnector:
    """Finds SavedModels, Keras files and TensorFlow Lite files."""

    name = "tfhub"
    place = "endpoint"
    options: Mapping[str, str] = {
        "signature": "which function of a SavedModel to take (serving_default)",
        "trust": "whether a model may run code of its own and reach files (no)",
        "endpoint": f"the server that handles without an address belong to ({ENDPOINT})",
        "card": "a JSON file that states task, labels, preprocessing ... of the models",
        "max_size": "largest model to accept, packed or unpacked (2 GB)",
    }

    def describe(self) -> str:
        """What a location is."""
        return (
            "TensorFlow models: a handle of TF-Hub or Kaggle, an address, a cache of tensorflow_hub"
            " or a folder with SavedModels, .keras, .h5 and .tflite files"
        )

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """An Artifact that has to be converted for each model; downloaded ones are in a cache."""
        wishes = self._wishes(locations, options)
        return self._artifacts(wishes, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing | Rejection]:
        """Each signature of each SavedModel, and each file; a handle is fetched for that.

        A dead link is a Rejection; where nothing is left, it is raised at the end.
        """
        wishes = self._wishes(locations, options)
        listed, errors = False, []
        for handle in wishes.handles:
            try:
                models = _models(handle, wishes.max_size)
            except ConnectorError as error:
                errors.append(error)
                yield Rejection(self.name, printable(handle.text), reason(error))
                continue
            for found in models:
                for listing in _listings(found):
                    listed = True
                    yield listing
        if errors and not listed:
            raise errors[0]

    def _wishes(self, locations: tuple[str, ...], options: Mapping[str, object]) -> _Wishes:
        opt.check(self.name, options, self.options)
        if not locations:
            raise ConnectorError(
                "tfhub needs a handle or a folder",
                hint="FROM tfhub 'google/imagenet/mobilenet_v2_100_224/classification/5'",
            )
        card = opt.path(options, "card")
        endpoint = opt.address(options, "endpoint") or ENDPOINT
        return _Wishes(
            opt.text(options, "signature"),
            opt.flag(options, "trust"),
            opt.size(options, "max_size", opt.MAX_MODEL_BYTES),
            load_card(card) if card else None,
            tuple(parsed(location.strip(), endpoint) for location in locations),
        )

    def _artifacts(
        self, wishes: _Wishes, progress: Progress | None
    ) -> Iterator[Artifact | Rejection]:
        for done, handle in enumerate(wishes.handles):
            if progress:
                progress(handle.text, done, len(wishes.handles))
            try:
                found = _models(handle, wishes.max_size)
            except SommelierError as error:  # one dead link does not stop an import
                yield Rejection(self.name, printable(handle.text), reason(error))
                continue
            for model in found:
                try:
                    yield self._artifact(model, wishes)
                except RejectedModelError as error:
                    yield Rejection(self.name, model.revision, reason(error))
        if progress:
            progress("", len(wishes.handles), len(wishes.handles))

    def _artifact(self, model: _Found, wishes: _Wishes) -> Artifact:
        _check_size(model.path, wishes.max_size)
        options: dict[str, object] = {"trust": True} if wishes.trust else {}
        declared: dict[str, object] = {}
        name, revision = model.name, model.revision
        if model.format == "savedmodel":
            facts = read_facts(model.path)
            signature = facts.chosen(wishes.signature)
            options["signature"] = signature.name
            name, revision = _name(model, signature), f"{revision}#{signature.name}"
            declared = _declared(facts, signature)
        elif wishes.signature is not None:
            raise RejectedModelError(f"a {model.path.suffix} file has no signatures to choose from")
        if model.homepage is not None:
            declared["homepage"] = model.homepage
        if wishes.card is not None:
            said = wishes.card.facts((name, model.path.stem, model.path.name))
            notes = (*filter(None, [declared.get("note")]), *said.problems)
            declared |= {**said.declared, **({"note": joined(map(str, notes))} if notes else {})}
        conversion = Conversion(model.format, options) if model.format else None
        if model.format is None:
            beside = external_files(model.path, max_size=wishes.max_size)
            declared |= {"external_data": [str(file) for file in beside]} if beside else {}
        return Artifact(
            name, model.version, self.name, revision, model.path, declared, conversion=conversion
        )


def _models(handle: Handle, max_size: int) -> list[_Found]:
    """What a handle names, fetched. Raises RejectedModelError if that holds no model."""
    root = fetched(handle, max_size)
    paths = [root] if root.is_file() else sorted(_walk(root, onnx=handle.kind == "kaggle"))
    if handle.kind == "folder" and root.name == FILE:
        paths = [root.parent]
    elif handle.kind == "folder" and root.is_file() and root.suffix.lower() not in TENSORFLOW:
        raise RejectedModelError("no SavedModel, Keras or TFLite file")
    if not paths:
        wanted = kaggle.MODELS if handle.kind == "kaggle" else "SavedModel, Keras or TFLite file"
        held = kinds_of(file for file in root.rglob("*") if file.is_file())
        raise RejectedModelError(f"holds no {wanted} (it has {held})")
    names = distinct_names(paths, folders={path for path in paths if path.is_dir()})
    if handle.kind == "folder":
        return [_local(path, name) for path, name in zip(paths, names, strict=True)]
    homepage = (
        handle.text if handle.kind == "hub" else f"https://www.kaggle.com/models/{handle.text}"
    )
    within = [""] if len(paths) == 1 else [f"/{name}" for name in names]
    return [
        _Found(handle.name + part, handle.version, printable(handle.text + part), path, homepage)
        for path, part in zip(paths, within, strict=True)
    ]


def _local(path: Path, name: str) -> _Found:
    """A model in a folder; one in tensorflow_hub's cache is named by the handle beside it."""
    descriptor = path.with_name(path.name + _DESCRIPTOR)
    try:
        with descriptor.open(encoding="utf-8", errors="replace") as file:
            address = file.readline(2000).partition("Module: ")[2].partition(",")[0].strip()
        handle = parsed(address, ENDPOINT) if "://" in address else None
    except (OSError, ConnectorError):  # no descriptor, or of a place without handles, as gs://
        handle = None
    if handle is None:
        return _Found(name, None, printable(str(path)), path)
    return _Found(handle.name, handle.version, shown(address), path, shown(address))


def _walk(folder: Path, *, onnx: bool) -> Iterator[Path]:
    """SavedModel folders and files of our formats below a folder; links are not followed into."""
    suffixes = {*TENSORFLOW, ONNX} if onnx else TENSORFLOW.keys()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if FILE in files:
            folders.clear()  # its assets are its own
            yield Path(parent)
            continue
        yield from (Path(parent, f) for f in files if Path(f).suffix.lower() in suffixes)


def _listings(found: _Found) -> Iterator[Listing]:
    size = _size(found.path)
    if found.format != "savedmodel":
        yield Listing(found.name, found.revision, size)
        return
    try:
        facts = read_facts(found.path)
    except RejectedModelError:
        yield Listing(found.name, found.revision, size)
        return
    for signature in facts.signatures:
        yield Listing(_name(found, signature), f"{found.revision}#{signature}", size)


def _name(model: _Found, signature: Signature) -> str:
    """The model's name; of a signature that is not the usual one, with it."""
    return model.name if signature.name in DEFAULTS else f"{model.name}/{signature.name}"


def _declared(facts: SavedModelFacts, signature: Signature) -> dict[str, object]:
    others = [str(other) for other in facts.signatures if other != signature]
    note = f"signature {signature}" + (f"; others: {', '.join(others)}" if others else "")
    producer = {} if facts.version is None else {"producer": f"tensorflow {facts.version}"}
    return {**producer, "note": printable(note)}


def _check_size(path: Path, limit: int) -> None:
    size = _size(path)
    if size > limit:
        raise too_large(size, limit)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
