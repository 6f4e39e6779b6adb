"""A look at the present: what all models of a plan answer to a few inputs, and what links predict.

MLink calls it profiling: a small share of a period's inputs (1 %) runs through every model, to see
whether the plan still answers as well as it promised and, if not, to choose again by these inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.drift import DriftState
from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.splits import Split

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Profile:
    """What a plan's models answered to n inputs they all ran on.

    accuracy : mean over the models of how well the plan's answers agree with their own, in [0, 1].
    by_model : the same for each predicted model, by name. drift : of all profiles of the plan so
    far; its verdict 'reselect' says that the plan answers worse than it promised.
    answers : natural answers by model id. predicted : what links between them predict, natural, by
    (source id, target id).
    """

    accuracy: float
    by_model: Mapping[str, float]
    drift: DriftState
    answers: Mapping[str, LinkAnswers] = field(repr=False)
    predicted: Mapping[tuple[str, str], Array] = field(repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.answers.values()), ()))

    @property
    def reselect(self) -> bool:
        """Whether it is time to choose again: db.plan(..., profile=this)."""
        return self.drift.verdict == "reselect"


def judged_by(
    profile: Profile, target: str, known: LinkAnswers, predicted: Mapping[str, Array], rows: Split
) -> tuple[LinkAnswers, dict[str, Array], Split]:
    """What an ensemble is made of, with the profile's inputs in the place of the held-out samples.

    known, predicted : the target's answers and what each link predicts, by source id, on the
    samples that `rows` divides. A source that the profile knows no link from is left out.
    """
    kept = np.concatenate([rows.train, rows.validation])
    now = profile.answers[target]
    links = {s: now_ for s in predicted if (now_ := profile.predicted.get((s, target))) is not None}
    answers = LinkAnswers(known.format, np.concatenate([known.values[kept], now.values]))
    joined = {source: np.concatenate([predicted[source][kept], links[source]]) for source in links}
    ends = np.cumsum([len(rows.train), len(rows.validation), len(now)])
    train, validation, held_out = np.split(np.arange(ends[-1]), ends[:-1])
    return answers, joined, Split(train, validation, held_out)
