"""Which of the fusions that a search found are its finalists.

A finalist is trained on, written, measured and held against the threshold on samples of its own,
and the first that passes, the fastest first, is the answer; so those are chosen whose answer is
expected to be the fastest. The chance of each is an estimate: normal, from what every task loses on
the samples that choose and how much that varies, as if tasks and finalists were independent. It
costs one pass over these samples for each fusion that was trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from sommelier.analysis.bounds.intervals import risk_of
from sommelier.analysis.fusion.distillation import answer
from sommelier.analysis.fusion.lessons import Judged
from sommelier.analysis.fusion.search.options import FINALISTS
from sommelier.analysis.fusion.search.state import Elite, State
from sommelier.analysis.fusion.search.study import Study

NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Hope:
    """speedup : over the originals, as predicted. chance : that it is within the threshold."""

    elite: Elite
    speedup: float
    chance: float


def chosen(study: Study, state: State) -> list[Elite]:
    """At most FINALISTS of the elites, the fastest first; where they are fewer, what came near is
    among them, the least loss first, for after more training it may pass.

    The limit on FLOPs is exact and known before; so is the one on memory, an estimate anyway. What
    is predicted to miss the limit on latency comes after the others, for predictions err.
    """
    found = [e for e in state.kept if _usable(study, e)]
    inside = [e for e in found if study.within(e.graph)]
    if len(inside) > FINALISTS:
        inside = most_expected([_hope(study, elite) for elite in inside])
    beyond = [e for e in found if not study.within(e.graph)]
    near = [e for e in state.near if _usable(study, e)]
    return [*sorted(inside, key=_speed), *sorted(beyond, key=_speed), *near][:FINALISTS]


def most_expected(hopes: Sequence[Hope], most: int = FINALISTS) -> list[Elite]:
    """So many with which the answer is expected to be the fastest, the fastest first; taken one
    after the other, each as the one that adds most."""
    rest, taken = sorted(hopes, key=lambda hope: _speed(hope.elite)), list[Hope]()
    while rest and len(taken) < most:
        best = max(rest, key=lambda hope: expected_speedup([*taken, hope]))
        rest.remove(best)
        taken.append(best)
    return sorted((hope.elite for hope in taken), key=_speed)


def expected_speedup(hopes: Sequence[Hope]) -> float:
    """Of the fastest that is within the threshold; 1, the originals, where none is."""
    expected, none_yet = 0.0, 1.0
    for hope in sorted(hopes, key=lambda hope: -hope.speedup):
        expected += none_yet * hope.chance * hope.speedup
        none_yet *= 1 - hope.chance
    return expected + none_yet


def chance(judged: Judged, certified: int, tolerance: float, margin: float) -> float:
    """That a task is within the tolerance on so many samples that certify. margin : standard
    deviations by which the upper end of an interval lies above the drop; 0 for the drop itself."""
    teacher = 1.0 if judged.teacher is None else judged.teacher
    lost = teacher - judged.fused
    seen, step = len(lost), 1 / certified
    spread = math.sqrt(float(lost.var()) + 1 / seen)  # as if one more sample differed
    room = tolerance + step / 2 - float(lost.mean()) - margin * spread / math.sqrt(certified)
    return NORMAL.cdf(room / (spread * math.sqrt(1 / seen + step)))


def _hope(study: Study, elite: Elite) -> Hope:
    lessons, options = study.lessons, study.options
    rows, certified = lessons.splits.select, max(1, len(lessons.splits.certify))
    outputs = answer(study.restored(elite), lessons.inputs_of(rows), device=options.training.device)
    end = risk_of(options.confidence, candidates=FINALISTS).end
    margin = NORMAL.inv_cdf(1 - end) if options.upper_end else 0.0
    judged = lessons.judge(outputs, rows)
    together = math.prod(chance(one, certified, options.tolerance, margin) for one in judged)
    return Hope(elite, 1 / elite.share, together)


def _usable(study: Study, elite: Elite) -> bool:
    exact = replace(study.options.limits, latency=None)
    flops, memory = study.costs.relative(elite.graph)
    return exact.allow(latency=None, flops=flops, memory=memory) is True


def _speed(elite: Elite) -> tuple[float, float, int]:
    """To sort by, the fastest first."""
    return elite.share, elite.drop, elite.step
