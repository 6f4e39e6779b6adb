"""Training of links from or to token sequences.

A decoder is taught with the true tokens before each step, by the cross-entropy of the token, of
every sample the mean over its steps up to the end token. Source: paper 000, "Model Link
Architecture" (its sigmoid for sequences is a softmax here); algorithms.md E.1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sommelier.analysis.computing import Cancelled, torch_threads
from sommelier.analysis.links.features import Features, Readout
from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.networks import hidden_units
from sommelier.analysis.links.perceptrons import EPSILON, SMOOTHING, loss
from sommelier.analysis.links.sequence_links import PART, SequenceLink, numbers_of
from sommelier.analysis.links.sequences import (
    IGNORED,
    SLOTS,
    STATE,
    SequenceDecoder,
    SequenceEncoder,
    SequenceReader,
    SequenceWriter,
    VectorEncoder,
    Vocabulary,
    classes_of,
    until_end,
)
from sommelier.analysis.links.splits import Split, answered
from sommelier.analysis.links.training import (
    EarlyStopping,
    TrainingOptions,
    batches,
    stop_if,
)
from sommelier.errors import AnalysisError

Array = NDArray[Any]

HALVING = 5  # epochs after which the learning rate is half: the paper's is too high to settle
MOST_ATTENTION = 2**15  # steps times slots: a batch of 32 takes 134 MB, several times over


def train_sequence(
    source: LinkAnswers,
    target: LinkAnswers,
    split: Split,
    options: TrainingOptions,
    cancelled: Cancelled = bool,
) -> SequenceLink:
    """The link in its state of least loss on the validation rows; source, target or both: tokens.

    Samples the target has no answer to are left out. The learning rate falls as
    1 / (1 + epoch / HALVING). Raises CancelledError between epochs; AnalysisError where the target
    answered too few samples, or the sequences are too long for attention.
    """
    started = time.perf_counter()
    rows = answered(target, split)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        link = _untrained(source, target, rows.train, options.hidden)
    link.network.to(options.device)
    lessons = [
        _Lesson.of(link, source.rows(part), target.rows(part), options.device)
        for part in (rows.train, rows.validation)
    ]
    with torch_threads(options.threads):
        best = _descend(lessons[0], lessons[1], options, cancelled)
    if best.states[0] is not None:
        nn.utils.vector_to_parameters(best.states[0], link.network.parameters())
    link.network.cpu().requires_grad_(False)
    return replace(link, epochs=best.epochs[0], seconds=time.perf_counter() - started)


def token_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of each sample, the mean over its steps: (n,).

    logits : (n, steps, classes). classes : (n, steps), IGNORED where a step does not count.
    """
    errors = functional.cross_entropy(
        logits.flatten(0, 1), classes.flatten(), ignore_index=IGNORED, reduction="none"
    )
    counted = (classes != IGNORED).sum(1)
    return errors.view_as(classes).sum(1) / counted.clamp_min(1)


@dataclass(frozen=True, slots=True)
class _Lesson:
    """Samples that a link's network is taught or judged on: what it reads, what it should say."""

    link: SequenceLink
    inputs: Tensor
    taught: Tensor

    @classmethod
    def of(
        cls, link: SequenceLink, source: LinkAnswers, target: LinkAnswers, device: str
    ) -> _Lesson:
        """All samples of these answers."""
        if isinstance(link.network, SequenceWriter):
            decoder = link.network.decoder
            taught: Array = classes_of(target.values, decoder.vocabulary)[:, : decoder.reach]
        else:
            taught = np.empty(0) if link.readout is None else link.readout.taught(target.values)
        return cls(link, link.inputs(source.values).to(device), torch.from_numpy(taught).to(device))

    def loss(self, rows: Tensor) -> Tensor:
        """The mean loss of the samples at these positions."""
        inputs, taught = self.inputs[rows], self.taught[rows]
        if isinstance(self.link.network, SequenceWriter):
            return token_loss(self.link.network(inputs, taught), taught).mean()
        return loss(self.link.target.kind, self.link.network(inputs), taught).mean()

    @torch.no_grad()
    def mean_loss(self) -> float:
        """Of all samples, as many at a time as fit into memory."""
        size = max(1, PART // numbers_of(self.link.network, self.link.source))
        rows = torch.arange(len(self.taught), device=self.taught.device)
        parts = torch.split(rows, size)
        return sum(float(self.loss(part)) * len(part) for part in parts) / len(rows)


def _descend(
    learned: _Lesson, checked: _Lesson, options: TrainingOptions, cancelled: Cancelled
) -> EarlyStopping:
    """RMSprop, written out because importing torch.optim takes a second."""
    parameters = list(learned.link.network.parameters())
    numbers = nn.utils.parameters_to_vector(parameters).detach()
    nn.utils.vector_to_parameters(numbers, parameters)  # which are views of it from here on
    squares = torch.zeros_like(numbers)
    best = EarlyStopping(1, options.patience)
    orders: Iterator[list[Tensor]] = chain([[]], batches(len(learned.taught), options))
    for epoch, order in enumerate(orders):  # the first is the state before training
        stop_if(cancelled)
        rate = options.learning_rate / (1 + max(0, epoch - 1) / HALVING)
        for batch in order:
            slopes = torch.autograd.grad(learned.loss(batch), parameters)
            slope = torch.cat([part.flatten() for part in slopes])
            squares.mul_(SMOOTHING).addcmul_(slope, slope, value=1 - SMOOTHING)
            numbers.addcdiv_(slope, squares.sqrt().add_(EPSILON), value=-rate)
        if not best.goes_on(0, checked.mean_loss(), numbers):
            break
    return best


def _untrained(
    source: LinkAnswers, target: LinkAnswers, rows: Array, hidden: int | None
) -> SequenceLink:
    """A link with the architecture for these answers. rows : the training rows."""
    tokens = source.format.kind == "tokens"
    features = None if tokens else Features.of(source, rows)
    vocabulary = _vocabulary(source, rows) if tokens else None
    if target.format.kind != "tokens":
        if vocabulary is None:
            raise AnalysisError("neither the source nor the target answers with tokens")
        width = target.format.width
        reader = SequenceReader(vocabulary, width, hidden or hidden_units(width, len(rows)))
        return SequenceLink(
            source.format, target.format, reader, features, Readout.of(target, rows)
        )
    reach = _longest(target, rows)
    slots = _longest(source, rows) if tokens else SLOTS
    if reach * slots > MOST_ATTENTION:
        raise AnalysisError(
            f"sequences of up to {slots} and {reach} tokens are too long for a link "
            f"(their product is at most {MOST_ATTENTION})"
        )
    decoder = SequenceDecoder(_vocabulary(target, rows), reach)
    encoder: SequenceEncoder | VectorEncoder = (
        VectorEncoder(source.format.width, hidden or hidden_units(STATE, len(rows)))
        if vocabulary is None
        else SequenceEncoder(vocabulary)
    )
    return SequenceLink(
        source.format, target.format, SequenceWriter(encoder, decoder), features, None
    )


def _vocabulary(answers: LinkAnswers, rows: Array) -> Vocabulary:
    return Vocabulary.of(answers.values[rows], answers.format.width, answers.format.end)


def _longest(answers: LinkAnswers, rows: Array) -> int:
    """Steps up to and with the end token, of the longest of these samples."""
    if answers.format.end is None:
        return answers.format.steps
    return int(until_end(answers.values[rows], answers.format.end).sum(axis=1).max())
