"""Connector `mlflow`: versions of a model registry, read through the server's REST API.

A location is a server ('http://127.0.0.1:5000', all its models), a page of its web interface, or
what follows models:/ in MLflow: 'digits' (all versions), 'digits/3', 'digits/latest',
'digits@champion', 'dig*'. ONNX models come as they are, exported PyTorch programs by conversion;
pickles are refused. Nothing is ever written to the registry.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from sommelier.connectors import options as opt
from sommelier.connectors.base import Listing, Progress
from sommelier.connectors.mlflow_facts import METRIC_OPTIONS, MetricNames, declared, measurements
from sommelier.connectors.mlflow_server import (
    URI,
    Logged,
    MlflowServer,
    ModelVersion,
    RegisteredModel,
)
from sommelier.connectors.naming import printable
from sommelier.connectors.web import shown
from sommelier.errors import (
    ConnectorError,
    MissingDependencyError,
    RejectedModelError,
    first_line,
)
from sommelier.records import Artifact, Conversion, Rejection
from sommelier.storage.cache import cache_folder
from sommelier.storage.external_data import check_location, extents, external_files, read_model

MLMODEL = "MLmodel"
MAX_MLMODEL_BYTES = 1 << 20
EXPORTED, PICKLED = "model.pt2", "model.pth"  # what MLflow calls what torch.export, torch.save do


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


class MlflowConnector:
    """Reads an MLflow model registry: versions, aliases, tags, metrics, ONNX and PyTorch files."""

    name = "mlflow"
    options: Mapping[str, str] = {
        "tracking_uri": f"the server, where a location does not say (${URI})",
        "max_size": "largest model to accept, external data included (2 GB)",
        **METRIC_OPTIONS,
    }

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
        limit = opt.size(options, "max_size", opt.MAX_MODEL_BYTES)
        names = MetricNames.of(options)
        return self._artifacts(_find(locations, options), names, limit, progress)

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        """The versions at the locations; their files are not asked for."""
        opt.check(self.name, options, self.options)
        for found in _find(locations, options):
            yield Listing(found.version.name, found.revision)

    def _artifacts(
        self,
        found: Sequence[_Found],
        names: MetricNames,
        limit: int,
        progress: Progress | None,
    ) -> Iterator[Artifact | Rejection]:
        for done, item in enumerate(found):
            if progress:
                progress(f"{item.version.name}/{item.version.version}", done, len(found))
            try:
                yield _artifact(item, names, limit)
            except (ConnectorError, RejectedModelError) as error:
                yield Rejection(self.name, item.revision, error.message)
        if progress:
            progress("", len(found), len(found))


def _artifact(found: _Found, names: MetricNames, limit: int) -> Artifact:
    """The version with its file in the cache. Raises ConnectorError or RejectedModelError."""
    server, version = found.server, found.version
    if version.status != "READY":
        raise RejectedModelError(f"its registration is {version.status}, not READY")
    root = server.root(version)
    content = _mlmodel(server.small(f"{root}/{MLMODEL}", MAX_MLMODEL_BYTES))
    path, external, conversion = _file(server, root, content, limit)
    logged, left = _logged(server, version)
    metadata = content.get("metadata")
    stated = metadata if isinstance(metadata, dict) else {}
    facts = declared(found.model, version, logged, {str(k): v for k, v in stated.items()})
    numbers, unused = measurements(logged.metrics, names, found.revision)
    notes = [*([str(facts["note"])] if "note" in facts else []), *left, *unused]
    if notes:
        facts["note"] = "; ".join(notes)
    if external:
        facts["external_data"] = [str(file) for file in external]
    return Artifact(
        version.name, version.version, "mlflow", found.revision, path, facts, numbers, conversion
    )


def _logged(server: MlflowServer, version: ModelVersion) -> tuple[Logged, list[str]]:
    """What its run says; a run that was deleted costs the model its metrics, nothing more."""
    try:
        return server.logged(version), []
    except ConnectorError as error:
        return Logged(), [f"its metrics cannot be read: {error.message}"]


def _file(
    server: MlflowServer, root: str, content: Mapping[str, Any], limit: int
) -> tuple[Path, list[Path], Conversion | None]:
    """The model's file, what belongs to it, and how it becomes ONNX if it is none."""
    flavors = content.get("flavors")
    flavors = flavors if isinstance(flavors, dict) else {}
    onnx, pytorch = flavors.get("onnx"), flavors.get("pytorch")
    if isinstance(onnx, dict):
        path, external = _onnx(server, f"{root}/{_inner(onnx.get('data'), 'model.onnx')}", limit)
        return path, external, None
    if isinstance(pytorch, dict):
        folder = f"{root}/{_inner(pytorch.get('model_data'), 'data')}"
        path, conversion = _pytorch(server, folder, limit)
        return path, [], conversion
    kinds = ", ".join(sorted(map(str, flavors))) or "none"
    raise RejectedModelError(f"its flavors are {kinds}; read are onnx and pytorch")


def _onnx(server: MlflowServer, file: str, limit: int) -> tuple[Path, list[Path]]:
    """An ONNX file; with external data, it and its files lie together in a folder of their own."""
    path = server.file(file, limit)
    locations = dict.fromkeys(extent.location for extent in extents(read_model(path)))
    if not locations:
        return path, []
    origin = f"{server.url}/{file}"
    folder = cache_folder() / "mlflow" / sha256(origin.encode()).hexdigest()[:32]
    model = _beside(path, folder / path.name)
    left = limit - path.stat().st_size
    for location in locations:
        check_location(location)
        part = server.file(f"{file.rpartition('/')[0]}/{location}", left)
        left -= part.stat().st_size
        _beside(part, folder / location)
    return model, external_files(model, max_size=limit)


def _pytorch(server: MlflowServer, folder: str, limit: int) -> tuple[Path, Conversion]:
    """An exported program or TorchScript; a pickled module is refused unopened."""
    names = server.names(folder)
    if EXPORTED in names:
        return server.file(f"{folder}/{EXPORTED}", limit), Conversion("pt2")
    if PICKLED in names:
        path = server.file(f"{folder}/{PICKLED}", limit)
        if _is_torchscript(path):
            return path, Conversion("torchscript")
        raise RejectedModelError(
            "a pickled PyTorch module: opening it would run whatever code is in it; log it with "
            "mlflow.pytorch.log_model(..., serialization_format='pt2', input_example=...)"
        )
    raise RejectedModelError(f"its flavor is pytorch, but it has no {EXPORTED} and no {PICKLED}")


def _is_torchscript(path: Path) -> bool:
    """By the names in the archive: TorchScript carries its code as text, a pickle has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return any(re.fullmatch(r"[^/]+/code/.*\.py", name) for name in names)


def _beside(file: Path, target: Path) -> Path:
    """A copy of `file` as `target`, made once; no link, because onnx takes none for weights."""
    state = file.stat()
    if target.is_file():
        known = target.stat()
        if (known.st_size, known.st_mtime_ns) == (state.st_size, state.st_mtime_ns):
            return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    shutil.copy2(file, part)
    return part.replace(target)


def _inner(stated: object, usual: str) -> str:
    """A path inside a model's folder. Raises RejectedModelError if it leads out of it."""
    path = stated if isinstance(stated, str) and stated else usual
    try:
        check_location(path)
    except RejectedModelError as error:
        raise RejectedModelError(
            f"{MLMODEL} names a file outside of its folder: {path[:100]!r}"
        ) from error
    return path


def _mlmodel(content: bytes) -> Mapping[str, Any]:
    """The description MLflow keeps beside each model, a YAML mapping."""
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            "MLflow describes models in YAML, and there is no library to read it",
            hint="pip install 'sommelier-db[mlflow]'",
        ) from error
    loader = yaml.SafeLoader(content)
    loader.flatten_mapping = lambda _: None  # merges (<<) double in size at each nested level
    try:
        found = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RejectedModelError(f"{MLMODEL} is no YAML: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise RejectedModelError(f"{MLMODEL} is no mapping")
    return found


# ---- which versions a location means


def _find(locations: tuple[str, ...], options: Mapping[str, object]) -> list[_Found]:
    """The versions at all locations, each once. Raises ConnectorError if a location has none."""
    if not locations:
        raise ConnectorError(
            "IMPORT FROM mlflow needs a server or a model",
            hint="FROM mlflow 'http://127.0.0.1:5000', or FROM mlflow 'digits@champion' "
            "USING tracking_uri = 'http://127.0.0.1:5000'",
        )
    found: dict[str, _Found] = {}
    for location in locations:
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
    uri = opt.text(options, "tracking_uri") or os.environ.get(URI)
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
