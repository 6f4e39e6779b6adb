"""The REST API of an MLflow tracking server, as far as reading its model registry needs it.

Nothing of the mlflow package is needed: the API is HTTP and JSON. Credentials in an address go to
that server. Those in the variables of the mlflow client go to one server only, however many are
named: that of $MLFLOW_TRACKING_URI, or where this is not set, the one that `tracking_uri` names.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit, urlunsplit

from sommelier.connectors.downloads import DownloadLimits, download
from sommelier.connectors.web import (
    NothingThereError,
    check_scheme,
    parts_of,
    read,
    read_json,
    shown,
)
from sommelier.errors import ConnectorError, RejectedModelError

URI, TOKEN, USERNAME, PASSWORD = (
    f"MLFLOW_TRACKING_{name}" for name in ("URI", "TOKEN", "USERNAME", "PASSWORD")
)
PAGE_SIZE = 100
MAX_PAGES = 1000  # a server that always promises another page must not hold us forever
PROXY = "/api/2.0/mlflow-artifacts/artifacts"
_PROMPT = "mlflow.prompt.is_prompt"  # registered like a model, but a text


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A name of the registry. aliases : {alias: version}."""

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a registered model, or a logged model; run_id and model_id say what logged it,
    where known. experiment, files : of a logged model, the URI of its folder."""

    name: str
    version: str
    created_ms: int | None
    description: str
    stage: str | None
    status: str
    run_id: str | None
    model_id: str | None
    tags: Mapping[str, str] = field(default_factory=dict)
    experiment: str | None = None
    files: str | None = None


@dataclass(frozen=True, slots=True)
class LoggedMetric:
    """A number somebody logged, with the dataset where it was said."""

    key: str
    value: float
    dataset: str | None


@dataclass(frozen=True, slots=True)
class Logged:
    """What the run or logged model behind a version says."""

    metrics: tuple[LoggedMetric, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


class MlflowServer:
    """One server, by its tracking URI. Holds its address and credentials, nothing else."""

    def __init__(self, uri: str, home: str | None = None) -> None:
        """home : the server that the credentials of the environment are for.

        Raises ConnectorError unless `uri` is an http(s) address.
        """
        check_scheme(uri, uri)
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        at_home = home is not None and _origin(parts) == _origin(parts_of(home))
        self._headers = _credentials(parts, os.environ if at_home else {})

    def models(self) -> Iterator[RegisteredModel]:
        """All registered models, in the order of their names."""
        found = [_model(item) for item in self._search("registered-models", "registered_models")]
        yield from sorted(
            (m for m in found if m.tags.get(_PROMPT) != "true"), key=lambda model: model.name
        )

    def model(self, name: str) -> RegisteredModel | None:
        """The model of that name, None if the registry has none."""
        found = self._search("registered-models", "registered_models", _named(name))
        return next((model for item in found if (model := _model(item)).name == name), None)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, the oldest first."""
        found = map(_version, self._search("model-versions", "model_versions", _named(name)))
        return sorted(
            (version for version in found if version.name == name),
            key=lambda version: (len(version.version), version.version),
        )

    def logged_model(self, model_id: str) -> ModelVersion | None:
        """A logged model, registered or not, by its id; None if the server has none."""
        try:
            answer = self._get(f"logged-models/{quote(model_id, safe='')}", {})
        except NothingThereError:
            return None
        info = _object(_object(answer, "model"), "info")
        return ModelVersion(
            _text(info, "name") or model_id,
            model_id,
            _whole(info.get("creation_timestamp_ms")),
            "",
            None,
            (_text(info, "status") or "READY").removeprefix("LOGGED_MODEL_"),
            _text(info, "source_run_id"),
            model_id,
            experiment=_text(info, "experiment_id") or "",
            files=_text(info, "artifact_uri") or "",
        )

    def root(self, version: ModelVersion) -> str:
        """The path of a version's folder, for `small`, `file` and `names`.

        Raises RejectedModelError if this server does not hand out the files.
        """
        uri = version.files
        if uri is None:
            asked = {"name": version.name, "version": version.version}
            uri = _text(self._get("model-versions/get-download-uri", asked), "artifact_uri") or ""
        path = _proxied(uri, urlsplit(self.url).netloc)
        if path is None:
            raise RejectedModelError(
                f"its files are at {shown(uri)}, which this server does not hand out: "
                "`mlflow server --serve-artifacts` does; from a disk, use FROM folder"
            )
        return path

    def small(self, path: str, limit: int) -> bytes:
        """A small file's bytes. Raises ConnectorError."""
        return read(f"{self.url}{PROXY}/{quote(path)}", headers=self._headers, limit=limit)

    def file(self, path: str, limit: int) -> Path:
        """A file in the cache. Raises ConnectorError."""
        limits = DownloadLimits(bytes=limit)
        url = f"{self.url}{PROXY}/{quote(path)}"
        return download(url, headers=self._headers, limits=limits)

    def names(self, path: str) -> list[str]:
        """What a folder holds, by name. Raises ConnectorError."""
        url = f"{self.url}{PROXY}?{urlencode({'path': path})}"
        found = _list(read_json(url, headers=self._headers), "files")
        return [text.rpartition("/")[2] for item in found if (text := _text(item, "path"))]

    def logged(self, version: ModelVersion) -> Logged:
        """Metrics of the logged model behind a version, else of its run; tags of both."""
        run: Mapping[str, Any] = {}
        model: Mapping[str, Any] = {}
        if version.run_id is not None:
            run = _object(_object(self._get("runs/get", {"run_id": version.run_id}), "run"), "data")
        if version.model_id is not None:
            model = _object(self._get(f"logged-models/{quote(version.model_id)}", {}), "model")
        metrics = _metrics(_object(model, "data")) or _metrics(run)
        return Logged(metrics, {**_tags(run), **_tags(_object(model, "info"))})

    def _search(self, what: str, key: str, condition: str | None = None) -> Iterator[Any]:
        asked = {"max_results": str(PAGE_SIZE), **({"filter": condition} if condition else {})}
        for _ in range(MAX_PAGES):
            answer = self._get(f"{what}/search", asked)
            yield from _list(answer, key)
            token = _text(answer, "next_page_token")
            if not token:
                return
            asked["page_token"] = token
        raise ConnectorError(f"{shown(self.url)} has more than {MAX_PAGES * PAGE_SIZE} {what}")

    def _get(self, method: str, asked: Mapping[str, str]) -> Mapping[str, Any]:
        url = f"{self.url}/api/2.0/mlflow/{method}" + (f"?{urlencode(asked)}" if asked else "")
        answer = read_json(url, headers=self._headers)
        if not isinstance(answer, dict):
            raise ConnectorError(f"{shown(url)} does not answer as an MLflow server does")
        return answer


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port, which make two addresses the same server."""
    scheme = parts.scheme.lower()
    return scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(scheme)


def _credentials(parts: SplitResult, variables: Mapping[str, str]) -> dict[str, str]:
    """The header that logs us in: by the address, else by the variables; {} where neither does."""
    token = variables.get(TOKEN)
    if parts.username is None and token:
        return {"Authorization": f"Bearer {token}"}
    user = variables.get(USERNAME) if parts.username is None else unquote(parts.username)
    if not user:
        return {}
    password = parts.password
    secret = variables.get(PASSWORD, "") if password is None else unquote(password)
    encoded = base64.b64encode(f"{user}:{secret}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def _named(name: str) -> str:
    mark = '"' if "'" in name else "'"
    if mark in name:
        raise ConnectorError(f"no registered model is called {name!r}: it has both quotation marks")
    return f"name = {mark}{name}{mark}"


def _proxied(uri: str, host: str) -> str | None:
    """The path behind the server's own artifact proxy; None for any other place."""
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme == "mlflow-artifacts" and parts.netloc in ("", host):
        path = path.removeprefix(PROXY).strip("/")
    elif parts.scheme in ("http", "https") and parts.netloc == host and f"{PROXY}/" in path:
        path = path.partition(f"{PROXY}/")[2].strip("/")
    else:
        return None
    return path if path and ".." not in path.split("/") else None


def _model(item: Any) -> RegisteredModel:
    aliases = {_text(a, "alias") or "": _text(a, "version") or "" for a in _list(item, "aliases")}
    name = _text(item, "name")
    if name is None:
        raise ConnectorError("the server answers with a registered model without a name")
    return RegisteredModel(name, _text(item, "description") or "", _tags(item), aliases)


def _version(item: Any) -> ModelVersion:
    name, version = _text(item, "name"), _text(item, "version")
    if name is None or version is None:
        raise ConnectorError("the server answers with a model version without name or number")
    model = re.fullmatch(r"models:/(m-\w+)/?", _text(item, "source") or "")
    return ModelVersion(
        name,
        version,
        _whole(item.get("creation_timestamp")),
        _text(item, "description") or "",
        _text(item, "current_stage"),
        _text(item, "status") or "READY",
        _text(item, "run_id"),
        model[1] if model else None,
        _tags(item),
    )


def _metrics(data: Any) -> tuple[LoggedMetric, ...]:
    """The last value of each metric on each dataset; NaN and infinity are left out."""
    last: dict[tuple[str, str | None], tuple[tuple[int, int], float]] = {}
    for item in _list(data, "metrics"):
        key, value = _text(item, "key"), item.get("value")
        if key is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        when = (_whole(item.get("step")) or 0, _whole(item.get("timestamp")) or 0)
        context = (key, _text(item, "dataset_name"))
        possible = abs(value) <= sys.float_info.max  # an integer of JSON may have any size
        if possible and (context not in last or when >= last[context][0]):
            last[context] = (when, float(value))
    return tuple(LoggedMetric(k, value, data) for (k, data), (_, value) in last.items())


def _whole(value: Any) -> int | None:
    """A number of at most 18 digits, which the API writes as text; None for anything else."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _tags(item: Any) -> dict[str, str]:
    return {
        key: _text(tag, "value") or "" for tag in _list(item, "tags") if (key := _text(tag, "key"))
    }


def _object(item: Any, key: str) -> Mapping[str, Any]:
    value = item.get(key) if isinstance(item, dict) else None
    return value if isinstance(value, dict) else {}


def _list(item: Any, key: str) -> list[Mapping[str, Any]]:
    value = item.get(key) if isinstance(item, dict) else None
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _text(item: Any, key: str) -> str | None:
    value = item.get(key) if isinstance(item, dict) else None
    return str(value) if isinstance(value, str | int) and str(value) else None
