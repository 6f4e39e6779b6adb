"""What comparing two models layer by layer found: values for an engine, a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sommelier.analysis.differences.disagreements import Disagreements
from sommelier.analysis.differences.lineage import LineageEvidence
from sommelier.analysis.quality.comparison import PairComparison


@dataclass(frozen=True, slots=True)
class LayerError:
    """Two aligned layers and how far apart their values are on the same samples.

    reference, candidate : names in the files; kind, candidate_kind : operators, 'Conv+Relu'. by :
    'structure' or 'values', what aligned them. error, error_max : median and maximum over samples
    of |candidate - reference| / |reference| in L2. cosine : median. largest : absolute error of one
    element, over all samples. tolerance : median over samples, of `error`'s kind. beyond : share of
    samples beyond it. added : error minus the largest error among the aligned layers it reads;
    growth : their ratio, None where there is none or it is 0. layout : what the candidate's axes
    had to become, '' for nothing. elements : of one sample.
    """

    reference: str
    candidate: str
    kind: str
    candidate_kind: str
    by: str
    elements: int
    error: float
    error_max: float
    cosine: float
    largest: float
    tolerance: float
    beyond: float
    added: float
    growth: float | None
    layout: str = ""


@dataclass(frozen=True, slots=True)
class Unaligned:
    """A layer of one model that has no certain partner in the other."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True, repr=False)
class LayerReport:
    """Where two models part; printing shows a table of at most 40 lines.

    samples : behind the layers' errors. layers : in the reference's order. first_divergence : the
    first layer with more than 5 % of samples beyond the tolerance. related : False when neither the
    weights nor the activations of the first aligned layers have to do with each other, as after
    separate training: errors then say nothing about a place where the models part, and
    first_divergence is None. lineage : what the weights show.
    answers, examples : the outputs on all inputs; None where they cannot be compared, and a note
    says why.
    """

    names: tuple[str, str]
    samples: int
    layers: tuple[LayerError, ...]
    only_reference: tuple[Unaligned, ...]
    only_candidate: tuple[Unaligned, ...]
    first_divergence: LayerError | None
    related: bool
    lineage: LineageEvidence
    answers: PairComparison | None = None
    examples: Disagreements | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def changed(self) -> float | None:
        """Share of samples whose answer changes."""
        return None if self.answers is None else 1.0 - self.answers.agreement.value

    def growth(self, limit: int = 3) -> tuple[LayerError, ...]:
        """The layers that add most error to what they read, largest first."""
        grown = sorted(self.layers, key=lambda layer: -layer.added)
        return tuple(layer for layer in grown[:limit] if layer.added > 0)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: numbers, text, lists and dictionaries."""
        found = self.answers
        answers: Mapping[str, Any] | None = None
        if found is not None:
            answers = {
                "samples": found.samples, "agreements": found.agreements,
                "agreement": found.agreement.value, "low": found.agreement.low,
                "high": found.agreement.high, "confidence": found.confidence,
                "distance": found.distance, "cosine": found.cosine,
            }  # fmt: skip
        return {
            "names": list(self.names),
            "samples": self.samples,
            "layers": [asdict(layer) for layer in self.layers],
            "only_reference": [asdict(layer) for layer in self.only_reference],
            "only_candidate": [asdict(layer) for layer in self.only_candidate],
            "first_divergence": _plain(self.first_divergence),
            "growth": [asdict(layer) for layer in self.growth()],
            "related": self.related,
            "relation": self.lineage.relation,
            "derived": self.lineage.derived,
            "answers": answers,
            "examples": None if self.examples is None else self.examples.as_dict(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        from sommelier.analysis.differences.text import layer_table

        return layer_table(self)

    __repr__ = __str__


def _plain(layer: LayerError | None) -> dict[str, Any] | None:
    return None if layer is None else asdict(layer)
