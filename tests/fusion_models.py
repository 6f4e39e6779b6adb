"""Small networks for one input and tasks that differ, and data with a label for each task.

Samples carry a speaker (6) and a digit (10); the accent (4) follows from the speaker. The networks
are perceptrons whose hidden layers hold all of it, so much can be shared and little is lost.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from tests.link_models import ACCENT_OF, ACCENTS, DIGITS, FEATURES, SHARPNESS, SPEAKERS
from tests.onnx_writer import FLOAT, save_model

Floats = NDArray[np.float32]
CLASSES = {"digit": DIGITS, "speaker": SPEAKERS, "accent": ACCENTS}


def write_samples(
    path: Path, *, samples: int = 1000, seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """x (n, FEATURES), and the labels digit, speaker and accent; returns the labels."""
    rng = np.random.default_rng(seed)
    speaker, digit = rng.integers(0, SPEAKERS, samples), rng.integers(0, DIGITS, samples)
    codes = np.concatenate([np.eye(SPEAKERS)[speaker], np.eye(DIGITS)[digit]], axis=1)
    x = (codes + rng.normal(scale=0.22, size=codes.shape)).astype(np.float32)
    labels = {"digit": digit, "speaker": speaker, "accent": ACCENT_OF[speaker]}
    np.savez(path, x=x, **labels)
    return labels


def head_of(task: str) -> Floats:
    """(FEATURES, classes): logits that read the code of a task's class."""
    weights = np.zeros((FEATURES, CLASSES[task]), np.float32)
    if task == "digit":
        weights[SPEAKERS:] = np.eye(DIGITS) * SHARPNESS
    else:
        classes = ACCENT_OF if task == "accent" else np.arange(SPEAKERS)
        weights[:SPEAKERS] = np.eye(CLASSES[task])[classes] * SHARPNESS
    return weights


def write_net(
    path: Path, task: str, *, seed: int, width: int = 48, noise: float = 0.0, inputs: int = FEATURES
) -> Path:
    """x -> two hidden layers of `width` with ReLU -> the classes of a task.

    The hidden layers keep the input (a rotation and its negative, then as it is) and the head
    undoes that, so that the network answers as `head_of(task)` does; noise is added to their
    weights.
    """
    rng = np.random.default_rng(seed)
    spread = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0]
    first = np.zeros((FEATURES, width))
    first[:, :FEATURES], first[:, FEATURES : 2 * FEATURES] = spread, -spread
    second = np.eye(width)
    head = np.zeros((width, CLASSES[task]))
    head[:FEATURES] = spread.T @ head_of(task)
    head[FEATURES : 2 * FEATURES] = -head[:FEATURES]
    noisy = np.random.default_rng([seed, len(task)])
    first, second = (w + noise * noisy.normal(size=w.shape) for w in (first, second))
    arrays = {"w1": first[:inputs], "w2": second, "w3": head}
    weights = {name: array.astype(np.float32) for name, array in arrays.items()}
    weights |= {f"b{i}": np.zeros(len(weights[f"w{i}"][0]), np.float32) for i in (1, 2, 3)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("Gemm", ["r1", "w2", "b2"], ["h2"]),
        helper.make_node("Relu", ["h2"], ["r2"]),
        helper.make_node("Gemm", ["r2", "w3", "b3"], ["scores"]),
    ]
    return save_model(
        path, nodes, {"x": (FLOAT, ["n", inputs])}, {"scores": (FLOAT, ["n", CLASSES[task]])},
        weights,
    )  # fmt: skip


def write_nets(folder: Path) -> dict[str, Path]:
    """digit_net, speaker_net and accent_net, of which no two hidden layers are equal."""
    return {
        f"{task}_net": write_net(folder / f"{task}_net.onnx", task, seed=seed, width=width)
        for seed, (task, width) in enumerate(
            {"digit": 96, "speaker": 64, "accent": 48}.items(), start=1
        )
    }


def write_random_net(path: Path, *, seed: int, width: int = 32, classes: int = 4) -> Path:
    """x -> three hidden layers with ReLU and random weights: no two of these share what they see,
    so fusing them takes training, and loses something."""
    rng = np.random.default_rng(seed)
    sizes = [FEATURES, width, width, width, classes]
    weights: dict[str, Floats] = {}
    nodes, given = [], "x"
    for i, (before, after) in enumerate(pairwise(sizes)):
        scale = np.sqrt(2 / before)
        weights[f"w{i}"] = (scale * rng.normal(size=(before, after))).astype(np.float32)
        weights[f"b{i}"] = np.zeros(after, np.float32)
        made = "scores" if i == len(sizes) - 2 else f"h{i}"
        nodes.append(helper.make_node("Gemm", [given, f"w{i}", f"b{i}"], [made]))
        given = f"r{i}"
        if made != "scores":
            nodes.append(helper.make_node("Relu", [made], [given]))
    return save_model(
        path, nodes, {"x": (FLOAT, ["n", FEATURES])}, {"scores": (FLOAT, ["n", classes])}, weights
    )
