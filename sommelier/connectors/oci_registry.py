"""An OCI registry, read only: its catalog, tags, manifests and blobs, each checked by its digest.

Lists and manifests come through oras (oci_transport), blobs through the product's own downloads,
with the authorization that oras got. A login is that of the address, else of the configuration of
docker and oras, which names its host; ORAS_USER and ORAS_PASS are for one registry only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from sommelier.connectors import contents
from sommelier.connectors.downloads import DownloadLimits, download
from sommelier.connectors.naming import printable
from sommelier.connectors.oci_manifests import INDEXES, MANIFESTS, Blob, Manifest, parsed
from sommelier.connectors.web import BUSY, NothingThereError, shown
from sommelier.errors import (
    ConnectorError,
    MissingDependencyError,
    RejectedModelError,
    first_line,
)
from sommelier.storage.external_data import too_large

if TYPE_CHECKING:
    from sommelier.connectors.oci_transport import Answer, Client

HOME = "ORAS_REGISTRY"  # the registry that ORAS_USER and ORAS_PASS are for
PAGE = 1000
MAX_PAGES = 100
CONFIG_BYTES = 1 << 20
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*")


class NoCatalogError(ConnectorError):
    """The registry lists no repositories, or not for us."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a registry is. login : of the address itself, for this registry only.
    downgraded : http where only a location asks for it."""

    host: str
    plain: bool = False
    login: tuple[str, str] | None = None
    downgraded: bool = False


class OciRegistry:
    """One registry; nothing is asked before a method is called."""

    def __init__(self, address: Address, home: str | None = None) -> None:
        """home : the host that the login of the environment is for."""
        self.address, self._home = address, home

    @property
    def host(self) -> str:
        """Its host, and its port where that is said."""
        return self.address.host

    def catalog(self) -> list[str]:
        """The repositories it lists. Raises NoCatalogError where it lists none."""
        try:
            found = self._listed("_catalog", "repositories", "")
        except (RefusedError, NothingThereError, _UnsupportedError) as error:
            raise NoCatalogError(
                f"{self.host} lists no repositories: {error.message}",
                hint=f"name them: FROM oci '{self.host}/path' or '{self.host}/path:tag'",
            ) from error
        return [name for name in found if NAME.fullmatch(name)]

    def tags(self, path: str) -> list[str]:
        """The tags of a repository. Raises NothingThereError if there is none."""
        return [
            tag for tag in self._listed(f"{path}/tags/list", "tags", path) if TAG.fullmatch(tag)
        ]

    def manifest(self, path: str, reference: str) -> Manifest:
        """The manifest of a tag or digest; that of an index of one, in its place.

        Raises NothingThereError if there is none, RejectedModelError if it is not what it should
        be, ConnectorError if it does not come.
        """
        found = self._manifest(path, reference)
        if found.media_type not in INDEXES:
            return found
        if len(found.manifests) != 1:
            digests = ", ".join(f"'@{one}'" for one in found.manifests[:5]) or "none"
            raise RejectedModelError(
                f"it is an index of {len(found.manifests)} manifests, not a model artifact",
                hint=f"name one of them by its digest: {digests}",
            )
        inner = self._manifest(path, found.manifests[0])
        if inner.media_type in INDEXES:
            raise RejectedModelError("it is an index of an index, not a model artifact")
        return inner

    def small(self, path: str, blob: Blob) -> bytes:
        """A blob that is no layer, checked. Raises ConnectorError."""
        if blob.size > CONFIG_BYTES:
            raise RejectedModelError(f"it says it has {blob.size} bytes")
        url = self._blob_url(path, blob)
        answer = self._client.ask(url, path, accept="*/*")
        self._check(answer, url)
        _same(answer.body, blob.digest)
        return answer.body

    def file(self, path: str, blob: Blob, limit: int) -> Path:
        """A layer in the cache, checked. Raises ConnectorError; RejectedModelError where it is too
        large, or is not what the manifest says."""
        if blob.size > limit:
            raise too_large(blob.size, limit)
        kept = contents.known(blob.hexadecimal)
        if kept is None:
            kept = self._fetched(path, blob, limit)
            contents.remember(blob.hexadecimal, kept)
        if kept.stat().st_size != blob.size:
            raise RejectedModelError(
                f"the manifest says that {blob.called} has {blob.size} bytes, it has "
                f"{kept.stat().st_size}"
            )
        return kept

    # ---- requests

    @cached_property
    def _client(self) -> Client:
        transport = _transport()
        address = self.address
        login = address.login
        if login is None and not address.downgraded:
            login = transport.stored_login(address.host)
            if login is None and self._home == address.host:
                login = transport.environment_login()
        client: Client = transport.Client(address.host, plain=address.plain, login=login)
        return client

    def _fetched(self, path: str, blob: Blob, limit: int) -> Path:
        url = self._blob_url(path, blob)
        tags = f"{self._client.url}/v2/{path}/tags/list?n=1"
        try:
            return download(
                url,
                headers=self._client.authorization(path, tags),
                sha256=blob.hexadecimal,
                limits=DownloadLimits(bytes=limit),
            )
        except NothingThereError as error:
            raise RejectedModelError(
                f"the registry has no {blob.called}, which the manifest names ({error.message})",
                hint="push the model again",
            ) from error

    def _blob_url(self, path: str, blob: Blob) -> str:
        return f"{self._client.url}/v2/{path}/blobs/{blob.digest}"

    def _manifest(self, path: str, reference: str) -> Manifest:
        url = f"{self._client.url}/v2/{path}/manifests/{reference}"
        answer = self._client.ask(url, path, accept=", ".join((*MANIFESTS, *INDEXES)))
        self._check(answer, url)
        stated = answer.headers.get("Docker-Content-Digest", "")
        for digest in (reference, stated):
            if digest.startswith("sha256:"):
                _same(answer.body, digest)
        return parsed(answer.body, answer.headers.get("Content-Type", ""))

    def _listed(self, what: str, key: str, path: str) -> Iterator[str]:
        """Every name of a list, over all its pages, each once."""
        url: str | None = f"{self._client.url}/v2/{what}?n={PAGE}"
        names: dict[str, None] = {}
        for _ in range(MAX_PAGES):
            assert url is not None, "the loop ends with the last page"
            answer = self._client.ask(url, path)
            self._check(answer, url)
            page = _names(answer.body, key, url)
            before = len(names)
            names.update(dict.fromkeys(page))
            url = self._next(url, answer.following)
            if url is None or len(names) == before:
                return iter(names)
        raise ConnectorError(
            f"{self.host} lists more than {MAX_PAGES} pages of {key}",
            hint="name what you want: 'host/path:tag'",
        )

    def _next(self, url: str, following: str | None) -> str | None:
        """The next page, which a registry may not have somewhere else: our token goes there."""
        if not following:
            return None
        target = urljoin(url, following)
        if urlsplit(target)[:2] != urlsplit(self._client.url)[:2]:
            raise ConnectorError(
                f"{self.host} has the next page of a list at {shown(target)}",
                hint="no other host is asked for it",
            )
        return target

    def _check(self, answer: Answer, url: str) -> None:
        """Raises ConnectorError for every status but 200."""
        status, where = answer.status, shown(url)
        if status == 200:
            return
        said = _said(answer.body)
        if status in (404, 410):
            raise NothingThereError(f"there is nothing at {where} ({status}{said})")
        if status in (401, 403):
            error = self._client.refused(f"{where} answers {status}{said}")
            hint = f"its login is not sent over http that a location asks for; {error.hint}"
            raise RefusedError(error.message, hint=hint if self.address.downgraded else error.hint)
        if status in (400, 405, 501):
            raise _UnsupportedError(f"{where} answers {status}{said}")
        if status in BUSY:
            raise _transport().busy(where, status, answer.headers)
        raise ConnectorError(f"{where} answers {status}{said}", hint="try again later")


class RefusedError(ConnectorError):
    """401 or 403: not for us."""


class _UnsupportedError(ConnectorError):
    """400, 405 or 501: the registry does not do this."""


def is_loopback(host: str) -> bool:
    """Whether a host, of whatever port, is this machine.

    >>> is_loopback("localhost:5000"), is_loopback("[::1]:5000"), is_loopback("127.evil.org")
    (True, True, False)
    """
    name = re.sub(r":\d+$", "", host).strip("[]")
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def home_of(place: Address | None) -> str | None:
    """The host that the login of the environment is for: $ORAS_REGISTRY, else the place."""
    stated = os.environ.get(HOME)
    if stated:
        return re.sub(r"^https?://", "", stated).partition("/")[0].lower()
    return None if place is None else place.host


def _transport() -> ModuleType:
    """The module that needs oras. Raises MissingDependencyError without it."""
    try:
        from sommelier.connectors import oci_transport
    except ImportError as error:
        raise MissingDependencyError(
            "connector 'oci' needs the client of OCI registries, which is not installed",
            hint="pip install 'sommelier-db[oci]'",
        ) from error
    return oci_transport


def _same(body: bytes, digest: str) -> None:
    found = f"sha256:{sha256(body).hexdigest()}"
    if found != digest:
        raise RejectedModelError(
            f"what the registry answers has another content than it should: {found}, not {digest}",
            hint="it was changed or damaged on the way; nothing of it is kept",
        )


def _names(body: bytes, key: str, url: str) -> list[str]:
    """The names a page lists; of a repository without tags some registries say null."""
    try:
        page = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConnectorError(
            f"{shown(url)} does not answer with JSON: {first_line(error)}",
            hint="is it the host of a registry?",
        ) from error
    found = page.get(key) if isinstance(page, dict) else None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _said(body: bytes) -> str:
    """What a registry says of its refusal, ': TOOMANYREQUESTS: ...'; '' if nothing."""
    try:
        found = json.loads(body)
        first = found["errors"][0]
        words = [str(first[key]) for key in ("code", "message") if first.get(key)]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    return printable(f": {': '.join(words)}")[:200] if words else ""
