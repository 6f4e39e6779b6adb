"""What one link to a target is worth: the better of those tried, judged where none has learned.

A network replaces the linear link only where it does clearly better on validation samples. What is
called linked is better than the best constant answer, beyond chance. Source: algorithms.md E.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.bounds import bound
from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.networks import SOURCE, Architecture, Method, TrainedLink
from sommelier.analysis.links.scoring import (
    Score,
    answer_range,
    constant_answer,
    score,
    skill,
)
from sommelier.analysis.links.screening import Screen, screen
from sommelier.analysis.links.splits import HELD_OUT, VALIDATION, Split, answered, split
from sommelier.analysis.links.training import TrainingOptions
from sommelier.errors import AnalysisError

Array = NDArray[Any]
State = Literal["linked", "useless", "not linkable", "failed"]


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How links are made. The fields of training are those of TrainingOptions.

    seed : of the split, of the screen and of training. method : 'auto' fits both and keeps the
    better. held_out, validation : shares of all samples. screen : whether links that cannot work
    are left out beforehand.
    """

    seed: int = 0
    method: Literal["auto", "linear", "network"] = "auto"
    hidden: int | None = None
    epochs: int = 100
    batch: int = 32
    learning_rate: float = 0.01
    patience: int | None = 10
    held_out: float = HELD_OUT
    validation: float = VALIDATION
    confidence: float = 0.95
    screen: bool = True
    device: str = "cpu"
    threads: int = 1

    @property
    def training(self) -> TrainingOptions:
        """The part of it that training needs."""
        return TrainingOptions(
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            batch=self.batch,
            patience=self.patience,
            hidden=self.hidden,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
        )


@dataclass(frozen=True, slots=True)
class FittedLink:
    """What came of one source.

    state : 'linked'; 'useless' : no better than the best constant answer, as far as the held-out
    samples tell; 'not linkable' : there is no link, and `reason` says why; 'failed' : an error, in
    `reason`. constant : score of the best constant answer. training, validation, held_out : numbers
    of samples that the target answered. onnx : see `export.to_onnx`. score : on held-
    out samples, as `constant`; skill : see `scoring.skill`. predicted : natural answers to ALL
    samples, tokens as ids. epochs : 0 of a closed form. seconds : of everything that was tried.
    """

    architecture: Architecture
    state: State
    reason: str
    constant: Score
    training: int
    validation: int
    held_out: int
    screen: Screen | None = None
    method: Method | None = None
    onnx: bytes | None = None
    score: Score | None = None
    skill: float = float("nan")
    predicted: Array | None = None
    parameters: int = 0
    epochs: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Tried:
    """The links fitted from one source, the simplest first, and why there are no more."""

    links: list[TrainedLink] = field(default_factory=list)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """What all links to one target share. scale : see `scoring.score`."""

    target: LinkAnswers
    options: LinkOptions
    rows: Split
    scale: float | None
    constant: Score

    @classmethod
    def of(cls, target: LinkAnswers, options: LinkOptions) -> Study:
        """Splits the samples and judges the constant answer. Raises AnalysisError for too few."""
        rows = answered(
            target,
            split(
                len(target), options.seed,
                held_out=options.held_out, validation=options.validation,
            ),
        )  # fmt: skip
        taught, truth = target.values[rows.train], target.values[rows.held_out]
        scale = answer_range(taught) if target.format.kind == "numbers" else None
        always = np.broadcast_to(constant_answer(target.format, taught), truth.shape)
        constant = score(target.format, always, truth, confidence=options.confidence, scale=scale)
        return cls(target, options, rows, scale, constant)

    def screened(self, source: LinkAnswers) -> tuple[Screen | None, str | None]:
        """What the screen found, if it was asked for, and why not to go on, if so."""
        if not source.answered[self.rows.train].any():
            return None, "the source answered none of the training samples"
        if not self.options.screen:
            return None, None
        found = screen(source, self.target, self.rows.train, seed=self.options.seed)
        return found, None if found.linkable else found.reason

    def refused(
        self,
        source: LinkAnswers,
        reason: str,
        screened: Screen | None,
        state: State = "not linkable",
    ) -> FittedLink:
        """The result for a source without a link."""
        architecture = architecture_of(source, self.target)
        return FittedLink(architecture, state, reason, self.constant, *self._sizes(), screened)

    def judged(self, source: LinkAnswers, tried: Tried, screened: Screen | None) -> FittedLink:
        """The best link on validation samples, judged on held-out ones and exported."""
        from sommelier.analysis.links.export import run_onnx, to_onnx

        if not tried.links:
            return self.refused(source, tried.problem or "nothing was tried", screened)
        best = self._best(source, tried.links)
        try:
            model = to_onnx(best)
            # what is judged is what will answer: rounding decides between equally likely classes
            predicted = run_onnx(model, {SOURCE: source.values})[0]
        except AnalysisError as error:
            return self.refused(source, error.message, screened, "failed")
        found = self.score(predicted)
        state, reason = self.verdict(found)
        return FittedLink(
            best.architecture, state, reason, self.constant, *self._sizes(), screened,
            best.method, model, found, skill(found.performance, self.constant.performance),
            predicted, best.parameters, best.epochs, sum(link.seconds for link in tried.links),
        )  # fmt: skip

    def score(self, predicted: Array) -> Score:
        """The held-out score of predictions for all samples."""
        held = self.rows.held_out
        return score(
            self.target.format, predicted[held], self.target.values[held],
            confidence=self.options.confidence, scale=self.scale,
        )  # fmt: skip

    def verdict(self, found: Score, candidates: int = 1) -> tuple[State, str]:
        """'linked' or 'useless', and why. candidates : how many links `found` is the best of."""
        linked = exceeds(found, self.constant, candidates=candidates)
        verdict = "better than" if linked else "not better, beyond chance, than"
        return "linked" if linked else "useless", (
            f"{found.performance:.3f} ({found.low:.3f} to {found.high:.3f}) by {found.metric}, "
            f"{verdict} {self.constant.performance:.3f} of one answer for all"
        )

    def _sizes(self) -> tuple[int, int, int]:
        return len(self.rows.train), len(self.rows.validation), len(self.rows.held_out)

    def _best(self, source: LinkAnswers, links: Sequence[TrainedLink]) -> TrainedLink:
        """The first, or the later one that does clearly better on validation samples."""
        best = links[0]
        for link in links[1:]:
            kept, other = (self._validated(source, one) for one in (best, link))
            if clearly_better(other, kept):
                best = link
        return best

    def _validated(self, source: LinkAnswers, link: TrainedLink) -> Score:
        rows = self.rows.validation
        return score(
            self.target.format, link.predict(source.values[rows]), self.target.values[rows],
            confidence=self.options.confidence, scale=self.scale,
        )  # fmt: skip


def clearly_better(link: Score, simpler: Score) -> bool:
    """Whether a link is better than a simpler one, on the same samples, by more than one standard
    error of the difference; where the performance is no mean over samples, better at all.

    Of equally good links the choice by validation samples is that of chance, and the simpler one
    wins on others. Source: the rule of one standard error, Breiman et al. 1984.
    """
    if not link.performance > simpler.performance:
        return False
    if link.terms is None or simpler.terms is None:
        return True
    gains = link.terms - simpler.terms
    return bool(gains.mean() > gains.std() / np.sqrt(len(gains)))


def exceeds(link: Score, constant: Score, *, candidates: int = 1) -> bool:
    """Whether a link, the best of `candidates`, is better than the constant answer, at the
    confidence of its score.

    Both were judged on the same samples, so their differences are bounded (proved) where they are
    means of terms: of right and wrong answers by the share of wins among the samples on which one
    of the two is right (an exact sign test), of graded ones by betting. Elsewhere the link's
    interval has to lie above the constant's performance.
    """
    if link.terms is None or constant.terms is None:
        return link.low > constant.performance
    if link.metric == "accuracy":
        wins = int(np.count_nonzero(link.terms > constant.terms))
        losses = int(np.count_nonzero(link.terms < constant.terms))
        share = bound(
            "proportion", wins, wins + losses, confidence=link.confidence, candidates=candidates
        )
        return share.low > 0.5
    halves = (link.terms - constant.terms + 1) / 2
    found = bound(
        "mean", np.clip(halves, 0.0, 1.0), confidence=link.confidence, candidates=candidates
    )
    return found.low > 0.5


def architecture_of(source: LinkAnswers, target: LinkAnswers) -> Architecture:
    """The paper's name of what maps between these answers."""
    if source.format.kind == "tokens":
        return "seq-to-seq" if target.format.kind == "tokens" else "seq-to-vec"
    return "vec-to-seq" if target.format.kind == "tokens" else "vec-to-vec"
