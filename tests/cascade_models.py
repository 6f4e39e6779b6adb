"""Classifiers of one task that differ in what they cost and in how often they err."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from tests.onnx_writer import FLOAT, save_model

FEATURES, CLASSES = 8, 4
HIDDEN = {"tiny": 4, "small": 32, "big": 512}  # what a model costs grows with it
NOISE = {"tiny": 0.0, "small": 0.08, "big": 0.0}
TRUTH = 4 * np.random.default_rng(5).normal(size=(FEATURES, CLASSES))


def matrix_of(name: str) -> NDArray[np.float64]:
    """The linear map whose largest output is the class that a model answers."""
    rng = np.random.default_rng(list(HIDDEN).index(name))
    if name == "tiny":  # the best map of rank 4 is exact; it is made worse
        return TRUTH + 0.9 * rng.normal(size=TRUTH.shape)
    return TRUTH + NOISE[name] * rng.normal(size=TRUTH.shape)


def write_models(folder: Path) -> dict[str, Path]:
    """tiny, small and big.onnx: x[N, 8] -> logits[N, 4] through a hidden layer of HIDDEN."""
    paths = {}
    for name, hidden in HIDDEN.items():
        rng = np.random.default_rng(hidden)
        into = rng.normal(size=(FEATURES, hidden)) if hidden > FEATURES else np.eye(FEATURES)
        out = np.linalg.pinv(into) @ matrix_of(name)
        paths[name] = save_model(
            folder / f"{name}.onnx",
            [
                helper.make_node("MatMul", ["x", "into"], ["h"]),
                helper.make_node("MatMul", ["h", "out"], ["logits"]),
            ],
            {"x": (FLOAT, ["N", FEATURES])},
            {"logits": (FLOAT, ["N", CLASSES])},
            {"into": into.astype(np.float32), "out": out.astype(np.float32)},
        )
    return paths


def draw(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(items (n, 8), labels (n,)), of which one in fifty is drawn anew."""
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(count, FEATURES)).astype(np.float32)
    labels = (items @ TRUTH).argmax(axis=1)
    wrong = rng.random(count) < 0.02
    labels[wrong] = rng.integers(0, CLASSES, wrong.sum())
    return items, labels.astype(np.int64)
