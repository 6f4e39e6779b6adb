"""What a location means for OCI registries: a registry, what lies below a path of it, a repository
with all its tags, or one artifact by its tag or digest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from sommelier.connectors import options as opt
from sommelier.connectors.naming import printable
from sommelier.connectors.oci_manifests import Manifest
from sommelier.connectors.oci_registry import (
    NAME,
    TAG,
    Address,
    NoCatalogError,
    OciRegistry,
    RefusedError,
    home_of,
    is_loopback,
)
from sommelier.connectors.search import BusySourceError
from sommelier.connectors.web import NothingThereError, UnreachableError, shown
from sommelier.errors import ConnectorError

PLACE = "registry"
_SCHEME = re.compile(r"(?P<scheme>https?|oci)://(?:(?P<login>[^/]*)@)?", re.IGNORECASE)
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::\d{1,5})?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LATEST, _DOCKER_HUB = "latest", "docker.io"
_EXAMPLE = "FROM oci 'registry.example.org/models/resnet18:v2'"


@dataclass(frozen=True, slots=True)
class Repository:
    """A path of a registry. name : of its models, below the place where there is one."""

    registry: OciRegistry
    path: str
    name: str

    @property
    def where(self) -> str:
        """Host and path."""
        return f"{self.registry.host}/{self.path}"


@dataclass(frozen=True, slots=True)
class Found:
    """An artifact, by all its tags that are known. manifest : None where `refused` says why there
    is none; digest : of what was asked for, where nothing else says it."""

    repository: Repository
    tags: tuple[str, ...]
    manifest: Manifest | None = None
    refused: ConnectorError | None = None
    digest: str = ""

    @property
    def version(self) -> str:
        """A tag that stays, else the beginning of the digest."""
        named = (tag for tag in self.tags if tag != _LATEST)
        return next(named, self.tags[0] if self.tags else self._content[:19])

    @property
    def revision(self) -> str:
        """Where it is, by its digest."""
        tag = f":{self.version}" if self.tags else ""
        return f"{self.repository.where}{tag}{self._content and '@'}{self._content}"

    @property
    def location(self) -> str:
        """What leads to exactly this, whatever the place."""
        return f"oci://{self.revision}"

    @property
    def _content(self) -> str:
        return self.digest if self.manifest is None else self.manifest.digest


@dataclass(frozen=True, slots=True)
class Group:
    """A repository, or what of it was asked for. found : None for all its tags, which nobody has
    looked at yet; tags : the same, where they are known."""

    repository: Repository
    found: tuple[Found, ...] | None = None
    tags: tuple[str, ...] | None = None

    def artifacts(self) -> list[Found]:
        """Each artifact once, under all its tags. Raises ConnectorError if no tags are listed, and
        BusySourceError where the registry answers no more."""
        if self.found is not None:
            return list(self.found)
        repository = self.repository
        tags = repository.registry.tags(repository.path) if self.tags is None else self.tags
        merged: dict[str, Found] = {}
        for tag in tags:
            try:
                found = _told(repository, tag)
            except (NothingThereError, UnreachableError) as error:
                found = Found(repository, (tag,), None, error)
            key = tag if found.manifest is None else found.manifest.digest
            known = merged.get(key, Found(repository, ()))
            merged[key] = Found(
                repository, (*known.tags, *found.tags), found.manifest, found.refused
            )
        return list(merged.values())


@dataclass(frozen=True, slots=True)
class _Asked:
    """A location, taken apart. text : as it was written."""

    text: str
    address: Address
    path: str
    tag: str | None
    digest: str | None
    prefix: str = ""  # of the place, which names of models leave out


class Registries:
    """The registries of one statement, each asked through one client."""

    def __init__(self, options: Mapping[str, object]) -> None:
        """Raises ConnectorError for a place that cannot be one."""
        self._insecure = opt.flag(options, "insecure")
        self._known: dict[Address, OciRegistry] = {}
        text = opt.text(options, PLACE)
        self.place = None if text is None else self._absolute(text.strip(), text, place=True)
        self._home = home_of(None if self.place is None else self.place.address)

    def find(self, locations: tuple[str, ...]) -> list[Group]:
        """What is at all locations, or at the place. Raises ConnectorError if one has nothing."""
        if not locations and self.place is None:
            raise ConnectorError(
                "oci needs a registry or a repository",
                hint=f"{_EXAMPLE}, or USING {PLACE} = 'registry.example.org/models'",
            )
        asked = [self._understood(text) for text in locations]
        if not asked and self.place is not None:
            asked = [self.place]
        groups: dict[str, Group] = {}
        for one in asked:
            for group in self._found(one):
                key = group.found[0].revision if group.found else group.repository.where
                groups.setdefault(key, group)
        return list(groups.values())

    # ---- what a text means

    def _understood(self, text: str) -> _Asked:
        bare = text.strip()
        first, slash, _ = bare.partition("/")
        names_host = bool(slash) and (re.search(r"[.:]", first) or first == "localhost")
        if _SCHEME.match(bare) or names_host or (self.place is None and _is_host(first, slash)):
            return self._absolute(bare, text)
        if self.place is None:
            raise ConnectorError(
                f"which registry has '{printable(text)}'?",
                hint=f"{_EXAMPLE}, or USING {PLACE} = 'registry.example.org/models'",
            )
        prefix = self.place.path
        path, tag, digest = _parts(bare, text)
        whole = f"{prefix}/{path}".strip("/")
        return _Asked(text, self.place.address, whole, tag, digest, prefix)

    def _absolute(self, bare: str, text: str, *, place: bool = False) -> _Asked:
        """A location, or a place, that names its host."""
        match = _SCHEME.match(bare)
        scheme = match["scheme"].lower() if match else ""
        host, _, rest = bare[match.end() if match else 0 :].partition("/")
        if not _HOST.fullmatch(host):
            raise ConnectorError(
                f"'{shown(text)}' names no registry", hint=f"write its host first: {_EXAMPLE}"
            )
        host = host.lower()
        asked_plain = scheme == "http" or (not scheme and self._insecure)
        plain = asked_plain or (scheme in ("", "oci") and is_loopback(host))
        unsafe = plain and not (place or self._insecure or is_loopback(host))
        path, tag, digest = _parts(rest, text) if rest.strip("/") else ("", None, None)
        if place and (tag or digest):
            raise ConnectorError(
                f"{PLACE} is '{shown(text)}', which names one artifact",
                hint=f"name a registry, or a path of it; locations name artifacts: {_EXAMPLE}",
            )
        if host == _DOCKER_HUB and path and "/" not in path and not place:
            path = f"library/{path}"
        address = Address(host, plain, _login(match["login"] if match else None), unsafe)
        prefix = path if place else ""
        home = None if place else self.place
        if home is not None and home.address.host == host and address.login is None:
            same = scheme in ("", "oci") or plain == home.address.plain
            address = home.address if same else address
            prefix = home.path if same else ""
        return _Asked(text, address, path, tag, digest, prefix)

    # ---- what the registry has of it

    def _registry(self, address: Address) -> OciRegistry:
        if address not in self._known:
            self._known[address] = OciRegistry(address, self._home)
        return self._known[address]

    def _found(self, asked: _Asked) -> Iterator[Group]:
        registry = self._registry(asked.address)
        repository = Repository(registry, asked.path, _below(asked.prefix, asked.path))
        if asked.digest is not None or asked.tag is not None:
            yield Group(repository, (_one(repository, asked),))
            return
        refused = None
        if asked.path:
            try:
                tags = registry.tags(asked.path)
            except NothingThereError:
                tags = []
            except RefusedError as error:  # perhaps since it is a folder of repositories
                tags, refused = [], error
            if tags:
                yield Group(repository, None, tuple(tags))
                return
        try:
            listed = _listed(registry, asked)
        except ConnectorError as error:
            raise refused or error from error
        paths = [path for path in listed if not asked.path or path.startswith(f"{asked.path}/")]
        if not paths:
            raise _unknown(registry, asked, listed)
        for path in paths:
            yield Group(Repository(registry, path, _below(asked.prefix, path)))


def _one(repository: Repository, asked: _Asked) -> Found:
    """The artifact of a tag or digest. Raises ConnectorError if it is not there at all; what is
    wrong with one that is there is told of it."""
    try:
        return _told(repository, asked.tag, asked.digest)
    except NothingThereError as error:
        registry, tag = repository.registry, asked.tag
        known = _tags(repository)
        if not known:
            raise _unknown(registry, asked, _catalog(registry)) from error
        what = f"tag '{tag}'" if asked.digest is None else f"digest '{asked.digest}'"
        raise ConnectorError(
            f"there is no '{shown(asked.text)}': {repository.where} has no {what}",
            suggestions=opt.nearest(tag or "", known) if asked.digest is None else (),
            hint=f"its tags are {_some(known)}",
        ) from error


def _told(repository: Repository, tag: str | None, digest: str | None = None) -> Found:
    """An artifact with its manifest, or why that is not taken. Raises NothingThereError,
    UnreachableError and BusySourceError."""
    tags = () if tag is None else (tag,)
    try:
        manifest = repository.registry.manifest(repository.path, digest or tag or "")
    except (NothingThereError, UnreachableError, BusySourceError):
        raise
    except ConnectorError as error:
        return Found(repository, tags, None, error, digest or "")
    return Found(repository, tags, manifest)


def _tags(repository: Repository) -> list[str]:
    try:
        return repository.registry.tags(repository.path)
    except ConnectorError:
        return []


def _catalog(registry: OciRegistry) -> list[str]:
    try:
        return registry.catalog()
    except ConnectorError:
        return []


def _listed(registry: OciRegistry, asked: _Asked) -> list[str]:
    """The catalog. Raises NoCatalogError, which says what else a path might have been."""
    try:
        return registry.catalog()
    except NoCatalogError as error:
        if not asked.path:
            raise
        raise ConnectorError(
            f"there is no repository '{shown(asked.text)}' with tags at {registry.host}, "
            f"and {error.message}",
            hint=error.hint,
        ) from error


def _unknown(registry: OciRegistry, asked: _Asked, known: list[str]) -> ConnectorError:
    below = [_below(asked.prefix, path) for path in known]
    return ConnectorError(
        f"there is no '{shown(asked.text)}': {registry.host} has no repository '{asked.path}'"
        if asked.path
        else f"{registry.host} has no repository at all",
        suggestions=opt.nearest(_below(asked.prefix, asked.path), below),
        hint=f"it has {_some(below)}" if below else "check the path; push a model to it first",
    )


def _parts(text: str, asked: str) -> tuple[str, str | None, str | None]:
    """Path, tag and digest. Raises ConnectorError if they cannot be those of a repository."""
    rest, at, digest = text.strip("/").partition("@")
    folder, slash, last = rest.rpartition("/")
    name, colon, tag = last.partition(":")
    path = f"{folder}{slash}{name}"
    wrong = None
    if not NAME.fullmatch(path):
        lower = NAME.fullmatch(path.lower())
        wrong = "its path must be in lower case" if lower else f"'{path}' is no path"
    elif colon and not TAG.fullmatch(tag):
        wrong = f"'{tag}' is no tag"
    elif at and not _DIGEST.fullmatch(digest):
        wrong = f"'{digest}' is no digest: 'sha256:' and 64 hexadecimal digits"
    if wrong is not None:
        raise ConnectorError(
            f"'{shown(asked)}' names no repository: {printable(wrong)[:200]}",
            hint=f"{_EXAMPLE}, or with '@sha256:...'",
        )
    return path, tag or None, digest or None


def _is_host(first: str, slash: str) -> bool:
    """Whether a text without a place begins with a host: one with a dot or a port, or alone."""
    dotted = "." in first and ":" not in first
    return bool(re.search(r":\d+$", first)) or (not slash and (dotted or first == "localhost"))


def _login(text: str | None) -> tuple[str, str] | None:
    """Name and password of an address."""
    if not text:
        return None
    user, _, password = text.partition(":")
    return unquote(user), unquote(password)


def _below(prefix: str, path: str) -> str:
    return path.removeprefix(f"{prefix}/") if prefix else path


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{', '.join(map(printable, names[:10]))}{rest}"
