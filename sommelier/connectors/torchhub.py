"""Connector `torchhub`: models that a repository of PyTorch Hub makes.

hubconf.py is read, not run: to list a repository needs no trust. To make a model runs the
repository's code, in a sandbox, and only if the user says `trust = yes`. An entry that is named is
then made even where syntax does not show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.bindings import Entry
from sommelier.connectors.hub_repositories import (
    GITHUB,
    Checkout,
    Handle,
    Server,
    checkout,
    parse_handle,
)
from sommelier.connectors.hubconf import FILE, Hubconf, installed, read_hubconf
from sommelier.connectors.naming import printable
from sommelier.connectors.web import check_scheme
from sommelier.errors import ConnectorError, RejectedModelError, reason
from sommelier.notes import joined
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
        "reload": "whether to ask the server again for what has been fetched (no)",
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
        weights, server = opt.text(options, "weights"), _server(options)
        places = _locations(locations, opt.text(options, "repository"))
        return self._artifacts(places, asked, weights, server, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing | Rejection]:
        """The entries of each repository, which is fetched if it has not been.

        What cannot be read is a Rejection. Raises RejectedModelError at the end if nothing could be
        listed.
        """
        opt.check(self.name, options, self.options)
        server, refused, some = _server(options), [], False
        for place in _locations(locations, opt.text(options, "repository")):
            try:
                offered = read_hubconf(checkout(place.handle, server).folder)
                chosen = _chosen(offered, place.entries)
            except RejectedModelError as error:
                refused.append(error)
                yield Rejection(self.name, printable(place.handle.text), reason(error))
                continue
            for entry in chosen:
                if isinstance(entry, str):
                    refused.append(_not_offered(entry, offered))
                    yield Rejection(self.name, _revision(place.handle, entry), reason(refused[-1]))
                    continue
                some = True
                yield Listing(entry.name, _revision(place.handle, entry.name))
        if refused and not some:
            raise refused[0]

    def _artifacts(
        self,
        places: tuple[_Location, ...],
        asked: Mapping[str, object],
        weights: str | None,
        server: Server,
        progress: Progress | None,
    ) -> Iterator[Artifact | Rejection]:
        for done, place in enumerate(places):
            if progress:
                progress(place.handle.text, done, len(places))
            try:
                source = checkout(place.handle, server)
                offered = read_hubconf(source.folder)
                _require(offered.dependencies)
                chosen = _chosen(offered, place.entries)
            except RejectedModelError as error:
                yield Rejection(self.name, printable(place.handle.text), reason(error))
                continue
            for entry in chosen:
                unseen = isinstance(entry, str)
                known = Entry(entry) if isinstance(entry, str) else entry
                try:
                    if unseen and not ("trust" in asked and known.name.isidentifier()):
                        raise _not_offered(known.name, offered)
                    made = self._artifact(place.handle, source, known, asked, weights)
                    yield _hinted(made, _near(known.name, offered)) if unseen else made
                except RejectedModelError as error:
                    where = _revision(place.handle, known.name)
                    yield Rejection(self.name, where, reason(error))
        if progress:
            progress("", len(places), len(places))

    def _artifact(
        self,
        handle: Handle,
        source: Checkout,
        entry: Entry,
        asked: Mapping[str, object],
        weights: str | None,
    ) -> Artifact:
        learned = _weights(entry, weights)
        settings = {**asked, "entry": entry.name, "weights": learned}
        call = ", ".join(f"{name}={value!r}" for name, value in learned.items())
        notes = [*([entry.summary] if entry.summary else []), f"made by {entry.name}({call})"]
        if source.commit:
            notes.append(f"commit {source.commit}")
        if not learned and "arguments" not in asked:
            notes.append("its weights are random: USING weights = 'DEFAULT' asks for learned ones")
        declared: dict[str, object] = {"note": printable(joined(notes))}
        return Artifact(
            entry.name, None, self.name, _revision(handle, entry.name), source.folder / FILE,
            declared, conversion=Conversion("torchhub", settings),
        )  # fmt: skip


def _server(options: Mapping[str, object]) -> Server:
    endpoint = opt.address(options, "endpoint") or GITHUB
    check_scheme(endpoint, endpoint)
    return Server(endpoint.rstrip("/"), opt.flag(options, "reload"))


def _locations(locations: tuple[str, ...], repository: str | None) -> tuple[_Location, ...]:
    """The locations, understood. Raises ConnectorError before anything is fetched."""
    if repository is not None:
        return (_Location(parse_handle(repository), locations),)
    if not locations:
        raise ConnectorError(
            "torchhub needs a repository",
            hint="FROM torchhub 'pytorch/vision:v0.27' LIKE 'resnet%'",
        )
    found = []
    for location in locations:
        where, _, entry = location.partition("#")
        found.append(_Location(parse_handle(where), (entry,) if entry else ()))
    return tuple(found)


def _chosen(offered: Hubconf, names: tuple[str, ...]) -> Sequence[Entry | str]:
    """The entries asked for in the order asked; the name alone of one that syntax does not show.

    Raises RejectedModelError if all are asked for and there are none.
    """
    known = {entry.name: entry for entry in offered.entries}
    if not names and not known:
        raise RejectedModelError(
            f"{FILE} offers nothing that can be seen without running it",
            hint="name an entry, 'owner/name:tag#entry', and trust it: USING trust = yes",
        )
    return [known.get(name, name) for name in names] if names else offered.entries


def _not_offered(name: str, offered: Hubconf) -> RejectedModelError:
    return RejectedModelError(
        f"{FILE} offers no '{printable(name)}' that can be seen without running it",
        hint=_near(name, offered) or "trust = yes runs it to look",
    )


def _near(name: str, offered: Hubconf) -> str | None:
    close = ", ".join(opt.nearest(name, [entry.name for entry in offered.entries]))
    return f"did you mean {close}?" if close else None


def _hinted(made: Artifact, hint: str | None) -> Artifact:
    """The same; what is said if running the repository does not show the entry either."""
    assert made.conversion is not None, "it is made by running the repository"
    return replace(made, conversion=replace(made.conversion, hint=hint))


def _require(dependencies: tuple[str, ...]) -> None:
    """Raises RejectedModelError for packages that hubconf.py needs and that are not installed."""
    missing = [name for name in dependencies if installed(name.split(".")[0]) is None]
    if missing:
        raise RejectedModelError(
            f"its hubconf.py needs {', '.join(map(printable, missing))}, which is not installed"
        )


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
