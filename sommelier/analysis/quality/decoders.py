"""From the raw outputs of known detectors to boxes: which output is what, per family.

A detector nobody knows is compared by its raw numbers, and the comparison says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sommelier.analysis.quality.boxes import Detections
from sommelier.analysis.quality.measure import Array, Floats
from sommelier.analysis.quality.overlap import suppressed
from sommelier.records import TensorSpec

SCORE = 0.5  # boxes below are not shown to anybody, so they are not compared
SUPPRESS = 0.45  # overlap from which the worse of two boxes is the same object
MOST = 300  # boxes an image, best first

Candidates = tuple[Floats, Floats]
"""Boxes (m, 4) as shares of the picture's sides, and scores (m, classes), of one image."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """How one family's raw outputs read. name : the family; read : one image's candidates."""

    name: str
    read: Callable[[Mapping[str, Array]], Candidates]

    def decode(
        self, outputs: Mapping[str, Array], *, score: float = SCORE, overlap: float = SUPPRESS
    ) -> list[Detections]:
        """The boxes of every image; corners are shares of width and height.

        outputs : arrays (n, ...) by output name. Boxes below `score` go, then those that a better
        box of their class overlaps by more than `overlap`.
        """
        count = len(next(iter(outputs.values())))
        return [
            _kept(*self.read({name: value[i] for name, value in outputs.items()}), score, overlap)
            for i in range(count)
        ]


def known_decoder(outputs: Sequence[TensorSpec], inputs: Sequence[TensorSpec]) -> Decoder | None:
    """The decoder of a detector with this signature; None if no known family has it."""
    shapes = {spec.name: spec.shape for spec in outputs}
    sides = _picture(inputs)
    if sides is None:
        return None
    if {f"{kind}_{stride}" for kind in ("cls", "obj", "bbox") for stride in _STRIDES} <= set(
        shapes
    ):
        return Decoder("YuNet", lambda image: _yunet(image, *sides))
    scores, boxes = shapes.get("scores"), shapes.get("boxes")
    if (
        scores
        and boxes
        and len(scores) == len(boxes) == 3
        and (scores[1:], boxes[1:]) == ((boxes[1], 2), (scores[1], 4))
    ):
        return Decoder("Ultra-Light-Fast face detector", _ultraface)
    only = outputs[0].shape if len(outputs) == 1 else None
    if only and len(only) == 4 and only[1] == 85 and _is_fastest(only, sides):
        return Decoder("FastestDet", lambda image: _fastest(next(iter(image.values()))))
    return None


_STRIDES = (8, 16, 32)


def _ultraface(image: Mapping[str, Array]) -> Candidates:
    """Decoded corners as shares of the sides; scores (m, 2) with class 0 for background.

    Source: Ultra-Light-Fast-Generic-Face-Detector-1MB, run_video_face_detect_onnx.py.
    """
    return np.asarray(image["boxes"], np.float64), np.asarray(image["scores"], np.float64)[:, 1:]


def _yunet(image: Mapping[str, Array], height: int, width: int) -> Candidates:
    """Centre and log-size per cell and stride; score = sqrt(class x objectness).

    Source: OpenCV modules/objdetect/src/face_detect.cpp, FaceDetectorYNImpl::postProcess.
    """
    boxes, scores = [], []
    for stride in _STRIDES:
        columns, rows = width // stride, height // stride
        row, column = np.divmod(np.arange(rows * columns), columns)
        raw = np.asarray(image[f"bbox_{stride}"], np.float64)
        centre = (np.stack([column, row], axis=1) + raw[:, :2]) * stride
        half = np.exp(raw[:, 2:]) * stride / 2
        corners = np.concatenate([centre - half, centre + half], axis=1)
        boxes.append(corners / [width, height, width, height])
        sure = [np.clip(image[f"{kind}_{stride}"], 0, 1) for kind in ("cls", "obj")]
        scores.append(np.sqrt(np.asarray(sure[0] * sure[1], np.float64)).reshape(-1, 1))
    return np.concatenate(boxes), np.concatenate(scores)


def _fastest(output: Array) -> Candidates:
    """(85, rows, columns): objectness, four sides, 80 classes per cell.

    Source: FastestDet example/onnx-runtime/runtime.py: score = obj^0.6 x class^0.4, centre offset
    by tanh, size by sigmoid, all in shares of the picture.
    """
    _, rows, columns = output.shape
    cells = np.asarray(output, np.float64).reshape(85, -1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    centre = np.stack(
        [(column + np.tanh(cells[1])) / columns, (row + np.tanh(cells[2])) / rows], axis=1
    )
    half = 1 / (1 + np.exp(-cells[3:5].T)) / 2
    scores = np.maximum(cells[0], 0) ** 0.6 * np.maximum(cells[5:], 0) ** 0.4
    return np.concatenate([centre - half, centre + half], axis=1), scores.T


def _kept(boxes: Floats, scores: Floats, score: float, overlap: float) -> Detections:
    sure = scores.max(axis=1)
    order = np.argsort(-sure, kind="stable")[:MOST]
    order = order[sure[order] >= score]
    boxes, sure, kinds = boxes[order], sure[order], scores[order].argmax(axis=1)
    kept = [
        mine[suppressed(boxes[mine], sure[mine], overlap)]
        for mine in (np.flatnonzero(kinds == kind) for kind in np.unique(kinds))
    ]
    chosen = np.sort(np.concatenate(kept)) if kept else np.empty(0, np.int64)
    return Detections(boxes[chosen], sure[chosen], kinds[chosen].astype(np.int64))


def _picture(inputs: Sequence[TensorSpec]) -> tuple[int, int] | None:
    """(height, width) of a channels-first picture input of fixed size."""
    for spec in inputs:
        if spec.shape and len(spec.shape) == 4:
            height, width = spec.shape[2:]
            if isinstance(height, int) and isinstance(width, int):
                return height, width
    return None


def _is_fastest(shape: Sequence[object], sides: tuple[int, int]) -> bool:
    """One cell for 16 pixels each way, which tells it from other 85-channel heads."""
    return shape[2] == sides[0] // 16 and shape[3] == sides[1] // 16
