"""Connector `mlflow`: versions of a model registry, read through the server's REST API.

A location is a server ('http://127.0.0.1:5000', all its models), a page of its web interface, or
what follows models:/ in MLflow: 'digits' (all versions), 'digits/3', 'digits/latest',
'digits@champion', 'dig*'. ONNX models come as they are, exported programs and TorchScript by
conversion; pickled modules are refused. Nothing is ever written to the registry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.mlflow_facts import METRIC_OPTIONS, MetricNames, declared, measurements
from sommelier.connectors.mlflow_files import (
    MAX_MLMODEL_BYTES,
    MLMODEL,
    description,
    fetched,
    mapping,
)
from sommelier.connectors.mlflow_server import (
    URI,
    Logged,
    MlflowServer,
    ModelVersion,
    RegisteredModel,
)
from sommelier.connectors.naming import printable
from sommelier.connectors.search import Candidate, Term
from sommelier.connectors.web import shown
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.records import Artifact, Conversion, Rejection


@dataclass(frozen=True, slots=True)
class _Found:
    """A version to fetch, and where it is registered."""

    server: MlflowServer
    model: RegisteredModel
    version: ModelVersion

    @property
    def revision(self) -> str:
        """Its page in the web interface."""
        return (
            f"{self.server.url}/#/models/{quote(self.model.name)}/versions/{self.version.version}"
        )


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What USING says of every version. limit : bytes of a model, external data included."""

    limit: int
    metrics: MetricNames
    conversion: Mapping[str, object]


class MlflowConnector:
    """Reads an MLflow model registry: versions, aliases, tags, metrics, ONNX and PyTorch files."""

    name = "mlflow"
    place = "tracking_uri"
    options: Mapping[str, str] = {
        "tracking_uri": f"the server, where a location does not say (${URI})",
        "max_size": "largest model to accept, external data included (2 GB)",
        "inputs": opt.CONVERSION["inputs"],
        "trust": opt.CONVERSION["trust"],
        **METRIC_OPTIONS,
    }

    facts: Mapping[str, type] = {
        **dict.fromkeys(("name", "version", "stage", "status"), str),
        **dict.fromkeys(("aliases", "tags"), tuple),
    }
    order = "as the registry lists them, every model's oldest version first"

    def describe(self) -> str:
        """What a location is."""
        return (
            "registered models of an MLflow server: 'http://host:5000' for all, or 'name', "
            "'name/3', 'name/latest', 'name@alias', 'nam*' USING tracking_uri = 'http://host:5000'"
        )

    def fetch(
        self,
        locations: tuple[str, ...],
        *,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> Iterator[Artifact | Rejection]:
        """An Artifact for each version of an ONNX or exported PyTorch model."""
        opt.check(self.name, options, self.options)
        wishes = _Wishes(
            opt.size(options, "max_size", opt.MAX_MODEL_BYTES),
            MetricNames.of(options),
            opt.conversion(options),
        )
        return self._artifacts(_find(locations, options), wishes, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The versions at the locations; their files are not asked for."""
        opt.check(self.name, options, self.options)
        for found in _find(locations, options):
            yield Listing(found.version.name, found.revision)

    def pushed(self, _term: Term) -> str | None:
        """None: the whole registry is listed."""
        return None

    def search(
        self, _terms: tuple[Term, ...], *, options: Mapping[str, object]
    ) -> Iterator[Candidate]:
        """Every version of the registry at `tracking_uri`. Raises ConnectorError."""
        opt.check(self.name, options, self.options)
        for found in _versions(*_understood("*", options)):
            version = found.version
            aliases = tuple(a for a, of in found.model.aliases.items() if of == version.version)
            facts = {
                "name": version.name,
                "version": version.version,
                "stage": version.stage,
                "status": version.status,
                "aliases": aliases,
                "tags": tuple(version.tags),
            }
            yield Candidate(version.name, f"{version.name}/{version.version}", facts)

    def _artifacts(
        self, found: Sequence[_Found], wishes: _Wishes, progress: Progress | None
    ) -> Iterator[Artifact | Rejection]:
        for done, item in enumerate(found):
            if progress:
                progress(f"{item.version.name}/{item.version.version}", done, len(found))
            try:
                yield _artifact(item, wishes)
            except (ConnectorError, RejectedModelError) as error:
                yield Rejection(self.name, item.revision, error.message)
        if progress:
            progress("", len(found), len(found))


def _artifact(found: _Found, wishes: _Wishes) -> Artifact:
    """The version with its file in the cache. Raises ConnectorError or RejectedModelError."""
    server, version = found.server, found.version
    if version.status != "READY":
        raise RejectedModelError(f"its registration is {version.status}, not READY")
    root = server.root(version)
    content = description(server.small(f"{root}/{MLMODEL}", MAX_MLMODEL_BYTES))
    files = fetched(server, root, content, wishes.limit)
    logged, left = _logged(server, version)
    facts = declared(found.model, version, logged, mapping(content.get("metadata")))
    numbers, unused = measurements(logged.metrics, wishes.metrics, found.revision)
    notes = [*([str(facts["note"])] if "note" in facts else []), *left, *unused]
    if notes:
        facts["note"] = "; ".join(notes)
    if files.external:
        facts["external_data"] = [str(file) for file in files.external]
    conversion = None if files.format is None else Conversion(files.format, wishes.conversion)
    return Artifact(
        version.name, version.version, "mlflow", found.revision, files.path, facts, numbers,
        conversion,
    )  # fmt: skip


def _logged(server: MlflowServer, version: ModelVersion) -> tuple[Logged, list[str]]:
    """What its run says; a run that was deleted costs the model its metrics, nothing more."""
    try:
        return server.logged(version), []
    except ConnectorError as error:
        return Logged(), [f"its metrics cannot be read: {error.message}"]


# ---- which versions a location means


def _find(locations: tuple[str, ...], options: Mapping[str, object]) -> list[_Found]:
    """The versions at all locations, each once. Raises ConnectorError if a location has none."""
    if not locations and not _uri(options):
        raise ConnectorError(
            "IMPORT FROM mlflow needs a server or a model",
            hint="FROM mlflow 'http://127.0.0.1:5000', or FROM mlflow 'digits@champion' "
            "USING tracking_uri = 'http://127.0.0.1:5000'",
        )
    found: dict[str, _Found] = {}
    for location in locations or ("*",):
        server, asked = _understood(location.strip(), options)
        here = list(_versions(server, asked))
        if not here:
            known = [model.name for model in server.models()]
            raise ConnectorError(
                f"the registry at {server.url} has no model '{shown(location)}'",
                suggestions=opt.nearest(re.split("[/@]", asked)[0], known),
                hint=_kinds(known),
            )
        found.update((item.revision, item) for item in here)
    return list(found.values())


def _kinds(known: list[str]) -> str:
    """What the registry has, in short."""
    if not known:
        return "it has no registered model at all"
    rest = f" and {len(known) - 10} more" if len(known) > 10 else ""
    return f"it has {', '.join(map(printable, known[:10]))}{rest}"


def _understood(location: str, options: Mapping[str, object]) -> tuple[MlflowServer, str]:
    """The server, and what is asked of it: '*', 'name', 'name/version' or 'name@alias'."""
    if location.startswith(("http://", "https://")):
        parts = urlsplit(location)
        page = re.fullmatch(r"/models/([^/]+)(?:/versions/([^/]+))?/?", parts.fragment)
        server = MlflowServer(urlunsplit((*parts[:3], "", "")))
        return server, "/".join(unquote(p) for p in page.groups() if p) if page else "*"
    uri = _uri(options)
    if not uri:
        raise ConnectorError(
            f"which MLflow server has '{location}'?",
            hint=f"USING tracking_uri = 'http://host:5000', or set {URI}",
        )
    if not uri.startswith(("http://", "https://")):
        raise ConnectorError(
            f"tracking_uri is {printable(uri)!r}, not the address of a server",
            hint="`mlflow server` serves a folder or database of runs at an address",
        )
    return MlflowServer(uri), location.removeprefix("models:").lstrip("/")


def _uri(options: Mapping[str, object]) -> str | None:
    return opt.text(options, "tracking_uri") or os.environ.get(URI)


def _versions(server: MlflowServer, asked: str) -> Iterator[_Found]:
    if "*" in asked:
        for each in server.models():
            if fnmatchcase(each.name, asked):
                yield from (_Found(server, each, v) for v in server.versions(each.name))
        return
    name, _, wanted = asked.partition("/")
    name, _, alias = name.partition("@")
    model = server.model(name) if name else None
    if model is None:
        return
    versions = server.versions(name)
    if alias:
        wanted = model.aliases.get(alias, "no such alias")
    if wanted.lower() == "latest":
        wanted = versions[-1].version if versions else wanted
    for version in versions:
        if wanted in ("", version.version) or wanted.lower() == (version.stage or "").lower():
            yield _Found(server, model, version)
