"""Connector `huggingface`: models of the Hugging Face Hub, by repository or by what they are.

ONNX files are taken as they are. A repository without any is a row of what its hub states, with
parameters and bytes from the headers of its safetensors files: pickles are never even fetched.
"""

from __future__ import annotations

import glob
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sommelier.connectors import huggingface_facts as stated
from sommelier.connectors import huggingface_search
from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.cards import MAX_CARD_BYTES
from sommelier.connectors.huggingface_client import (
    ENDPOINT_VARIABLE,
    HUB,
    Hub,
    MissingRepositoryError,
)
from sommelier.connectors.huggingface_files import (
    DEFAULT_VARIANT,
    EVERY_VARIANT,
    Commit,
    HubModel,
    chosen,
    files_of,
    models_of,
)
from sommelier.connectors.naming import printable
from sommelier.connectors.safetensors import parameter_counts
from sommelier.connectors.search import Candidate, Term
from sommelier.connectors.web import read_range
from sommelier.errors import ConnectorError, first_line
from sommelier.records import Artifact, Measurement, Rejection
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

log = logging.getLogger(__name__)

_LOCATION = re.compile(
    r"(?:hf://)?(?P<repository>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^:@\s]+))?"
    r"(?::(?P<file>[^\s/].*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHARD = re.compile(r"model(?:-\d+-of-\d+)?\.safetensors")
MAX_SHARDS = 200


@dataclass(frozen=True, slots=True)
class _Location:
    """What a user asked for."""

    text: str
    repository: str
    revision: str | None
    file: str | None


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which files are taken, from the options."""

    variant: str
    pattern: str | None
    max_size: int
    revision: str | None


class HuggingFaceConnector:
    """Finds models in repositories of a hub and states what the hub says of them."""

    name = "huggingface"
    place = "endpoint"
    options: Mapping[str, str] = {
        "max_size": "largest model to accept, external data included (2 GB)",
        "variant": f"'{DEFAULT_VARIANT}', '{EVERY_VARIANT}', or one such as 'fp16', 'quantized'",
        "file": "a pattern on the paths of ONNX files, such as 'onnx/*.onnx'; instead of variant",
        "revision": "branch, tag or commit, for locations that name none (main)",
        "endpoint": f"the hub's address (${ENDPOINT_VARIABLE}, else {HUB})",
    }

    facts = huggingface_search.FACTS
    order = huggingface_search.ORDER

    def describe(self) -> str:
        """What a location is."""
        return "a repository of the Hugging Face Hub: 'owner/name', 'owner/name@revision'"

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """An Artifact for each chosen ONNX file; one without a file where there is none."""
        choice = _choice(self, options)
        return self._artifacts(_hub(options), _locations(locations), choice, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The chosen ONNX files, as the hub lists them; nothing is fetched."""
        choice, hub = _choice(self, options), _hub(options)
        for place in _locations(locations):
            info = hub.info(place.repository, place.revision or choice.revision)
            for model in _chosen(info, place, choice):
                where = printable(f"{_revision(info)}:{model.file.path}")
                yield Listing(printable(model.name), where, model.file.size)
            if not _onnx(info):
                yield Listing(printable(info.id), _revision(info))

    def pushed(self, term: Term) -> str | None:
        """How the hub filters by a term; None where it cannot."""
        return huggingface_search.pushed(term)

    def search(
        self, terms: tuple[Term, ...], *, options: Mapping[str, object]
    ) -> Iterator[Candidate]:
        """Repositories of the hub, by its own filters. Raises ConnectorError."""
        _choice(self, options)
        return huggingface_search.search(_hub(options), terms)

    def _artifacts(
        self,
        hub: Hub,
        places: tuple[_Location, ...],
        choice: _Choice,
        progress: Progress | None,
    ) -> Iterator[Artifact | Rejection]:
        found = [(place, _known(hub, place, choice)) for place in places]
        for done, (place, info) in enumerate(found):
            if progress:
                progress(place.text, done, len(places))
            if isinstance(info, ConnectorError):
                yield Rejection(self.name, printable(place.text), info.message)
                continue
            note = _counting(progress, done, len(places))
            try:
                yield from self._models(hub, info, place, choice, note)
            except ConnectorError as error:
                yield Rejection(self.name, _revision(info), error.message)
        if progress:
            progress("", len(places), len(places))

    def _models(
        self, hub: Hub, info: ModelInfo, place: _Location, choice: _Choice, note: Progress | None
    ) -> Iterator[Artifact | Rejection]:
        """The models of a repository. Raises ConnectorError if it has none that is asked for."""
        revision = _revision(info)
        declared = stated.declared_facts(info, hub.endpoint)
        numbers = tuple(stated.evaluations(info, revision))
        commit = Commit(hub, info.id, str(info.sha), files_of(info), choice.max_size)
        models = _chosen(info, place, choice)
        if not _onnx(info):
            yield self._row(commit, info, declared, numbers)
            return
        declared |= _configured(commit)
        for model in models:
            where = printable(f"{revision}:{model.file.path}")
            try:
                path, beside = commit.model(model.file, note)
            except ConnectorError as error:
                yield Rejection(self.name, where, error.message)
                continue
            said = dict(declared)
            if beside:
                said["external_data"] = [str(file) for file in beside]
            if model.variant is not None:
                said["tags"] = (*stated.tags_of(info), model.variant)
            # Results are of the model as published, not of its quantised copies.
            of_it = numbers if model.variant is None else ()
            yield Artifact(printable(model.name), None, self.name, where, path, said, of_it)

    def _row(
        self,
        commit: Commit,
        info: ModelInfo,
        declared: dict[str, object],
        numbers: tuple[Measurement, ...],
    ) -> Artifact:
        """What the hub states of a repository without ONNX files."""
        kinds = Counter(PurePosixPath(path).suffix for path in commit.files)
        kinds.pop("", None)
        held = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())[:8]) or "nothing"
        notes = [str(declared["note"])] if "note" in declared else []
        notes.append(f"no ONNX file in the repository, which holds {printable(held)}")
        try:
            counts = _parameters(commit, info)
        except ConnectorError as error:
            notes.append(f"parameters unknown: {error.message}")
            counts = {}
        declared["note"] = "; ".join(notes)
        revision = _revision(info)
        numbers += tuple(stated.weights(counts, revision))
        return Artifact(printable(info.id), None, self.name, revision, None, declared, numbers)


def _choice(connector: HuggingFaceConnector, options: Mapping[str, object]) -> _Choice:
    opt.check(connector.name, options, connector.options)
    return _Choice(
        opt.text(options, "variant") or DEFAULT_VARIANT,
        opt.text(options, "file"),
        opt.size(options, "max_size", opt.MAX_MODEL_BYTES),
        opt.text(options, "revision"),
    )


def _locations(locations: tuple[str, ...]) -> tuple[_Location, ...]:
    """The locations, understood. Raises ConnectorError before anything is asked."""
    if not locations:
        raise ConnectorError(
            "IMPORT FROM huggingface needs a repository",
            hint="FROM huggingface 'owner/name', or FROM huggingface WHERE task = '...' LIMIT 10",
        )
    found = []
    for text in locations:
        match = _LOCATION.fullmatch(text.strip())
        if match is None:
            raise ConnectorError(
                f"'{printable(text)}' is no repository of the Hugging Face Hub",
                hint="write owner/name, owner/name@revision or owner/name@revision:file.onnx",
            )
        found.append(_Location(text, match["repository"], match["revision"], match["file"]))
    return tuple(found)


def _hub(options: Mapping[str, object]) -> Hub:
    return Hub(opt.text(options, "endpoint"))


def _known(hub: Hub, place: _Location, choice: _Choice) -> ModelInfo | ConnectorError:
    """What the hub says of a place, or why it does not.

    Raises MissingRepositoryError for a place that leads nowhere: the statement is mistaken.
    """
    try:
        info = hub.info(place.repository, place.revision or choice.revision)
    except MissingRepositoryError:
        raise
    except ConnectorError as error:
        return error
    if not _COMMIT.fullmatch(str(info.sha)) or not _LOCATION.fullmatch(str(info.id)):
        return ConnectorError("the hub names no commit of it")
    return info


def _chosen(info: ModelInfo, place: _Location, choice: _Choice) -> list[HubModel]:
    pattern = choice.pattern if place.file is None else glob.escape(place.file)
    return chosen(models_of(info.id, files_of(info)), variant=choice.variant, pattern=pattern)


def _onnx(info: ModelInfo) -> bool:
    return bool(models_of(info.id, files_of(info)))


def _revision(info: ModelInfo) -> str:
    return printable(f"{info.id}@{info.sha}")


def _configured(commit: Commit) -> dict[str, object]:
    """Labels and preprocessing from the repository's configuration; what is wrong is left out."""

    def read(file: str) -> object | None:
        try:
            path = commit.fetched(commit.files[file], MAX_CARD_BYTES)
            value: object = json.loads(path.read_bytes())
            return value
        except (ConnectorError, ValueError, RecursionError) as error:
            log.warning("%s of %s is not read: %s", file, commit.repository, first_line(error))
            return None

    return stated.described(read, commit.files)


def _parameters(commit: Commit, info: ModelInfo) -> Mapping[str, int]:
    """{dtype: parameters}, as the hub states them, else from the headers of the safetensors."""
    if info.safetensors is not None and info.safetensors.parameters:
        return dict(info.safetensors.parameters)
    shards = [path for path in commit.files if _SHARD.fullmatch(path)]
    if len(shards) > MAX_SHARDS:
        raise ConnectorError(f"more than {MAX_SHARDS} safetensors files")
    counts: Counter[str] = Counter()
    for path in shards:
        url = commit.hub.url(commit.repository, commit.sha, path)
        read = partial(read_range, url, headers=commit.hub.headers())
        counts.update(parameter_counts(read, printable(path)))
    return counts


def _counting(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress of one file as news of the same repository: repositories are what is counted."""
    if progress is None:
        return None
    return lambda what, came, of: progress(_arrived(what, came, of), done, total)


def _arrived(what: str, came: int, of: int | None) -> str:
    total = "" if of is None else f" of {format_value(of, Dimension.BYTES)}"
    return f"{what} {format_value(came, Dimension.BYTES)}{total}"
