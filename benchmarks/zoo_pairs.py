"""Segments of real pairs of the zoo: 32-bit models and their int8 versions, and a depth ladder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.exchanges import Ledger, Pair, Probes, exchange, tensors_of
from benchmarks.populations import TORCH
from benchmarks.report import Cell, table
from sommelier.analysis.preprocessing import apply
from sommelier.analysis.segments import assess, common_segments

QUICK_PAIRS = (("ic_resnet8", "ic_resnet8_int8"),)
PAIRS = (
    *QUICK_PAIRS,
    ("resnet_large_f", "ic_resnet_large_int8"),
    ("cifar10_resnet32", "cifar10_resnet20"),
    ("cifar10_resnet44", "cifar10_resnet32"),
    ("cifar10_resnet56", "cifar10_resnet44"),
)
SAMPLES, QUICK_SAMPLES = 200, 50


def zoo_table(*, quick: bool, seed: int, ledger: Ledger) -> str:
    """What each segment changes alone; a line that says so where SOMMELIER_ZOO is not set."""
    folder = os.environ.get("SOMMELIER_ZOO")
    if not folder:
        return "\nSOMMELIER_ZOO is not set: no pairs of the zoo"
    stored = np.load(Path(folder) / "data" / "cifar10_test.npz")
    count = QUICK_SAMPLES if quick else SAMPLES
    rows = np.random.default_rng(seed).permutation(len(stored["y"]))[:count]
    x, y = stored["x"][rows], stored["y"][rows]
    cells: list[tuple[Cell, ...]] = []
    for names in QUICK_PAIRS if quick else PAIRS:
        host, donor = (onnx.load(Path(folder) / "onnx" / f"{name}.onnx") for name in names)
        pair = Pair(" <- ".join(names), host, donor)
        agree = float((_answers(names[0], host, x) == _answers(names[1], donor, x)).mean())
        probes = Probes(prepared(names[0], x), y)
        cells.append((pair.name, "whole", "", "", "", f"- / - / {100 * (1 - agree):.0f}"))
        cells.extend(_segments(pair, probes, seed, ledger))
    header = ("host <- donor", "segment", "operators", "params, donor's", "difference %",
              "answers that change %")  # fmt: skip
    title = (
        f"pairs of the zoo, {count} images: difference at the exit (median); answers that change, "
        "estimated / not proved unchanged / measured"
    )
    return table(title, header, cells)


def _segments(pair: Pair, probes: Probes, seed: int, ledger: Ledger) -> Iterator[tuple[Cell, ...]]:
    """One row a segment, exchanged alone; segments of other operators are never certified."""
    found = common_segments(pair.host, pair.donor)
    judged = assess(pair.host, pair.donor, found, {pair.input: probes.x}, threshold=1.0, seed=seed)
    for one in judged.segments:
        segment, proved = one.segment, "-"
        if segment.kind == "common":
            done = exchange(pair, [segment], probes, one.estimated, ledger)
            proved = f"{100 * done.uncertified:.0f}"
        changes = f"{100 * one.estimated:.0f} / {proved} / {100 * one.measured:.0f}"
        yield ("", f"{segment.name} {segment.kind}", segment.operators,
               f"{segment.params:.0f}, {segment.donor_params:.0f}", f"{100 * one.difference:.1f}",
               changes)  # fmt: skip


def prepared(name: str, x: NDArray[Any]) -> NDArray[Any]:
    """Images uint8 (n, 32, 32, 3) as the model of this name wants them (the zoo's README)."""
    if name.startswith("cifar10"):
        return np.stack([apply(TORCH, image) for image in x])
    return (x.astype(np.int16) - 128).astype(np.int8) if "int8" in name else x.astype(np.float32)


def _answers(name: str, model: onnx.ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    given, output = model.graph.input[0].name, model.graph.output[0].name
    outputs = tensors_of(model, [output], {given: prepared(name, x)})
    return np.asarray(outputs[output].argmax(axis=-1))
