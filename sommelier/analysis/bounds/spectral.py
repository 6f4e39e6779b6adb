"""The generalization bound that Sommelier 4.1 adds to a measured difference, computed faithfully.

Arora, Ge, Neyshabur and Zhang, "Stronger generalization bounds for deep nets via a compression
approach" (2018), theorems 4.1 and 5.1: with hidden constants and logarithms,

    L_0(compressed f) <= L_gamma(f) + O~(sqrt(c^2 d^2 max|f(x)|^2 S / (gamma^2 m))),
    S = sum over layers of beta^2 ceil(kappa_i / s_i)^2 / (mu_i^2 mu_i->^2)

The constants are set to 1 here, which is not a proof, for the compressed network only and for m
samples of its *training* set. It is a diagnostic: never a filter, never a certificate
(algorithms.md A.3). Sommelier prints it without c and with max|f| not squared, which is not
invariant under a scaling of the logits; both values are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.bounds.spectral_measures import Measurements

Array = NDArray[Any]
Progress = Callable[[int, int], None]

FULL, CONVOLUTIONAL = 3, 6  # Arora 2018, theorems 4.1 and 5.1: rho >= 3d, rho >= 6d


@dataclass(frozen=True, slots=True)
class SpectralSettings:
    """gamma : the margin; None takes the `quantile` of the margins of rightly answered samples.

    jacobian_samples : first samples that Jacobians are taken at. projections : random signs per
    Jacobian that is estimated; exact_outputs : tensors up to this size are added up row by row.
    noise : Gaussian, relative to a tensor's norm, for rho; risk : share of it that may be rougher.
    threads : of torch on the CPU; waiting threads cost more than they help on a shared machine.
    time_limit_s : Jacobians stop at the end of the batch in which it passes.
    """

    gamma: float | None = None
    quantile: float = 0.1
    jacobian_samples: int = 64
    projections: int = 16
    exact_outputs: int = 64
    noise: float = 0.1
    risk: float = 0.01
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    time_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class LayerIngredients:
    """One layer. cushion : mu_i. interlayer : mu_i->. towards : the later layer that decides it,
    None for 1/sqrt(channels). error : relative standard error of mu_i or mu_i->, the larger one;
    0 if both are exact. windows : ceil(kappa_i / s_i)."""

    name: str
    kind: str
    cushion: float
    interlayer: float
    towards: str | None
    windows: int
    channels: int
    positions: int
    error: float

    @property
    def share(self) -> float:
        """1 / (mu_i^2 mu_i->^2)."""
        product = self.cushion * self.interlayer
        return 1.0 / product**2 if product else math.inf


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What the theorem asks for: interlayer smoothness of at least 3d (6d with convolutions)."""

    smoothness: float
    needed: float

    @property
    def holds(self) -> bool:
        return self.smoothness >= self.needed


@dataclass(frozen=True, slots=True)
class SpectralBound:
    """The bound on the error rate, with what it is made of.

    samples : m. contraction : c. spread : beta, 1 without convolutions. largest_output : max|f(x)|.
    jacobian_samples : of how many samples the extremes over Jacobians are: of more they would be
    worse, and the bound larger. estimated : some norms of Jacobians are (Hutchinson). uncovered :
    what of this network no theorem covers.
    """

    margin_loss: float
    gamma: float
    samples: int
    layers: tuple[LayerIngredients, ...]
    contraction: float
    spread: float
    largest_output: float
    hypothesis: Hypothesis
    jacobian_samples: int
    estimated: bool
    uncovered: tuple[str, ...]
    quantile: float | None
    constants: str = "1 (hidden in O~)"

    @property
    def term(self) -> float:
        """Arora's complexity term, its hidden constants taken for 1."""
        total = sum(self.spread**2 * x.windows**2 * x.share for x in self.layers)
        return self.contraction * self.largest_output * self._scale * math.sqrt(total)

    @property
    def value(self) -> float:
        """The margin loss plus the term: what the error rate would be below."""
        return self.margin_loss + self.term

    @property
    def printed_term(self) -> float:
        """The term as Sommelier 4.1 prints it: no c, no beta and kappa, max|f| not squared."""
        return self._scale * math.sqrt(self.largest_output * sum(x.share for x in self.layers))

    @property
    def printed_value(self) -> float:
        return self.margin_loss + self.printed_term

    @property
    def vacuous(self) -> bool:
        """Whether it says nothing: every error rate is at most 1."""
        return not self.value < 1.0

    @property
    def says(self) -> str:
        """What follows, in one sentence."""
        if self.vacuous:
            return "vacuous: every error rate is at most 1"
        if not self.hypothesis.holds:
            return "nothing: the hypothesis of the theorem does not hold"
        if self.uncovered:
            return "nothing proved: no theorem covers this network"
        return f"error at most {self.value:.3g} if the hidden constants were 1: not a proof"

    @property
    def _scale(self) -> float:
        return len(self.layers) / (self.gamma * math.sqrt(self.samples))

    def at(self, samples: int) -> SpectralBound:
        """The same ingredients for another m."""
        return replace(self, samples=samples)

    def __str__(self) -> str:
        """A small table."""
        rows = [("layer", "kind", "mu_i", "mu_i->", "towards", "+-", "kappa/s")]
        for x in self.layers:
            error = f"{100 * x.error:.1f} %" if x.error else "exact"
            rows.append((x.name[-28:], x.kind, f"{x.cushion:.3g}", f"{x.interlayer:.3g}",
                         (x.towards or "1/sqrt(h)")[-28:], error, str(x.windows)))  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join([*self._summary(), *table])

    def _summary(self) -> list[str]:
        status = "holds" if self.hypothesis.holds else "FAILS"
        chosen = "" if self.quantile is None else f" ({self.quantile:g} quantile of right answers)"
        norms = "estimated" if self.estimated else "exact"
        wanted, value, printed = self.hypothesis.needed, self.value, self.printed_value
        return [
            f"spectral bound {value:.4g} (Sommelier prints {printed:.4g}): {self.says}",
            f"margin loss {self.margin_loss:.4g} at gamma {self.gamma:.4g}{chosen}",
            f"m = {self.samples}, d = {len(self.layers)}, constants = {self.constants}",
            f"c {self.contraction:.3g}, beta {self.spread:.3g}, max|f| {self.largest_output:.4g}",
            f"rho {self.hypothesis.smoothness:.3g}, needs {wanted:g}: hypothesis {status}",
            f"Jacobians at {self.jacobian_samples} samples, norms {norms}",
            *(["no theorem covers: " + ", ".join(self.uncovered)] if self.uncovered else []),
        ]


def spectral_bound(
    model: ModelProto | Path | str,
    inputs: Mapping[str, Array],
    labels: Array,
    settings: SpectralSettings | None = None,
    *,
    progress: Progress | None = None,
) -> SpectralBound:
    """The spectral bound of a classifier on labelled samples, which stand for its training set.

    inputs : the model's input -> (m, ...). labels : (m,) class ids of its outputs; for a statement
    about agreement, another model's answers. progress : (batches done, batches in all).
    Raises AnalysisError for models it is not defined for, naming what is not supported.
    """
    found = spectral_bounds(model, inputs, {"": labels}, settings, progress=progress)
    return found[""]


def spectral_bounds(
    model: ModelProto | Path | str,
    inputs: Mapping[str, Array],
    labels: Mapping[str, Array],
    settings: SpectralSettings | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, SpectralBound]:
    """The same for several labellings of the same samples, measured once: name -> bound."""
    from sommelier.analysis.torch_graph import require_torch

    require_torch()
    from sommelier.analysis.bounds.spectral_passes import measured

    chosen = settings or SpectralSettings()
    size = len(next(iter(inputs.values())))
    if not size or any(len(array) != size for array in (*inputs.values(), *labels.values())):
        raise AnalysisError("the spectral bound needs as many labels as samples, and at least one")
    found, logits = measured(model, inputs, chosen, progress)
    return {
        name: _bound(found, logits, np.asarray(given, np.int64), chosen)
        for name, given in labels.items()
    }


def _bound(
    found: Measurements, logits: Array, labels: Array, settings: SpectralSettings
) -> SpectralBound:
    margins = _margins(logits, labels)
    gamma = _gamma(margins, settings)
    depth = len(found.chain.layers)
    pairs = [float(np.quantile(ratios, settings.risk, method="lower"))
             for ratios in found.smoothness.values()]  # fmt: skip
    factor = CONVOLUTIONAL if found.chain.convolutional else FULL
    return SpectralBound(
        margin_loss=float(np.mean(margins <= gamma)),
        gamma=gamma,
        samples=len(labels),
        layers=tuple(_ingredients(found, i) for i in range(depth)),
        contraction=found.contraction,
        spread=found.spread,
        largest_output=float(np.linalg.norm(logits, axis=1).max()),
        hypothesis=Hypothesis(min(pairs, default=math.inf), factor * depth),
        jacobian_samples=found.samples,
        estimated=found.estimated,
        uncovered=found.chain.uncovered,
        quantile=None if settings.gamma is not None else settings.quantile,
    )


def _ingredients(found: Measurements, i: int) -> LayerIngredients:
    layer, (channels, positions) = found.chain.layers[i], found.shapes[i]
    cushion = found.cushions[i]
    value, towards, error = 1.0 / math.sqrt(channels), None, 0.0
    for (start, end), least in found.interlayer.items():
        if start == i and least.value < value:
            value, towards, error = least.value, found.chain.layers[end].name, least.error
    return LayerIngredients(
        layer.name, layer.kind, cushion.value, value, towards, layer.windows, channels, positions,
        max(error, cushion.error),
    )  # fmt: skip


def _margins(logits: Array, labels: Array) -> Array:
    """f_y - max over the others, (m,)."""
    if logits.shape[1] < 2 or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise AnalysisError(
            f"labels are {labels.min()}..{labels.max()}, the model has {logits.shape[1]} outputs",
            hint="give class ids of the model's outputs; leave samples of unknown class out",
        )
    rows = np.arange(len(labels))
    own, others = logits[rows, labels], logits.copy()
    others[rows, labels] = -np.inf
    return np.asarray(own - others.max(axis=1))


def _gamma(margins: Array, settings: SpectralSettings) -> float:
    if settings.gamma is not None:
        if settings.gamma <= 0:
            raise AnalysisError(f"gamma = {settings.gamma:g} is no margin", hint="above 0")
        return settings.gamma
    right = margins[margins > 0]
    if not len(right):
        raise AnalysisError(
            "the model answers no sample rightly, so there is no margin to choose",
            hint="check labels and preprocessing",
        )
    return float(np.quantile(right, settings.quantile))
