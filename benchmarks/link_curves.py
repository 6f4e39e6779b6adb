"""How few samples a link needs, beside a student distilled from the target on the same samples.

Figure 2 of the MLink paper. Each fraction is of the samples that are not held out; a fifth of it
stops the training and chooses, also what the ensemble does: held-out samples only judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.link_students import distilled
from benchmarks.link_tasks import Group
from benchmarks.report import table
from sommelier.analysis.links import Split, constant_answer, split
from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.judging import LinkOptions, Study, Tried
from sommelier.analysis.links.linear import fit_linear
from sommelier.analysis.links.training import train_vectors

Floats = NDArray[np.float64]

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
VALIDATION = 0.2143  # of the samples that are not held out: .15 of .7, as in `split`
CONSTANT, ENSEMBLE, STUDENT = "constant", "ensemble", "student"
LINEAR, NETWORK, AUTO = ", linear", ", network", ", auto"  # behind the name of a source
COPY = ", as it is"  # the source's own answers, where it answers as many classes


@dataclass(frozen=True, slots=True)
class Curve:
    """Held-out performance for one target.

    samples : of each fraction. found : by predictor, (fractions, seeds). refused : share of
    sources that the screen calls not linkable, by fraction.
    """

    group: str
    target: str
    samples: tuple[int, ...]
    found: Mapping[str, Floats]
    refused: tuple[float, ...]

    def mean(self, predictor: str, place: int) -> float:
        """Over the seeds, for the fraction at this place."""
        return float(self.found[predictor][place].mean())


def curve(group: Group, target: str, seeds: Sequence[int], fractions: Sequence[float]) -> Curve:
    """Every predictor of the target at every fraction, for each seed other samples."""
    whole = split(len(group), 0)
    known = np.concatenate([whole.train, whole.validation])
    found: dict[str, Floats] = {}
    refused = np.zeros(len(fractions))
    for column, seed in enumerate(seeds):
        order = np.random.default_rng([seed, 1]).permutation(known)
        for place, fraction in enumerate(fractions):
            rows = _part(order[: round(fraction * len(known))], whole.held_out)
            scores, out = _scores(group, target, rows, seed)
            for name, score in scores.items():
                found.setdefault(name, np.zeros((len(fractions), len(seeds))))
                found[name][place, column] = score
            refused[place] += out / len(seeds)
    samples = tuple(round(fraction * len(known)) for fraction in fractions)
    return Curve(group.name, target, samples, found, tuple(refused))


def curves_table(one: Curve, fractions: Sequence[float]) -> str:
    """Predictors down, fractions across: mean and standard deviation over the seeds."""
    header = (
        f"{one.target} from",
        *(f"{100 * f:g} % ({n})" for f, n in zip(fractions, one.samples, strict=True)),
    )
    shown = [name for name in one.found if not name.endswith((COPY, LINEAR, NETWORK))]
    best = max((name for name in shown if name.endswith(AUTO)), key=lambda name: one.mean(name, -1))
    at = shown.index(best)
    others = (best.replace(AUTO, method) for method in (COPY, LINEAR, NETWORK))
    shown[at:at] = [name for name in others if name in one.found]
    cells = [[name, *(_cell(values) for values in one.found[name])] for name in shown]
    cells.append(["refused by the screen", *(f"{100 * share:.0f} %" for share in one.refused)])
    seeds = len(next(iter(one.found.values()))[0])
    return table(f"{one.group}: {one.target}, % on held-out samples, {seeds} seeds", header, cells)


def _part(rows: NDArray[np.int64], held_out: NDArray[np.int64]) -> Split:
    """The rows divided into those for training and for validation."""
    cut = round(VALIDATION * len(rows))
    return Split(np.sort(rows[cut:]), np.sort(rows[:cut]), held_out)


def _scores(group: Group, name: str, rows: Split, seed: int) -> tuple[dict[str, float], float]:
    """Held-out performance by predictor, and the share of sources that the screen refuses."""
    target = group.answers[name]
    sources = {other: found for other, found in group.answers.items() if other != name}
    study = replace(Study.of(target, LinkOptions(seed=seed)), rows=rows)
    always = np.tile(constant_answer(target.format, target.values[rows.train]), (len(group), 1))
    scores = {CONSTANT: study.score(always).performance}
    networks = train_vectors([*sources.values()], target, rows, study.options.training)
    linked: dict[str, Floats] = {}
    for (other, source), network in zip(sources.items(), networks, strict=True):
        linear = fit_linear(source, target, rows)
        screened, refusal = study.screened(source)
        auto = study.judged(source, Tried([linear, network]), screened)
        assert auto.predicted is not None
        if refusal is None:
            linked[other] = auto.predicted
        if source.format.width == target.format.width:
            scores[other + COPY] = study.score(source.values).performance
        for method, link in {LINEAR: linear, NETWORK: network}.items():
            scores[other + method] = study.score(link.predict(source.values)).performance
        scores[other + AUTO] = study.score(auto.predicted).performance
    # its head too is chosen on validation samples: held-out ones would be many more than it learns
    ensemble = LinkEnsemble(target, linked, Split(rows.train, rows.validation, rows.validation))
    together = ensemble.head(linked)(linked, count=len(group))
    scores[ENSEMBLE] = study.score(together).performance
    if group.inputs is not None:
        answers = np.zeros_like(target.values)
        answers[rows.held_out] = distilled(group.inputs, target, rows, seed)
        scores[STUDENT] = study.score(answers).performance
    return scores, 1 - len(linked) / len(sources)


def _cell(values: Floats) -> str:
    return f"{100 * values.mean():.1f} ±{100 * values.std():.1f}"
