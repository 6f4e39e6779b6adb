"""What models answered, on disk: per probe set, append-only files of fixed-width rows.

    sketches/<probe set>/answers.bin       uint16 class ids, 65535 = no answer
    sketches/<probe set>/answers-bits.json, ...        a cache, see answer_bits.py
    sketches/<probe set>/answers-u32.bin   uint32 class ids of models with 65535 classes or more
    sketches/<probe set>/vectors-<w>[-projected].bin   float32, w numbers per sample
    sketches/<probe set>/topk-ids.bin, topk-scores.bin uint32 and float16, 5 per sample
    sketches/<probe set>/outputs/<version>.npz         outputs at full precision, where asked for
    sketches/<probe set>/outputs/<link>.npz            what a model link predicted

A row is on disk (fsync) before the catalog row that names it is committed, so a row that the
catalog names is whole.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import AnalysisError, UnknownNameError
from sommelier.link_records import ModelLink
from sommelier.records import OutputSketch
from sommelier.storage.answer_bits import BitFiles, Bits
from sommelier.storage.sketch_files import (
    NARROW,
    TOPK_IDS,
    TOPK_SCORES,
    WIDE,
    SketchFile,
    Tail,
    file_name,
    file_named,
    label_file,
    map_rows,
    sync_folder,
    tail_of,
    vector_file,
    widened,
)
from sommelier.storage.versions import LINK_PREFIX

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SketchRow:
    """Where a sketch lies and how to read it, as the catalog keeps it. topk_row: None = none."""

    model_id: str
    probe_set_id: str
    kind: str
    file: str
    row: int
    width: int
    exact: bool
    label_space_id: str | None
    classes: int | None
    failures: int
    topk_row: int | None


class SketchStore:
    """The answers of all models, and where they lie. Safe to use from several threads."""

    def __init__(self, directory: Path, catalog: Catalog) -> None:
        self._directory = Path(directory)
        self._catalog = catalog
        self._lock = threading.Lock()
        self._maps: dict[Path, NDArray[Any]] = {}
        self._samples: dict[str, int] = {}
        self._bits: dict[str, BitFiles] = {}
        catalog.on_link_gone(self._remove_predictions)

    def add(self, sketch: OutputSketch) -> SketchRow:
        """Write and register a sketch; it replaces one of the same model and probe set.

        Raises UnknownNameError for a probe set the catalog does not know, AnalysisError when the
        answers do not have the probe set's number of samples, and DatabaseCorruptError when a file
        was cut short.
        """
        return self.add_many([sketch])[0]

    def add_many(self, sketches: Iterable[OutputSketch]) -> list[SketchRow]:
        """Like `add` for each, all or none, with one write to disk per file."""
        tails: dict[Path, Tail] = {}
        with self._catalog.transaction(), self._lock:
            entries = [self._place(sketch, tails) for sketch in sketches]
            for tail in tails.values():
                tail.write()
            self._catalog.add_sketch_rows(entries)
        for probe_set_id in {entry.probe_set_id for entry in entries if entry.file == NARROW.name}:
            self.bits(probe_set_id, self.matrix(probe_set_id, NARROW.name))
        return entries

    def get(self, model_id: str, probe_set_id: str) -> OutputSketch:
        """What a model answered. Raises UnknownNameError when it did not answer this probe set."""
        return self.sketch(self.entry(model_id, probe_set_id))

    def sketch(self, entry: SketchRow) -> OutputSketch:
        """What lies at an entry of the catalog."""
        return OutputSketch(
            model_id=entry.model_id,
            probe_set_id=entry.probe_set_id,
            kind=entry.kind,
            answers=self.answers(entry).tobytes(),
            width=entry.width,
            exact=entry.exact,
            label_space_id=entry.label_space_id,
            classes=entry.classes,
            topk_ids=self._top(entry, TOPK_IDS),
            topk_scores=self._top(entry, TOPK_SCORES),
            failures=entry.failures,
        )

    def entry(self, model_id: str, probe_set_id: str) -> SketchRow:
        """The catalog's entry of a sketch. Raises UnknownNameError."""
        for entry in self._catalog.sketch_rows(probe_set_id):
            if entry.model_id == model_id:
                return entry
        raise UnknownNameError(
            f"the model '{model_id}' has not answered the probe set '{probe_set_id}'",
            hint="ANALYZE it FOR EQUIVALENCE",
        )

    def model_ids(self, probe_set_id: str) -> list[str]:
        """The models that answered a probe set, in order of insertion."""
        return [entry.model_id for entry in self._catalog.sketch_rows(probe_set_id)]

    def answers(self, entry: SketchRow) -> NDArray[Any]:
        """(samples,) uint32 with NO_ANSWER, or (samples, width) float32."""
        return self.answers_at(entry.probe_set_id, entry.file, entry.row)

    def answers_at(self, probe_set_id: str, file: str, row: int) -> NDArray[Any]:
        """The same of a row of a file."""
        return widened(self.matrix(probe_set_id, file, rows=row + 1)[row])

    def bits(self, probe_set_id: str, answers: NDArray[Any]) -> Bits | None:
        """One bit for each of these answers, the matrix of answers.bin; None if there are few.

        Bits may lack the last rows. They are made here when that pays: 10 us a row, seldom.
        """
        with self._lock:
            files = self._bits.get(probe_set_id)
            if files is None:
                folder, samples = self._folder(probe_set_id), self._samples_of(probe_set_id)
                files = self._bits[probe_set_id] = BitFiles(folder, samples)
        return files.bits(answers)

    def matrix(self, probe_set_id: str, file: str, *, rows: int | None = None) -> NDArray[Any]:
        """Memory-mapped (n, samples) class ids, or (n, samples, width) vectors, read-only.

        file : a SketchRow's; 'labels' stands for answers.bin. rows : at least so many must be there
        (else DatabaseCorruptError); all whole rows of the file when None.
        """
        kind = file_named(NARROW.name if file == "labels" else file)
        path = self._folder(probe_set_id) / kind.name
        known = self._maps.get(path)
        if known is None or rows is None or len(known) < rows:
            samples = self._samples_of(probe_set_id)
            known = self._maps[path] = map_rows(path, kind, samples, rows or 0)
        return known

    def add_outputs(
        self,
        model_id: str,
        probe_set_id: str,
        outputs: Mapping[str, NDArray[Any]],
        *,
        limit_bytes: int | None = None,
    ) -> bool:
        """Keep a model's outputs at full precision; above `limit_bytes` nothing, and False.

        A link's predictions are kept under its id: write them before its row, in one transaction.
        """
        if limit_bytes is not None and sum(a.nbytes for a in outputs.values()) > limit_bytes:
            return False
        path = self._outputs_path(model_id, probe_set_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        # names are stored apart, for an output may be called 'file' or hold a slash
        numbered = {f"output_{i}": array for i, array in enumerate(outputs.values())}
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, names=np.array([*outputs], str), **numbered)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        return True

    def outputs(self, model_id: str, probe_set_id: str) -> dict[str, NDArray[Any]] | None:
        """What `add_outputs` kept, by output name, or None.

        None is possible for a link of a snapshot, too, when its writer has dropped it since.
        """
        path = self._outputs_path(model_id, probe_set_id)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as stored:
            return {str(name): stored[f"output_{i}"] for i, name in enumerate(stored["names"])}

    def sweep(self) -> int:
        """Remove what killed processes left of outputs: files half-written, and predictions of
        links that were never kept or were dropped; how many there were.

        Only for the process that writes the database, and before it writes anything.
        """
        kept = {file_name(link_id) for link_id in self._catalog.link_ids()}
        predicted = self._directory.glob(f"*/outputs/{file_name(LINK_PREFIX)}*.npz")
        left = [*self._directory.glob("*/outputs/*.part")]
        left += [path for path in predicted if path.stem not in kept]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def _remove_predictions(self, link: ModelLink) -> None:
        if link.probe_set_id is None:
            return
        path = self._outputs_path(link.id, link.probe_set_id)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # the link is gone all the same; the next sweep tries again
            logger.warning("could not remove %s: %s", path, error)

    def _outputs_path(self, model_id: str, probe_set_id: str) -> Path:
        return self._folder(probe_set_id) / "outputs" / f"{file_name(model_id)}.npz"

    def _folder(self, probe_set_id: str) -> Path:
        return self._directory / file_name(probe_set_id)

    def _samples_of(self, probe_set_id: str) -> int:
        """Samples of a probe set; its id is the hash of what decides them, so they never change."""
        if probe_set_id not in self._samples:
            self._samples[probe_set_id] = self._catalog.probe_set(probe_set_id).samples
        return self._samples[probe_set_id]

    def _top(self, entry: SketchRow, file: SketchFile) -> bytes | None:
        if entry.topk_row is None:
            return None
        matrix = self.matrix(entry.probe_set_id, file.name, rows=entry.topk_row + 1)
        return bytes(matrix[entry.topk_row].tobytes())

    def _place(self, sketch: OutputSketch, tails: dict[Path, Tail]) -> SketchRow:
        """Put a sketch at the end of its files, in memory still; where it will lie."""
        samples = self._samples_of(sketch.probe_set_id)
        folder = self._folder(sketch.probe_set_id)

        def tail(file: SketchFile) -> Tail:
            path = folder / file.name
            if path not in tails:
                named = self._catalog.sketch_rows_named(sketch.probe_set_id, file.name)
                tails[path] = tail_of(path, file.row_bytes(samples), named)
            return tails[path]

        answers, file = _answers(sketch, samples)
        topk_row = None
        if sketch.topk_ids is not None and sketch.topk_scores is not None:
            ids = _read(sketch, sketch.topk_ids, TOPK_IDS, samples).tobytes()
            scores = _read(sketch, sketch.topk_scores, TOPK_SCORES, samples).tobytes()
            topk_row = _append_both(tail(TOPK_IDS), ids, tail(TOPK_SCORES), scores)
        return SketchRow(
            model_id=sketch.model_id,
            probe_set_id=sketch.probe_set_id,
            kind=sketch.kind,
            file=file.name,
            row=tail(file).append(answers.tobytes()),
            width=sketch.width,
            exact=sketch.exact,
            label_space_id=sketch.label_space_id,
            classes=sketch.classes,
            failures=sketch.failures,
            topk_row=topk_row,
        )


def _append_both(ids: Tail, id_row: bytes, scores: Tail, score_row: bytes) -> int:
    """Add a row to two files under one number; the shorter one is filled up with zeros."""
    for shorter, longer in ((ids, scores), (scores, ids)):
        while shorter.next < longer.next:
            shorter.append(bytes(shorter.row_bytes))
    ids.append(id_row)
    return scores.append(score_row)


def _answers(sketch: OutputSketch, samples: int) -> tuple[NDArray[Any], SketchFile]:
    """A sketch's answers as a row of the file they belong in, and that file."""
    if sketch.kind == "vectors":
        file = vector_file(sketch.width, exact=sketch.exact)
        return _read(sketch, sketch.answers, file, samples), file
    if sketch.kind != "labels":
        raise AnalysisError(f"a sketch of kind '{sketch.kind}' cannot be stored: labels or vectors")
    answers = _read(sketch, sketch.answers, WIDE, samples)
    file = label_file(answers, sketch.classes)
    return answers.astype(file.dtype), file  # NO_ANSWER's low half is the sentinel of uint16


def _read(sketch: OutputSketch, data: bytes, file: SketchFile, samples: int) -> NDArray[Any]:
    expected = file.row_bytes(samples)
    if len(data) != expected:
        raise AnalysisError(
            f"model '{sketch.model_id}' answered {len(data)} bytes of {sketch.kind}; "
            f"{samples} samples of probe set '{sketch.probe_set_id}' take {expected}"
        )
    return np.frombuffer(data, dtype=file.dtype).reshape(file.row_shape(samples))
