"""What a fused model's output has to come near to: the loss of each kind of answer.

KL of softened answers for choices, Huber for numbers; the paper's L1 by name. Mean largest drop
after 4 epochs: KL 1.05 pp, L1 1.28, squared error 1.84 (algorithms.md F.4). Source: paper 001,
section 5.2; Hinton et al. 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from sommelier.analysis.links.formats import LEAST_PROBABILITY, AnswerFormat
from sommelier.errors import AnalysisError

LossName = Literal["auto", "kl", "l1", "huber"]
Formula = Callable[[Tensor, Tensor], Tensor]

TEMPERATURE = 2.0  # algorithms.md F.4
CHOICES = ("classes", "tokens")


@dataclass(frozen=True, slots=True)
class Loss:
    """The mean loss over samples of one task's outputs (n, ...) against the teacher's.

    name : 'kl', 'l1' or 'huber'. formula : of the two tensors, differentiable in the first.
    """

    name: LossName
    formula: Formula

    def __call__(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """Raises AnalysisError for outputs of another shape than the teacher's."""
        if outputs.shape != taught.shape:
            raise AnalysisError(
                f"an output of shape {tuple(outputs.shape)} cannot be taught answers of shape "
                f"{tuple(taught.shape)}"
            )
        return self.formula(outputs, taught)


def loss_of(format: AnswerFormat, taught: Tensor, name: LossName = "auto") -> Loss:
    """The loss of outputs of this format. taught : the teacher's answers (n, ...) to train on.

    'auto' : KL(teacher || student) at TEMPERATURE, times its square, of classes, of each token and
    of each label; Huber of numbers and corners in deviations of the teacher's, so that tasks weigh
    alike. 'l1' : mean absolute difference of the outputs as they are given.
    Raises AnalysisError for answers that have no gradient, and KL of what is no choice.
    """
    if format.form in ("ids", "scaled"):
        raise AnalysisError(
            f"answers given as {format.form} have no gradient to learn from",
            hint="use a model that gives its scores as floating-point numbers",
        )
    if name not in get_args(LossName):
        raise AnalysisError(f"there is no loss '{name}'", hint=f"one of {get_args(LossName)}")
    chosen = name if name != "auto" else "kl" if format.kind in (*CHOICES, "labels") else "huber"
    if chosen == "l1":
        return Loss(chosen, lambda outputs, wanted: (outputs - wanted).abs().mean())
    if chosen == "huber":
        return Loss(chosen, _huber(taught))
    if format.kind == "labels":
        return Loss(chosen, lambda outputs, wanted: _labels_kl(outputs, wanted, format))
    if format.kind in CHOICES:
        return Loss(chosen, lambda outputs, wanted: _choice_kl(outputs, wanted, format))
    raise AnalysisError(
        f"KL compares choices, and these answers are {format.kind}", hint="use 'huber' or 'l1'"
    )


def _choice_kl(outputs: Tensor, wanted: Tensor, format: AnswerFormat) -> Tensor:
    """Mean over samples, and over the steps of a sequence."""
    width = outputs.shape[-1]
    if format.kind == "tokens" and outputs.ndim == 2:
        width //= format.steps
    ours, theirs = (
        (_scores(side, format).reshape(-1, width) / TEMPERATURE).log_softmax(-1)
        for side in (outputs, wanted)
    )
    divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return divergence * TEMPERATURE**2


def _labels_kl(outputs: Tensor, wanted: Tensor, format: AnswerFormat) -> Tensor:
    """Mean over samples and labels; each label is a choice of two."""
    ours, theirs = (_scores(side, format) / TEMPERATURE for side in (outputs, wanted))
    sure = theirs.sigmoid()
    yes = sure * (functional.logsigmoid(theirs) - functional.logsigmoid(ours))
    no = (1 - sure) * (functional.logsigmoid(-theirs) - functional.logsigmoid(-ours))
    return (yes + no).mean() * TEMPERATURE**2


def _scores(values: Tensor, format: AnswerFormat) -> Tensor:
    """Logits, from probabilities where the model gives those."""
    if format.form == "logits":
        return values
    if format.kind == "labels":
        return torch.logit(values, eps=LEAST_PROBABILITY)
    return values.clamp_min(LEAST_PROBABILITY).log()


def _huber(taught: Tensor) -> Formula:
    """Of differences in deviations of the teacher's answers; numbers that never change as given."""
    deviation = taught.std(dim=0, unbiased=False, keepdim=True)
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def formula(outputs: Tensor, wanted: Tensor) -> Tensor:
        unit = scale.to(outputs.device)
        return functional.huber_loss(outputs / unit, wanted / unit)

    return formula
