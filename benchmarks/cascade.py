"""What does a cascade cost at the teacher's accuracy, and are its promises kept?

Ladders of models (cascade_zoo.py): how accurate student and teacher are together, by which score
and at what cost; what a calibration promises with and without labels, and whether it is kept in 500
draws (cascade_trials.py); all pairs of a zoo searched at once; a specialised student
(cascade_student.py); what routing an answer costs.

Figures: guarantee_held (of the default calibrations, the smallest share of draws in which the
promise was kept, over all pairs held against their pool), excess_violations (draws
beyond what chance allows, of all proved rules), flops_share_at_teacher (of the teacher's FLOPs, at
its accuracy, by margin, in hindsight; mean over pairs, and one figure a pair), promised_share (the
same at the promise of the table; mean), pairs_per_second. Exit code 1: a promise was broken more
often than it says, the pairs do not reach their teachers' accuracy for less than the teachers'
FLOPs in the mean, or the specialised student does not send on less than the general one (--quick
trains one of each, and does not judge them).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cascade_student import students
from benchmarks.cascade_trials import (
    CONFIDENCE,
    DEFAULTS,
    SIZES,
    Trial,
    allowed,
    known_trials,
    trials,
)
from benchmarks.cascade_zoo import Floats, Ladder, ladders
from benchmarks.report import Cell, arguments, finish, table
from sommelier.analysis.cascades import (
    Member,
    Target,
    accuracy_drop,
    calibrate,
    disagreement,
    search_pairs,
)
from sommelier.analysis.cascades.scores import SCORES
from sommelier.cascade_records import CascadePlan, CascadeStage
from sommelier.runtime.cascade import Cascade

DRAWS, QUICK_DRAWS = 500, 100
POINTS_BELOW = 0.005
ZOO, ZOO_SAMPLES = 200, 1_000  # models and answers of a search
ROUTINGS = 2_000


@dataclass(frozen=True, slots=True)
class Curve:
    """joint : accuracy with the 0..n least sure inputs sent on (n + 1,). reached, nearly : the
    least share of the teacher's FLOPs with its accuracy, and with half a point less; NaN if none.
    """

    score: str
    joint: Floats
    reached: float
    nearly: float


def curve(student: Member, teacher: Member, labels: NDArray[np.int64], score: str) -> Curve:
    """Of one score; 'random' sends on without looking: a straight line between both accuracies."""
    right, better = student.ids == labels, teacher.ids == labels
    count = len(labels)
    if score == "random":
        joint = np.linspace(right.mean(), better.mean(), count + 1)
    else:
        order = np.argsort(student.scores[score], kind="stable")
        gain = better[order].astype(np.int64) - right[order].astype(np.int64)
        joint = (right.sum() + np.append(0, np.cumsum(gain))) / count
    assert student.flops is not None, "counted"
    assert teacher.flops is not None, "counted"
    shares = [
        np.flatnonzero(joint >= better.mean() - below - 1e-12) for below in (0.0, POINTS_BELOW)
    ]
    ratio = student.flops / teacher.flops
    at = [ratio + float(found[0]) / count if len(found) else np.nan for found in shares]
    return Curve(score, joint, *at)


def curve_rows(ladder: Ladder, figures: dict[str, float]) -> Iterator[tuple[Cell, ...]]:
    """One row a pair and score."""
    teacher = ladder.members[-1]
    for student in ladder.members[:-1]:
        name = f"{student.name} -> {teacher.name}"
        models = [(student, score) for score in (*SCORES, "random")]
        if student.name in ladder.served:
            models.append((ladder.served[student.name], "margin"))
        for one, score in models:
            found = curve(one, teacher, ladder.labels, score)
            told = score if one is student else "margin of 8-bit answers"
            if told == "margin":
                figures[_figure(ladder, student)] = found.reached
            yield (name, told, 100 * found.joint.mean(), found.reached, found.nearly)
            name = ""


def promise_rows(ladder: Ladder) -> Iterator[tuple[Cell, ...]]:
    """What each pair, and three models, cost at the ladder's promise, from all its samples."""
    at_most = SIZES[ladder.name][1]
    members = list(ladder.members)
    chosen = [[one, members[-1]] for one in members[:-1]]
    chosen.append([members[0], members[len(members) // 2], members[-1]])
    for models in chosen:
        name = " -> ".join(one.name for one in models)
        for loss in ("disagreement", "accuracy drop"):
            labelled = loss == "accuracy drop"
            losses = accuracy_drop(models, ladder.labels) if labelled else disagreement(models)
            found = calibrate(models, losses, Target(at_most, CONFIDENCE, loss))
            scores = ", ".join(str(stage.score) for stage in found.plan.stages[:-1])
            lost = f"{100 * found.loss:.2f} of {100 * at_most:g}"
            yield (name, loss, scores, 100 * found.answered[-1], found.flops_share or np.nan, lost)
            name = ""


def trial_rows(cells: Sequence[Trial]) -> Iterator[tuple[Cell, ...]]:
    """One row a cell."""
    for cell in cells:
        kept = 100 * (1 - cell.broken / cell.draws)
        rule = cell.rule if cell.proved else f"{cell.rule}: no promise"
        yield (cell.models, rule, cell.question, kept, cell.flops_share)


def search_seconds(seed: int) -> tuple[float, int]:
    """(seconds, pairs) of a search among 200 models of one family that answered 1 000 inputs."""
    rng = np.random.default_rng(seed)
    hard = rng.uniform(size=ZOO_SAMPLES)
    members = []
    for i in range(ZOO):
        sure = np.clip(1 - hard + 0.2 * rng.normal(size=ZOO_SAMPLES), 0, 1)
        wrong = rng.uniform(size=ZOO_SAMPLES) < hard**2 * 0.5 * (1 - i / (1.2 * ZOO))
        ids = np.where(wrong, rng.integers(1, 10, ZOO_SAMPLES), 0)
        members.append(Member(f"m{i}", ids, {"margin": sure, "softmax": sure**2}, 1.1**i))
    started = time.perf_counter()
    found = search_pairs(members, Target(0.1, CONFIDENCE), scores=("margin", "softmax"))
    return time.perf_counter() - started, len(found)


def routing_row(classes: int, score: str) -> tuple[Cell, ...]:
    """Microseconds that one answer costs on the request path."""
    plan = CascadePlan((CascadeStage("student", score, 0.5), CascadeStage("teacher")))
    answer = np.random.default_rng(0).normal(size=(1, classes)).astype(np.float32)
    cascade = Cascade(plan)
    started = time.perf_counter()
    for _ in range(ROUTINGS):
        cascade.route(0, answer)
    return (score, classes, 1e6 * (time.perf_counter() - started) / ROUTINGS)


def main() -> int:
    """0, or 1 when an expectation is missed."""
    options = arguments(str(__doc__).splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    cells: list[Trial] = []
    promised: list[float] = []
    for ladder in ladders(quick=options.quick, seed=options.seed):
        told = "; ".join(
            f"{m.name} {100 * ladder.accuracy(m):.1f} % {(m.flops or 0) / 1e6:.4g} MFLOP"
            for m in ladder.members
        )
        print(table(
            f"{ladder.name}, {len(ladder)} inputs: {told}",
            ("pair", "score", "mean accuracy %", "FLOPs at teacher's", "at half a point less"),
            list(curve_rows(ladder, figures)),
        ))  # fmt: skip
        rows = list(promise_rows(ladder))
        promised += [float(row[4]) for row in rows]
        print(table(
            f"{ladder.name}: promised with {100 * CONFIDENCE:g} % confidence, from all inputs",
            ("models", "loss", "score", "sent on to the last %", "FLOPs share", "loss found %"),
            rows,
        ))  # fmt: skip
        draws = QUICK_DRAWS if options.quick else DRAWS
        cells += trials(ladder, draws=draws, quick=options.quick, seed=options.seed)
    draws = QUICK_DRAWS if options.quick else DRAWS
    cells += known_trials(draws=draws, seed=options.seed)
    print(table(
        f"promises of {100 * CONFIDENCE:g} % confidence, {draws} draws",
        ("models", "rule", "held against", "kept %", "FLOPs share"), list(trial_rows(cells)),
    ))  # fmt: skip
    missed = _guarantees(cells, draws, figures)
    missed += _costs(options.seed, quick=options.quick, figures=figures, promised=promised)
    finish(figures, options.json)
    for one in missed:
        print(f"missed: {one}")
    return 1 if missed else 0


def _guarantees(cells: Sequence[Trial], draws: int, figures: dict[str, float]) -> list[str]:
    counted = [cell for cell in cells if cell.proved and cell.question != "rest"]
    most = allowed(counted, draws)
    defaults = [cell for cell in counted if cell.rule in DEFAULTS]
    figures["guarantee_held"] = min(1 - cell.broken / draws for cell in defaults)
    figures["excess_violations"] = sum(max(0, cell.broken - most) for cell in counted)
    least = CONFIDENCE if draws >= DRAWS else 1 - most / draws
    missed = []
    if figures["guarantee_held"] < least:
        missed.append(f"a default promise was kept in {figures['guarantee_held']:.1%} of draws")
    if figures["excess_violations"]:
        missed.append(f"a proved promise was broken in more than {most} of {draws} draws")
    return missed


def _costs(
    seed: int, *, quick: bool, figures: dict[str, float], promised: Sequence[float]
) -> list[str]:
    pairs = {name: share for name, share in figures.items() if name.startswith("flops_share_at")}
    figures["flops_share_at_teacher"] = float(np.nanmean(list(pairs.values())))
    figures["promised_share"] = float(np.mean(promised))
    seconds, found = search_seconds(seed)
    figures["pairs_per_second"] = found / seconds
    print(f"\n{found} pairs of {ZOO} models searched in {seconds:.2f} s ({ZOO_SAMPLES} samples)")
    print(table(
        "routing one answer", ("score", "classes", "us"),
        [routing_row(classes, score) for classes in (10, 1_000)
         for score in ("margin", "entropy", "free_energy")],
    ))  # fmt: skip
    routed = students(quick=quick, seed=seed)
    print(table(
        "75 % of inputs of 5 of 20 classes: sent on % (in hindsight at half a point below the "
        "teacher; promised at 2 % disagreement)",
        ("student", "score", "in hindsight", "promised", "FLOPs share"),
        [(r.name, r.score, 100 * r.best, 100 * r.promised, r.flops_share) for r in routed],
    ))  # fmt: skip
    by = {(one.name, one.score): one for one in routed}
    figures["specialised_routed"] = by["specialised", "popular"].best
    figures["general_routed"] = by["general", "margin"].best
    missed = []
    if not figures["flops_share_at_teacher"] < 1:
        missed.append("the pairs cost no less than their teachers")
    if not quick and figures["specialised_routed"] >= figures["general_routed"]:
        missed.append("the specialised student sends on no less than the general one")
    return missed


def _figure(ladder: Ladder, student: Member) -> str:
    name = re.sub(r"\W+", "_", f"{ladder.name} {student.name}".lower())
    return f"flops_share_at_teacher_{name}"


if __name__ == "__main__":
    raise SystemExit(main())
