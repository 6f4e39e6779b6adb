"""The files of a model in an OCI registry: layers as they are, archives unpacked within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from sommelier.connectors.archives import ArchiveLimits, unpacked
from sommelier.connectors.assembling import assembled
from sommelier.connectors.formats import ONNX
from sommelier.connectors.naming import distinct_names, printable
from sommelier.connectors.oci_locations import Repository
from sommelier.connectors.oci_manifests import Blob, Manifest, Weights, refusal, weights_of
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.storage.cache import cache_folder
from sommelier.storage.external_data import external_files


@dataclass(frozen=True, slots=True)
class ModelFile:
    """An ONNX file of an artifact: a layer, or in an archive `unpacked` to a folder."""

    name: str
    path: PurePosixPath
    layer: Blob | None
    unpacked: Path | None = None


@dataclass(frozen=True, slots=True)
class Brought:
    """A model on this machine, with the files of its external data; or why it is not. alone :
    whether its artifact holds no other."""

    file: ModelFile
    alone: bool
    path: Path | None = None
    external: tuple[Path, ...] = ()
    refused: ConnectorError | None = None


class Files:
    """What one artifact holds; fetched as it is asked for. limit : bytes of a model, all its files
    together, and of what its archives unpack to."""

    def __init__(
        self, repository: Repository, manifest: Manifest, format: str | None, limit: int
    ) -> None:
        """Raises RejectedModelError if the manifest says that there is no model."""
        self.repository, self.manifest, self.limit = repository, manifest, limit
        self.weights: Weights = weights_of(manifest, format)

    def listed(self) -> list[tuple[str, int]]:
        """Name and bytes of each model, as far as the manifest says it."""
        models = self.weights.models
        if len(models) < 2:
            weights = (*self.weights.files.values(), *self.weights.archives)
            return [(self.repository.name, sum(layer.size for layer in weights))]
        sizes = [self.weights.files[str(path)].size for path in models]
        return list(zip(self._names(models), sizes, strict=True))

    def brought(self) -> Iterator[Brought]:
        """Every model; one that cannot be had does not keep the others. Raises ConnectorError if
        that is so for the artifact as a whole."""
        models = self._models()
        alone = len(models) == 1
        for file in models:
            try:
                path, external = self._one(file)
            except ConnectorError as error:
                yield Brought(file, alone, refused=error)
            else:
                yield Brought(file, alone, path, tuple(external))

    def _models(self) -> list[ModelFile]:
        found = self.weights.models
        if found:
            names = self._names(found)
            files = self.weights.files
            return [ModelFile(n, p, files[str(p)]) for n, p in zip(names, found, strict=True)]
        inside = {p: f for p, f in self._unpacked.items() if p.name.lower().endswith(ONNX)}
        if not inside:
            raise refusal(self.manifest.layers, [str(path) for path in self._unpacked])
        names = self._names(list(inside))
        return [
            ModelFile(name, path, None, folder)
            for name, (path, folder) in zip(names, inside.items(), strict=True)
        ]

    def _names(self, paths: list[PurePosixPath]) -> list[str]:
        """The only model has the name of its repository, of several each has its own behind it."""
        if len(paths) == 1:
            return [self.repository.name]
        return [f"{self.repository.name}/{name}" for name in distinct_names(paths)]

    def _one(self, file: ModelFile) -> tuple[Path, list[Path]]:
        """A model's file and those of its external data."""
        if file.unpacked is not None and len(self.weights.archives) == 1:
            path = file.unpacked / file.path
            if not self.weights.files:  # all that it needs lies beside it
                return path, external_files(path, max_size=self.limit)
        kept = self._bring(file.path, self.limit)
        target = cache_folder() / "oci" / self.manifest.digest[-64:][:32] / file.path

        def beside(location: str, left: int) -> Path:
            return self._bring(PurePosixPath(file.path.parent, location), left)

        return assembled(kept, target, fetch=beside, max_size=self.limit)

    def _bring(self, path: PurePosixPath, left: int) -> Path:
        """A file of the artifact, of at most `left` bytes."""
        layer = self.weights.files.get(str(path))
        if layer is not None:
            return self._layer(layer, left)
        folder = self._unpacked.get(path)
        if folder is None:
            known = [*self.weights.files, *map(str, self._unpacked)]
            there = ", ".join(map(printable, known[:8]))
            raise RejectedModelError(
                f"external data file '{printable(str(path))[:100]}' is missing; the artifact has "
                f"{there}",
                hint="push the file of its weights as a layer beside it",
            )
        return folder / path

    def _layer(self, layer: Blob, limit: int) -> Path:
        return self.repository.registry.file(self.repository.path, layer, limit)

    @cached_property
    def _unpacked(self) -> dict[PurePosixPath, Path]:
        """The files of all archives, by their path, with the folder they are unpacked to."""
        found: dict[PurePosixPath, Path] = {}
        left = self.limit
        for layer in self.weights.archives:
            into = cache_folder() / "oci" / "layers" / layer.hexadecimal[:32]
            folder = unpacked(self._layer(layer, left), into, limits=ArchiveLimits(bytes=left))
            for path in sorted(file for file in folder.rglob("*") if file.is_file()):
                inside = PurePosixPath(path.relative_to(folder).as_posix())
                if inside in found:
                    raise RejectedModelError(
                        f"two of its archives hold '{printable(str(inside))[:100]}'",
                        hint="push it with a path of its own for each file",
                    )
                found[inside] = folder
                left -= path.stat().st_size
        return found
