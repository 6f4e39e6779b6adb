"""The ensembles of the MLink paper, for comparison: one weight a source, by gradient descent.

As printed the weights are learned with all sources at hand and used for any subset, which then
sums to too little. The variant learns them with sources left out at random, as positive shares that
are divided by their sum over the subset. Source: MLink, "Ensemble of Multi-Source Links" and
"Training"; algorithms.md E.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers
from sommelier.analysis.links.heads import Head, as_logits, features_of
from sommelier.analysis.links.splits import Split, answered
from sommelier.analysis.links.training import TrainingOptions
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]

DROPOUT = 0.5  # the chance that a source is left out of a step: algorithms.md E.2


@dataclass(frozen=True, slots=True)
class TrainedWeights:
    """One weight for each source's logits (of numbers and boxes: for its answers).

    shares : they are positive and are divided by their sum over a subset.
    """

    format: AnswerFormat
    weights: Mapping[str, float]
    shares: bool

    def head(self, subset: Iterable[str]) -> Head:
        """The head for the links from `subset`. Raises AnalysisError for no or unknown sources."""
        names = tuple(sorted(set(subset)))
        if not names or any(name not in self.weights for name in names):
            raise AnalysisError(
                f"there are no weights for {', '.join(names) or 'no sources'}",
                hint=f"there are weights for {', '.join(self.weights)}",
            )
        chosen = np.array([self.weights[name] for name in names])
        if self.shares:
            chosen = chosen / chosen.sum()
        return Head(self.format, "paper weights", names, chosen, np.empty(0))


def paper_weights(
    target: LinkAnswers,
    predicted: Mapping[str, Array],
    split: Split,
    options: TrainingOptions | None = None,
) -> TrainedWeights:
    """The paper's weights, learned with all sources. target, predicted : as of LinkEnsemble.

    RMSprop on the task's loss for `options.epochs` epochs without early stopping.
    Raises AnalysisError without sources or answered samples.
    """
    return _trained(target, predicted, split, options or TrainingOptions(), dropout=0.0)


def dropout_weights(
    target: LinkAnswers,
    predicted: Mapping[str, Array],
    split: Split,
    options: TrainingOptions | None = None,
) -> TrainedWeights:
    """Shares learned with each source left out of every second step; as `paper_weights`."""
    return _trained(target, predicted, split, options or TrainingOptions(), dropout=DROPOUT)


def _trained(
    target: LinkAnswers,
    predicted: Mapping[str, Array],
    split: Split,
    options: TrainingOptions,
    *,
    dropout: float,
) -> TrainedWeights:
    import torch

    names = sorted(predicted)
    if not names:
        raise AnalysisError("an ensemble needs at least one link")
    rows = answered(target, split).train
    logits = torch.from_numpy(np.stack([_logits(predicted[n][rows], target.format) for n in names]))
    wanted = torch.from_numpy(features_of(target.values[rows], target.format).astype(np.float32))
    random = torch.Generator().manual_seed(options.seed)
    free = torch.zeros(len(names)) if dropout else torch.full((len(names),), 1 / len(names))
    free.requires_grad_()
    optimiser = torch.optim.RMSprop([free], lr=options.learning_rate)
    loss_of = _Loss(target.format, wanted)
    for _ in range(options.epochs):
        order = torch.randperm(len(rows), generator=random)
        for start in range(0, len(rows), options.batch):
            batch = order[start : start + options.batch]
            weights = _shares(free, random, dropout) if dropout else free
            optimiser.zero_grad()
            mixed = torch.tensordot(weights, logits[:, batch], dims=1)  # (batch, outputs)
            loss_of(mixed, wanted[batch]).backward()  # type: ignore[no-untyped-call]  # torch's own
            optimiser.step()
    found = (free.exp() if dropout else free).detach().double().numpy()
    weights_of = dict(zip(names, found.tolist(), strict=True))
    return TrainedWeights(target.format, weights_of, bool(dropout))


def _logits(values: Array, format: AnswerFormat) -> NDArray[np.float32]:
    """What is weighed, float32 (n, outputs); 0 for a sample without an answer."""
    opened = as_logits(features_of(values, format), format)
    return np.nan_to_num(opened, nan=0.0).astype(np.float32)


def _shares(free: Tensor, random: Any, dropout: float) -> Tensor:
    """Positive weights of the sources that stay, with sum 1; all stay when none would."""
    import torch

    stays = torch.rand(len(free), generator=random) >= dropout
    if not stays.any():
        stays = torch.ones_like(stays)
    return free.masked_fill(~stays, -torch.inf).softmax(0)


class _Loss:
    """The loss of the target's kind, of logits against answers, both (batch, outputs)."""

    def __init__(self, format: AnswerFormat, wanted: Tensor) -> None:
        self._format = format
        spread = wanted.std(dim=0)
        self._unit = spread.where(spread > 0, spread.new_ones(()))

    def __call__(self, mixed: Tensor, wanted: Tensor) -> Tensor:
        from torch.nn import functional

        if self._format.kind == "labels":
            return functional.binary_cross_entropy_with_logits(mixed, wanted)
        if self._format.kind in ("numbers", "box"):
            return functional.huber_loss(mixed / self._unit, wanted / self._unit)
        width = self._format.width  # classes, or the tokens of each step
        return functional.cross_entropy(mixed.reshape(-1, width), wanted.reshape(-1, width))
