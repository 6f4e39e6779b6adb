"""Connector `torchhub`: models that a repository of PyTorch Hub makes.

hubconf.py is read, not run: to list a repository needs no trust. To make a model runs the
repository's code, in a sandbox, and only if the user says `trust = yes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.hub_repositories import (
    GITHUB,
    Handle,
    parse_handle,
    repository_folder,
)
from sommelier.connectors.hubconf import FILE, Entry, Hubconf, read_hubconf
from sommelier.connectors.naming import printable
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.records import Artifact, Conversion, Rejection

UNTRAINED = ("no", "none", "false", "")


@dataclass(frozen=True, slots=True)
class _Location:
    """A repository, and the entries that are asked for; none means all."""

    handle: Handle
    entries: tuple[str, ...]


class TorchHubConnector:
    """Finds the entries of hubconf.py; what makes ONNX of them runs elsewhere."""

    name = "torchhub"
    place = "repository"
    options: Mapping[str, str] = {
        "repository": "where the locations are entries of: 'pytorch/vision:v0.27', or a folder",
        "weights": "learned weights, such as 'DEFAULT'; else they are random, by a fixed seed",
        "inputs": opt.CONVERSION["inputs"],
        "arguments": opt.CONVERSION["arguments"],
        "trust": "whether the code of the repository may run (no)",
        "endpoint": f"address of another server that answers as GitHub does ({GITHUB})",
    }

    def describe(self) -> str:
        """What a location is."""
        return (
            "'owner/name:tag' of a GitHub repository with a hubconf.py, or its folder; "
            "'owner/name:tag#entry' for one of its models"
        )

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """An Artifact to be converted for each entry."""
        opt.check(self.name, options, self.options)
        asked = opt.conversion(options)
        weights, endpoint = opt.text(options, "weights"), opt.text(options, "endpoint") or GITHUB
        places = _locations(locations, opt.text(options, "repository"))
        return self._artifacts(places, asked, weights, endpoint, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The entries of each repository, which is fetched if torch.hub has not kept it."""
        opt.check(self.name, options, self.options)
        endpoint = opt.text(options, "endpoint") or GITHUB
        for place in _locations(locations, opt.text(options, "repository")):
            try:
                folder = repository_folder(place.handle, endpoint=endpoint, progress=None)
                offered = read_hubconf(folder)
            except RejectedModelError:
                continue  # fetch says why
            for entry in _chosen(offered, place.entries):
                if isinstance(entry, Entry):
                    yield Listing(entry.name, _revision(place.handle, entry.name))

    def _artifacts(
        self,
        places: tuple[_Location, ...],
        asked: Mapping[str, object],
        weights: str | None,
        endpoint: str,
        progress: Progress | None,
    ) -> Iterator[Artifact | Rejection]:
        for done, place in enumerate(places):
            if progress:
                progress(place.handle.text, done, len(places))
            try:
                folder = repository_folder(place.handle, endpoint=endpoint, progress=None)
                offered = read_hubconf(folder)
                _require(offered.dependencies)
            except RejectedModelError as error:
                yield Rejection(self.name, printable(place.handle.text), str(error.message))
                continue
            for entry in _chosen(offered, place.entries):
                if isinstance(entry, str):
                    where = _revision(place.handle, entry)
                    yield Rejection(self.name, where, _not_offered(entry, offered))
                else:
                    yield self._artifact(place.handle, folder, entry, asked, weights)
        if progress:
            progress("", len(places), len(places))

    def _artifact(
        self,
        handle: Handle,
        folder: Path,
        entry: Entry,
        asked: Mapping[str, object],
        weights: str | None,
    ) -> Artifact | Rejection:
        revision = _revision(handle, entry.name)
        try:
            learned = _weights(entry, weights)
        except RejectedModelError as error:
            return Rejection(self.name, revision, error.message)
        settings = {**asked, "entry": entry.name, "weights": learned}
        call = ", ".join(f"{name}={value!r}" for name, value in learned.items())
        notes = [*([entry.summary] if entry.summary else []), f"made by {entry.name}({call})"]
        if not learned and "arguments" not in asked:
            notes.append("its weights are random: USING weights = 'DEFAULT' asks for learned ones")
        family = handle.name or folder.resolve().name
        declared: dict[str, object] = {"family": family, "note": printable("; ".join(notes))}
        return Artifact(
            entry.name, None, self.name, revision, folder / FILE, declared,
            conversion=Conversion("torchhub", settings),
        )  # fmt: skip


def _locations(locations: tuple[str, ...], repository: str | None) -> tuple[_Location, ...]:
    """The locations, understood. Raises ConnectorError before anything is fetched."""
    if repository is not None:
        return (_Location(parse_handle(repository), locations),)
    if not locations:
        raise ConnectorError(
            "IMPORT FROM torchhub needs a repository",
            hint="FROM torchhub 'pytorch/vision:v0.27' LIKE 'resnet%'",
        )
    found = []
    for location in locations:
        where, _, entry = location.partition("#")
        found.append(_Location(parse_handle(where), (entry,) if entry else ()))
    return tuple(found)


def _chosen(offered: Hubconf, names: tuple[str, ...]) -> Iterator[Entry | str]:
    """The entries asked for in the order asked; the name alone of one that does not exist."""
    known = {entry.name: entry for entry in offered.entries}
    yield from (known.get(name, name) for name in names) if names else offered.entries


def _not_offered(name: str, offered: Hubconf) -> str:
    names = [entry.name for entry in offered.entries]
    close = ", ".join(opt.nearest(name, names))
    return f"hubconf.py offers no '{printable(name)}'" + (
        f"; did you mean {close}?" if close else ""
    )


def _require(dependencies: tuple[str, ...]) -> None:
    """Raises RejectedModelError for packages that hubconf.py needs and that are not installed."""
    missing = [name for name in dependencies if not _installed(name)]
    if missing:
        raise RejectedModelError(
            f"its hubconf.py needs {', '.join(map(printable, missing))}, which is not installed"
        )


def _installed(name: str) -> bool:
    root = name.split(".")[0]
    return root.isidentifier() and find_spec(root) is not None  # of a root: imports nothing


def _weights(entry: Entry, weights: str | None) -> dict[str, object]:
    """The arguments that ask an entry for learned weights. RejectedModelError if it has none."""
    if weights is None or weights.lower() in UNTRAINED:
        return {}
    known = entry.parameters or ()
    if "weights" not in known and "pretrained" in known:
        return {"pretrained": True}
    if "weights" in known or entry.keywords or entry.parameters is None:
        return {"weights": weights}
    raise RejectedModelError(
        f"{entry.signature} takes no weights; give what it takes by arguments = '{{...}}'"
    )


def _revision(handle: Handle, entry: str) -> str:
    return printable(f"{handle.text}#{entry}")
