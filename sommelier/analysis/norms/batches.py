"""Many norms at once: equal weights once, dense matrices of one shape together on the device."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from sommelier.analysis.norms.convolutions import EFFORT, window_norm
from sommelier.analysis.norms.matrices import matrix_norm, matrix_norms
from sommelier.analysis.norms.values import Norm, Request
from sommelier.analysis.norms.weights import load_torch, tensor_of

SAMPLE = 1024  # elements that tell weights apart before they are compared whole


def many(requests: Sequence[Request], device: str = "cpu", *, effort: float = EFFORT) -> list[Norm]:
    """The norm of each request, in order. Weights of equal content are computed once.

    The device holds a slice of 256 MiB of doubles at a time and what its norm needs; the weights
    stay where they are. effort : for each convolution, as in `convolution_norm`.
    Raises AnalysisError for the first request that has no norm.
    """
    firsts = _first_of_equals(requests)
    norms: dict[int, Norm] = {}
    shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index in sorted(set(firsts)):
        window, weight = requests[index].window, requests[index].weight
        if window is not None:
            norms[index] = window_norm(weight, window, effort=effort, device=device)
        elif np.ndim(weight) == 2:
            shapes[tuple(sorted(weight.shape))].append(index)
        else:
            norms[index] = matrix_norm(weight, device=device)
    for alike in shapes.values():
        upright = [_upright(requests[index]) for index in alike]
        norms.update(zip(alike, matrix_norms(upright, device=device), strict=True))
    return [norms[index] for index in firsts]


def _upright(request: Request) -> object:
    weight = tensor_of(request.weight)
    return weight if weight.shape[0] >= weight.shape[1] else weight.T


def _first_of_equals(requests: Sequence[Request]) -> list[int]:
    """For each request, the first one with the same weight and window (itself, mostly)."""
    torch = load_torch()
    alike: dict[Hashable, list[int]] = defaultdict(list)
    found = []
    for index, request in enumerate(requests):
        weight = tensor_of(request.weight)
        known = alike[(request.window, _sample(request))]
        same = (i for i in known if torch.equal(tensor_of(requests[i].weight), weight))
        first = next(same, index)
        if first == index:
            known.append(index)
        found.append(first)
    return found


def _sample(request: Request) -> Hashable:
    """Shape, type and a hash of some elements: equal for equal weights, seldom for others."""
    weight = tensor_of(request.weight)
    flat = weight.flatten() if weight.is_contiguous() else weight[:1].flatten()
    some = flat[:: max(1, len(flat) // SAMPLE)].double().cpu().numpy()
    digest = hashlib.blake2b(some.tobytes(), digest_size=16).digest()
    return (tuple(weight.shape), weight.dtype, weight.is_contiguous(), digest)
