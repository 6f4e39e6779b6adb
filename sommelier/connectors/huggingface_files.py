"""The ONNX files of a repository on the Hugging Face Hub: which there are, and how they come here.

Exporters put several files of one model side by side, told apart by a word at the end of the name:
model.onnx, model_fp16.onnx, model_quantized.onnx. A file without such a word is the model itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sommelier.connectors.archives import check_member
from sommelier.connectors.base import Progress
from sommelier.connectors.downloads import DownloadLimits, download, placed
from sommelier.connectors.huggingface_client import Hub
from sommelier.connectors.naming import distinct_names, printable
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.storage.cache import cache_folder
from sommelier.storage.external_data import extents, external_files, read_model, too_large

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

DEFAULT_VARIANT = "default"
EVERY_VARIANT = "all"
_VARIANT = re.compile(
    r"(?P<base>.+?)_(?P<variant>fp32|fp16|bf16|q8|q4|q4f16|q2f16|int8|uint8|int4|bnb4|quantized"
    r"|optimized|O[1-4]|qu?int8_\w+)",
    re.IGNORECASE,
)
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit. sha256 : of its content where the hub stores it apart (LFS);
    blob : git's SHA-1 of it where not."""

    path: str
    size: int | None
    sha256: str | None
    blob: str | None


@dataclass(frozen=True, slots=True)
class HubModel:
    """An ONNX file and the name it gets."""

    name: str
    file: HubFile
    variant: str | None  # None: the model itself


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
    """The ONNX files of a repository. The only one without a variant has the repository's name,
    others the name of the file behind it."""
    paths = [PurePosixPath(path) for path in files if path.lower().endswith(".onnx")]
    variants = [variant_of(path) for path in paths]
    alone = variants.count(None) == 1
    return [
        HubModel(
            repository if alone and variant is None else f"{repository}/{name}",
            files[str(path)],
            variant,
        )
        for path, variant, name in zip(paths, variants, distinct_names(paths), strict=True)
    ]


def variant_of(path: PurePosixPath) -> str | None:
    """The word that tells a file from others of the same model, in lower case.

    >>> variant_of(PurePosixPath("onnx/model_q4f16.onnx")), variant_of(PurePosixPath("model.onnx"))
    ('q4f16', None)
    """
    match = _VARIANT.fullmatch(path.stem)
    return match["variant"].lower() if match else None


def chosen(
    models: list[HubModel], *, variant: str = DEFAULT_VARIANT, pattern: str | None = None
) -> list[HubModel]:
    """The models that an option asks for, of one repository.

    pattern : on the path, takes precedence. A repository of nothing but variants has no default,
    so all of them are taken. Raises RejectedModelError if models are there, but none is asked for.
    """
    if pattern is not None:
        found = [m for m in models if fnmatchcase(m.file.path, pattern)]
    elif variant == EVERY_VARIANT:
        found = models
    elif variant == DEFAULT_VARIANT:
        found = [m for m in models if m.variant is None] or models
    else:
        found = [m for m in models if m.variant == variant.lower()]
    if models and not found:
        wanted = f"file like '{pattern}'" if pattern is not None else f"variant '{variant}'"
        there = ", ".join(printable(m.file.path) for m in models[:12])
        raise RejectedModelError(f"has no {wanted}; it has {there}")
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
        return cache_folder() / "huggingface" / self.repository.replace("/", "--") / self.sha

    def model(self, file: HubFile, progress: Progress | None = None) -> tuple[Path, list[Path]]:
        """An ONNX file with the external data it names, verified.

        Raises ConnectorError if one cannot be had, is not what the hub says, or may not be taken.
        """
        path, left = self.fetched(file, self.max_size, progress), self.max_size
        left -= path.stat().st_size
        folder = PurePosixPath(file.path).parent
        for location in dict.fromkeys(e.location for e in extents(read_model(path))):
            beside = self.files.get(str(folder / location))
            if beside is None:
                raise RejectedModelError(f"external data file {location!r} is missing")
            left -= self.fetched(beside, left, progress).stat().st_size
        return path, external_files(path, max_size=self.max_size)

    def fetched(self, file: HubFile, limit: int, progress: Progress | None = None) -> Path:
        """One file in `folder`, fetched unless it is there, with the content the hub states."""
        check_member(file.path)
        if file.size is not None and file.size > limit:
            raise too_large(file.size, limit)
        kept = download(
            self.hub.url(self.repository, self.sha, file.path),
            headers=self.hub.headers(),
            sha256=file.sha256,
            limits=DownloadLimits(bytes=limit),
            progress=progress,
        )
        if file.blob is not None and _blob_id(kept) != file.blob:
            raise ConnectorError(
                f"'{printable(file.path)}' has another content than the commit says",
                hint="the file was changed or damaged on the way",
            )
        return placed(kept, self.folder / file.path)


def _blob_id(path: Path) -> str:
    """The name git gives a file's content: SHA-1 of its length and its bytes."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
