"""Connector `mlflow`: versions of a model registry, read through the server's REST API.

A location is a server ('http://127.0.0.1:5000', all its models), a page of its web interface, or
what follows models:/ in MLflow: 'digits' (all versions), 'digits/3', 'digits/latest',
'digits@champion', 'dig*', or the id of a logged model, 'm-...'. ONNX models come as they are,
exported programs and TorchScript by conversion; pickled modules are refused. Nothing is ever
written to the registry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.mlflow_facts import (
    METRIC_OPTIONS,
    MetricNames,
    declared,
    measurements,
    registry_tags,
)
from sommelier.connectors.mlflow_files import (
    MAX_MLMODEL_BYTES,
    MLMODEL,
    description,
    fetched,
    mapping,
)
from sommelier.connectors.mlflow_locations import Found, find, registered
from sommelier.connectors.mlflow_server import URI, Logged, MlflowServer, ModelVersion
from sommelier.connectors.search import Candidate, Term
from sommelier.errors import ConnectorError, RejectedModelError, reason
from sommelier.notes import joined
from sommelier.records import Artifact, Conversion, Rejection


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
            "models of an MLflow server: 'http://host:5000' for all registered ones, or 'name', "
            "'name/3', 'name/latest', 'name@alias', 'nam*', 'models:/m-...' USING tracking_uri = "
            "'http://host:5000'"
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
        return self._artifacts(find(locations, options), wishes, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The versions at the locations; their files are not asked for."""
        opt.check(self.name, options, self.options)
        for found in find(locations, options):
            yield Listing(found.version.name, found.revision)

    def pushed(self, _term: Term) -> str | None:
        """None: the whole registry is listed."""
        return None

    def search(
        self, _terms: tuple[Term, ...], *, options: Mapping[str, object]
    ) -> Iterator[Candidate]:
        """Every version of the registry at `tracking_uri`. Raises ConnectorError."""
        opt.check(self.name, options, self.options)
        for found in registered(options):
            version = found.version
            aliases = tuple(a for a, of in found.model.aliases.items() if of == version.version)
            facts = {
                "name": version.name,
                "version": version.version,
                "stage": version.stage,
                "status": version.status,
                "aliases": aliases,
                "tags": registry_tags(found.model, version),
            }
            yield Candidate(version.name, found.label, facts)

    def _artifacts(
        self, found: Sequence[Found], wishes: _Wishes, progress: Progress | None
    ) -> Iterator[Artifact | Rejection]:
        for done, item in enumerate(found):
            if progress:
                progress(item.label, done, len(found))
            try:
                yield _artifact(item, wishes)
            except (ConnectorError, RejectedModelError) as error:
                yield Rejection(self.name, item.revision, reason(error))
        if progress:
            progress("", len(found), len(found))


def _artifact(found: Found, wishes: _Wishes) -> Artifact:
    """The version with its file in the cache. Raises ConnectorError or RejectedModelError."""
    server, version = found.server, found.version
    if version.status != "READY":
        raise RejectedModelError(f"it is {version.status}, not READY")
    root = server.root(version)
    content = description(server.small(f"{root}/{MLMODEL}", MAX_MLMODEL_BYTES))
    files = fetched(server, root, content, wishes.limit)
    logged, left = _logged(server, version)
    facts = declared(found.model, version, logged, mapping(content.get("metadata")))
    numbers, unused = measurements(logged.metrics, wishes.metrics, found.revision)
    notes = [*([str(facts["note"])] if "note" in facts else []), *left, *unused]
    if notes:
        facts["note"] = joined(notes)
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
        return Logged(), [f"its metrics cannot be read: {reason(error)}"]
