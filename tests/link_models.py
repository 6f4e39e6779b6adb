"""A group of toy models whose answers depend on each other in a known way, and data for them.

Samples carry a speaker (6) and a digit (10), drawn independently; the accent (4) follows from the
speaker. So speaker -> accent is a function, accent -> speaker is right half the time at best
(accents of 2, 1, 2 and 1 speakers: 4 of 6), and digit says nothing of either.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from tests.onnx_writer import FLOAT, save_model

SPEAKERS, DIGITS, ACCENTS = 6, 10, 4
ACCENT_OF = np.array([0, 1, 2, 2, 3, 0])  # as in Free Spoken Digits: jackson, nicolas, ...
FEATURES = SPEAKERS + DIGITS
SHARPNESS = 6.0  # of the logits: sure, but not certain

Floats = NDArray[np.float32]


def write_samples(path: Path, *, samples: int = 600, seed: int = 0) -> Floats:
    """x (n, FEATURES) noisy one-hot codes, and the digit as label y; returns x."""
    rng = np.random.default_rng(seed)
    speaker, digit = rng.integers(0, SPEAKERS, samples), rng.integers(0, DIGITS, samples)
    codes = np.concatenate([np.eye(SPEAKERS)[speaker], np.eye(DIGITS)[digit]], axis=1)
    x = (codes + rng.normal(scale=0.15, size=codes.shape)).astype(np.float32)
    np.savez(path, x=x, y=digit)
    return x


def write_models(folder: Path) -> dict[str, Path]:
    """digit_net, speaker_net, accent_net and pitch_net, which tells odd speakers from even ones.

    speaker_net answers probabilities, the others logits; digit_net is the largest.
    """
    speaker = np.zeros((FEATURES, SPEAKERS), np.float32)
    speaker[:SPEAKERS] = np.eye(SPEAKERS) * SHARPNESS
    digit = np.zeros((FEATURES, DIGITS), np.float32)
    digit[SPEAKERS:] = np.eye(DIGITS) * SHARPNESS
    accent = speaker @ np.eye(ACCENTS, dtype=np.float32)[ACCENT_OF]
    pitch = speaker @ np.eye(2, dtype=np.float32)[np.arange(SPEAKERS) % 2]
    return {
        "digit_net": _write(folder / "digit_net.onnx", digit, idle=5000),
        "speaker_net": _write(folder / "speaker_net.onnx", speaker, idle=2000, softmax=True),
        "accent_net": _write(folder / "accent_net.onnx", accent, idle=1000),
        "pitch_net": _write(folder / "pitch_net.onnx", pitch, idle=500),
    }


def _write(path: Path, weights: Floats, *, idle: int, softmax: bool = False) -> Path:
    """x @ weights. idle : parameters that cost and do nothing, so that models differ in size."""
    width = weights.shape[1]
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["seen"]),
        helper.make_node("ReduceMean", ["idle"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["seen", "nothing"], ["scores"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
    last = "probabilities" if softmax else "scores"
    return save_model(
        path,
        nodes,
        {"x": (FLOAT, ["n", FEATURES])},
        {last: (FLOAT, ["n", width])},
        {"weights": weights, "idle": np.zeros(idle, np.float32)},
    )
