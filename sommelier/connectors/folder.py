"""Connector `folder`: model files on this machine, by path, folder or pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.cards import (
    Card,
    load_card,
    looks_like_card,
    parse_card,
    read_json_inside,
)
from sommelier.connectors.formats import (
    COMPLETE,
    FORMATS,
    ONNX,
    format_of,
    has_model_suffix,
    is_model,
)
from sommelier.connectors.naming import distinct_names, printable
from sommelier.connectors.patterns import matches
from sommelier.errors import ConnectorError, RejectedModelError, reason
from sommelier.notes import joined
from sommelier.records import Artifact, Conversion, Rejection
from sommelier.storage.artifact_places import MARK
from sommelier.storage.external_data import external_files, too_large
from sommelier.storage.snapshots import directory_of

_UNCLEAR = FORMATS.keys() - COMPLETE
FOLDER_CARDS = ("card.json", "sommelier.json")  # the second, ours for certain, wins


class FolderConnector:
    """Finds models, the files their weights are in, and the cards beside them.

    What is not ONNX is converted by the one who imports it.
    """

    name = "folder"
    options: Mapping[str, str] = {
        "card": "a JSON file that states task, labels, preprocessing ... of the models",
        "max_size": "largest model to accept, external data included (2 GB)",
        **opt.CONVERSION,
    }

    def describe(self) -> str:
        """What a location is."""
        return "model files on this machine: a file, a folder (searched throughout), or a pattern"

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """An Artifact for each file; `declared` holds its external files and card facts."""
        opt.check(self.name, options, self.options)
        asked = opt.conversion(options)
        limit = opt.size(options, "max_size", opt.MAX_MODEL_BYTES)
        card_path = opt.path(options, "card")
        cards = _Cards(load_card(card_path) if card_path else None)
        return self._artifacts(_find(locations), cards, limit, asked, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The files at the locations; they are not opened."""
        opt.check(self.name, options, self.options)
        paths = _find(locations).models
        for path, name in zip(paths, distinct_names(paths), strict=True):
            yield Listing(name, printable(str(path)), _listed_size(path))

    def _artifacts(
        self,
        found: _Found,
        cards: _Cards,
        limit: int,
        asked: Mapping[str, object],
        progress: Progress | None,
    ) -> Iterator[Artifact | Rejection]:
        paths = found.models
        for done, (path, name) in enumerate(zip(paths, distinct_names(paths), strict=True)):
            if progress:
                progress(name, done, len(paths))
            try:
                format = _checked(path, limit)
                wanted = opt.of_format(asked, format, alone=len(paths) == 1) if format else {}
                files = [] if format else external_files(path, max_size=limit)
            except RejectedModelError as error:
                yield Rejection(self.name, printable(str(path)), reason(error))
                continue
            declared, broken = cards.declared(path, name)
            for card, why in broken:
                yield Rejection(self.name, printable(str(card)), why)
            if files:
                declared["external_data"] = [str(file) for file in files]
            conversion = Conversion(format, wanted) if format else None
            yield Artifact(name, None, self.name, str(path), path, declared, conversion=conversion)
        if progress:
            progress("", len(paths), len(paths))
        yield from self._left(found.unclear)

    def _left(self, unclear: Mapping[str, Sequence[Path]]) -> Iterator[Rejection]:
        """One for each folder with files that are taken only where they are named."""
        for folder, paths in unclear.items():
            first = printable(str(paths[0]))
            what = "1 file holds" if len(paths) == 1 else f"{len(paths)} files hold"
            yield Rejection(
                self.name,
                printable(folder),
                f"{what} a model or weights alone, which a search through a folder leaves; "
                f"name what is a model: FROM folder '{first}'",
            )


@dataclass(slots=True)
class _Cards:
    """Cards that speak of the models of one import; each sidecar is read once."""

    explicit: Card | None
    _seen: dict[Path, Card | str | None] = field(default_factory=dict)

    def declared(self, path: Path, name: str) -> tuple[dict[str, object], list[tuple[Path, str]]]:
        """The facts for a model, and the sidecars just found broken with what is wrong."""
        facts: dict[str, object] = {}
        broken: list[tuple[Path, str]] = []
        names = (name, path.stem, path.name, path.as_posix())
        for beside in (*(path.parent / card for card in FOLDER_CARDS), path.with_suffix(".json")):
            known = beside in self._seen
            card = self._seen[beside] if known else _sidecar(beside)
            self._seen[beside] = card
            if isinstance(card, str):
                if not known:
                    broken.append((beside, card))
            elif card is not None:
                _add(facts, card, names)
        if self.explicit is not None:
            problems = _add(facts, self.explicit, names)
            if problems:
                raise ConnectorError(problems[0])
        return facts, broken


def _add(facts: dict[str, object], card: Card, names: tuple[str, ...]) -> tuple[str, ...]:
    found = card.facts(names)
    facts.update(found.declared)
    if found.problems:
        known = [str(facts["note"])] if "note" in facts else []
        facts["note"] = joined((*known, *found.problems))
    return found.problems


def _sidecar(path: Path) -> Card | str | None:
    """The card in this file, what is wrong with it, or None if there is none."""
    if not path.is_file():
        return None
    try:
        content = read_json_inside(path.parent, path.name)
        if path.name != FOLDER_CARDS[-1] and not looks_like_card(content):
            return None
        return parse_card(content, path.name, folder=path.parent)
    except ConnectorError as error:
        return reason(error) if path.name in FOLDER_CARDS else None


@dataclass(frozen=True, slots=True)
class _Found:
    """models : files, each once, sorted within a location. unclear : by folder that was searched,
    files that may be models or weights alone."""

    models: list[Path]
    unclear: dict[str, list[Path]]


def _find(locations: tuple[str, ...]) -> _Found:
    """What is at the locations. Raises ConnectorError if one leads to no model."""
    if not locations:
        raise ConnectorError("folder needs a path", hint="FROM folder './zoo/*.onnx'")
    models: dict[Path, None] = {}
    unclear: dict[str, list[Path]] = {}
    for location in locations:
        paths, left = _expand(location)
        if not paths:
            raise _nothing_at(location)
        models.update(dict.fromkeys(paths))
        if left:
            unclear[location] = left
    named = models.keys()
    return _Found(
        list(models),
        {at: rest for at, left in unclear.items() if (rest := [p for p in left if p not in named])},
    )


def _expand(location: str) -> tuple[list[Path], list[Path]]:
    """Models at a location and, of a folder, files that are taken only where they are named."""
    path = Path(location).expanduser()
    if path.is_dir() and not is_model(path):
        models: list[Path] = []
        unclear: list[Path] = []
        for file in sorted(_walk(path)):
            (unclear if file.suffix.lower() in _UNCLEAR else models).append(file)
        return models, unclear
    if os.path.lexists(path):
        return [_absolute(path)], []
    if not glob.has_magic(location):
        return [], []
    found = (_absolute(Path(match)) for match in matches(str(path)) if is_model(Path(match)))
    return sorted(path for path in found if not any(map(_is_store, path.parents))), []


def _walk(folder: Path) -> Iterator[Path]:
    """Files of known suffixes below a folder; linked folders are not entered, so a loop cannot trap
    us, nor are the stores of databases, whose files are copies of models and links between them."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if name[0] != "." and not _is_store(Path(parent, name))
        ]
        paths = (Path(parent, name) for name in files)
        yield from (_absolute(path) for path in paths if has_model_suffix(path))


def _listed_size(path: Path) -> int | None:
    """Bytes of a file, and of the one that exporters write beside it for large weights."""
    if not path.is_file():
        return None
    beside = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _is_store(folder: Path) -> bool:
    """Whether a database keeps its files here: models.sommelier.d beside models.sommelier, or a
    folder that is the store of several."""
    if (folder / MARK).is_file():
        return True
    if folder.suffix != ".d" or not (folder / "artifacts").is_dir():
        return False
    database = folder.parent / folder.stem
    return folder == directory_of(database) and database.is_file()


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (resolve() would lose a link's own name)


def _nothing_at(location: str) -> ConnectorError:
    path = Path(location).expanduser()
    parent = path.parent
    if path.is_dir() or glob.has_magic(location):
        return ConnectorError(
            f"no {ONNX} file at '{location}' (in {Path.cwd()})",
            hint=f"also read: {', '.join(FORMATS)}, where the location names the file",
        )
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    close = opt.nearest(path.name, names)
    return ConnectorError(
        f"there is no '{location}' (in {Path.cwd()})",
        suggestions=tuple(str(Path(location).parent / name) for name in close),
    )


def _checked(path: Path, limit: int) -> str | None:
    """The format of an acceptable model file, None for ONNX; RejectedModelError says why it is
    not."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RejectedModelError("the file name is not valid UTF-8; rename the file") from error
    if path.is_symlink() and not path.exists():
        raise RejectedModelError("a broken link: what it points at does not exist")
    if path.is_dir():
        raise RejectedModelError("a folder, not a file, in spite of its name")
    if not path.is_file():
        raise RejectedModelError("not a regular file")
    format = format_of(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise RejectedModelError(f"cannot be read: {error.strerror}") from error
    if empty:
        raise RejectedModelError("the file is empty")
    if size > limit:
        raise too_large(size, limit)
    return format
