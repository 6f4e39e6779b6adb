"""Repositories of PyTorch Hub as folders: local ones, and those of GitHub.

What is fetched lies below cache_folder()/torchhub, under the server it came from. What torch.hub
has fetched from GitHub is read where it lies, but nothing is ever added to it: torch.hub trusts
every repository that it finds in its own cache, and nobody has trusted what we only look at.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sommelier.connectors.archives import ArchiveLimits, unpacked
from sommelier.connectors.downloads import DownloadLimits, disk_error, download
from sommelier.connectors.parts import part_folder
from sommelier.connectors.web import NothingThereError, UnreachableError, read_json, shown
from sommelier.errors import ConnectorError, RejectedModelError, reason
from sommelier.storage.cache import cache_folder
from sommelier.storage.zips import opened_zip

GITHUB = "https://github.com"
TOKEN_VARIABLE = "GITHUB_TOKEN"  # torch.hub reads the same one
BRANCHES = ("main", "master")  # where no ref is given, as torch.hub has it
SOURCE_BYTES = 1 << 30  # of a repository's archive, and again unpacked
PAGE = 100  # branches or tags of one answer, the most that GitHub gives
MAX_PAGES = 100

_HANDLE = re.compile(
    r"(?P<owner>[A-Za-z0-9][A-Za-z0-9-]{0,38})/(?P<name>[A-Za-z0-9._-]{1,100})"
    r"(:(?P<ref>[A-Za-z0-9._/-]{1,240}))?"
)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_KINDS = ("heads", "tags")  # a branch before a tag of the same name, as torch.hub has it


@dataclass(frozen=True, slots=True)
class Handle:
    """What names a repository: a folder, or owner, name and ref on GitHub."""

    text: str
    folder: Path | None = None
    owner: str = ""
    name: str = ""
    ref: str | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """A repository on disk. commit : of what was fetched, None where that is not known."""

    folder: Path
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """Where repositories are fetched. reload : asks again even for what has been fetched."""

    endpoint: str = GITHUB
    reload: bool = False

    @property
    def api(self) -> str:
        """Where branches and tags are listed; servers of one's own have it below /api/v3."""
        ours = self.endpoint == GITHUB
        return "https://api.github.com" if ours else f"{self.endpoint}/api/v3"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What we know of a ref that was fetched. tree : folder of its files, by their archive."""

    tree: str
    commit: str | None


def parse_handle(text: str) -> Handle:
    """'owner/name[:ref]', or the path of a folder with a hubconf.py.

    Raises ConnectorError for anything else, and for a folder that does not exist.
    """
    with suppress(OSError, RuntimeError, ValueError):  # too long, '~nobody', a null character
        path = Path(text).expanduser()
        if path.is_dir():
            return Handle(text, path)
    match = _HANDLE.fullmatch(text)
    if match is None or text.startswith((".", "/", "~")) or match["name"] in (".", ".."):
        raise ConnectorError(
            f"there is no repository '{text}' (in {Path.cwd()})",
            hint="write 'owner/name:tag' of a GitHub repository, or a folder with a hubconf.py",
        )
    return Handle(text, None, match["owner"], match["name"], match["ref"])


def checkout(handle: Handle, server: Server) -> Checkout:
    """The repository on disk, fetched if neither we nor torch.hub have it.

    Raises RejectedModelError if it cannot be had, ConnectorError if it cannot be kept.
    """
    if handle.folder is not None:
        return Checkout(handle.folder)
    refs = BRANCHES if handle.ref is None else (handle.ref,)
    for ref in () if server.reload else refs:
        if kept := _kept(handle, ref, server):
            return kept
    kinds = _KINDS[:1] if handle.ref is None else _KINDS
    for ref, full in ((one, full) for one in refs for full in _full_refs(one, kinds)):
        try:
            return _fetched(handle, ref, full, server)
        except NothingThereError as error:
            missing = error
    if handle.ref is not None and _COMMIT.fullmatch(handle.ref):
        commit = _own_commit(handle, handle.ref, server)
        return _fetched(handle, handle.ref, commit, server)
    raise RejectedModelError(
        f"there is no such repository, branch or tag: {missing.message}",
        hint=f"a private one needs {TOKEN_VARIABLE}",
    )


def hub_cache() -> Path:
    """torch.hub's cache: $TORCH_HOME/hub, else below $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("TORCH_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "torch" / "hub"


def authorization(url: str) -> dict[str, str]:
    """The header with the user's token, for addresses of GitHub over https; else none."""
    token, parts = os.environ.get(TOKEN_VARIABLE), urlsplit(url)
    github = parts.netloc == "github.com" or parts.netloc.endswith(".github.com")
    return (
        {"Authorization": f"token {token}"} if token and github and parts.scheme == "https" else {}
    )


def _full_refs(ref: str, kinds: tuple[str, ...]) -> list[str]:
    """What a ref may be, in full: only a bare one would GitHub look for in forks as well."""
    if ref.startswith(tuple(f"refs/{kind}/" for kind in _KINDS)):
        return [ref]
    return [f"refs/{kind}/{ref}" for kind in kinds]


def _own_commit(handle: Handle, sha: str, server: Server) -> str:
    """The commit, in full, that `sha` begins. RejectedModelError unless a branch or tag of this
    very repository is at it: GitHub serves the commits of every fork under the parent's name."""
    where = f"{server.api}/repos/{handle.owner}/{handle.name}"
    try:
        for listed in ("branches", "tags"):
            for commit in _commits(f"{where}/{listed}"):
                if commit.startswith(sha):
                    return commit
    except ConnectorError as error:
        raise RejectedModelError(
            f"whether commit {sha} is of {handle.owner}/{handle.name} or of a fork cannot be "
            f"asked: {reason(error)}",
            hint="a branch or tag need not be asked for",
        ) from error
    raise RejectedModelError(
        f"{handle.owner}/{handle.name} has no branch or tag '{sha}', nor one at that commit",
        hint="a commit may be of a fork: name the fork, or a branch or tag",
    )


def _commits(address: str) -> Iterator[str]:
    """The commits of a list of branches or tags, page after page."""
    for page in range(1, MAX_PAGES + 1):
        url = f"{address}?per_page={PAGE}&page={page}"
        items = read_json(url, headers=authorization(url))
        if not isinstance(items, list):
            raise ConnectorError(f"{shown(address)} does not answer with a list")
        for item in items:
            match item:
                case {"commit": {"sha": str() as commit}}:
                    yield commit
        if len(items) < PAGE:
            return
    raise ConnectorError(f"{shown(address)} has more than {MAX_PAGES * PAGE} items")


def _home(handle: Handle, ref: str, server: Server) -> Path:
    """Our folder of a ref: current.json, and a folder for each archive that it has been."""
    words = "\n".join((server.endpoint, handle.owner, handle.name, ref))
    key = hashlib.sha256(words.encode()).hexdigest()[:16]
    return cache_folder() / "torchhub" / f"{handle.owner}_{handle.name}_{key}"


def _kept(handle: Handle, ref: str, server: Server) -> Checkout | None:
    """What we have fetched of a ref, else what torch.hub has; None if neither has."""
    home = _home(handle, ref, server)
    with suppress(OSError, ValueError, TypeError):  # not there, or not as we write it
        kept = _Kept(**json.loads((home / "current.json").read_text(encoding="utf-8")))
        if (folder := _root(home / kept.tree)) is not None:
            return Checkout(folder, kept.commit)
    theirs = hub_cache() / f"{handle.owner}_{handle.name}_{ref}"
    if server.endpoint != GITHUB or not theirs.is_dir():
        return None
    # torch.hub has own/a:b_c and own/a_b:c in one folder, and either would run as the other
    return None if "_" in handle.name or re.search("[_/]", ref) else Checkout(theirs)


def _fetched(handle: Handle, ref: str, full: str, server: Server) -> Checkout:
    """The archive of a ref, unpacked and kept. Raises NothingThereError if there is none."""
    url = f"{server.endpoint}/{handle.owner}/{handle.name}/zipball/{full}"
    limits = DownloadLimits(bytes=SOURCE_BYTES)
    try:
        archive = download(url, headers=authorization(url), limits=limits)
    except NothingThereError:
        raise
    except ConnectorError as error:
        unreachable = isinstance(error, UnreachableError)
        if isinstance(error.__cause__, OSError) and not unreachable:  # of our disk
            raise
        raise RejectedModelError(f"the repository cannot be fetched: {reason(error)}") from error
    home = _home(handle, ref, server)
    try:
        with archive.open("rb") as content:
            tree = hashlib.file_digest(content, "sha256").hexdigest()[:32]
        limit = ArchiveLimits(bytes=SOURCE_BYTES)
        folder = _root(unpacked(archive, home / tree, limits=limit, skip_links=True))
        if folder is None:
            raise RejectedModelError("its archive is not one folder, as those of GitHub are")
        kept = _Kept(tree, _commit(archive, folder, full))
        with part_folder(home) as part:
            (part / "kept").write_text(json.dumps(asdict(kept)), encoding="utf-8")
            (part / "kept").replace(home / "current.json")
    except OSError as error:
        raise disk_error(error, home) from error
    return Checkout(folder, kept.commit)


def _root(tree: Path) -> Path | None:
    """The one folder of an archive of GitHub; None if it is not one."""
    found = list(tree.iterdir()) if tree.is_dir() else []
    return found[0] if len(found) == 1 and found[0].is_dir() else None


def _commit(archive: Path, folder: Path, full: str) -> str | None:
    """The commit of an archive: its comment says it, as git writes it, or its folder's name."""
    if _COMMIT.fullmatch(full):
        return full
    comment = ""
    if zipfile.is_zipfile(archive):
        with opened_zip(archive) as opened:
            comment = opened.comment.decode("ascii", "replace")
    named = folder.name.rpartition("-")[2]
    return next((text for text in (comment, named) if _COMMIT.fullmatch(text)), None)
