"""A small zoo of classifiers trained on the spot on scikit-learn's handwritten digits.

It gives the demo and the tests real models with real differences where no hub can be reached:
eight networks of three families in well under 30 s on two cores, exported by torch.onnx.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sommelier.errors import MissingDependencyError

if TYPE_CHECKING:
    import torch

TRAINING_SHARE = 0.6  # the other images are the held-out dataset the catalog measures on
LABELS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, slots=True)
class Recipe:
    """One member: its architecture by name, its width, and how long it trains."""

    name: str
    family: str
    width: int
    epochs: int


RECIPES = (
    Recipe("digits_linear", "linear", 0, 30),
    Recipe("digits_mlp_8", "mlp", 8, 30),
    Recipe("digits_mlp_32", "mlp", 32, 30),
    Recipe("digits_mlp_128", "mlp", 128, 30),
    Recipe("digits_cnn_4", "cnn", 4, 20),
    Recipe("digits_cnn_8", "cnn", 8, 20),
    Recipe("digits_cnn_16", "cnn", 16, 20),
    Recipe("digits_cnn_32", "cnn", 32, 20),
)


def build(
    folder: Path,
    *,
    recipes: tuple[Recipe, ...] = RECIPES,
    seed: int = 0,
    progress: Callable[[str, int, int | None, str | None], None] | None = None,
) -> Path:
    """The dataset file of the held-out digits, written into `folder` beside one .onnx a recipe.

    The folder also gets `sommelier.json`, the card that declares task, labels and preprocessing.
    Raises MissingDependencyError without torch and scikit-learn.
    """
    images, labels = _digits()
    order = np.random.default_rng(seed).permutation(len(images))
    cut = int(len(images) * TRAINING_SHARE)
    folder.mkdir(parents=True, exist_ok=True)
    for index, recipe in enumerate(recipes):
        if progress:
            progress("training", index, len(recipes), recipe.name)
        module = _train(recipe, images[order[:cut]], labels[order[:cut]], seed=seed + index)
        _export(module, folder / f"{recipe.name}.onnx")
    dataset = folder / "digits_test.npz"
    np.savez_compressed(dataset, x=images[order[cut:]], y=labels[order[cut:]])
    (folder / "sommelier.json").write_text(json.dumps(_card(recipes), indent=1))
    return dataset


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 8, 8, 1) in 0..16 and labels int64 (n,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            "the digits zoo needs scikit-learn and torch",
            hint="pip install 'sommelier-db[demo]'",
        ) from error
    bunch = load_digits()
    return bunch.images.astype(np.uint8)[..., None], bunch.target.astype(np.int64)


def _module(recipe: Recipe) -> torch.nn.Module:
    from torch import nn

    width = recipe.width
    if recipe.family == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    if recipe.family == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


def _train(recipe: Recipe, images: np.ndarray, labels: np.ndarray, *, seed: int) -> torch.nn.Module:
    import torch

    torch.manual_seed(seed)
    module = _module(recipe)
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 16)
    targets = torch.from_numpy(labels)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(recipe.epochs):
        for batch in torch.split(torch.randperm(len(inputs), generator=shuffle), 64):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(inputs[batch]), targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
            optimiser.step()
    return module.eval()


def _export(module: torch.nn.Module, path: Path) -> None:
    import torch

    from sommelier.analysis.conversion.torch_writing import quiet_exporter

    with quiet_exporter():
        torch.onnx.export(
            module,
            (torch.zeros(2, 1, 8, 8),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _card(recipes: tuple[Recipe, ...]) -> dict[str, object]:
    shared = {
        "task": "digit-classification",
        "license": "Apache-2.0",
        "output_kind": "classification",
        "labels": list(LABELS),
        "preprocessing": [
            ["affine", {"scale": 1 / 16, "offset": 0.0}],
            ["layout", {"order": "NCHW"}],
            ["cast", {"dtype": "float32"}],
        ],
    }
    return {
        "models": [
            {"match": recipe.name, "family": f"digits-{recipe.family}", **shared}
            for recipe in recipes
        ]
    }
