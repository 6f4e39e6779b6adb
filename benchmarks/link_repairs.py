"""What the paper's design costs where this one departs from it, and how fast a link is trained.

Units of a network (algorithms.md E.1), weights of an ensemble that serves any subset of its sources
(E.2), and the time of the paper's training, which it gives as 12.9 s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.link_matrix import Judge, Row, subsets
from benchmarks.link_tasks import Floats, Group
from benchmarks.report import Cell, table
from sommelier.analysis.links import AnswerFormat, LinkAnswers, Split, split
from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.ensemble_training import paper_weights
from sommelier.analysis.links.networks import hidden_units
from sommelier.analysis.links.training import TrainingOptions, train_vectors

SCALARS = ("even", "length")  # two outputs, one output
NOTICED = 0.005  # of performance that an additional source takes away
WIDE, SAMPLES, CHECKED = 100, 1_000, 200  # the paper's link: outputs of both ends, samples


def units_table(group: Group, seeds: Sequence[int]) -> tuple[str, float]:
    """Networks with the paper's units and with ours, and by how much ours are better on average."""
    cells: list[list[Cell]] = []
    gains = []
    for name in (scalar for scalar in SCALARS if scalar in group.answers):
        found = {half: _networks(group, name, half, seeds) for half in (True, False)}
        outputs = group.answers[name].format.width
        for source in found[True]:
            few, many = found[True][source], found[False][source]
            gains.append(float(np.mean(many) - np.mean(few)))
            cells.append([f"{source} -> {name}", *(_mean(each) for each in (few, many))])
    ours = hidden_units(outputs, len(group))
    header = ("network", "2 x outputs", f"ours ({ours})")
    title = f"{group.name}: units of networks with one output or two, % on held-out samples"
    return table(title, header, cells), float(np.mean(gains))


def weights_table(groups: Mapping[str, tuple[Group, Sequence[Row]]], seed: int) -> str:
    """One weight a source, learned with all of them, and a combination of its own for each subset.

    Both learn from training samples; what stands back where it is no better is chosen on one half
    of the held-out samples, and all are judged on the other.
    """
    cells: list[list[Cell]] = [
        [f"{name}: {row.target}", *_weighed(group, row, seed)]
        for name, (group, rows) in groups.items()
        for row in rows
        if len(row.predicted) > 1
    ]
    header = (
        "target",
        "subsets",
        "weights (the paper)",
        "of its own",
        "paper: worse",
        "own: worse",
    )
    title = (
        "ensembles of every subset of sources, mean %; worse: how often a source more takes away "
        f"{100 * NOTICED:g} points"
    )
    return table(title, header, cells)


def training_seconds(links: int, *, seed: int, repeats: int) -> float:
    """Median time to train so many links of 100 inputs and outputs on one thread: 1 000 samples,
    100 epochs."""
    rng = np.random.default_rng(seed)
    answers = [_certain(rng) for _ in range(links)]
    target = _certain(rng)
    rows = np.arange(SAMPLES + CHECKED)
    parts = Split(rows[:SAMPLES], rows[SAMPLES:], rows[SAMPLES:])
    options = TrainingOptions(patience=None, seed=seed)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        train_vectors(answers, target, parts, options)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def speed_table(counts: Sequence[int], *, seed: int, repeats: int) -> tuple[str, float]:
    """Times of so many links trained together, and that of the first count."""
    times = [training_seconds(links, seed=seed, repeats=repeats) for links in counts]
    cells = [(str(n), spent, spent / n) for n, spent in zip(counts, times, strict=True)]
    title = (
        f"training of links with {WIDE} inputs and outputs: {SAMPLES} samples, 100 epochs, batches "
        "of 32, none stopped early, one thread (the paper: 12.9 s)"
    )
    return table(title, ("links together", "seconds", "seconds a link"), cells), times[0]


def _networks(group: Group, name: str, half: bool, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Held-out performance by source. half : with twice as many units as outputs."""
    target = group.answers[name]
    sources = {other: found for other, found in group.answers.items() if other != name}
    found: dict[str, list[float]] = {other: [] for other in sources}
    for seed in seeds:
        rows = split(len(group), seed)
        options = TrainingOptions(seed=seed, hidden=2 * target.format.width if half else None)
        links = train_vectors([*sources.values()], target, rows, options)
        answers = {o: n.predict(sources[o].values) for o, n in zip(sources, links, strict=True)}
        judge = Judge(group, name, answers, rows, rows.held_out)
        for other in sources:
            found[other].append(judge.single(other))
    return found


def _weighed(group: Group, row: Row, seed: int) -> list[Cell]:
    rows = split(len(group), seed)
    target, predicted = group.answers[row.target], row.predicted
    chosen, judged = rows.held_out[::2], rows.held_out[1::2]
    judge = Judge(group, row.target, predicted, rows, judged)
    ensemble = LinkEnsemble(target, predicted, Split(rows.train, rows.validation, chosen))
    weights = paper_weights(target, predicted, rows, TrainingOptions(seed=seed))
    every = [tuple(sorted(subset)) for subset in subsets(predicted)]
    theirs = {subset: judge.head(weights.head(subset)) for subset in every}
    ours = {subset: judge.head(ensemble.head(subset)) for subset in every}
    means = [f"{100 * np.mean([*found.values()]):.1f}" for found in (theirs, ours)]
    return [len(every), *means, *(_worse(found) for found in (theirs, ours))]


def _worse(found: Mapping[tuple[str, ...], float]) -> str:
    steps = [
        found[larger] - found[smaller]
        for larger in found
        for smaller in found
        if len(larger) == len(smaller) + 1 and set(smaller) < set(larger)
    ]
    return f"{sum(step < -NOTICED for step in steps)} of {len(steps)}"


def _certain(rng: np.random.Generator) -> LinkAnswers:
    """Probabilities of WIDE classes."""
    odds = np.exp(3 * rng.normal(size=(SAMPLES + CHECKED, WIDE)))
    shares: Floats = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return LinkAnswers(AnswerFormat("classes", WIDE, "probabilities"), shares)


def _mean(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.1f} ±{100 * np.std(values):.1f}"
