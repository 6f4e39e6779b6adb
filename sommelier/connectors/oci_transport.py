"""The client of OCI registries, oras, within bounds. Import this only where a registry is asked.

oras knows the protocol, finds the user's login and trades it for tokens. It would also wait for
minutes where a server fails, read answers of any size, and send a login wherever it is told to; so
its retries are left out and every request passes a gate of ours.
"""

from __future__ import annotations

import base64
import inspect
import io
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import oras.auth
import oras.container
import oras.provider
import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError

from sommelier.connectors.search import BusySourceError
from sommelier.connectors.web import (
    BUSY,
    PATIENCE_SECONDS,
    REDIRECTS,
    TRIES,
    UnreachableError,
    check_redirect,
    gathered,
    retry_after,
    shown,
    without_secrets,
)
from sommelier.errors import ConnectorError, SommelierError, first_line

Login = tuple[str, str]  # user and password

ANSWER_BYTES = 4 << 20  # of a manifest or a list; registries need not keep larger ones
CONNECT_SECONDS = 15.0
FRESH_SECONDS = 45.0  # of a token; it lives for 60 where nothing else is said
DOCKER_HUB = "docker.io"
_DOCKER_HUB_API, _DOCKER_HUB_ENTRY = "registry-1.docker.io", "https://index.docker.io/v1/"
_CHUNK = 1 << 16

logging.getLogger("oras.logger").addHandler(logging.NullHandler())  # what it says, we say


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry answers. following : the address of the next page, where there is one."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    following: str | None


class Client:
    """One registry through oras. plain : http instead of https."""

    def __init__(self, host: str, *, plain: bool, login: Login | None) -> None:
        self.host = host
        address = _DOCKER_HUB_API if host == DOCKER_HUB else host
        self.url = f"{'http' if plain else 'https'}://{address}"
        self._oras = oras.provider.Registry(address, insecure=plain)
        session: requests.Session = self._oras.session
        session.trust_env = False  # or ~/.netrc would log us in where redirects lead
        session.max_redirects = REDIRECTS
        gate = _Gate(address, plain)
        session.mount("https://", gate)
        session.mount("http://", gate)
        self._do = inspect.unwrap(oras.provider.Registry.do_request)  # without its retries
        self._tokens: dict[str, tuple[str, float]] = {}
        self._basic = False
        if login is not None:
            self._oras.auth.set_basic_auth(*login)
        self._greet(login)

    def ask(self, url: str, repository: str, *, accept: str = "application/json") -> Answer:
        """An answer of any status but a refusal of our login, which is ConnectorError, as is none.

        repository : whose token it takes; '' for the registry itself.
        """
        headers = {"Accept": accept}
        with self._errors():
            if self._unlocked:
                self._oras.auth.token = self._token(repository)
                response = self._do(self._oras, url, "GET", headers=headers)
                self._keep(repository)
            elif self._basic:
                response = self._do(self._oras, url, "GET", headers=headers)
            else:
                response = self._oras.session.request("GET", url, headers=headers)
            following = response.links.get("next", {}).get("url")
            return Answer(response.status_code, response.headers, response.content, following)

    def authorization(self, repository: str, url: str) -> dict[str, str]:
        """The header that lets us fetch blobs of a repository. url : of something small in it, by
        which a new token is had where the old one may have run out."""
        if self._unlocked and self._token(repository) is None and repository in self._tokens:
            self.ask(url, repository)
        if self._unlocked:
            token = self._token(repository)
            return {} if token is None else {"Authorization": f"Bearer {token}"}
        return dict(self._oras.auth.get_auth_header()) if self._basic else {}

    def _greet(self, login: Login | None) -> None:
        """Finds out how the registry wants us to log in. ConnectorError if it is no registry."""
        with self._errors():
            response = self._oras.session.request("GET", f"{self.url}/v2/")
        challenge = response.headers.get("Www-Authenticate", "").lower()
        wants_basic = response.status_code == 401 and challenge.startswith("basic")
        self._unlocked = not wants_basic
        if wants_basic and login is not None:
            auth = oras.auth.get_auth_backend("basic", self._oras.session)
            auth.set_basic_auth(*login)  # over what it takes from the environment by itself
            self._oras.auth, self._basic = auth, True
        if response.status_code in BUSY:
            raise busy(shown(f"{self.url}/v2/"), response.status_code, response.headers)
        if response.status_code not in (200, 401, 403):
            raise UnreachableError(
                f"{self.host} is no OCI registry: {shown(self.url)}/v2/ answers "
                f"{response.status_code}",
                hint="write 'host/path:tag', with the host that `docker pull` would take",
            )

    def _token(self, repository: str) -> str | None:
        token, since = self._tokens.get(repository, (None, 0.0))
        return token if time.monotonic() - since < FRESH_SECONDS else None

    def _keep(self, repository: str) -> None:
        token, (known, _) = self._oras.auth.token, self._tokens.get(repository, (None, 0.0))
        if token is not None and token != known:
            self._tokens[repository] = (token, time.monotonic())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever oras raises, which for a hostile answer may be anything, as our error."""
        try:
            yield
        except SommelierError:
            raise
        except requests.exceptions.SSLError as error:
            raise UnreachableError(
                f"{self.host} cannot be reached safely: {_said(error)}",
                hint="a registry without https needs http:// before its host, or "
                "USING insecure = yes",
            ) from error
        except requests.TooManyRedirects as error:
            raise ConnectorError(
                f"{self.host} redirected us more than {REDIRECTS} times",
                hint="the registry may be sending us in circles",
            ) from error
        except (requests.RequestException, HTTPError, OSError) as error:
            if isinstance(error, ValueError):  # an address or a token that makes no sense
                raise self.refused("what it says of its login makes no sense") from error
            raise UnreachableError(
                f"{self.host} cannot be reached: {_said(error)}",
                hint="check the host, the network and the proxy settings",
            ) from error
        except Exception as error:
            raise self.refused(f"it gives us no token ({_said(error)})") from error

    def refused(self, why: str) -> ConnectorError:
        """That the registry does not let us in."""
        return ConnectorError(
            f"{self.host} refuses us: {why.rstrip('.')}",
            hint=f"docker login {self.host}, with an account that may read it; of a repository "
            "that is not there registries say the same",
        )


class _Gate(HTTPAdapter):
    """Lets out what may be asked, and in what is small: no http but to the registry itself, and
    nothing in our network where a registry of the internet leads there."""

    def __init__(self, address: str, plain: bool) -> None:
        super().__init__()
        self._address, self._plain = address, plain

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        url = request.url or ""
        parts = urlsplit(url)
        if parts.scheme != "https" and not (self._plain and parts.netloc == self._address):
            raise ConnectorError(
                f"{self._address} sends us to {shown(url)}, over plain http",
                hint="anyone on the way could read the login or change the answer: it is not asked",
            )
        if parts.netloc != self._address:  # a redirect, or where the registry has tokens made
            check_redirect(f"{'http' if self._plain else 'https'}://{self._address}", url)
        deadline = time.monotonic() + PATIENCE_SECONDS * TRIES
        trusted = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        for attempt in range(1, TRIES + 1):
            response = super().send(
                request,
                stream=True,
                timeout=(CONNECT_SECONDS, PATIENCE_SECONDS),
                verify=trusted,
                proxies=get_environ_proxies(url),
            )
            wait = _wait(response, attempt)
            if wait is None or time.monotonic() + wait > deadline:
                break
            response.close()
            time.sleep(wait)
        return _bounded(response, url, deadline)


def stored_login(host: str) -> Login | None:
    """What the configuration of docker and oras, or its helper, has for exactly this host.

    Raises ConnectorError if the configuration cannot be read.
    """
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    if name not in ("localhost", "127.0.0.1") and re.search("localhost|127.0.0.1", name):
        return None  # oras takes such a host for the machine itself
    asked = oras.container.Container("model", registry=host)
    asked.registry = _DOCKER_HUB_ENTRY if host == DOCKER_HUB else host
    folder = os.environ.get("DOCKER_CONFIG")
    config = Path(folder).expanduser() / "config.json" if folder else None
    try:
        auth = oras.auth.get_auth_backend("token", requests.Session())
        auth.load_configs(asked, configs=[str(config)] if config and config.is_file() else None)
        encoded: Any = getattr(auth, "_basic_auth", None)
        if encoded is None:
            return None
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except Exception as error:  # of whatever a file of anyone's may hold
        raise ConnectorError(
            f"the login for {host} cannot be read: {type(error).__name__}",
            hint=f"look at {config or '~/.docker/config.json'}, or docker login {host}",
        ) from error
    return user, password


def environment_login() -> Login | None:
    """What ORAS_USER and ORAS_PASS say; None unless both do."""
    user, password = os.environ.get("ORAS_USER"), os.environ.get("ORAS_PASS")
    return (user, password) if user and password else None


def busy(where: str, status: int, headers: Mapping[str, str]) -> BusySourceError:
    """That a registry answers nobody as often as we ask."""
    wait = retry_after(headers.get("Retry-After"))
    when = "later" if wait is None else f"in {wait:.0f} s"
    return BusySourceError(
        f"{where} is busy ({status}), asked several times",
        hint=f"try again {when}; who is logged in may ask more often",
    )


def _bounded(response: requests.Response, url: str, deadline: float) -> requests.Response:
    """The answer with its body read, at most ANSWER_BYTES of it. Raises ConnectorError."""
    with response:
        parts = response.raw.stream(_CHUNK, decode_content=True)
        body = gathered(parts, url, limit=ANSWER_BYTES, deadline=deadline)
    response.raw = io.BytesIO(body)
    return response


def _wait(response: requests.Response, attempt: int) -> float | None:
    """Seconds until the request may be repeated; None if it may not."""
    if response.status_code not in BUSY or attempt == TRIES:
        return None
    asked = retry_after(response.headers.get("Retry-After"))
    wait = 2.0 ** (attempt - 1) if asked is None else asked
    return wait if wait <= PATIENCE_SECONDS else None


def _said(error: BaseException) -> str:
    """What went wrong at the bottom of it, without the addresses that libraries repeat."""
    inner: Any = error
    while isinstance(getattr(inner, "reason", None), BaseException):
        inner = inner.reason
    while inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]
        while isinstance(getattr(inner, "reason", None), BaseException):
            inner = inner.reason
    return without_secrets(first_line(inner))
