"""Connector `huggingface`: models of the Hugging Face Hub, by repository or by what they are.

ONNX files are taken as they are. A repository without any is a row of what its hub states, with
parameters and bytes from the headers of its safetensors files; or transformers exports it, where
the user asks for that. Pickles are never even fetched.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

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
from sommelier.connectors.huggingface_results import evaluations
from sommelier.connectors.huggingface_weights import (
    configuration_with_weights,
    parameters,
    read_json,
)
from sommelier.connectors.naming import printable
from sommelier.connectors.search import BusySourceError, Candidate, Term
from sommelier.connectors.web import without_secrets
from sommelier.errors import ConnectorError, first_line, reason
from sommelier.notes import joined
from sommelier.records import Artifact, Conversion, Measurement, Rejection
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

log = logging.getLogger(__name__)

_NAME = r"(?!\.{1,2}(?:[/@:]|$))[\w.-]+"  # neither . nor .., which lead elsewhere
_LOCATION = re.compile(
    rf"(?:hf://)?(?P<repository>{_NAME}(?:/{_NAME})?)(?:@(?P<revision>[^:@\s]+))?"
    r"(?::(?P<file>[^\s/].*))?"
)
_PAGE = re.compile(
    rf"/(?!datasets/|spaces/)(?P<repository>{_NAME}(?:/{_NAME})??)"
    r"(?:/tree/(?P<tree>[^/]+)|/(?:blob|resolve)/(?P<blob>[^/]+)/(?P<file>.+))?/?"
)
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


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
    export: bool


class HuggingFaceConnector:
    """Finds models in repositories of a hub and states what the hub says of them."""

    name = "huggingface"
    place = "endpoint"
    options: Mapping[str, str] = {
        "max_size": "largest model to accept, external data included (2 GB)",
        "variant": f"'{DEFAULT_VARIANT}', '{EVERY_VARIANT}', or one such as 'fp16', 'quantized'",
        "file": "a pattern on the paths of ONNX files, such as 'onnx/*.onnx'; instead of variant",
        "revision": "branch, tag or commit, for locations that name none (main)",
        "export": "whether transformers makes ONNX of a model that has none, in a sandbox (no)",
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
        choice, hub = _choice(self, options), _hub(options)
        return self._artifacts(hub, _locations(locations, hub.endpoint), choice, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The chosen ONNX files, as the hub lists them; nothing is fetched."""
        choice, hub = _choice(self, options), _hub(options)
        for place in _locations(locations, hub.endpoint):
            info = _known(hub, place, choice)
            models = _chosen(info, place, choice)
            for model in models:
                where = printable(f"{_revision(info)}:{model.file.path}")
                yield Listing(printable(model.name), where, model.file.size)
            if not models:
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
        found = _told(hub, places, choice)
        for done, (place, info) in enumerate(found):
            if progress:
                progress(place.text, done, len(places))
            if isinstance(info, ConnectorError):
                yield Rejection(self.name, printable(place.text), reason(info))
                continue
            note = _counting(progress, done, len(places))
            try:
                yield from self._models(hub, info, place, choice, note)
            except ConnectorError as error:
                yield Rejection(self.name, _revision(info), reason(error))
        if progress:
            progress("", len(places), len(places))

    def _models(
        self, hub: Hub, info: ModelInfo, place: _Location, choice: _Choice, note: Progress | None
    ) -> Iterator[Artifact | Rejection]:
        """The models of a repository. Raises ConnectorError if it has none that is asked for."""
        revision = _revision(info)
        declared = stated.declared_facts(info, hub.endpoint)
        numbers, left_out = evaluations(info, revision)
        declared = _noted(declared, *left_out, *hub.remarks(info))
        commit = Commit(hub, info.id, str(info.sha), files_of(info), choice.max_size)
        models = _chosen(info, place, choice)
        if not models and not choice.export:
            yield self._row(commit, info, declared, numbers)
            return
        declared |= _configured(commit)
        if not models:
            yield self._exported(commit, info, declared, numbers, note)
            return
        for model in models:
            where = printable(f"{revision}:{model.file.path}")
            try:
                path, beside = commit.model(model.file, note)
            except ConnectorError as error:
                yield Rejection(self.name, where, reason(error))
                continue
            said = _of_file(declared, model)
            if beside:
                said["external_data"] = [str(file) for file in beside]
            # Results are of the model as published, not of its parts or quantised copies.
            of_it = tuple(numbers) if model.role.plain else ()
            yield Artifact(printable(model.name), None, self.name, where, path, said, of_it)

    def _exported(
        self,
        commit: Commit,
        info: ModelInfo,
        declared: dict[str, object],
        numbers: Sequence[Measurement],
        note: Progress | None,
    ) -> Artifact | Rejection:
        """A model of transformers, to be converted; without weights we read, why it cannot be."""
        revision, name = _revision(info), printable(info.id)
        try:
            path = configuration_with_weights(commit, note)
        except ConnectorError as error:
            return Rejection(self.name, revision, reason(error))
        return Artifact(
            name, None, self.name, revision, path, declared, tuple(numbers),
            Conversion("transformers"),
        )  # fmt: skip

    def _row(
        self,
        commit: Commit,
        info: ModelInfo,
        declared: dict[str, object],
        numbers: Sequence[Measurement],
    ) -> Artifact:
        """What the hub states of a repository without ONNX files."""
        kinds = Counter(PurePosixPath(path).suffix for path in commit.files)
        kinds.pop("", None)
        held = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())[:8]) or "nothing"
        notes = [f"no ONNX file in the repository, which holds {printable(held)}"]
        revision = _revision(info)
        try:
            numbers = [*numbers, *stated.weights(*parameters(commit, info), revision)]
        except ConnectorError as error:
            notes.append(f"parameters unknown: {error.message}")
        declared = _noted(declared, *notes)
        name = printable(info.id)
        return Artifact(name, None, self.name, revision, None, declared, tuple(numbers))


def _choice(connector: HuggingFaceConnector, options: Mapping[str, object]) -> _Choice:
    opt.check(connector.name, options, connector.options)
    return _Choice(
        opt.text(options, "variant") or DEFAULT_VARIANT,
        opt.text(options, "file"),
        opt.size(options, "max_size", opt.MAX_MODEL_BYTES),
        opt.text(options, "revision"),
        opt.flag(options, "export"),
    )


def _locations(locations: tuple[str, ...], endpoint: str) -> tuple[_Location, ...]:
    """The locations, understood. Raises ConnectorError before anything is asked."""
    if not locations:
        raise ConnectorError(
            "huggingface needs a repository",
            hint="FROM huggingface 'owner/name', or FROM huggingface WHERE task = '...' LIMIT 10",
        )
    return tuple(_location(text, endpoint) for text in locations)


def _location(text: str, endpoint: str) -> _Location:
    """What a text, or the address of a page of the hub, names."""
    asked = _without_login(text.strip())
    if asked.startswith(f"{endpoint}/"):
        path = urlsplit(asked.removeprefix(endpoint)).path
        match = _PAGE.fullmatch(path)
        if match is not None:
            revision = match["tree"] or match["blob"]
            revision, file = (part and unquote(part) for part in (revision, match["file"]))
            return _Location(asked, match["repository"], revision, file)
    elif (match := _LOCATION.fullmatch(asked)) is not None:
        return _Location(asked, match["repository"], match["revision"], match["file"])
    if asked.startswith(("https://", "http://")) and not f"{asked}/".startswith(f"{endpoint}/"):
        raise ConnectorError(
            f"'{printable(asked)}' is no repository of the hub at {endpoint}, which is asked here",
            hint="write owner/name for one of this hub; USING endpoint = '...' asks another",
        )
    raise ConnectorError(
        f"'{printable(asked)}' is no repository of the Hugging Face Hub",
        hint="write owner/name, owner/name@revision, owner/name@revision:file.onnx, or the address "
        f"of its page at {endpoint}",
    )


def _without_login(text: str) -> str:
    """A location; of an address nothing that may be a secret, for it is told and kept."""
    return without_secrets(text) if text.startswith(("https://", "http://")) else text


def _hub(options: Mapping[str, object]) -> Hub:
    return Hub(opt.address(options, "endpoint"))


def _told(
    hub: Hub, places: tuple[_Location, ...], choice: _Choice
) -> list[tuple[_Location, ModelInfo | ConnectorError]]:
    """What the hub says of each place, or why it does not; a busy hub is not asked on.

    Raises MissingRepositoryError for a place that leads nowhere: the statement is mistaken; and
    BusySourceError where the hub is too busy to say anything.
    """
    found: list[tuple[_Location, ModelInfo | ConnectorError]] = []
    busy: BusySourceError | None = None
    for place in places:
        try:
            found.append((place, _known(hub, place, choice) if busy is None else busy))
        except MissingRepositoryError:
            raise
        except BusySourceError as error:
            busy = error
            found.append((place, error))
        except ConnectorError as error:
            found.append((place, error))
    if busy is not None and all(isinstance(info, ConnectorError) for _, info in found):
        raise busy
    return found


def _known(hub: Hub, place: _Location, choice: _Choice) -> ModelInfo:
    info = hub.info(place.repository, place.revision or choice.revision)
    if not _COMMIT.fullmatch(str(info.sha)) or not _LOCATION.fullmatch(info.id):
        raise ConnectorError("the hub names no commit of it")
    return info


def _chosen(info: ModelInfo, place: _Location, choice: _Choice) -> list[HubModel]:
    models = models_of(info.id, files_of(info))
    return chosen(models, variant=choice.variant, pattern=choice.pattern, file=place.file)


def _of_file(declared: Mapping[str, object], model: HubModel) -> dict[str, object]:
    """What is declared of a repository, as far as it is said of one file."""
    said = dict(declared)
    if model.role.variant is not None:
        said["tags"] = (*_tags(said), model.role.variant)
    if model.role.whole:
        return said
    dropped = [said.pop(fact) for fact in stated.OF_THE_WHOLE if fact in said]
    if not dropped:
        return said
    return _noted(said, "a part of the repository, or one of several models: its task is not said")


def _tags(declared: Mapping[str, object]) -> tuple[str, ...]:
    tags = declared.get("tags")
    return tags if isinstance(tags, tuple) else ()


def _noted(declared: Mapping[str, object], *notes: str) -> dict[str, object]:
    """The same with more notes."""
    known = [str(declared["note"])] if "note" in declared else []
    return {**declared, "note": joined([*known, *notes])} if notes else dict(declared)


def _revision(info: ModelInfo) -> str:
    return printable(f"{info.id}@{info.sha}")


def _configured(commit: Commit) -> dict[str, object]:
    """Labels and preprocessing from the repository's configuration; what is wrong is left out."""

    def read(file: str) -> object | None:
        try:
            return read_json(commit, file, MAX_CARD_BYTES)
        except ConnectorError as error:
            log.warning("%s of %s is not read: %s", file, commit.repository, first_line(error))
            return None

    return stated.described(read, commit.files)


def _counting(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress of one file as news of the same repository: repositories are what is counted."""
    if progress is None:
        return None
    return lambda what, came, of: progress(_arrived(what, came, of), done, total)


def _arrived(what: str, came: int, of: int | None) -> str:
    total = "" if of is None else f" of {format_value(of, Dimension.BYTES)}"
    return f"{what} {format_value(came, Dimension.BYTES)}{total}"
