"""Handles of TF-Hub and Kaggle Models, and how what they name comes to this machine.

A TF-Hub handle is an address; a GET with `tf-hub-format=compressed` gives a tar of the SavedModel,
directly or through redirects (tensorflow.org/hub/hosting). What tensorflow_hub has in its own
cache, $TFHUB_CACHE_DIR, is taken from there. A Kaggle handle is owner/model/framework/variation,
perhaps with /version, and fetched by kagglehub, which has a cache of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sommelier.connectors import kaggle
from sommelier.connectors.archives import ArchiveLimits, unpacked
from sommelier.connectors.downloads import DownloadLimits, download
from sommelier.connectors.formats import TENSORFLOW
from sommelier.connectors.web import NothingThereError, parts_of, shown
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.storage.cache import cache_folder

ENDPOINT = "https://tfhub.dev"
HUB_CACHE = "TFHUB_CACHE_DIR"  # of tensorflow_hub
FRAMEWORKS = frozenset(
    {
        "tensorflow1", "tensorflow2", "tflite", "keras", "tfjs", "pytorch", "jax", "flax",
        "transformers", "gemmacpp", "coral", "paxml", "maxtext", "scikitlearn", "onnx", "other",
    }
)  # fmt: skip
"""Third word of a Kaggle handle, in any case; that is how it differs from one of TF-Hub."""
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
_TFLITE = b"TFL3"  # at byte 4
FILES = tuple(TENSORFLOW)
_PACKED = (".tar.gz", ".tgz", ".tar", ".zip")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Handle:
    """What a location names. kind : 'folder', 'hub' or 'kaggle'; text : the path, address or handle
    for people and the catalog. name, version : of its models, '' and None for a folder. url : of a
    hub's, with its query and user, which may be secrets."""

    kind: str
    text: str
    name: str = ""
    version: str | None = None
    url: str = field(default="", repr=False)


def parsed(location: str, endpoint: str) -> Handle:
    """The handle a location is. Raises ConnectorError if it can be none."""
    path = Path(location).expanduser()
    if "://" in location:
        return _address(location)
    if path.exists():
        return Handle("folder", str(path))
    words = location.split("/")
    plain = len(words) > 1 and all(map(_WORD.fullmatch, words))
    if not plain or path.suffix.lower() in (*FILES, ".pb"):
        raise ConnectorError(
            f"there is no '{location}' (in {Path.cwd()})",
            hint="a handle reads 'google/imagenet/mobilenet_v2_100_224/classification/5'",
        )
    if len(words) in (4, 5) and words[2].lower() in FRAMEWORKS:
        return _kaggle(words)
    return _address(f"{endpoint.rstrip('/')}/{location}")


def fetched(handle: Handle, max_size: int) -> Path:
    """The file or folder that a handle names, on this machine.

    Raises RejectedModelError for a dead link and for what is no model, ConnectorError if the
    server cannot be used, MissingDependencyError without kagglehub.
    """
    if handle.kind == "folder":
        return Path(handle.text)
    if handle.kind == "kaggle":
        return kaggle.fetched(handle.text, max_size)
    return _in_hub_cache(handle.url) or _from_hub(handle, max_size)


def _address(url: str) -> Handle:
    parts = parts_of(url)
    words = [word for word in parts.path.split("/") if word]
    if parts.scheme not in ("http", "https") or not parts.netloc or not words:
        raise ConnectorError(
            f"'{shown(url)}' is no address of a model", hint="https://tfhub.dev/a/b/1"
        )
    if parts.netloc in ("kaggle.com", "www.kaggle.com") and words[0] == "models":
        page = [w for w in words[1:] if w not in ("frameworks", "variations", "versions")]
        if len(page) not in (4, 5):
            raise ConnectorError(
                f"'{shown(url)}' does not say which variation of the model",
                hint="https://www.kaggle.com/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION",
            )
        return _kaggle(page)
    version = words.pop() if len(words) > 1 and words[-1].isdigit() else None
    for suffix in (*_PACKED, *FILES):
        words[-1] = words[-1].removesuffix(suffix)
    return Handle("hub", shown(url), "/".join(words), version, url)


def _kaggle(words: list[str]) -> Handle:
    version = words[4] if len(words) == 5 else None
    if version is not None and not version.isdigit():
        raise ConnectorError(f"'{version}' is no version of a model on Kaggle: it is a number")
    return Handle("kaggle", "/".join(words), "/".join(words[:4]), version)


def _in_hub_cache(url: str) -> Path | None:
    """What tensorflow_hub has fetched from this address; None if it has not."""
    cache = os.environ.get(HUB_CACHE)
    if not cache:
        return None
    folder = (
        Path(cache).expanduser() / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    )
    return folder if folder.is_dir() else None


def _from_hub(handle: Handle, max_size: int) -> Path:
    try:
        file = download(_compressed(handle.url), limits=DownloadLimits(bytes=max_size))
    except NothingThereError as error:
        raise RejectedModelError(f"a dead link: {error.message}", hint=_moved(handle)) from error
    with file.open("rb") as content:
        head = content.read(64)
    if _WEB_PAGE.match(head):
        raise RejectedModelError(
            f"a dead link: {handle.text} leads to a web page, not to a model", hint=_moved(handle)
        )
    if head[4:8] == _TFLITE or urlsplit(handle.url).path.lower().endswith(FILES):
        return file
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    folder = cache_folder() / "models" / digest[:32]
    return unpacked(file, folder, limits=ArchiveLimits(bytes=max_size))


def _compressed(url: str) -> str:
    """The address of the tar of a model, unless it says already what it wants to be."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.path.lower().endswith((*_PACKED, *FILES)):
        return url
    if not any(name in query for name in ("tf-hub-format", "lite-format")):
        query["tf-hub-format"] = "compressed"
    return urlunsplit(parts._replace(query=urlencode(query)))


def _moved(handle: Handle) -> str:
    last = PurePosixPath(handle.name).name
    return (
        "models of tfhub.dev have moved to Kaggle: look for "
        f"'{last}' there and give its handle, owner/model/tensorFlow2/variation/version"
    )
