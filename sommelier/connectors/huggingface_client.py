"""The Hugging Face Hub through its own client, whose errors become ours.

HF_ENDPOINT names another hub, HF_TOKEN or `hf auth login` says who is asking.
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
from urllib.parse import quote, urljoin, urlsplit

from sommelier import __version__
from sommelier.connectors import huggingface_answers as answers
from sommelier.connectors.naming import printable
from sommelier.connectors.search import BusySourceError
from sommelier.connectors.web import BUSY, TRIES, UnreachableError
from sommelier.errors import ConnectorError, MissingDependencyError, SommelierError, first_line

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

ENDPOINT_VARIABLE = "HF_ENDPOINT"
HUB = "https://huggingface.co"
INFO_SECONDS = 30.0
PATIENCE_SECONDS = 300.0  # for one answer; the hub counts requests in windows of five minutes
MOST = 1 << 63  # of anything that is counted

Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


class MissingRepositoryError(ConnectorError):
    """There is no such repository or revision, or not for us."""


class Hub:
    """One endpoint; nothing is asked before a method is called."""

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = (endpoint or os.environ.get(ENDPOINT_VARIABLE) or HUB).rstrip("/")
        if not self.endpoint.startswith(("https://", "http://")):
            raise ConnectorError(f"'{printable(self.endpoint)}' is not the address of a hub")
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
            get_session,
            hf_raise_for_status,
        )

        ours = urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]
        headers = self.headers() if ours else {}
        response = get_session().get(url, params=asked, headers=headers, timeout=INFO_SECONDS)
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
        """Who asks, with the user's token if there is one."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not in __all__
            build_hf_headers,
        )

        headers: dict[str, str] = build_hf_headers(
            library_name="sommelier", library_version=__version__
        )
        return headers

    @contextmanager
    def _errors(self, asked: str) -> Iterator[None]:
        """Whatever the client raises, which for a hostile answer may be anything, as our error."""
        _check_client()
        try:
            yield
        except SommelierError:
            raise
        except Exception as error:
            raise self._told(error, printable(asked)) from error

    def _told(self, error: Exception, asked: str) -> ConnectorError:
        from huggingface_hub import errors

        at = f"at {self.endpoint}"
        if isinstance(error, errors.GatedRepoError):
            return ConnectorError(
                f"'{asked}' is gated {at}",
                hint=f"accept its terms at {self.endpoint}/{asked.partition('@')[0]}, then "
                "hf auth login",
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return MissingRepositoryError(
                f"there is no model repository '{asked}' {at} (or it is private)",
                hint="write it as owner/name; for a private one: hf auth login",
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
            return _refused(error, asked, at)
        kind = UnreachableError if _of_network(error) else ConnectorError
        return kind(
            f"{asked} {at} cannot be read: {first_line(error)}",
            hint=f"check the network and {ENDPOINT_VARIABLE}",
        )


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
    told = used_up or re.fullmatch(r"(\d{1,9})", response.headers.get("Retry-After", "").strip())
    return 2.0 ** (attempt - 1) if told is None else float(told[1])


def _refused(error: Any, asked: str, at: str) -> ConnectorError:
    status = error.response.status_code
    message = f"'{asked}' {at}: {first_line(error)}"
    if status == 429:
        wait = _wait(error.response, TRIES)
        return BusySourceError(
            message, hint=f"too many requests: try again in {wait:.0f} s; a token helps"
        )
    if status in (401, 403):
        return ConnectorError(message, hint="hf auth login, with a token that may read it")
    return ConnectorError(message, hint="try again later")
