"""How tight is a bound: look for an input on which the twin really is that far away.

Gradient ascent on ||twin - host|| in a ball of inputs. The distance that counts is measured by
running both models, so a search can show a bound to be loose or false, and never makes it look
better than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.norms.weights import load_torch
from sommelier.analysis.propagation.differentiable import evaluate
from sommelier.analysis.propagation.expansion import expanded
from sommelier.analysis.propagation.extension import Array, open_extended
from sommelier.analysis.propagation.propagating import feeds, prepared, propagate
from sommelier.analysis.propagation.weights import constants
from sommelier.analysis.tracing import trace
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

STEPS = 40
FIRST_STEP = 0.5  # of the radius; falls linearly to 0


@dataclass(frozen=True, slots=True)
class Falsification:
    """The worst inputs found. bounds, distances : (n,), claimed and measured at `inputs`."""

    bounds: Array
    distances: Array
    inputs: dict[str, NDArray[Any]]

    @property
    def tightness(self) -> Array:
        """distances / bounds, (n,): 1 is a bound that is reached; NaN where both are 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.distances / self.bounds)


def falsify(
    host: ModelProto | Path,
    replaced: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, NDArray[Any]],
    tensor: str,
    *,
    radius: float,
    steps: int = STEPS,
    seed: int = 0,
) -> Falsification:
    """The largest distance found in `tensor`, over inputs within `radius` of each sample.

    radius : L2, of the one floating input; 0 measures at the samples. The bound is that of
    `propagate` in mode 'static' with this radius ('probe' for 0). Raises AnalysisError when the
    host has several floating inputs, or an operator before the tensor has no gradient here.
    """
    floating = [name for name, array in inputs.items() if array.dtype.kind == "f"]
    if len(floating) != 1:
        raise AnalysisError(f"the search moves one floating input; the host has {len(floating)}")
    moved = floating[0]
    if radius > 0:
        claimed = propagate(host, replaced, inputs, mode="static", radius=radius)
        model = prepared(host, inputs)
        found = _ascend(model, replaced, inputs, (moved, tensor), (radius, steps, seed))
    else:
        claimed = propagate(host, replaced, inputs)
        model, found = prepared(host, inputs), np.asarray(inputs[moved])
    worst = {**inputs, moved: found}
    distances = _distances(model, replaced, [worst, dict(inputs)], tensor)
    better = distances[0] >= distances[1]
    kept = np.where(better.reshape(-1, *[1] * (found.ndim - 1)), found, inputs[moved])
    return Falsification(claimed.deltas[tensor], np.maximum(*distances), {**inputs, moved: kept})


def _ascend(
    model: ModelProto,
    replaced: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, NDArray[Any]],
    names: tuple[str, str],
    settings: tuple[float, int, int],
) -> NDArray[Any]:
    """The best input found around each sample, (n, ...)."""
    torch = load_torch()
    (moved, tensor), (radius, steps, seed) = names, settings
    flat, _ = expanded(model)
    graph, _ = trace(flat)
    known = constants(flat, graph, replaced)
    sides = [
        {name: torch.from_numpy(np.array(getattr(c, which))) for name, c in known.items()
         if getattr(c, which).dtype.kind in "fiub"}
        for which in ("before", "after")
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    found = []
    for sample in feeds(model, inputs):
        fixed = {name: torch.from_numpy(np.array(a)) for name, a in sample.items()}
        centre = fixed.pop(moved)

        def distance(x: Tensor, fixed: Mapping[str, Tensor] = fixed) -> Tensor:
            host, twin = (evaluate(graph, s, {**fixed, moved: x}, tensor) for s in sides)
            apart: Tensor = (twin - host).norm()
            return apart

        found.append(_climb(distance, centre, generator, (radius, steps)))
    shape = inputs[moved].shape
    return np.stack([x.numpy() for x in found]).reshape(shape)


def _climb(
    distance: Callable[[Tensor], Tensor],
    centre: Tensor,
    generator: Any,
    settings: tuple[float, int],
) -> Tensor:
    """The input of the largest distance on a path of normalised gradient steps in the ball."""
    torch = load_torch()
    radius, steps = settings
    step = torch.randn(centre.shape, generator=generator, dtype=centre.dtype)
    best, offset = (-1.0, torch.zeros_like(centre)), step * (0.1 * radius / step.norm())
    for k in range(steps + 1):
        x = (centre + offset).requires_grad_()
        reached = distance(x)
        if float(reached.detach()) > best[0]:
            best = (float(reached.detach()), offset)
        if not reached.requires_grad:
            break
        (slope,) = torch.autograd.grad(reached, x)
        size = float(slope.norm())
        if size == 0:
            break
        offset = offset + slope * (FIRST_STEP * radius * (1 - k / steps) / size)
        offset = offset * min(1.0, radius / max(float(offset.norm()), 1e-30))
    found: Tensor = (centre + best[1]).detach()
    return found


def _distances(
    model: ModelProto,
    replaced: Mapping[str, NDArray[Any]],
    given: list[dict[str, NDArray[Any]]],
    tensor: str,
) -> list[Array]:
    """||twin - host|| of the tensor at each of the samples, by running both, (n,) each."""
    from onnx import ModelProto, numpy_helper

    twin = ModelProto()
    twin.CopyFrom(model)
    for weight in twin.graph.initializer:
        if weight.name in replaced:
            weight.CopyFrom(numpy_helper.from_array(replaced[weight.name], weight.name))
    sessions = [open_extended(m, (), {}, [tensor]) for m in (model, twin)]
    results = []
    for feed in given:
        rows = []
        for one in feeds(model, feed):
            before, after = (np.asarray(s.run([tensor], one)[0], np.float64) for s in sessions)
            rows.append(np.linalg.norm(after - before))
        results.append(np.array(rows))
    return results
