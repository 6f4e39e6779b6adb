"""Pairs of networks that share a past: a classifier trained on real images, and what became of it.

Images are the zoo's CIFAR-10 test set where SOMMELIER_ZOO is set, else scikit-learn's digits. They
are cut into three parts: one trains the base network, one fine-tunes copies of it, and on the
third, which no network has seen, everything is measured.
"""

from __future__ import annotations

import copy
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmarks.exchanges import Pair
from sommelier.analysis.execution import open_session

INPUT, OUTPUT = "image", "logits"
LAYERS = ("conv1", "conv2", "block", "conv5", "head")  # in order; what a depth of freezing counts
PARTS = 20  # as many parts of the images: 11 train, 5 fine-tune, 4 measure
ANIMALS = (2, 3, 4, 5, 6, 7)  # of CIFAR-10: the other task is to tell them from vehicles
TOLERANCE = 1e-4  # of the largest logit, between torch and ONNX Runtime


@dataclass(frozen=True, slots=True)
class Images:
    """x : float32 (n, channels, size, size), about in -2..2. y, coarse : classes int64 (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    coarse: NDArray[np.int64]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Images:
        return Images(self.x[rows], self.y[rows], self.coarse[rows])

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of it. epochs : of the base. light .. strong : steps of fine-tuning, of 64 images.

    frozen : how many of LAYERS are. noise : standard deviations, relative to each weight's own.
    """

    images: int = 10_000
    epochs: int = 20
    steps: int = 160
    width: int = 20
    frozen: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    noise: tuple[float, ...] = (0.001, 0.01, 0.03, 0.1, 0.3)


QUICK = Effort(images=5_000, epochs=8, steps=40, frozen=(0, 3, 5), noise=(0.001, 0.03))


class Network(nn.Module):
    """conv relu maxpool(3, stride 2) conv relu (conv relu conv + skip) relu conv relu mean linear.

    The pool's windows overlap, as at the stem of a ResNet.
    """

    def __init__(self, channels: int, stride: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)
        )
        self.conv5 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = functional.relu(self.conv2(x))
        x = functional.relu(x + self.block(x))
        x = functional.relu(self.conv5(x))
        return self.head(x.mean((2, 3)))


def images(count: int, rng: np.random.Generator) -> tuple[str, Images]:
    """The name of the data and its images in random order, at most `count`."""
    folder = os.environ.get("SOMMELIER_ZOO")
    if folder:
        stored = np.load(Path(folder) / "data" / "cifar10_test.npz")
        name, pixels, y, white = "CIFAR-10 test", stored["x"], stored["y"], 255
        pixels, coarse = pixels.transpose(0, 3, 1, 2), np.isin(y, ANIMALS)
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        name, pixels, y, white = "digits", digits.images[:, None], digits.target, 16
        coarse = y % 2 == 1
    order = rng.permutation(len(y))[:count]
    scaled = (pixels[order].astype(np.float32) / white - 0.5) * 4
    return name, Images(scaled, y[order].astype(np.int64), coarse[order].astype(np.int64))


def parts(every: Images) -> tuple[Images, Images, Images]:
    """Images that train the base, that fine-tune, and that measure."""
    first, second = 11 * len(every) // PARTS, 16 * len(every) // PARTS
    return every[:first], every[first:second], every[second:]


class Workshop:
    """Trains the base once, and makes every pair of it."""

    def __init__(self, every: Images, effort: Effort, seed: int) -> None:
        self.effort, self.seed = effort, seed
        first, self.tuning, _ = parts(every)
        channels, size = every.x.shape[1], every.x.shape[2]
        torch.manual_seed(seed)
        self._new = lambda classes: Network(channels, 1 + size // 32, effort.width, classes)
        self.base = self._new(10)
        self._train(self.base, first, effort.epochs * len(first) // 64, rate=3e-3)
        self._probe = every.x[:8]
        self.base_model = self._model(self.base)

    def depths(self) -> Iterator[Pair]:
        """Hosts fine-tuned with their first layers frozen, and the base as donor (figure 10)."""
        for frozen in self.effort.frozen:
            tuned = copy.deepcopy(self.base)
            for name in LAYERS[:frozen]:
                getattr(tuned, name).requires_grad_(False)
            self._train(tuned, self.tuning, self.effort.steps, rate=1e-3)
            yield Pair(f"{frozen} of {len(LAYERS)} frozen", self._model(tuned), self.base_model)

    def noises(self) -> Iterator[Pair]:
        """The base as host, and as donor the base with noise on every weight."""
        for level in self.effort.noise:
            rng = np.random.default_rng([self.seed, round(1e6 * level)])
            noisy = copy.deepcopy(self.base)
            with torch.no_grad():
                for weight in noisy.parameters():
                    noise = torch.from_numpy(rng.standard_normal(weight.shape)).float()
                    weight += level * weight.std() * noise
            yield Pair(f"noise {100 * level:g} %", self.base_model, self._model(noisy))

    def fine_tunes(self) -> Iterator[Pair]:
        """The base as host, and as donor what fine-tuning made of it (algorithms.md B.2)."""
        steps = self.effort.steps
        recipes: dict[str, Callable[[Network], None]] = {
            "bias only": lambda n: self._biases(n),
            "light": lambda n: self._train(n, self.tuning, steps // 4, rate=3e-5),
            "medium": lambda n: self._train(n, self.tuning, steps, rate=3e-4),
            "strong": lambda n: self._train(n, self.tuning, 2 * steps, rate=3e-3),
            "other task": lambda n: self._other_task(n),
        }
        for name, recipe in recipes.items():
            tuned = copy.deepcopy(self.base)
            recipe(tuned)
            yield Pair(name, self.base_model, self._model(tuned))

    def _biases(self, network: Network) -> None:
        for name, weight in network.named_parameters():
            weight.requires_grad_(name.endswith("bias"))
        self._train(network, self.tuning, self.effort.steps, rate=3e-3)

    def _other_task(self, network: Network) -> None:
        """Two classes instead of ten: animals or vehicles, odd or even."""
        network.head = self._new(2).head
        other = Images(self.tuning.x, self.tuning.coarse, self.tuning.coarse)
        self._train(network, other, self.effort.steps, rate=1e-3)

    def _train(self, network: Network, data: Images, steps: int, *, rate: float) -> None:
        """Adam on batches of 64, drawn with a seed of their own; the rate falls to 0."""
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        if not weights:
            return
        optimiser = torch.optim.Adam(weights, lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
        shuffle = torch.Generator().manual_seed(self.seed)
        for _ in range(steps):
            batch = torch.randint(len(x), (64,), generator=shuffle)
            optimiser.zero_grad()
            functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()

    def _model(self, network: Network) -> onnx.ModelProto:
        """The network in ONNX, found to answer as it does in torch."""
        model = export(network, self._probe.shape)
        with torch.no_grad():
            expected = network(torch.from_numpy(self._probe)).numpy()
        session = open_session(model.SerializeToString(), 1)
        found = session.run([OUTPUT], {INPUT: self._probe})[0]
        if np.abs(found - expected).max() > TOLERANCE * np.abs(expected).max():
            raise SystemExit("ONNX Runtime does not answer as torch does")
        return model


def export(network: nn.Module, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The network in ONNX with an open batch axis, by the exporter that takes 50 ms and not 1 s."""
    file = io.BytesIO()
    names = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network.eval(), (torch.zeros(shape),), file, input_names=[INPUT],
            output_names=[OUTPUT], dynamic_axes=names, dynamo=False,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())
