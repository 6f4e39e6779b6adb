"""The Hugging Face Hub through its own client, whose errors become ours.

HF_ENDPOINT names another hub, HF_TOKEN or `hf auth login` says who is asking.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sommelier import __version__
from sommelier.connectors.naming import printable
from sommelier.errors import ConnectorError, MissingDependencyError, SommelierError, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

ENDPOINT_VARIABLE = "HF_ENDPOINT"
HUB = "https://huggingface.co"
INFO_SECONDS = 30.0


class MissingRepositoryError(ConnectorError):
    """There is no such repository or revision, or not for us."""


class Hub:
    """One endpoint; nothing is asked before a method is called."""

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = (endpoint or os.environ.get(ENDPOINT_VARIABLE) or HUB).rstrip("/")
        if not self.endpoint.startswith(("https://", "http://")):
            raise ConnectorError(f"'{printable(self.endpoint)}' is not the address of a hub")

    def info(self, repository: str, revision: str | None) -> ModelInfo:
        """Everything the hub states of a repository, with sizes and hashes of its files.

        Raises MissingRepositoryError, or ConnectorError for any other refusal.
        """
        with self._errors(repository if revision is None else f"{repository}@{revision}"):
            info = self._api.model_info(
                repository, revision=revision, files_metadata=True, timeout=INFO_SECONDS
            )
        if not _sane(info):
            raise ConnectorError(f"what {self.endpoint} says of '{repository}' makes no sense")
        return info

    def search(self, filters: Mapping[str, Any], expand: list[str]) -> Iterator[ModelInfo]:
        """Repositories that pass the hub's own filters, most downloaded first, page by page."""
        with self._errors("the search"):
            found = self._api.list_models(**filters, sort="downloads", expand=expand)  # type: ignore[arg-type]  # names the client lists as a Literal
            yield from filter(_sane, found)

    def url(self, repository: str, commit: str, file: str) -> str:
        """Where a file of a commit lies."""
        from huggingface_hub import hf_hub_url

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

    @cached_property
    def _api(self) -> HfApi:
        try:
            from huggingface_hub import HfApi  # a second where the disk is cold
        except ImportError as error:
            raise MissingDependencyError(
                "connector 'huggingface' needs the hub's client, which is not installed",
                hint="pip install 'sommelier-db[hf]'",
            ) from error
        return HfApi(endpoint=self.endpoint, library_name="sommelier", library_version=__version__)

    @contextmanager
    def _errors(self, asked: str) -> Iterator[None]:
        """Whatever the client raises, which for a hostile answer may be anything, as our error."""
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
                hint=f"accept its terms at {self.endpoint}/{asked}, then hf auth login",
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
            return ConnectorError(
                f"'{asked}' cannot be looked up offline", hint="unset HF_HUB_OFFLINE"
            )
        if isinstance(error, errors.HfHubHTTPError):
            return _refused(error, asked, at)
        return ConnectorError(
            f"{asked} {at} cannot be read: {first_line(error)}",
            hint=f"check the network and {ENDPOINT_VARIABLE}",
        )


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
        isinstance(tags, list)
        and all(isinstance(text, str) for text in (*tags, *names))
        and all(text is None or isinstance(text, str) for text in words)
        and all(n is None or (type(n) is int and n >= 0) for n in numbers)
    )


def _refused(error: Any, asked: str, at: str) -> ConnectorError:
    status = error.response.status_code
    message = f"'{asked}' {at}: {first_line(error)}"
    if status == 429:
        wait = error.response.headers.get("Retry-After", "")
        when = f"in {wait} s" if wait.isdigit() else "later"
        return ConnectorError(message, hint=f"too many requests: try again {when}; a token helps")
    if status in (401, 403):
        return ConnectorError(message, hint="hf auth login, with a token that may read it")
    return ConnectorError(message, hint="try again later")
