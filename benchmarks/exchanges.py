"""One exchange of segments, estimated, certified and measured; promises against the truth.

A promise is one statement that the product makes with "certified": that a tensor of the hybrid is
no further from the host's than its bound on one sample, that a sample's answer is unchanged, that
an accuracy is not below a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sommelier.analysis.execution import open_session
from sommelier.analysis.propagation import Propagation, propagate
from sommelier.analysis.segments import Segment, assess, build_twin, replaced_weights, separate

Floats = NDArray[np.float64]
Tensors = dict[str, NDArray[np.float32]]

TOLERANCE = 1e-6  # of a tensor's norm: what two float32 runs may differ by
SHAVED = 0.99  # of a bound: to see that the count notices one that is a little too low


@dataclass(frozen=True, slots=True)
class Pair:
    """A host whose segments are exchanged for those of a donor."""

    name: str
    host: onnx.ModelProto
    donor: onnx.ModelProto

    @property
    def input(self) -> str:
        return str(self.host.graph.input[0].name)

    @property
    def output(self) -> str:
        return str(self.host.graph.output[0].name)


@dataclass(frozen=True, slots=True)
class Probes:
    """Inputs as the host wants them, (n, ...), and their classes (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


@dataclass(slots=True)
class Ledger:
    """How many promises were made, how many were broken, and how near it came.

    nearest : the largest (truth - bound) / norm of a tensor; broken above TOLERANCE. lower : how
    many tensors' promises bounds SHAVED by 1 % would break, which says that errors are noticed.
    """

    promises: int = 0
    violations: int = 0
    lower: int = 0
    nearest: float = -np.inf

    def enter(self, kept: NDArray[np.bool_] | bool) -> None:
        """Promises and whether each was kept."""
        self.promises += np.size(kept)
        self.violations += int(np.size(kept) - np.count_nonzero(kept))


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one exchange does to the host. Shares and accuracies in 0..1.

    expected, uncertified, changed : share of answers that change as estimated, that may change as
    far as is proved, and that do. tightness, at_output : bound / true difference (n,) at the last
    segment's exit and of the output; NaN where nothing differs.
    """

    identical: bool
    expected: float
    uncertified: float
    changed: float
    estimated: float
    certified: float
    measured: float
    tightness: Floats
    at_output: Floats


def exchange(
    pair: Pair, segments: Sequence[Segment], probes: Probes, expected: float, ledger: Ledger
) -> Exchange:
    """The segments exchanged together: bounds from `propagate`, truth from the built hybrid."""
    host = separate(pair.host, pair.donor, segments)
    bounds = propagate(
        host, replaced_weights(pair.host, pair.donor, segments), {pair.input: probes.x}
    )
    names = activations(host)
    ours = tensors_of(host, names, {pair.input: probes.x})
    theirs = tensors_of(build_twin(pair.host, pair.donor, segments), names, {pair.input: probes.x})
    hold_against(bounds, ours, theirs, ledger)
    before, after = ours[pair.output].argmax(axis=-1), theirs[pair.output].argmax(axis=-1)
    sure, right = bounds.certified_unchanged(pair.output), before == probes.y
    certified, measured = float((right & sure).mean()), float((after == probes.y).mean())
    ledger.enter((before == after)[sure])
    ledger.enter(certified <= measured)
    ends = [
        ratio(bounds.deltas[name], difference(ours[name], theirs[name]))
        for name in (segments[-1].host_exit, pair.output)
    ]
    return Exchange(
        identical=all(segment.identical for segment in segments),
        expected=expected,
        uncertified=float(1 - sure.mean()),
        changed=float((before != after).mean()),
        estimated=float(right.mean()) * (1 - expected),
        certified=certified,
        measured=measured,
        tightness=ends[0],
        at_output=ends[1],
    )


def expectations(
    pair: Pair, segments: Sequence[Segment], probes: Probes, seed: int
) -> tuple[dict[str, float], float]:
    """Shares of answers that `assess` expects to change: by segment, and of all at once.

    Raises SystemExit where the segments overlap, so that they are not exchanged at once.
    """
    if not segments:
        return {}, 0.0
    inputs = {pair.input: probes.x}
    found = assess(pair.host, pair.donor, segments, inputs, threshold=1.0, seed=seed)
    if len(found.chosen) < len(segments):
        raise SystemExit(f"{pair.name}: only {found.chosen} can be exchanged together")
    return {one.segment.name: one.estimated for one in found.segments}, found.estimated


def hold_against(bounds: Propagation, ours: Tensors, theirs: Tensors, ledger: Ledger) -> None:
    """Enter one promise for every sample and every floating tensor that has one row a sample."""
    samples = max(len(tensor) for tensor in ours.values() if tensor.ndim)
    for name, tensor in ours.items():
        if tensor.dtype.kind != "f" or not tensor.ndim or len(tensor) != samples:
            continue
        true, bound, size = difference(tensor, theirs[name]), bounds.deltas[name], norms(tensor)
        excess = (true - bound) / size
        ledger.enter(excess <= TOLERANCE)  # a NaN breaks it
        ledger.lower += int(np.count_nonzero((true - SHAVED * bound) / size > TOLERANCE))
        ledger.nearest = max(ledger.nearest, float(excess.max()))


def activations(model: onnx.ModelProto) -> list[str]:
    """Every tensor that some operator of the graph makes."""
    return [name for node in model.graph.node for name in node.output if name]


def tensors_of(model: onnx.ModelProto, names: Sequence[str], inputs: Tensors) -> Tensors:
    """The named tensors of the model on these inputs, by ONNX Runtime."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    for name in names:
        if name not in known:
            watched.graph.output.add(name=name)
    session = open_session(watched.SerializeToString(), 1)
    return dict(zip(names, session.run(list(names), inputs), strict=True))


def norms(tensor: NDArray[np.floating]) -> Floats:
    """L2 norm per sample, at least 1e-30."""
    flat = tensor.reshape(len(tensor), -1).astype(np.float64)
    return np.asarray(np.maximum(np.linalg.norm(flat, axis=1), 1e-30))


def difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Floats:
    """L2 distance per sample."""
    gap = (theirs.astype(np.float64) - ours).reshape(len(ours), -1)
    return np.asarray(np.linalg.norm(gap, axis=1))


def ratio(bound: Floats, true: Floats) -> Floats:
    """bound / truth; NaN where nothing differs."""
    return np.divide(bound, true, out=np.full_like(true, np.nan), where=true > 0)
