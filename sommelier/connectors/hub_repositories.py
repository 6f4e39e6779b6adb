"""Repositories of PyTorch Hub as folders: local ones, and those of GitHub in torch.hub's own cache.

What torch.hub has fetched is used as it is, without a network; what is fetched here lies where
torch.hub looks for it.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sommelier.connectors.archives import ArchiveLimits, unpacked
from sommelier.connectors.base import Progress
from sommelier.connectors.downloads import DownloadLimits, download
from sommelier.connectors.web import NothingThereError
from sommelier.errors import ConnectorError, RejectedModelError

GITHUB = "https://github.com"
TOKEN_VARIABLE = "GITHUB_TOKEN"  # torch.hub reads the same one
BRANCHES = ("main", "master")  # where no ref is given, as torch.hub has it
SOURCE_BYTES = 1 << 30  # of a repository's archive, and again unpacked

_HANDLE = re.compile(
    r"(?P<owner>[A-Za-z0-9][A-Za-z0-9-]*)/(?P<name>[A-Za-z0-9._-]+)(:(?P<ref>[A-Za-z0-9._/-]+))?"
)


@dataclass(frozen=True, slots=True)
class Handle:
    """What names a repository: a folder, or owner, name and ref on GitHub."""

    text: str
    folder: Path | None = None
    owner: str = ""
    name: str = ""
    ref: str | None = None


def parse_handle(text: str) -> Handle:
    """'owner/name[:ref]', or the path of a folder with a hubconf.py.

    Raises ConnectorError for anything else, and for a folder that does not exist.
    """
    path = Path(text).expanduser()
    match = _HANDLE.fullmatch(text)
    if path.is_dir():
        return Handle(text, path)
    if match is None or text.startswith((".", "/", "~")) or match["name"] in (".", ".."):
        raise ConnectorError(
            f"there is no repository '{text}' (in {Path.cwd()})",
            hint="write 'owner/name:tag' of a GitHub repository, or a folder with a hubconf.py",
        )
    return Handle(text, None, match["owner"], match["name"], match["ref"])


def repository_folder(handle: Handle, *, endpoint: str, progress: Progress | None) -> Path:
    """The repository on disk, fetched from `endpoint` if neither we nor torch.hub have it.

    Raises RejectedModelError if it cannot be had.
    """
    if handle.folder is not None:
        return handle.folder
    refs = BRANCHES if handle.ref is None else (handle.ref,)
    for ref in refs:
        if (kept := _kept_at(handle, ref)).is_dir():
            return kept
    for ref in refs:
        try:
            return _fetched(handle, ref, endpoint, progress)
        except NothingThereError as error:
            missing = error
        except ConnectorError as error:
            raise RejectedModelError(f"the repository cannot be fetched: {error}") from error
    hint = "a private one needs GITHUB_TOKEN"
    raise RejectedModelError(f"there is no such repository or ref ({hint}): {missing}")


def hub_cache() -> Path:
    """torch.hub's cache: $TORCH_HOME/hub, else below $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("TORCH_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "torch" / "hub"


def _kept_at(handle: Handle, ref: str) -> Path:
    """Where torch.hub keeps this ref."""
    return hub_cache() / f"{handle.owner}_{handle.name}_{ref.replace('/', '_')}"


def _fetched(handle: Handle, ref: str, endpoint: str, progress: Progress | None) -> Path:
    """The repository's archive, unpacked into torch.hub's cache."""
    token = os.environ.get(TOKEN_VARIABLE)
    headers = {"Authorization": f"token {token}"} if token else {}
    archive = download(
        f"{endpoint.rstrip('/')}/{handle.owner}/{handle.name}/zipball/{ref}",
        headers=headers,
        limits=DownloadLimits(bytes=SOURCE_BYTES),
        progress=progress,
    )
    home = _kept_at(handle, ref)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=home.parent) as part:
        folder = unpacked(archive, Path(part) / "all", limits=ArchiveLimits(bytes=SOURCE_BYTES))
        roots = list(folder.iterdir())
        if len(roots) != 1 or not roots[0].is_dir():
            raise RejectedModelError("its archive is not one folder, as those of GitHub are")
        return roots[0].rename(home)
