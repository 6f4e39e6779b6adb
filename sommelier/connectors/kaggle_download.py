"""Fetches one model of Kaggle by kagglehub, in a process of its own: HANDLE MAX_BYTES ANSWER_FILE.

kagglehub takes seconds to import and writes to stdout. It joins the names of files that the server
gives to its cache folder unseen, so they are looked at before it is asked to fetch them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sommelier.connectors.kaggle import MODELS, is_taken
from sommelier.connectors.naming import kinds_of
from sommelier.connectors.web import without_secrets
from sommelier.errors import first_line

PAGE = 200  # files asked for at once; a model has a dozen
PAGES = 50


def main(handle: str, max_bytes: int, answer: Path) -> None:
    """Writes {"path": folder}, or {"kind": dead, refused, busy or unsafe, "reason": why}."""
    answer.write_text(json.dumps(_fetched(handle, max_bytes)), encoding="utf-8")


def _fetched(handle: str, max_bytes: int) -> dict[str, str]:
    import kagglehub
    from kagglehub.cache import Cache
    from kagglehub.exceptions import DataCorruptionError, NotFoundError
    from kagglehub.handle import parse_model_handle
    from requests import RequestException

    try:
        known = parse_model_handle(handle)
        cached = Cache().load_from_cache(known) if known.is_versioned() else None
        if cached is not None:
            return {"path": cached}
        handle = _checked(handle, max_bytes)
        return {"path": kagglehub.model_download(handle)}
    except NotFoundError as error:
        return {"kind": "dead", "reason": _said(error)}
    except RequestException as error:
        status = getattr(error.response, "status_code", None)
        kinds = {401: "refused", 403: "refused", 404: "dead", 410: "dead"}
        return {"kind": kinds.get(status or 0, "busy"), "reason": _said(error)}
    except (DataCorruptionError, ValueError) as error:
        return {"kind": "unsafe", "reason": _said(error)}


def _said(error: Exception) -> str:
    return without_secrets(first_line(error))  # storage is asked by signed addresses


def _checked(handle: str, max_bytes: int) -> str:
    """The handle with its version. Raises ValueError for files that may not be fetched, and where
    none of them is a model that is taken."""
    from kagglehub.clients import build_kaggle_client
    from kagglehub.handle import parse_model_handle
    from kagglesdk.models.types.model_api_service import ApiGetModelInstanceRequest

    known = parse_model_handle(handle)
    with build_kaggle_client() as client:
        service = client.models.model_api_client
        version = known.version
        if not version:
            newest = ApiGetModelInstanceRequest()
            newest.owner_slug, newest.model_slug = known.owner, known.model
            newest.instance_slug, newest.framework = known.variation, known.framework_enum()
            version = service.get_model_instance(newest).version_number
        names, size = [], 0
        for file in _files(service, known, version):
            names.append(PurePosixPath(file.name))
            size += _size(file.name, file.size)
            if size > max_bytes:
                raise ValueError(f"its files have {size} bytes, the limit is {max_bytes}")
    if not any(map(is_taken, names)):
        raise ValueError(f"it holds no {MODELS} (it has {kinds_of(names)})")
    return str(known.with_version(version))


def _files(service: Any, known: Any, version: int) -> Iterator[Any]:
    """What Kaggle lists of a version. Raises ValueError if that does not end."""
    from kagglesdk.models.types.model_api_service import ApiListModelInstanceVersionFilesRequest

    asked = ApiListModelInstanceVersionFilesRequest()
    asked.owner_slug, asked.model_slug = known.owner, known.model
    asked.instance_slug, asked.framework = known.variation, known.framework_enum()
    asked.version_number, asked.page_size = version, PAGE
    for _ in range(PAGES):
        page = service.list_model_instance_version_files(asked)
        yield from page.files
        if not page.next_page_token:
            return
        asked.page_token = page.next_page_token
    raise ValueError(f"it has more than {PAGE * PAGES} files")


def _size(name: str, size: int) -> int:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise ValueError(f"it names a file outside of itself: {name[:100]!r}")
    return size


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
