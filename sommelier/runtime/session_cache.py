"""Sessions saved on disk, ready to be mapped: loading takes a few ms and hardly any memory.

    sessions/3f/9a.../manifest.json
    sessions/3f/9a.../prepacked.onnx, prepacked.bin

A cache, never the model of record: an entry belongs to one content of a model, one version of ONNX
Runtime, one kind of CPU and one set of settings, and is made again when any of these differs or its
files are damaged. Any process may write here; an entry is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from sommelier.analysis.sandbox import MODEL_BYTES, MODEL_SECONDS, Sandbox
from sommelier.errors import AnalysisError, CancelledError, StorageError, WorkerCrashedError
from sommelier.records import Preprocessing, TensorSpec
from sommelier.runtime.memory import SessionMemory
from sommelier.runtime.preparation import RECIPES, Preparation, PreparationRequest, prepare
from sommelier.runtime.sessions import SessionSettings, environment
from sommelier.storage.artifacts import fingerprint
from sommelier.storage.durable import sync_file, sync_folder
from sommelier.storage.external_data import external_files
from sommelier.storage.staging import remove, staged
from sommelier.units import Dimension, format_value

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 3  # of an entry; another one makes all entries void
ATTEMPTS = 10  # to put an entry where another process puts its own again and again


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that may answer requests.

    path : the file of record. id : the fingerprint of its content (ModelRecord.id).
    stand_ins : names of models that may answer while this one is being loaded, the best first.
    inputs, outputs : as the catalog knows them, before it is loaded; () of a file alone.
    """

    name: str
    path: Path
    id: str
    preprocessing: Preprocessing | None = None
    stand_ins: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    @classmethod
    def of_file(cls, path: Path, name: str | None = None) -> Self:
        """A file that no database knows. Raises RejectedModelError if it is no model."""
        return cls(name or path.stem, path, fingerprint([path, *external_files(path)]))


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model that was run in a sandbox, and how to load it.

    path : what to load. key : of its cache entry. weights : the file whose pages its sessions
    share; None for the model's own file. preparation : see there.
    """

    path: Path
    key: str
    weights: Path | None
    preparation: Preparation

    @property
    def how(self) -> str:
        """The recipe, and why it is not a better one."""
        found = self.preparation
        return found.recipe if found.reason is None else f"{found.recipe} ({found.reason})"


class SessionCache:
    """The saved sessions under a folder. For any number of threads and processes."""

    def __init__(
        self,
        root: Path,
        *,
        limit_bytes: int | None = None,
        time_limit_s: float = MODEL_SECONDS,
        memory_limit_bytes: int | None = MODEL_BYTES,
    ) -> None:
        """limit_bytes : on disk; what was used longest ago goes first. The other limits are those
        of the sandbox in which a model is prepared."""
        self.root = Path(root)
        self.limit_bytes = limit_bytes
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._verified: dict[Path, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def prepare(
        self,
        model: ServedModel,
        settings: SessionSettings,
        cancelled: Callable[[], bool] = bool,
    ) -> PreparedModel:
        """How to load a model: as the cache has it, else as a sandbox finds out now.

        cancelled : asked many times a second meanwhile. Raises AnalysisError for a model that does
        not load or run within the sandbox's limits, CancelledError.
        """
        found = self.find(model, settings)
        if found is not None:
            return found
        try:
            with staged(self.root) as staging:
                preparation = self._prepared(model, settings, staging, cancelled)
                return self._keep(model, settings, staging, preparation)
        except (OSError, StorageError) as error:
            logger.warning("the cache of sessions cannot be used: %s", error)
            preparation = self._prepared(model, settings, None, cancelled)
            reason = f"the cache cannot be used: {error}"
            return _plain(model, _key(model, settings), replace(preparation, reason=reason))

    def find(self, model: ServedModel, settings: SessionSettings) -> PreparedModel | None:
        """What the cache has, verified: its files are read the first time, then as long as their
        times stay the same they are taken for unchanged. None if it has nothing or it is damaged.
        """
        key = _key(model, settings)
        folder = self._folder(key)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            preparation = _preparation(manifest)
            refused = manifest["refused_bytes"]
            if refused is not None and (self.limit_bytes is None or refused <= self.limit_bytes):
                return None  # it was too large for the limit of that time
            if preparation.file not in (None, *manifest["files"]):
                raise ValueError(f"it has no file {preparation.file}")
            for name, (size, digest) in manifest["files"].items():
                self._verify(folder / name, size, digest)
            os.utime(folder / MANIFEST)  # when it was last used
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("the saved session of %s is damaged: %s", model.name, error)
            return None
        if preparation.file is None:
            return _plain(model, key, preparation)
        path = folder / preparation.file
        return PreparedModel(path, key, path.with_suffix(".bin"), preparation)

    def discard(self, key: str) -> int:
        """Remove an entry; bytes that were freed on disk. Sessions that map it keep working."""
        folder = self._folder(key)
        size = _size(folder)
        try:
            remove(self.root, folder)
        except FileNotFoundError:
            return 0
        return size

    def size_bytes(self) -> int:
        """What all entries take on disk."""
        return sum(_size(folder) for folder in self._entries())

    # ---- inside

    def _prepared(
        self,
        model: ServedModel,
        settings: SessionSettings,
        folder: Path | None,
        cancelled: Callable[[], bool],
    ) -> Preparation:
        """As a sandbox finds out. A saved session may crash where the model itself does not, so
        after a crash there is another try with a simpler recipe."""
        with Sandbox(
            time_limit_s=self._time_limit_s,
            memory_limit_bytes=self._memory_limit_bytes,
            threads=settings.threads,
            cancelled=cancelled,
        ) as sandbox:
            tried = range(len(RECIPES) + 1) if folder is not None else [len(RECIPES)]
            crashes: list[str] = []
            for start in tried:
                recipes = RECIPES[start:]
                request = PreparationRequest(model.path, model.id, folder, settings, recipes)
                try:
                    found = sandbox.call(prepare, request)
                    reasons = [*crashes, *([found.reason] if found.reason else [])]
                    return replace(found, reason="; ".join(reasons) or None)
                except CancelledError:
                    told = f"preparing {model.name} was given up: who asked for it has closed"
                    raise CancelledError(told) from None
                except WorkerCrashedError as error:
                    if not recipes:
                        raise _named(error, model) from error
                    crashes.append(f"{recipes[0]}: {error.message}")
                except AnalysisError as error:
                    raise _named(error, model) from error
        raise AssertionError("the last try has no recipes")

    def _keep(
        self, model: ServedModel, settings: SessionSettings, staging: Path, found: Preparation
    ) -> PreparedModel:
        """Move what was prepared to its place; not if it may be better next time."""
        key = _key(model, settings)
        size, refused = _size(staging), None
        if self.limit_bytes is not None and size > self.limit_bytes:
            refused = size
            for file in staging.iterdir():
                file.unlink()
            found = replace(found, recipe="plain", file=None, reason=self._too_large(size))
        if not found.lasting:
            return _plain(model, key, found)
        self._write_manifest(staging, model, found, refused)
        self._make_room(size)
        self._move(staging, model, settings)
        prepared = self.find(model, settings)
        return prepared or _plain(model, key, replace(found, recipe="plain", file=None))

    def _too_large(self, size: int) -> str:
        taken, limit = (format_value(n, Dimension.BYTES) for n in (size, self.limit_bytes))
        return f"its saved session takes {taken}, the cache holds {limit}"

    def _write_manifest(
        self, staging: Path, model: ServedModel, found: Preparation, refused: int | None
    ) -> None:
        files = {file.name: (file.stat().st_size, _digest(file)) for file in staging.iterdir()}
        for name in files:
            sync_file(staging / name)
        manifest = {
            "model": model.id,
            "preparation": asdict(found),
            "files": files,
            "refused_bytes": refused,
            **environment(),
        }
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        sync_file(staging / MANIFEST)
        sync_folder(staging)

    def _move(self, staging: Path, model: ServedModel, settings: SessionSettings) -> None:
        """Another process may have been quicker: what it made stays, for it may be loading it."""
        key = _key(model, settings)
        folder = self._folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(ATTEMPTS):
            try:
                staging.rename(folder)
            except OSError:  # the folder is there
                if self.find(model, settings) is not None:
                    return
                if attempt == ATTEMPTS - 1:
                    raise
                self.discard(key)
            else:
                sync_folder(folder.parent)
                return

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago until `size` bytes more fit."""
        if self.limit_bytes is None:
            return
        used = {folder: _last_use(folder) for folder in self._entries()}
        total = sum(_size(folder) for folder in used)
        for folder in sorted(used, key=lambda folder: used[folder]):
            if total + size <= self.limit_bytes:
                return
            logger.info("the saved session %s is removed to make room", folder.name[:12])
            total -= self.discard(folder.parent.name + folder.name)

    def _verify(self, file: Path, size: int, digest: str) -> None:
        """Raises ValueError for a file that is not what was written."""
        found = file.stat()
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if found.st_size != size:
            raise ValueError(f"{file.name} has {found.st_size} bytes, not {size}")
        with self._lock:
            if self._verified.get(file) == state:
                return
        if _digest(file) != digest:
            raise ValueError(f"{file.name} has changed")
        with self._lock:
            self._verified[file] = state

    def _folder(self, key: str) -> Path:
        return self.root / key[:2] / key[2:]

    def _entries(self) -> list[Path]:
        return [file.parent for file in self.root.glob(f"[0-9a-f][0-9a-f]/*/{MANIFEST}")]


def _key(model: ServedModel, settings: SessionSettings) -> str:
    """Of what decides an entry's content and whether it works here."""
    parts = {"format": FORMAT, "model": model.id, **asdict(settings), **environment()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _named(error: AnalysisError, model: ServedModel) -> AnalysisError:
    """The same error with the model's name."""
    return type(error)(f"{model.name}: {error.message}", hint=error.hint)


def _plain(model: ServedModel, key: str, preparation: Preparation) -> PreparedModel:
    return PreparedModel(model.path, key, None, replace(preparation, recipe="plain", file=None))


def _preparation(manifest: dict[str, Any]) -> Preparation:
    fields = manifest["preparation"]
    return Preparation(**{**fields, "memory": SessionMemory(**fields["memory"])})


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; 0 if it is gone."""
    total = 0
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            total += file.stat().st_size
    return total


def _last_use(folder: Path) -> int:
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0
