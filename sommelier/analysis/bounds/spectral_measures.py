"""The ingredients of the spectral bound, measured on probes through a differentiable network.

Jacobian-vector products come from forward mode, so they are exact. Frobenius norms of Jacobians
are added up row by row where a tensor is small, and estimated by Hutchinson's method where it is
large: E ||J^T v||^2 = ||J||_F^2 for signs v. One backward pass serves all earlier layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from sommelier.analysis.bounds.spectral_layers import Chain, Layer
from sommelier.analysis.torch_graph.module import TorchGraph
from sommelier.errors import AnalysisError


class Options(Protocol):
    """What of the settings matters here; `spectral.SpectralSettings` documents each."""

    @property
    def projections(self) -> int: ...
    @property
    def exact_outputs(self) -> int: ...
    @property
    def noise(self) -> float: ...


@dataclass(slots=True)
class Least:
    """The smallest ratio seen, with the relative standard error it was measured with."""

    value: float = math.inf
    error: float = 0.0

    def take(self, ratios: Tensor, errors: Tensor | None = None) -> None:
        """ratios, errors : (samples,). NaN, from a zero tensor, counts as 0: no cushion at all."""
        ratios = torch.nan_to_num(ratios, nan=0.0, posinf=math.inf)
        place = int(ratios.argmin())
        if float(ratios[place]) < self.value:
            self.value = float(ratios[place])
            self.error = 0.0 if errors is None else float(errors[place])


@dataclass(slots=True)
class Measurements:
    """Running extremes over samples. interlayer : (i, j) -> mu_ij. smoothness : (i, j) -> ratios
    of all samples. spread : beta. shapes : (channels, positions) of each layer's exit."""

    chain: Chain
    cushions: list[Least] = field(default_factory=list)
    interlayer: dict[tuple[int, int], Least] = field(default_factory=dict)
    smoothness: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    contraction: float = 1.0
    spread: float = 1.0
    shapes: list[tuple[int, int]] = field(default_factory=list)
    estimated: bool = False
    samples: int = 0

    def __post_init__(self) -> None:
        self.cushions = [Least() for _ in self.chain.layers]


Inputs = Mapping[str, Tensor]


def forward(net: TorchGraph, inputs: Inputs, found: Measurements) -> Tensor:
    """The logits (n, classes); c and the cushions of plain layers take the samples in."""
    layers = found.chain.layers
    names = {found.chain.logits, *(x.exit for x in layers), *(x.entry for x in layers)}
    with torch.no_grad():
        values = net.tensors(inputs, sorted(names))
        if not found.shapes:
            found.shapes = [_channels_and_positions(values[x.exit], x) for x in layers]
        for before, after in pairwise(layers):
            ratio = _norms(values[before.exit]) / _norms(values[after.entry])
            worst = float(torch.nan_to_num(ratio, nan=1.0, posinf=math.inf).max())
            found.contraction = max(found.contraction, worst)
        for layer, least in zip(layers, found.cushions, strict=True):
            if layer.weight_norm is not None:
                entry = values[layer.entry]
                shift = _run(net, inputs, layer.entry, torch.zeros_like(entry), [layer.exit])[0]
                image = _norms(values[layer.exit] - shift)
                least.take(image / (layer.weight_norm * _norms(entry)))
        return values[found.chain.logits].reshape(len(values[layers[0].exit]), -1)


def jacobians(
    net: TorchGraph,
    inputs: Inputs,
    found: Measurements,
    options: Options,
    random: torch.Generator,
) -> None:
    """Takes one batch into mu_ij, beta, rho and the cushions of layers known by their Jacobian."""
    layers = found.chain.layers
    with torch.no_grad():
        entries = net.tensors(inputs, [x.entry for x in layers])
        exits = net.tensors(inputs, [x.exit for x in layers])
    squares = _squared_norms(net, inputs, found, options, random)
    for i, layer in enumerate(layers):
        if layer.weight_norm is None:
            entry = entries[layer.entry]
            image = _pushed(net, inputs, layer.entry, entry, entry, [layer.exit])[1][0]
            total = squares[i, i, "entry"]
            norm = (total.mean / found.shapes[i][1]).sqrt()
            found.cushions[i].take(_norms(image) / (norm * _norms(entry)), total.relative_error)
    for i, layer in enumerate(layers[:-1]):
        start = exits[layer.exit]
        _between(net, inputs, i, start, found, squares, options, random)
    found.samples += len(exits[layers[0].exit])


def _between(
    net: TorchGraph, inputs: Inputs, i: int, start: Tensor, found: Measurements,
    squares: Mapping[tuple[int, int, str], _Moments], options: Options, random: torch.Generator,
) -> None:  # fmt: skip
    """mu_ij, beta and the smoothness of all j > i."""
    layers, positions = found.chain.layers, found.shapes[i][1]
    later = [x.exit for x in layers[i + 1 :]]
    made, images = _pushed(net, inputs, layers[i].exit, start, start, later)
    noise = _signs_or_noise(start, random, gaussian=True)
    length = options.noise * _norms(start) / _norms(noise)
    noise = noise * length.reshape(-1, *[1] * (start.ndim - 1))
    _, shifts = _pushed(net, inputs, layers[i].exit, start, noise, later)
    with torch.no_grad():
        disturbed = _run(net, inputs, layers[i].exit, start + noise, later)
    for j, (host, image, shift, after) in enumerate(
        zip(made, images, shifts, disturbed, strict=True), start=i + 1
    ):
        total = squares[i, j, "exit"]
        ratio = math.sqrt(positions) * _norms(image) / (total.mean.sqrt() * _norms(start))
        found.interlayer.setdefault((i, j), Least()).take(ratio, total.relative_error)
        error = _norms(after - host - shift)
        allowed = _norms(noise) * _norms(host) / _norms(start)
        found.smoothness.setdefault((i, j), []).extend(
            torch.nan_to_num(allowed / error, nan=math.inf, posinf=math.inf).tolist()
        )
        if positions > 1:
            spread = (positions * total.by_position / total.mean[:, None]).amax(1).sqrt()
            found.spread = max(found.spread, float(torch.nan_to_num(spread).max()))


@dataclass(slots=True)
class _Moments:
    """Sums of ||J^T v||^2 over draws of v. by_position : (samples, positions), summed."""

    first: Tensor
    second: Tensor
    columns: Tensor
    exact: bool
    draws: int = 0

    def add(self, gradient: Tensor, axis: int) -> None:
        squared = gradient.flatten(2) if gradient.ndim > 2 else gradient[..., None]
        if axis == -1 and gradient.ndim > 2:
            squared = gradient.reshape(len(gradient), -1, gradient.shape[-1]).mT
        squared = squared.square().sum(1)  # (samples, positions)
        total = squared.sum(1)
        self.first, self.second = self.first + total, self.second + total.square()
        self.columns = self.columns + squared
        self.draws += 1

    @property
    def mean(self) -> Tensor:
        """||J||_F^2 (samples,)."""
        return self.first if self.exact else self.first / self.draws

    @property
    def by_position(self) -> Tensor:
        return self.columns if self.exact else self.columns / self.draws

    @property
    def relative_error(self) -> Tensor:
        """Standard error of ||J||_F, relative; half of that of its square."""
        if self.exact or self.draws < 2:
            return torch.zeros_like(self.first)
        mean = self.first / self.draws
        variance = (self.second / self.draws - mean.square()) * self.draws / (self.draws - 1)
        return (variance.clamp_min(0) / self.draws).sqrt() / mean / 2


def _squared_norms(
    net: TorchGraph, inputs: Inputs, found: Measurements, options: Options, random: torch.Generator
) -> dict[tuple[int, int, str], _Moments]:
    """Squared norms of d x^j / d x^i, by (i, j, 'exit'), and of layers, by (j, j, 'entry')."""
    layers = found.chain.layers
    names = [x.exit for x in layers] + [x.entry for x in layers]
    leaf = layers[0].entry if layers[0].weight_norm is None else layers[0].exit
    with torch.no_grad():
        start = net.tensors(inputs, [leaf])[leaf]
    if not start.is_floating_point():
        raise AnalysisError(
            f"layer '{layers[0].name}' reads integers: it has no Jacobian to measure"
        )
    start = start.detach().requires_grad_()
    reachable = names if leaf == layers[0].entry else [n for n in names if n != layers[0].entry]
    values = net.tensors({**inputs, leaf: start}, reachable)
    squares: dict[tuple[int, int, str], _Moments] = {}
    for j, layer in enumerate(layers):
        keys = [(i, j, "exit") for i in range(j)]
        keys += [(j, j, "entry")] if layer.weight_norm is None else []
        if keys:
            sources = [values[layers[i].exit if at == "exit" else layer.entry] for i, _, at in keys]
            axes = [layers[i].channel_axis if at == "exit" else 1 for i, _, at in keys]
            made = _accumulated(values[layer.exit], sources, axes, options, random)
            found.estimated |= any(not one.exact for one in made)
            squares.update(zip(keys, made, strict=True))
    return squares


def _accumulated(
    target: Tensor,
    sources: Sequence[Tensor],
    axes: Sequence[int],
    options: Options,
    random: torch.Generator,
) -> list[_Moments]:
    """Moments of the Jacobians of one target with respect to several sources."""
    size = target[0].numel()
    exact = size <= max(options.exact_outputs, options.projections)
    zero = target.new_zeros(len(target))
    moments = [_Moments(zero, zero, target.new_zeros(len(target), 1), exact) for _ in sources]
    for k in range(size if exact else options.projections):
        if exact:
            vector = torch.zeros_like(target).reshape(len(target), -1)
            vector[:, k] = 1.0
            vector = vector.reshape(target.shape)
        else:
            vector = _signs_or_noise(target, random, gaussian=False)
        gradients = torch.autograd.grad(target, sources, vector, retain_graph=True)
        for one, gradient, axis in zip(moments, gradients, axes, strict=True):
            one.add(gradient, axis)
    return moments


def _pushed(
    net: TorchGraph, inputs: Inputs, name: str, at: Tensor, direction: Tensor, wanted: list[str]
) -> tuple[list[Tensor], list[Tensor]]:
    """The wanted tensors at `at`, and their derivatives along `direction`."""
    function: Callable[[Tensor], list[Tensor]] = lambda x: _run(net, inputs, name, x, wanted)  # noqa: E731
    with torch.no_grad():
        found = torch.func.jvp(function, (at,), (direction,))
    return found[0], found[1]


def _run(
    net: TorchGraph, inputs: Inputs, name: str, value: Tensor, wanted: list[str]
) -> list[Tensor]:
    found = net.tensors({**inputs, name: value}, wanted)
    return [found[one] for one in wanted]


def _norms(x: Tensor) -> Tensor:
    """The L2 norm of each sample, (n,)."""
    found: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return found


def _signs_or_noise(like: Tensor, random: torch.Generator, *, gaussian: bool) -> Tensor:
    """Drawn on the CPU, so that a seed means the same on every device."""
    if gaussian:
        drawn = torch.randn(like.shape, generator=random)
    else:
        drawn = torch.randint(0, 2, like.shape, generator=random) * 2.0 - 1.0
    return drawn.to(like.device, like.dtype)


def _channels_and_positions(made: Tensor, layer: Layer) -> tuple[int, int]:
    channels = made.shape[layer.channel_axis]
    return channels, made[0].numel() // channels
