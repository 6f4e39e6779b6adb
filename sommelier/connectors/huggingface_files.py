"""The ONNX files of a repository on the Hugging Face Hub: which there are, how they come here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sommelier.connectors import contents
from sommelier.connectors.archives import check_member
from sommelier.connectors.assembling import assembled
from sommelier.connectors.base import Progress
from sommelier.connectors.downloads import DownloadLimits, download, placed
from sommelier.connectors.huggingface_client import Hub
from sommelier.connectors.huggingface_variants import Role, is_variant, roles
from sommelier.connectors.naming import distinct_names, printable
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.storage.cache import cache_folder
from sommelier.storage.external_data import too_large

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

DEFAULT_VARIANT = "default"
EVERY_VARIANT = "all"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit. sha256 : of its content where the hub stores it apart (LFS);
    blob : git's SHA-1 of it where not."""

    path: str
    size: int | None
    sha256: str | None
    blob: str | None

    @property
    def digest(self) -> str:
        """The hash that is stated of its content; '' where none is."""
        return (self.sha256 or self.blob or "").lower()


@dataclass(frozen=True, slots=True)
class HubModel:
    """An ONNX file and the name it gets."""

    name: str
    file: HubFile
    role: Role


def files_of(info: ModelInfo) -> dict[str, HubFile]:
    """{path: file} of a commit; the hub sorts them by path."""
    found = {}
    for sibling in info.siblings or ():
        lfs = sibling.lfs
        size = sibling.size if lfs is None else lfs.size
        sha256 = None if lfs is None else lfs.sha256
        blob = sibling.blob_id if lfs is None else None
        found[sibling.rfilename] = HubFile(sibling.rfilename, size, sha256, blob)
    return found


def models_of(repository: str, files: Mapping[str, HubFile]) -> list[HubModel]:
    """The ONNX files of a repository. The only one without a variant has the repository's name if
    it is its model, others the name of the file behind it."""
    found = [file for path, file in files.items() if path.lower().endswith(".onnx")]
    paths = [PurePosixPath(file.path) for file in found]
    told = roles(repository, paths)
    alone = [role.variant for role in told].count(None) == 1
    return [
        HubModel(
            repository if alone and role.variant is None and role.whole else f"{repository}/{name}",
            file,
            role,
        )
        for file, role, name in zip(found, told, distinct_names(paths), strict=True)
    ]


def chosen(
    models: list[HubModel],
    *,
    variant: str = DEFAULT_VARIANT,
    pattern: str | None = None,
    file: str | None = None,
) -> list[HubModel]:
    """The models that an option asks for, of one repository.

    file, else pattern : on the path, takes precedence. A repository of nothing but variants has no
    default, so all of them are taken. Raises RejectedModelError if none is what is asked for.
    """
    if file is not None:
        found = [m for m in models if m.file.path == file]
    elif pattern is not None:
        found = [m for m in models if fnmatchcase(m.file.path, pattern)]
    elif variant == EVERY_VARIANT:
        return models
    elif variant == DEFAULT_VARIANT:
        return [m for m in models if m.role.variant is None] or models
    else:
        found = [m for m in models if is_variant(m.role.variant, variant)]
    if not found:
        wanted = f"variant '{variant}'" if pattern is None else f"file like '{pattern}'"
        wanted = wanted if file is None else f"file '{printable(file)}'"
        there = ", ".join(printable(m.file.path) for m in models[:12])
        raise RejectedModelError(f"has no {wanted}; it has {there or 'no ONNX file'}")
    return found


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of a repository, from which files are fetched into a folder of its own."""

    hub: Hub
    repository: str
    sha: str
    files: Mapping[str, HubFile]
    max_size: int

    @property
    def folder(self) -> Path:
        """Where its files are put, under the paths they have in the repository."""
        return self._repository_folder / self.sha

    def weights_folder(self, names: Iterable[str]) -> Path:
        """A folder for these files and no others: a library takes what it finds beside them."""
        held = sorted((name, self.files[name].digest) for name in names)
        return self._repository_folder / f"weights-{_short_hash(held)}"

    @property
    def _repository_folder(self) -> Path:
        """Of this repository of this hub: another hub may say anything of the same names."""
        name = self.repository.replace("/", "--")[:80]
        whose = _short_hash([self.hub.endpoint, self.repository])
        return cache_folder() / "huggingface" / f"{name}-{whose}"

    def model(self, file: HubFile, progress: Progress | None = None) -> tuple[Path, list[Path]]:
        """An ONNX file with the external data it names, verified; beside that data if it has any,
        else where the cache keeps it.

        Raises ConnectorError if one cannot be had, is not what the hub says, or may not be taken.
        """

        def beside(location: str, left: int) -> Path:
            data = self.files.get(str(PurePosixPath(file.path).parent / location))
            if data is None:
                raise RejectedModelError(f"external data file {location!r} is missing")
            return self.fetched(data, left, progress)

        kept = self.fetched(file, self.max_size, progress)
        target = self.folder / file.path
        return assembled(kept, target, fetch=beside, max_size=self.max_size)

    def fetched(self, file: HubFile, limit: int, progress: Progress | None = None) -> Path:
        """One file, in the cache, fetched unless its content is there, as the hub states it."""
        check_member(file.path)
        if file.size is not None and file.size > limit:
            raise too_large(file.size, limit)
        if (there := self._there(file, limit)) is not None:
            return there
        kept = download(
            self.hub.url(self.repository, self.sha, file.path),
            headers=self.hub.headers(),
            sha256=file.sha256,
            limits=DownloadLimits(bytes=limit),
            progress=progress,
        )
        if file.blob is not None and not contents.has(kept, file.blob):
            raise ConnectorError(
                f"'{printable(file.path)}' has another content than the commit says",
                hint="the file was changed or damaged on the way",
            )
        if file.digest:
            contents.remember(file.digest, kept)
        return kept

    def _there(self, file: HubFile, limit: int) -> Path | None:
        """The same content where it came from another commit or repository: most commits change a
        few files only."""
        kept = contents.known(file.digest)
        if kept is None or kept.stat().st_size > limit:
            return None
        suffix = PurePosixPath(file.path).suffix
        return kept if kept.suffix == suffix else placed(kept, self.folder / file.path)


def _short_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
