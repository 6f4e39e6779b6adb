"""Real models that have answered every input of a dataset: populations whose truth is known.

With SOMMELIER_ZOO set: the CIFAR-10 ladder and the tiny classifiers on the CIFAR-10 test images.
Without: the digits zoo, trained on the spot, on the held-out digits.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from sommelier.analysis import digits_zoo
from sommelier.analysis.datasets import LoadedDataset, load
from sommelier.analysis.execution import RunRequest, answer_items, open_model
from sommelier.analysis.preprocessing import validated
from sommelier.analysis.probes import dataset_probes
from sommelier.records import OutputKind, Preprocessing

QUICK_MODELS = ("cifar10_resnet32", "cifar10_resnet20", "ic_resnet8", "ic_resnet8_int8")
MODELS = (
    "cifar10_resnet56",
    "cifar10_resnet44",
    *QUICK_MODELS,
    "resnet_large_f",
    "ic_resnet_large_int8",
)
QUICK_IMAGES = 2_000
IMAGES = 10_000
NETWORK_INPUTS = 256
TORCH = validated(
    [
        ("to_float", {"scale": 1 / 255}),
        ("normalize", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
        ("layout", {"order": "NCHW"}),
        ("cast", {"dtype": "float32"}),
    ]
)
DIGITS = validated(
    [
        ("affine", {"scale": 1 / 16, "offset": 0.0}),
        ("layout", {"order": "NCHW"}),
        ("cast", {"dtype": "float32"}),
    ]
)


@dataclass(frozen=True, slots=True)
class Network:
    """A model itself, and its prepared inputs: those of the first inputs of the population."""

    model: ModelProto
    inputs: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Population:
    """The answers of each model to all n inputs; the first model is the reference.

    labels : (n,). answers : class ids (n,). probabilities : (n, classes), rows sum to 1. networks :
    for what is computed from weights.
    """

    name: str
    labels: NDArray[np.int64]
    answers: dict[str, NDArray[np.int64]]
    probabilities: dict[str, NDArray[np.float64]]
    networks: dict[str, Network]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def reference(self) -> str:
        return next(iter(self.answers))


def population(*, quick: bool) -> Population:
    """The zoo's CIFAR-10 models, or the digits zoo where SOMMELIER_ZOO is not set."""
    folder = os.environ.get("SOMMELIER_ZOO")
    if folder:
        paths = [Path(folder) / "onnx" / f"{name}.onnx" for name in _names(quick)]
        specs = [TORCH if path.stem.startswith("cifar10") else None for path in paths]
        dataset = Path(folder) / "data" / "cifar10_test.npz"
        return _answered("CIFAR-10 test", paths, specs, dataset, QUICK_IMAGES if quick else IMAGES)
    with tempfile.TemporaryDirectory() as place:
        recipes = digits_zoo.RECIPES[0:6:2] if quick else digits_zoo.RECIPES
        dataset = digits_zoo.build(Path(place), recipes=recipes)
        paths = [Path(place) / f"{recipe.name}.onnx" for recipe in reversed(recipes)]
        return _answered("held-out digits", paths, [DIGITS] * len(paths), dataset, IMAGES)


def _names(quick: bool) -> tuple[str, ...]:
    return QUICK_MODELS if quick else MODELS


def _answered(
    name: str,
    paths: Sequence[Path],
    specs: Sequence[Preprocessing | None],
    dataset: Path,
    images: int,
) -> Population:
    answers, probabilities, networks = {}, {}, {}
    with load(dataset, name=name) as items:
        probes = dataset_probes(items, samples=min(images, len(items)), sampling="first")
        for path, spec in zip(paths, specs, strict=True):
            request = RunRequest(path, OutputKind.CLASSIFICATION, spec, probes, threads=2)
            found = answer_items(request, items)
            if found.outputs is None:
                raise SystemExit(f"{path.stem}: too many outputs to keep them all")
            answers[path.stem] = found.answers.astype(np.int64)
            probabilities[path.stem] = _probabilities(found.outputs["outputs"])
            networks[path.stem] = _network(request, items)
        labels = np.asarray(probes.labels, dtype=np.int64)
    return Population(name, labels, answers, probabilities, networks)


def _network(request: RunRequest, items: LoadedDataset) -> Network:
    model = open_model(replace(request, batch=NETWORK_INPUTS), items)
    feed, count = next(model.feeds(request.probes))
    first = {name: array[:count] for name, array in feed.items()}
    return Network(onnx.load(request.model_path), first)


def _probabilities(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """The softmax of logits; probabilities, also those quantised to int8, are only normalised."""
    values = scores.astype(np.float64)
    for offset, scale in ((0, 1), (128, 256)):
        shares = (values + offset) / scale
        if np.all(shares >= 0) and np.allclose(shares.sum(axis=1), 1, atol=0.05):
            return np.asarray(shares / shares.sum(axis=1, keepdims=True))
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
