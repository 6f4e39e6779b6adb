"""The Hugging Face Hub through its own client, whose errors become ours.

HF_ENDPOINT names another hub, HF_TOKEN or `hf auth login` says who is asking: that hub, else
huggingface.co, and nobody else is told. An address that a statement names may be anybody's.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urljoin

from sommelier import __version__
from sommelier.connectors import huggingface_answers as answers
from sommelier.connectors.huggingface_transport import answered
from sommelier.connectors.naming import printable
from sommelier.connectors.search import BusySourceError
from sommelier.connectors.web import (
    BUSY,
    TRIES,
    UnreachableError,
    parts_of,
    retry_after,
    shown,
    without_login,
    without_secrets,
)
from sommelier.errors import ConnectorError, MissingDependencyError, SommelierError, first_line

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

ENDPOINT_VARIABLE = "HF_ENDPOINT"
HUB = "https://huggingface.co"
PATIENCE_SECONDS = 300.0  # for one answer; the hub counts requests in windows of five minutes
MOST = 1 << 63  # of anything that is counted

Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


class MissingRepositoryError(ConnectorError):
    """There is no such repository or revision, or not for us."""


class Hub:
    """One endpoint; nothing is asked before a method is called.

    endpoint : its address as it may be shown; a name and password in it go to the hub only.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        own = os.environ.get(ENDPOINT_VARIABLE) or HUB
        address = (endpoint or own).rstrip("/")
        if not address.startswith(("https://", "http://")) or not parts_of(address).hostname:
            raise ConnectorError(f"'{shown(address)}' is not the address of a hub")
        self.endpoint, self._login = without_login(address)
        self._ours = _origin(address) == _origin(own)
        self._days: dict[str, str] = {}

    def info(self, repository: str, revision: str | None) -> ModelInfo:
        """Everything the hub states of a repository, with sizes and hashes of its files; where it
        cannot be reached, what it stated last.

        Raises MissingRepositoryError, BusySourceError, UnreachableError, or ConnectorError for any
        other refusal.
        """
        asked = repository if revision is None else f"{repository}@{revision}"
        try:
            with self._errors(asked):
                answer = self._patiently(partial(self._about, repository, revision)).json()
                info = _info(answer)
        except UnreachableError:
            kept = answers.kept(self.endpoint, repository, revision)
            if kept is None:
                raise
            answer, day = kept
            with self._errors(asked):
                info = _info(answer)
            log.warning("%s is not reached: '%s' is as of %s", self.endpoint, asked, day)
            self._days[f"{info.id}@{info.sha}"] = day
        if not _sane(info):
            raise ConnectorError(f"what {self.endpoint} says of '{repository}' makes no sense")
        if f"{info.id}@{info.sha}" not in self._days:
            answers.keep(self.endpoint, repository, revision, answer)
        return info

    def remarks(self, info: ModelInfo) -> list[str]:
        """Where what is stated is not of now: since when."""
        day = self._days.get(f"{info.id}@{info.sha}")
        return [] if day is None else [f"as {self.endpoint} said on {day}: it was not reached"]

    def search(self, filters: Mapping[str, Any], expand: list[str]) -> Iterator[ModelInfo]:
        """Repositories that pass the hub's own filters, most downloaded first, page by page.

        The client's list_models waits however long it is told to, so the pages are asked for here.
        """
        asked: dict[str, Any] | None = {**filters, "sort": "downloads", "expand": expand}
        with self._errors("the search"):
            url = f"{self.endpoint}/api/models"
            while url:
                page = self._patiently(partial(self._page, url, asked))
                items = page.json()
                for item in items:
                    info = _info(item)
                    if _sane(info):
                        yield info
                following = page.links.get("next", {}).get("url") if items else None
                url, asked = urljoin(url, following) if following else "", None

    def _about(self, repository: str, revision: str | None) -> Any:
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not in __all__
            validate_repo_id,
        )

        validate_repo_id(repository)
        at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
        return self._page(f"{self.endpoint}/api/models/{repository}{at}", {"blobs": True})

    def _page(self, url: str, asked: Mapping[str, Any] | None) -> Any:
        """One answer of the hub's API. A page elsewhere is not told who asks."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not in __all__
            hf_raise_for_status,
        )

        response = answered(url, asked, self._told)
        hf_raise_for_status(response)
        return response

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """What the hub answers, asked again after the time it says while it is busy."""
        from huggingface_hub.errors import HfHubHTTPError

        waited = 0.0
        for attempt in range(1, TRIES + 1):
            try:
                return ask()
            except HfHubHTTPError as error:
                wait = _wait(error.response, attempt)
                if attempt == TRIES or wait is None or waited + wait > PATIENCE_SECONDS:
                    raise
            log.warning("%s asks us to wait %.0f s", self.endpoint, wait)
            time.sleep(wait)
            waited += wait
        raise AssertionError("the last attempt returns or raises")

    def url(self, repository: str, commit: str, file: str) -> str:
        """Where a file of a commit lies. Raises ConnectorError where nothing may be fetched."""
        from huggingface_hub import constants, hf_hub_url

        if constants.HF_HUB_OFFLINE:
            raise UnreachableError(
                f"'{printable(file)}' of '{repository}' is not in the cache, and cannot be fetched "
                "offline",
                hint="unset HF_HUB_OFFLINE",
            )

        return hf_hub_url(repository, file, revision=commit, endpoint=self.endpoint)

    def headers(self) -> dict[str, str]:
        """Who asks: as the address of the hub says, else with the user's token if it is for it."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not in __all__
            build_hf_headers,
        )

        headers: dict[str, str] = build_hf_headers(
            token=None if self._ours and not self._login else False,
            library_name="sommelier",
            library_version=__version__,
        )
        return {**headers, **self._login}

    def _told(self, url: str) -> dict[str, str]:
        """What an address is told of who asks: the hub everything, others nothing."""
        return self.headers() if _origin(url) == _origin(self.endpoint) else {}

    def _login_hint(self) -> str:
        """What to do where a hub wants to know who asks."""
        if self._ours:
            return "hf auth login, with a token that may read it"
        return f"a token goes only to where {ENDPOINT_VARIABLE} leads: set it to {self.endpoint}"

    @contextmanager
    def _errors(self, asked: str) -> Iterator[None]:
        """Whatever the client raises, which for a hostile answer may be anything, as our error."""
        _check_client()
        try:
            yield
        except SommelierError:
            raise
        except Exception as error:
            raise self._as_ours(error, printable(asked)) from error

    def _as_ours(self, error: Exception, asked: str) -> ConnectorError:
        from huggingface_hub import errors

        at = f"at {self.endpoint}"
        if isinstance(error, errors.GatedRepoError):
            return ConnectorError(
                f"'{asked}' is gated {at}",
                hint=f"accept its terms at {self.endpoint}/{asked.partition('@')[0]}, then: "
                f"{self._login_hint()}",
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return MissingRepositoryError(
                f"there is no model repository '{asked}' {at} (or it is private)",
                hint=f"write it as owner/name; for a private one: {self._login_hint()}",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return MissingRepositoryError(
                f"there is no revision '{asked}' {at}",
                hint="a revision is a branch, a tag or a commit of the repository",
            )
        if isinstance(error, errors.HFValidationError):
            return MissingRepositoryError(
                f"'{asked}' is no repository: {first_line(error)}", hint="write it as owner/name"
            )
        if isinstance(error, errors.OfflineModeIsEnabled):
            return UnreachableError(
                f"'{asked}' cannot be looked up offline", hint="unset HF_HUB_OFFLINE"
            )
        if isinstance(error, errors.HfHubHTTPError):
            return self._refused(error, asked)
        kind = UnreachableError if _of_network(error) else ConnectorError
        return kind(
            f"{asked} {at} cannot be read: {without_secrets(first_line(error))}",
            hint=f"check the network and {ENDPOINT_VARIABLE}",
        )

    def _refused(self, error: Any, asked: str) -> ConnectorError:
        status = error.response.status_code
        message = f"'{asked}' at {self.endpoint}: {without_secrets(first_line(error))}"
        if status == 429:
            wait = _wait(error.response, TRIES)
            return BusySourceError(
                message, hint=f"too many requests: try again in {wait:.0f} s; a token helps"
            )
        if status in (401, 403):
            return ConnectorError(message, hint=self._login_hint())
        return ConnectorError(message, hint="try again later")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address: who gets what is sent there."""
    parts = parts_of(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _of_network(error: BaseException | None) -> bool:
    """Whether no answer came: whatever library asks, an OSError is at the bottom of it."""
    while error is not None:
        if isinstance(error, OSError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _info(answer: Any) -> ModelInfo:
    """As the client reads an answer. Raises whatever it raises for nonsense."""
    from huggingface_hub import ModelInfo

    return ModelInfo(**answer)  # type: ignore[no-untyped-call]


def _check_client() -> None:
    try:
        import huggingface_hub  # noqa: F401  # a second where the disk is cold
    except ImportError as error:
        raise MissingDependencyError(
            "connector 'huggingface' needs the hub's client, which is not installed",
            hint="pip install 'sommelier-db[hf]'",
        ) from error


def _sane(info: ModelInfo) -> bool:
    """Whether an answer has the types that the client promises, which it does not check."""
    files, counted = info.siblings or [], info.safetensors
    stored = [file.lfs for file in files if file.lfs is not None]
    numbers = [file.size for file in files] + [lfs.size for lfs in stored]
    numbers += [info.downloads, info.likes]
    words = [info.id, info.sha, info.author, info.pipeline_tag, info.library_name]
    words += [lfs.sha256 for lfs in stored] + [file.blob_id for file in files]
    tags = [] if info.tags is None else info.tags
    names = [file.rfilename for file in files]
    if counted is not None:
        by_dtype: object = counted.parameters
        if not isinstance(by_dtype, dict):
            return False
        names += list(by_dtype)
        numbers += [counted.total, *by_dtype.values()]
    return (
        isinstance(info.id, str)
        and isinstance(tags, list)
        and all(isinstance(text, str) for text in (*tags, *names))
        and all(text is None or isinstance(text, str) for text in words)
        and all(n is None or (type(n) is int and 0 <= n < MOST) for n in numbers)
    )


def _wait(response: Any, attempt: int) -> float | None:
    """Seconds after which a busy hub may be asked again; None if it is not busy."""
    if response.status_code not in BUSY:
        return None
    used_up = re.search(r";\s*r=0\s*;\s*t=(\d{1,9})", response.headers.get("RateLimit", ""))
    text = used_up[1] if used_up else response.headers.get("Retry-After")
    told = retry_after(text)
    return 2.0 ** (attempt - 1) if told is None else told
