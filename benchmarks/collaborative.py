"""How well do some models answer for all, while the content of a stream changes? MLink, Table 4.

Two streams: callers who dial, heard by seven networks that are trained here, and, with
SOMMELIER_ZOO and without --quick, CIFAR-10 images before a camera, seen by eight classifiers of the
zoo. A stream has ten periods; links and ensembles learn from the first, and everything is judged on
the other nine. Accuracy is the share of answers that are the model's own, the mean over models and
frames: 1 for an executed model. A budget is a share of what executing all models costs, in time or
in memory; the links of the plans count, but not in the paper's greedy choice, which ignores them.

Time is that of a frame alone on one thread, from prepared inputs to all answers: executed models
and links in ONNX Runtime, and the frames on which all models run to look at the present.

Figures, of the calls and a third of the time. accuracy_at_third: the product's default, the best
plan of `select` until the drift test asks for another. executions_at_third: the share of all
executions it takes. optimum_at_third: the best plan of each period by what it is worth in that
period, which nobody can know. gap_at_third: optimum - accuracy; below 0 where the frames looked at,
which the optimum does without, make up for more. greedy_at_third: the paper's choice of each period
by 1 % of it, and its ensembles. standalone_at_third, filtering_at_third. All of them
_at_two_thirds; camera_...: of the second stream.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np
import torch

from benchmarks.report import Cell, arguments, finish, table
from benchmarks.stream_calls import calls
from benchmarks.stream_filters import filtered
from benchmarks.stream_links import METRICS, LinkedStream, linked
from benchmarks.stream_methods import Budget, Methods, Outcome
from benchmarks.stream_timing import Stopwatch
from benchmarks.streams import Stream, camera
from sommelier.analysis.links.fitting import FittedLink

FRAMES, QUICK_FRAMES = 60, 15  # that are timed
BUDGETS = {"third": 1 / 3, "two_thirds": 2 / 3}
FIGURES = {  # by the beginning of a method's name
    "accuracy": "default",
    "optimum": "optimum",
    "greedy": "MLink's greedy, its",
    "standalone": "standalone",
    "filtering": "frame filtering",
}


def streams(*, quick: bool, seed: int) -> Iterator[tuple[str, Stream]]:
    """The beginnings of the figures' names, and the streams."""
    yield "", calls(quick=quick, seed=seed)
    if os.environ.get("SOMMELIER_ZOO") and not quick:
        yield "camera_", camera(seed)


def costs_table(known: LinkedStream, fitted: Mapping[str, Mapping[str, FittedLink]]) -> str:
    """What each model costs, and how well the others' links predict it."""
    rows: list[tuple[Cell, ...]] = []
    for name in known.names:
        cost, links = known.costs[name], fitted[name]
        scores = {s: link.score.performance for s, link in links.items() if link.score is not None}
        useful = [link for link in links.values() if link.state == "linked"]
        best = max(scores, key=lambda source: scores[source])
        constant = next(iter(links.values())).constant.performance
        rows.append((name, cost["latency"], cost["memory"] / 1e3, 100 * constant,
                     f"{100 * scores[best]:.1f} {best}", len(useful)))  # fmt: skip
    link_ms = fmean(cost["latency"] for cost in known.link_costs.values())
    title = (
        f"{known.stream.name}: {len(known.stream)} frames, links learned on "
        f"{len(known.rows.train) + len(known.rows.validation)} and judged on "
        f"{len(known.rows.held_out)}; a link takes {link_ms:.3f} ms"
    )
    header = ("model", "ms", "kB", "constant %", "best link %", "links")
    return table(title, header, rows)


def drift_table(known: LinkedStream) -> str:
    """How each period differs: the most frequent answer of each model and its share."""
    period = known.stream.period
    rows = []
    for name, answers in known.answers.items():
        cells = []
        for now in range(period.max() + 1):
            counts = np.bincount(answers.values[period == now].argmax(axis=1))
            cells.append(f"{counts.argmax()}: {100 * counts.max() / counts.sum():.0f}")
        rows.append((name, *cells))
    header = ("model", *(f"period {now}" for now in range(period.max() + 1)))
    return table("most frequent answer and its share in %", header, rows)


def compared(known: LinkedStream, methods: Methods, metric: str) -> dict[str, list[Outcome]]:
    """By budget what every method makes of it."""
    found = {}
    for name, share in BUDGETS.items():
        found[name] = [*methods.of(Budget(metric, share))]
        if metric == "latency":  # a filter lets all models run, so it needs all their memory
            found[name].insert(2, filtered(known, share))
    return found


def methods_table(
    known: LinkedStream, metric: str, outcomes: Mapping[str, Sequence[Outcome]], watch: Stopwatch
) -> str:
    """All methods, and both budgets beside each other."""
    cells: dict[str, list[Cell]] = {}
    for several in outcomes.values():
        for one in several:
            kind = one.method.split(" (")[0]  # without what a filter chose for itself
            cells.setdefault(kind, []).extend(
                (f"{100 * one.accuracy:.1f}", f"{watch.ms(one):.2f}",
                 f"{100 * one.executions:.1f}", one.choices)
            )  # fmt: skip
    title = f"{known.stream.name}: a third and two thirds of all models' {metric}"
    names = ("accuracy %", "ms", "executions %", "choices")
    rows = [(kind, *found) for kind, found in cells.items()]
    return table(title, ("method", *names, *names), rows)


def promises(methods: Methods, metric: str, outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """What the product said of its plans, and what became of them."""
    lines = []
    for name, share in BUDGETS.items():
        told = methods.promised(Budget(metric, share))
        real = next(o for o in outcomes[name] if o.method.startswith(FIGURES["accuracy"]))
        lines.append(
            f"{name} of {metric}: {', '.join(told.activated)} run; promised "
            f"{100 * told.accuracy:.1f} ({100 * told.low:.1f} to {100 * told.high:.1f}), then "
            f"{100 * real.accuracy:.1f} %"
        )
    return "\n".join(lines)


def figures_of(prefix: str, outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    """The figures of one stream."""
    found: dict[str, float] = {}
    for budget, several in outcomes.items():
        for figure, begins in FIGURES.items():
            one = next(one for one in several if one.method.startswith(begins))
            found[f"{prefix}{figure}_at_{budget}"] = one.accuracy
            if figure == "accuracy":
                found[f"{prefix}executions_at_{budget}"] = one.executions
        found[f"{prefix}gap_at_{budget}"] = (
            found[f"{prefix}optimum_at_{budget}"] - found[f"{prefix}accuracy_at_{budget}"]
        )
    return found


def main() -> None:
    options = arguments("Models that answer for others on a stream: MLink, Table 4").parse_args()
    torch.set_num_threads(1)  # small layers: more threads wait for each other
    figures: dict[str, float] = {}
    for prefix, stream in streams(quick=options.quick, seed=options.seed):
        known, fitted = linked(stream, options.seed)
        print(costs_table(known, fitted))
        print(drift_table(known))
        methods = Methods(known)
        metrics = METRICS[:1] if options.quick else METRICS
        found = {metric: compared(known, methods, metric) for metric in metrics}
        everything = methods.all()
        every = [everything, *(one for m in found.values() for b in m.values() for one in b)]
        watch = Stopwatch(known, every, QUICK_FRAMES if options.quick else FRAMES)
        for metric, outcomes in found.items():
            print(methods_table(known, metric, outcomes, watch))
            print(promises(methods, metric, outcomes))
        print(f"all models: {watch.ms(everything):.2f} ms")
        figures |= figures_of(prefix, found["latency"])
    if not os.environ.get("SOMMELIER_ZOO"):
        print("\nSOMMELIER_ZOO is not set: synthetic calls, and no camera")
    finish(figures, options.json)


if __name__ == "__main__":
    main()
