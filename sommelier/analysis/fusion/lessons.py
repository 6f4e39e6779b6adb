"""What fused models are taught and judged by: one input, and every task's answers to it.

No labels are needed: what is right is then what the teacher, the task's own model, answers. The
samples are divided once into three parts that serve nothing else. Source: paper 001, section 5.2;
algorithms.md F.4 (the paper selects and reports on the same test data).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import AnswerFormat, natural
from sommelier.analysis.links.scoring import answer_range, per_sample
from sommelier.analysis.links.splits import split
from sommelier.errors import AnalysisError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

SELECT = 0.2
CERTIFY = 0.4  # algorithms.md F.5: a drop of 1 pp is not to be seen on a few hundred samples


@dataclass(frozen=True, slots=True)
class Splits:
    """Positions of samples, int64, sorted, disjoint; together they are all samples.

    fine_tune : weights are fitted to them. select : candidates are chosen on them, and when
    to stop. certify : nothing is, so they alone say what a fused model loses.
    """

    fine_tune: Indices
    select: Indices
    certify: Indices


@dataclass(frozen=True, slots=True)
class Lessons:
    """n samples of the common inputs, each (n, ...), and per task, in the order of the module's
    outputs (of a model with several, each is a task here):

    answers : what the teacher gives, (n, ...), in the model's own form. formats : its form.
    truths : what is right, or None where nobody knows: class ids (n,), -1 for a sample without a
    label; 0/1, numbers or corners (n, width) with NaN; token ids (n, steps).
    Raises AnalysisError where they do not belong together.
    """

    inputs: tuple[Array, ...]
    answers: tuple[Array, ...]
    formats: tuple[AnswerFormat, ...]
    truths: tuple[Array | None, ...]
    splits: Splits

    def __post_init__(self) -> None:
        if not len(self.answers) == len(self.formats) == len(self.truths) > 0:
            raise AnalysisError(
                f"answers of {len(self.answers)} tasks, formats of {len(self.formats)} and truths "
                f"of {len(self.truths)}: one of each a task, None for an unknown truth"
            )
        counts = {len(array) for array in (*self.inputs, *self.answers, *self.truths)
                  if array is not None}  # fmt: skip
        if len(counts) != 1:
            sizes = ", ".join(str(count) for count in sorted(counts))
            raise AnalysisError(
                f"inputs, answers and truths of {sizes} samples do not belong together"
            )

    def inputs_of(self, rows: Indices) -> tuple[Array, ...]:
        """The inputs of some samples, copies."""
        return tuple(given[rows] for given in self.inputs)

    @property
    def tasks(self) -> int:
        return len(self.formats)

    def judge(self, outputs: Sequence[Array], rows: Indices) -> tuple[Judged, ...]:
        """How good a fused model's `outputs`, per task (rows, ...), are on these samples.

        Samples whose truth is unknown are left out. Raises AnalysisError where none is left.
        """
        if len(outputs) != self.tasks:
            raise AnalysisError(f"{len(outputs)} outputs for {self.tasks} tasks: one tensor a task")
        return tuple(self._judged(task, given, rows) for task, given in enumerate(outputs))

    def _judged(self, task: int, outputs: Array, rows: Indices) -> Judged:
        format, answers, truth = self.formats[task], self.answers[task], self.truths[task]
        fused, teacher = (natural(given, format).values for given in (outputs, answers[rows]))
        scale, graded = None, format.kind != "classes"
        if format.kind == "numbers":
            scale = answer_range(natural(answers[self.splits.fine_tune], format).values)
        if truth is None:
            return Judged(per_sample(format, fused, teacher, scale=scale), None, graded)
        wanted = _natural_truth(truth[rows], format)
        known = np.isfinite(wanted).all(axis=1)
        ours, theirs = (
            per_sample(format, side[known], wanted[known], scale=scale) for side in (fused, teacher)
        )
        return Judged(ours, theirs, graded)


@dataclass(frozen=True, slots=True)
class Judged:
    """How good each answer is, in [0, 1], float64 (samples,).

    Against the truth: 1 or 0 for right or wrong, a share for what is right in part, and `teacher`
    is how good the task's own model is. Without one: against the teacher, and `teacher` is None.
    graded : answers may be right in part; otherwise each is right or wrong.
    """

    fused: Floats
    teacher: Floats | None
    graded: bool

    @property
    def score(self) -> float:
        return float(self.fused.mean())

    @property
    def reference(self) -> float:
        """The teacher's score; 1 where it is the measure."""
        return 1.0 if self.teacher is None else float(self.teacher.mean())

    @property
    def drop(self) -> float:
        """What is lost, negative for a gain. Of right and wrong answers it is a count over the
        samples, rounded once, so that 3 of 600 are not more than half of 1 %."""
        teacher = 1.0 if self.teacher is None else self.teacher
        return float((teacher - self.fused).mean())


def divide(n: int, seed: int, *, select: float = SELECT, certify: float = CERTIFY) -> Splits:
    """Random Splits of n samples, the same for the same arguments; both shares are of n.

    Raises AnalysisError for shares that leave nothing and for too few samples.
    """
    found = split(n, seed, held_out=certify, validation=select)
    return Splits(found.train, found.validation, found.held_out)


def _natural_truth(truth: Array, format: AnswerFormat) -> Array:
    """Raises AnalysisError where no sample has a label."""
    if format.kind in ("classes", "tokens"):
        wanted = natural(truth, replace(format, form="ids")).values
    else:
        wanted = np.asarray(truth, dtype=np.float64).reshape(len(truth), -1)
    if not np.isfinite(wanted).all(axis=1).any():
        raise AnalysisError(
            f"none of {len(truth)} samples has a label of a task",
            hint="give None as its truth: the fused model is then held against the teacher",
        )
    return wanted
