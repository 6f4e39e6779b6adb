"""Model cards: a JSON file that states what the model files beside it do not.

    {"models": [{"match": "cifar10_resnet*", "task": "image-classification", "family": "resnet",
                 "license": "BSD-2-Clause", "tags": ["cifar10"], "output_kind": "classification",
                 "labels": "cifar10", "preprocessing": [["to_float", {}], ["layout", {...}]]}]}

`match` is a pattern, or a list of them, on the model's name, file name or path. All matching
entries apply, later ones win. Wherever a value is expected, {"file": "config.json", "key": "a.b.0"}
takes it from a JSON file beside the card, or in a wheel beside the model.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from sommelier.connectors.licenses import spdx
from sommelier.connectors.options import nearest
from sommelier.errors import ConnectorError, first_line
from sommelier.records import OutputKind

MAX_CARD_BYTES = 16 * 10**6  # and again of all files that it refers to
MAX_DEPTH = 50  # lists and objects in one another
MAX_VALUES = 10**6  # of one fact, with what it refers to

WELL_KNOWN_LABELS: dict[str, tuple[str, ...]] = {
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
    "digits": tuple("0123456789"),
}  # fmt: skip
"""Label spaces a card may give by name."""

_TEXT = ("task", "family", "license", "label_space", "producer", "created", "note", "homepage")
_KEYS = ("match", *_TEXT, "tags", "output_kind", "labels", "preprocessing")
_POSITION = re.compile("[0-9]{1,9}")  # in a list

ReadJson = Callable[[str], object]
"""Reads the JSON file a card refers to; raises ConnectorError if it cannot be had."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says of one model: keys of Artifact.declared, and what it failed to look up."""

    declared: Mapping[str, object]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """A validated card. `where` names it in messages, `beside` is where its references lead."""

    where: str
    entries: tuple[Mapping[str, Any], ...]
    beside: Beside | None = None

    def facts(self, names: tuple[str, ...], read_json: ReadJson | None = None) -> Facts:
        """What the entries matching one of `names` declare, references followed.

        A reference that leads nowhere leaves its fact out and is told in `problems`.
        """
        read = cache(read_json) if read_json else self._read_beside
        declared: dict[str, object] = {}
        problems: list[str] = []
        for entry in self.entries:
            if not any(fnmatchcase(name, p) for p in entry["match"] for name in names):
                continue
            for key, value in entry.items():
                if key == "match":
                    continue
                try:
                    followed = _followed(value, read)
                    _check_extent(followed)
                    declared.update(_fact(key, followed))
                except ConnectorError as error:
                    problems.append(f"{self.where}: {key}: {error.message}")
        return Facts(declared, tuple(problems))

    def _read_beside(self, reference: str) -> object:
        if self.beside is None:
            raise ConnectorError(f"cannot look up {reference!r}: the card is not in a folder")
        return self.beside.read(reference)


@dataclass(slots=True)
class Beside:
    """The JSON files beside a card: each is read once, however often the card refers to it, and
    they have `left` bytes at most."""

    folder: Path
    left: int = MAX_CARD_BYTES
    _seen: dict[str, object] = field(default_factory=dict)

    def read(self, reference: str) -> object:
        """The value in a file. Raises ConnectorError if it cannot be had."""
        if reference not in self._seen:
            try:
                self._seen[reference] = self._new(reference)
            except ConnectorError as error:
                self._seen[reference] = error
        found = self._seen[reference]
        if isinstance(found, ConnectorError):
            raise ConnectorError(found.message)
        return found

    def _new(self, reference: str) -> object:
        path = _inside(self.folder, reference)
        with suppress(OSError):  # which reading it tells
            self.left -= path.stat().st_size
        if self.left < 0:
            most = MAX_CARD_BYTES // 10**6
            raise ConnectorError(f"{reference!r}: the card refers to more than {most} MB of files")
        return _read_json(path)


def load_card(path: Path) -> Card:
    """The card in this file; ConnectorError says where in it a mistake is."""
    return parse_card(_read_json(path), str(path), folder=path.parent)


def parse_card(content: object, where: str, *, folder: Path | None = None) -> Card:
    """The card with this content. Raises ConnectorError naming the entry and key at fault."""
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, list):
        raise ConnectorError(
            f"{where}: a card is an object with a list 'models'",
            hint='{"models": [{"match": "resnet*", "task": "image-classification"}]}',
        )
    entries = [_entry(model, f"{where}: models[{i}]") for i, model in enumerate(models)]
    return Card(where, tuple(entries), None if folder is None else Beside(folder))


def looks_like_card(content: object) -> bool:
    """Whether JSON found beside a model is meant as a card (many tools write JSON there)."""
    models = content.get("models") if isinstance(content, dict) else None
    return isinstance(models, list) and any(isinstance(m, dict) and "match" in m for m in models)


def read_json_inside(folder: Path, reference: str) -> object:
    """The JSON file at `reference`, which must not lead out of `folder`."""
    return _read_json(_inside(folder, reference))


def parse_json(content: bytes, where: str) -> object:
    """The JSON value of these bytes, or ConnectorError with line and column."""
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise ConnectorError(
            f"{where}: not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, or a number of 5000 digits
        raise ConnectorError(f"{where}: not JSON: {first_line(error)}") from error


def member_path(folder: str, reference: str) -> str:
    """`reference` as a path inside an archive: from its root if it starts with '/'.

    >>> member_path("magika/models/v1", "config.json"), member_path("a", "/b/c.json")
    ('magika/models/v1/config.json', 'b/c.json')
    """
    path = PurePosixPath(reference)
    if ".." in path.parts or "\\" in reference:
        raise ConnectorError(f"{reference!r} leads out of the archive")
    return str(path)[1:] if path.is_absolute() else str(PurePosixPath(folder) / path)


def _inside(folder: Path, reference: str) -> Path:
    root = folder.resolve()
    try:
        target = (root / reference).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in circles, a null character
        raise ConnectorError(f"{reference[:200]!r} is no file: {first_line(error)}") from error
    if not target.is_relative_to(root):
        raise ConnectorError(f"{reference!r} leads out of the folder {folder}")
    return target


def _read_json(path: Path) -> object:
    try:
        if path.exists() and not path.is_file():
            raise ConnectorError(f"{path} is not a regular file")
        if path.stat().st_size > MAX_CARD_BYTES:
            raise ConnectorError(f"{path}: larger than {MAX_CARD_BYTES // 10**6} MB")
        content = path.read_bytes()
    except OSError as error:
        raise ConnectorError(f"cannot read {path}: {error.strerror}") from error
    return parse_json(content, str(path))


def _entry(entry: object, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise ConnectorError(f"{where} is not an object")
    try:
        _check_extent(entry)
    except ConnectorError as error:
        raise ConnectorError(f"{where} {error.message}") from None
    for key in entry:
        if key not in _KEYS:
            raise ConnectorError(
                f"{where}: unknown key '{key}'",
                suggestions=nearest(key, _KEYS),
                hint=f"keys: {', '.join(_KEYS)}",
            )
    patterns = entry.get("match")
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise ConnectorError(
            f"{where}.match must be a pattern such as 'resnet*', or a list of them"
        )
    for key, value in entry.items():
        if key != "match" and not _is_reference(value):
            try:
                _fact(key, value)
            except ConnectorError as error:
                raise ConnectorError(
                    f"{where}.{key}: {error.message}",
                    hint=error.hint,
                    suggestions=error.suggestions,
                ) from None
    return {**entry, "match": patterns}


def _fact(key: str, value: object) -> dict[str, object]:
    """The declared facts of one key; ConnectorError if the value has the wrong form."""
    if key == "tags":
        return {key: _texts(value, "a list of words")}
    if key == "labels":
        return _labels(value)
    if key == "preprocessing":
        return {key: _steps(value)}
    if not isinstance(value, str) or not value.strip():
        raise ConnectorError(f"{value!r} is not text")
    if key == "license":
        known = spdx(value)
        return {key: known} if known else {"note": f"licence as stated: {value}"}
    if key == "output_kind":
        kinds = [kind.value for kind in OutputKind]
        if value not in kinds:
            raise ConnectorError(
                f"'{value}' is not an output kind",
                suggestions=nearest(value, kinds),
                hint=f"output kinds: {', '.join(kinds)}",
            )
    return {key: value}


def _labels(value: object) -> dict[str, object]:
    """Labels from a list, from {label: position}, or from the name of a well-known space."""
    if isinstance(value, str):
        if value not in WELL_KNOWN_LABELS:
            raise ConnectorError(
                f"'{value}' is not a well-known label space",
                suggestions=nearest(value, WELL_KNOWN_LABELS),
                hint=f"known: {', '.join(WELL_KNOWN_LABELS)}; or give a list, or a file and a key",
            )
        return {"labels": WELL_KNOWN_LABELS[value], "label_space": value}
    if isinstance(value, dict):
        if sorted(value.values(), key=str) != sorted(range(len(value)), key=str):
            raise ConnectorError("a {label: position} object must number its labels 0, 1, 2, ...")
        value = [label for label, _ in sorted(value.items(), key=lambda pair: pair[1])]
    labels = _texts(value, "a list of names, a well-known name, or a file and a key")
    if len(set(labels)) != len(labels):
        twice = next(label for label, count in Counter(labels).items() if count > 1)
        raise ConnectorError(f"label '{twice}' occurs twice")
    return {"labels": labels}


def _steps(value: object) -> tuple[tuple[str, Mapping[str, object]], ...]:
    """[name, arguments] pairs; which names exist is for analysis/preprocessing.py to say."""
    steps = []
    for step in value if isinstance(value, list) else [None]:
        pair = [step, {}] if isinstance(step, str) else step
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ConnectorError(f'{step!r} is not a step: write ["normalize", {{"mean": ...}}]')
        if not isinstance(pair[1], dict):
            raise ConnectorError(f"the arguments of step '{pair[0]}' must be an object")
        steps.append((pair[0], pair[1]))
    return tuple(steps)


def _texts(value: object, wanted: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ConnectorError(f"must be {wanted}")
    if not all(isinstance(item, str | int) and not isinstance(item, bool) for item in value):
        raise ConnectorError(f"must be {wanted}")
    return tuple(str(item) for item in value)


def _check_extent(value: object) -> None:
    """Raises ConnectorError for what is nested too deeply, or has too many values or letters."""
    level: list[Any] = [value]
    values = letters = 0
    for _ in range(MAX_DEPTH):
        letters += sum(len(part) for part in level if isinstance(part, str))
        nested = (part for part in level if isinstance(part, dict | list))
        inner = (part.values() if isinstance(part, dict) else part for part in nested)
        level = [*islice(chain.from_iterable(inner), MAX_VALUES + 1 - values)]
        values += len(level)
        if values > MAX_VALUES or letters > MAX_CARD_BYTES:
            raise ConnectorError(f"has more than {MAX_VALUES} values, or {MAX_CARD_BYTES} letters")
        if not level:
            return
    raise ConnectorError(f"is nested more than {MAX_DEPTH} deep")


def _is_reference(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"file", "key"}


def _followed(value: Any, read: ReadJson) -> Any:
    """`value` with every {"file": ..., "key": ...} in it replaced by what it refers to."""
    if _is_reference(value):
        return _at(read(str(value["file"])), str(value["key"]), str(value["file"]))
    if isinstance(value, dict):
        return {key: _followed(item, read) for key, item in value.items()}
    if isinstance(value, list):
        return [_followed(item, read) for item in value]
    return value


def _at(content: Any, key: str, where: str) -> Any:
    """The value under a dotted key; a number selects from a list."""
    for part in filter(None, key.split(".")):
        if isinstance(content, dict) and part in content:
            content = content[part]
        elif isinstance(content, list) and _POSITION.fullmatch(part) and int(part) < len(content):
            content = content[int(part)]
        else:
            raise ConnectorError(f"{where} has no key '{key}'")
    return content
