"""What a location means for MLflow: a server, models of its registry by name, or a logged model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from sommelier.connectors import options as opt
from sommelier.connectors.mlflow_server import URI, MlflowServer, ModelVersion, RegisteredModel
from sommelier.connectors.naming import printable
from sommelier.connectors.web import check_scheme, shown
from sommelier.errors import ConnectorError

LOGGED_MODEL = re.compile(r"m-[0-9a-f]{32}")  # as MLflow makes them
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_MODEL_PAGE = re.compile(r"/models/([^/]+)(?:/versions/([^/]+))?")
_LOGGED_PAGE = re.compile(rf"/experiments/[^/]+/models/({LOGGED_MODEL.pattern})(?:/.*)?")


@dataclass(frozen=True, slots=True)
class Found:
    """A version to fetch, and where it is registered; a logged model is registered nowhere."""

    server: MlflowServer
    model: RegisteredModel
    version: ModelVersion

    @property
    def label(self) -> str:
        """What it is called among all models of the server."""
        return f"{self.version.name}/{self.version.version}"

    @property
    def revision(self) -> str:
        """Its page in the web interface."""
        version = self.version
        page = f"models/{quote(self.model.name)}/versions/{version.version}"
        if version.experiment is not None:
            page = f"experiments/{quote(version.experiment)}/models/{version.version}"
        return f"{self.server.url}/#/{page}"


def find(locations: tuple[str, ...], options: Mapping[str, object]) -> list[Found]:
    """What is at all locations, each once. Raises ConnectorError if a location has nothing."""
    if not locations and not _uri(options):
        raise ConnectorError(
            "mlflow needs a server or a model",
            hint="FROM mlflow 'http://127.0.0.1:5000', or FROM mlflow 'digits@champion' "
            "USING tracking_uri = 'http://127.0.0.1:5000'",
        )
    found: dict[str, Found] = {}
    for location in locations or ("*",):
        server, asked = _understood(location.strip(), options)
        if LOGGED_MODEL.fullmatch(asked):
            here = [_logged(server, asked)]
        elif "*" in asked:
            here = list(_like(server, asked))
        else:
            here = _named(server, asked)
        if not here:
            raise _unknown(server, asked)
        found.update((item.revision, item) for item in here)
    return list(found.values())


def registered(options: Mapping[str, object]) -> Iterator[Found]:
    """Every version of the registry at `tracking_uri`. Raises ConnectorError."""
    server, _ = _understood("*", options)
    return _like(server, "*")


# ---- the server, and what is asked of it


def _understood(location: str, options: Mapping[str, object]) -> tuple[MlflowServer, str]:
    """The server, and a pattern, 'name', 'name/version', 'name@alias' or a logged model's id."""
    home = os.environ.get(URI) or _uri(options)
    if location.lower().startswith(("http://", "https://")):
        check_scheme(location, location)
        parts = urlsplit(location)
        server = MlflowServer(urlunsplit((*parts[:3], "", "")), home)
        return server, _on_page(parts.fragment.partition("?")[0])
    scheme = _SCHEME.match(location)
    if scheme and scheme[1] != "models":
        raise ConnectorError(
            f"'{shown(location)}' is no location of mlflow",
            hint="name a registered model ('digits/3', 'digits@champion'), a logged one "
            "('models:/m-...'), or the address of a server",
        )
    uri = _uri(options)
    if not uri:
        raise ConnectorError(
            f"which MLflow server has '{printable(location)}'?",
            hint=f"USING tracking_uri = 'http://host:5000', or set {URI}",
        )
    if not uri.lower().startswith(("http://", "https://")):
        raise ConnectorError(
            f"tracking_uri is '{shown(uri)}', not the address of a server",
            hint="`mlflow server` serves a folder or database of runs at an address",
        )
    return MlflowServer(uri, home), location.removeprefix("models:").lstrip("/")


def _uri(options: Mapping[str, object]) -> str | None:
    return opt.address(options, "tracking_uri") or os.environ.get(URI)


def _on_page(fragment: str) -> str:
    """What a page of the web interface is about. Raises ConnectorError if that is no model."""
    page = fragment.rstrip("/")
    if page in ("", "/models"):
        return "*"
    match = _MODEL_PAGE.fullmatch(page) or _LOGGED_PAGE.fullmatch(page)
    if match is None:
        raise ConnectorError(
            f"the page '#{printable(page)[:100]}' of MLflow shows no model",
            hint="pages of models are '#/models/NAME', '#/models/NAME/versions/3' and "
            "'#/experiments/1/models/m-...'",
        )
    return "/".join(unquote(part) for part in match.groups() if part)


# ---- what the server has of it


def _like(server: MlflowServer, pattern: str) -> Iterator[Found]:
    for model in server.models():
        if fnmatchcase(model.name, pattern):
            yield from (Found(server, model, version) for version in server.versions(model.name))


def _logged(server: MlflowServer, model_id: str) -> Found:
    version = server.logged_model(model_id)
    if version is None:
        raise ConnectorError(
            f"the server at {server.url} has no logged model '{model_id}'",
            hint="the page of a model in MLflow shows its id; a deleted one is not found",
        )
    return Found(server, RegisteredModel(version.name, "", {}, {}), version)


def _named(server: MlflowServer, asked: str) -> list[Found]:
    """The versions of one registered model that are asked for; [] if there is no such model.

    Raises ConnectorError if the model is there, but no such alias, stage or version.
    """
    name, slash, wanted = asked.partition("/")
    at = ""
    if not slash:
        name, at, wanted = name.rpartition("@") if "@" in name else (name, "", "")
    model = server.model(name) if name else None
    if model is None:
        return []
    versions = server.versions(name)
    number = wanted
    if at:
        number = _of_alias(server, model, wanted)
    elif wanted.lower() == "latest" and versions:
        number = versions[-1].version
    found = [
        Found(server, model, version)
        for version in versions
        if number in ("", version.version) or number.lower() == (version.stage or "").lower()
    ]
    if not found:
        known = [version.version for version in versions]
        raise ConnectorError(
            f"the registry at {server.url} has no '{printable(asked)}': model "
            f"'{printable(name)}' has no version '{printable(number)}'",
            hint=f"its versions are {_some(known)}" if known else "it has no version at all",
        )
    return found


def _of_alias(server: MlflowServer, model: RegisteredModel, alias: str) -> str:
    """The version an alias stands for. Raises ConnectorError if the model has no such alias."""
    known = list(model.aliases)
    if alias not in known:
        raise ConnectorError(
            f"the registry at {server.url} has no '{printable(f'{model.name}@{alias}')}': model "
            f"'{printable(model.name)}' has no alias '{printable(alias)}'",
            suggestions=opt.nearest(alias, model.aliases),
            hint=f"its aliases are {_some(known)}" if known else "it has no alias at all",
        )
    return model.aliases[alias]


def _unknown(server: MlflowServer, asked: str) -> ConnectorError:
    known = [model.name for model in server.models()]
    return ConnectorError(
        f"the registry at {server.url} has no model '{printable(asked)}'",
        suggestions=opt.nearest(re.split("[/@]", asked)[0], known),
        hint=f"it has {_some(known)}" if known else "it has no registered model at all",
    )


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{', '.join(map(printable, names[:10]))}{rest}"
