"""Models that may stand in one cascade, and their answers: three ladders from cheap to accurate.

CIFAR-10 classifiers on the test images and MobileNets on one ImageNet picture a class (both of the
folder SOMMELIER_ZOO names), and perceptrons trained on the spot. All answers are logits: where a
model ends in Softmax, what goes into it is read too, as energy is not known without.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from PIL import Image
from torch import nn

from benchmarks.link_pairs import CROPPED, LADDER, MOBILENETS
from benchmarks.zoo_pairs import prepared
from sommelier.analysis.cascades import Member, class_score, member
from sommelier.analysis.cascades.scores import SCORES
from sommelier.analysis.execution import open_session
from sommelier.analysis.links import format_of
from sommelier.analysis.preprocessing import apply, validated
from sommelier.analysis.profiling import profile
from sommelier.records import OutputKind

Array = NDArray[Any]
Floats = NDArray[np.float64]

IMAGES, QUICK_IMAGES = 10_000, 2_000
BATCH = 64
STUDENTS = (
    "mnv1_025_128q",
    "coral_mobilenet_v1_0.5_160_quant",
    "coral_mobilenet_v1_0.75_192_quant",
)
TEACHER = "mnv2_10_224q"
SHORT = {"mnv1_025_128q": "v1 .25", "coral_mobilenet_v1_0.5_160_quant": "v1 .5",
         "coral_mobilenet_v1_0.75_192_quant": "v1 .75", TEACHER: "v2 1.0"}  # fmt: skip
CLASSES, FEATURES, INFORMATIVE = 20, 30, 15
TRAINED, POOL, QUICK_POOL = 8_000, 20_000, 6_000
WIDTHS = {"mlp 24": (24,), "mlp 96": (96,), "mlp 256-256": (256, 256)}


@dataclass(frozen=True, slots=True)
class Ladder:
    """members : the cheapest first; the last is the teacher of all. labels (n,). served : 8-bit
    answers as the models give them, of those that end in Softmax and round."""

    name: str
    members: Sequence[Member]
    labels: NDArray[np.int64] = field(repr=False)
    served: Mapping[str, Member] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def accuracy(self, one: Member) -> float:
        return float((one.ids == self.labels).mean())


def ladders(*, quick: bool, seed: int) -> Iterator[Ladder]:
    """The trained one, and with SOMMELIER_ZOO those of the zoo (MobileNets unless quick)."""
    yield trained(quick=quick, seed=seed)
    folder = os.environ.get("SOMMELIER_ZOO")
    if not folder:
        print("SOMMELIER_ZOO is not set: no real models")
        return
    yield cifar(Path(folder), quick=quick, seed=seed)
    if not quick:
        yield mobilenets(Path(folder))


def cifar(zoo: Path, *, quick: bool, seed: int) -> Ladder:
    """ic_resnet8 and the ResNets of CIFAR-10 on its test images."""
    stored = np.load(zoo / "data" / "cifar10_test.npz")
    rows = np.random.default_rng(seed).permutation(len(stored["y"]))
    rows = rows[: QUICK_IMAGES if quick else IMAGES]
    names = (LADDER[0], LADDER[1], LADDER[-1]) if quick else LADDER
    members = []
    for name in names:
        model = onnx.load(zoo / "onnx" / f"{name}.onnx")
        inputs = prepared(name, stored["x"][rows])
        batches = (inputs[at : at + BATCH] for at in range(0, len(inputs), BATCH))
        logits, _ = answers(model, batches)
        members.append(scored(name.removeprefix("cifar10_"), logits, flops_of(model)))
    return Ladder("CIFAR-10", members, stored["y"][rows].astype(np.int64))


def mobilenets(zoo: Path) -> Ladder:
    """Quantised MobileNets; class 0, background, is dropped."""
    pictures = []
    with zipfile.ZipFile(zoo / "data" / "imagenet_sample_1000_256px.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".jpg")):
            with archive.open(name) as file:
                pictures.append(np.asarray(Image.open(file).convert("RGB")))
    members, served = [], {}
    for name in (*STUDENTS, TEACHER):
        model = onnx.load(zoo / "onnx" / f"{name}.onnx")
        side = MOBILENETS[name]
        steps = [
            ("resize_short", {"size": int(side / CROPPED), "filter": "bicubic"}),
            ("center_crop", {"size": [side, side]}),
            ("cast", {"dtype": "uint8"}),
        ]
        spec = validated(steps)
        logits, rounded = answers(model, (apply(spec, picture)[None] for picture in pictures))
        flops = flops_of(model)
        members.append(scored(SHORT[name], logits[:, 1:], flops))
        raw = rounded[:, 1:]
        served[SHORT[name]] = member(
            SHORT[name], raw, format_of(OutputKind.CLASSIFICATION, raw), flops=flops
        )
    return Ladder("ImageNet", members, np.arange(len(pictures)), served)


def trained(*, quick: bool, seed: int) -> Ladder:
    """Perceptrons of three sizes on 20 classes of clustered points (algorithms.md G.1)."""
    x, y = points(seed, TRAINED + (QUICK_POOL if quick else POOL))
    members = []
    for name, widths in WIDTHS.items():
        network = fitted(widths, x[:TRAINED], y[:TRAINED], seed=seed)
        with torch.no_grad():
            logits = network(torch.from_numpy(x[TRAINED:])).numpy()
        members.append(scored(name, logits, float(flops_of_widths(widths))))
    return Ladder("trained", members, y[TRAINED:])


def points(seed: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(inputs (count, 30), classes (count,)) of scikit-learn's make_classification."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        count, FEATURES, n_informative=INFORMATIVE, n_classes=CLASSES, n_clusters_per_class=2,
        class_sep=2.0, random_state=seed,
    )  # fmt: skip
    return (x / x.std()).astype(np.float32), y.astype(np.int64)


def perceptron(widths: Sequence[int], outputs: int = CLASSES) -> nn.Sequential:
    """Fully connected layers of these widths, ReLU between."""
    layers: list[nn.Module] = []
    before = FEATURES
    for width in widths:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, outputs))


def flops_of_widths(widths: Sequence[int], outputs: int = CLASSES) -> int:
    """2 x multiply-accumulates of `perceptron`."""
    sides = (FEATURES, *widths, outputs)
    return 2 * sum(a * b for a, b in pairwise(sides))


def fitted(widths: Sequence[int], x: Array, y: Array, *, seed: int, epochs: int = 15) -> nn.Module:
    """A perceptron trained on labels."""
    torch.manual_seed(seed)
    network = perceptron(widths)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=1e-4)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(inputs)), 128):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(inputs[rows]), targets[rows])
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
            optimiser.step()
    return network.eval()


def scored(name: str, logits: Array, flops: float) -> Member:
    """A member with every score of its logits (n, classes)."""
    values = np.asarray(logits, dtype=np.float64)
    scores = {score: class_score(score, values) for score in SCORES}
    return Member(name, values.argmax(axis=1), scores, flops, values)


def flops_of(model: ModelProto) -> float:
    """Of one input, 2 x multiply-accumulates."""
    flops = profile(model).flops
    assert flops is not None, "every operator of these models is counted"
    return float(flops)


def answers(model: ModelProto, batches: Iterator[Array]) -> tuple[Array, Array]:
    """(logits, answers as served), (n, classes) each: logits are what goes into a Softmax."""
    served = model.graph.output[0].name
    softmax = [node for node in model.graph.node if node.op_type == "Softmax"]
    tapped = softmax[-1].input[0] if softmax else served
    if tapped != served:
        model.graph.output.append(helper.make_tensor_value_info(tapped, TensorProto.FLOAT, None))
    session = open_session(model.SerializeToString(), 1)
    given = session.get_inputs()[0].name
    found = [session.run([tapped, served], {given: batch}) for batch in batches]
    first, second = (np.concatenate([pair[i] for pair in found]) for i in range(2))
    return first.reshape(len(first), -1), second.reshape(len(second), -1)
