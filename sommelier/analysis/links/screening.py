"""Whether a link can work, said before it is trained, in tens of milliseconds.

What a link can reach is predicted by a closed-form stand-in for it: ridge regression from a few
numbers of the source's answers and cosines of them (random Fourier features, so that a dependence
need not be linear), each sample predicted without itself. Whether there is any dependence at all is
tested by pairing the answers anew at random, which is exact for any number of samples.
Source: issue part 3; Rahimi & Recht 2007; Gretton et al. 2008 (kernel test of independence).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.features import Features, log_probabilities
from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers
from sommelier.analysis.links.scoring import HELD, constant_answer, performance, skill

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LEVEL = 0.05  # share of independent pairs for which a link is trained in vain
PERMUTATIONS = 199
SAMPLES = 1000  # at most; more say the same
COLUMNS = 96  # numbers of either side, those that vary most
PROBABILITIES = 32  # beside their logarithms
COSINES = 64
TESTED = 8  # principal components of the target in the permutation test
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # times the mean eigenvalue of the features
TESTED_RIDGE = 1.0
ROUNDING = 1e-6  # relative; answers that differ by less are the same


@dataclass(frozen=True, slots=True)
class Screen:
    """What is known of a link before training.

    dependence : share of the target's variance that the source explains, in [0, 1] (for classes,
    Goodman and Kruskal's tau: the share of the Gini impurity), an estimate. p_value : the
    probability of at least such a dependence between independent answers. predicted : the
    performance a link can be expected to reach, an estimate. skill : of that, see `scoring.skill`.
    linkable : whether training is worth while. reason : why, or why not. NaN is unknown.
    """

    dependence: float
    p_value: float
    predicted: float
    skill: float
    linkable: bool
    reason: str


def screen(
    source: LinkAnswers,
    target: LinkAnswers,
    rows: Array,
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> Screen:
    """Whether `target` can be predicted from `source`, from these (training) rows alone.

    Of independent answers, at most the share `level` is called linkable.
    """
    both = _usable(source, target, rows, np.random.default_rng([seed, 0]))
    if len(both) < 2:
        return _unlinkable(f"both models answered {len(both)} of {len(rows)} samples")
    given, wanted = source.rows(both), target.rows(both)
    if _decides_nothing(wanted):
        return _unlinkable("the target answers always the same", predicted=1.0)
    inputs = _inputs(given)
    if not inputs.size:
        return _unlinkable("the source answers always the same")
    ridge = _Ridge(_with_cosines(inputs, np.random.default_rng([seed, 1])))
    taught = list(_encodings(wanted))
    p_value = ridge.p_value(taught[0].values, np.random.default_rng([seed, 2]))
    guesses = [ridge.guessed(each.values) for each in taught]
    explained = _explained(taught[0].values, guesses[0])
    predicted = max(
        performance(each.format, each.answers(guess), each.truth)
        for each, guess in zip(taught, guesses, strict=True)
    )
    if given.format.kind == "classes" and given.format.width == wanted.format.width:
        alike, chance = _agreement(given, wanted, np.random.default_rng([seed, 3]))
        p_value, predicted = min(1.0, 2 * min(p_value, chance)), max(predicted, alike)
    return _judged(wanted, explained, p_value, predicted, level)


def _agreement(
    given: LinkAnswers, wanted: LinkAnswers, rng: np.random.Generator
) -> tuple[float, float]:
    """Share of samples to which both answer the same class, and how likely by chance at least that.

    A link between equal classes can be a copy, which holds for classes that no sample shows: with a
    thousand classes, most of what can be predicted and cannot be learned.
    """
    ours, theirs = (answers.values.argmax(axis=1) for answers in (given, wanted))
    orders = rng.permuted(np.tile(theirs, (PERMUTATIONS, 1)), axis=1)
    alike = (np.concatenate([theirs[None], orders]) == ours).sum(axis=1)
    return float(alike[0] / len(ours)), float((alike >= alike[0]).mean())


def _judged(
    wanted: LinkAnswers, explained: float, p_value: float, predicted: float, level: float
) -> Screen:
    best = constant_answer(wanted.format, wanted.values)
    always = np.broadcast_to(best, wanted.values.shape)
    constant = performance(wanted.format, always, wanted.values)
    gain = skill(predicted, constant)
    error = 0.5 / np.sqrt(len(wanted))  # the largest standard error of a mean of values in [0, 1]
    odds = f"(p = {p_value:.2g}, {len(wanted)} samples)"
    linkable = False
    if p_value > level:
        reason = f"the target's answers do not depend on the source's {odds}"
    elif not predicted + error > constant:
        reason = (
            f"the target's answers depend on the source's {odds}, but one answer for all scores "
            f"{constant:.2f} and a link is predicted to score {predicted:.2f}"
        )
    else:
        linkable, reason = True, f"the target's answers depend on the source's {odds}"
    return Screen(explained, p_value, predicted, gain, linkable, reason)


def _unlinkable(reason: str, *, predicted: float = float("nan")) -> Screen:
    unknown = float("nan")
    return Screen(unknown, unknown, predicted, unknown, False, reason)


class _Ridge:
    """Ridge regression of any outputs on one set of centred features, from one decomposition."""

    def __init__(self, features: Floats) -> None:
        """features : (n, m), centred."""
        values, vectors = np.linalg.eigh(features.T @ features)
        kept = values > 1e-9 * values[-1]
        self._strength = values[kept] / values[kept].mean()
        self._basis = features @ (vectors[:, kept] / np.sqrt(values[kept]))  # (n, m), orthonormal

    def guessed(self, outputs: Floats) -> Floats:
        """Each sample's outputs (n, k) predicted from all others, by the penalty that does best."""
        mean = outputs.mean(axis=0)
        centred = outputs - mean
        coded = self._basis.T @ centred
        best, least = np.broadcast_to(mean, outputs.shape), np.inf
        for penalty in RIDGES:
            kept = self._strength / (self._strength + penalty)
            leverage = 1 / len(outputs) + np.square(self._basis) @ kept
            errors = (centred - self._basis @ (coded * kept[:, None])) / np.maximum(
                1 - leverage, ROUNDING
            )[:, None]
            if (total := float(np.square(errors).sum())) < least:
                best, least = outputs - errors, total
        return best

    def p_value(self, outputs: Floats, rng: np.random.Generator) -> float:
        """Share of random pairings, this one included, that explain as much of the outputs."""
        kept = self._strength / (self._strength + TESTED_RIDGE)
        weighted = (self._basis * np.sqrt(kept)).astype(np.float32)
        parts = _principal(outputs - outputs.mean(axis=0), TESTED, rng).astype(np.float32)
        n, width = parts.shape
        orders = rng.permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)
        paired = np.concatenate([np.arange(n)[None], orders]).T  # (n, pairings)
        found = weighted.T @ parts[paired].reshape(n, -1)
        explained = np.square(found).reshape(-1, PERMUTATIONS + 1, width).sum(axis=(0, 2))
        # rounding must not tell equal pairings apart
        as_much = explained >= explained[0] * (1 - ROUNDING)
        return float(as_much.mean())


@dataclass(frozen=True, slots=True)
class _Encoding:
    """Numbers to regress that say what the target answered.

    values : (n, k). columns : which of the natural columns (of tokens: step * width + token) they
    are. truth : natural, as `answers` gives guesses.
    """

    format: AnswerFormat
    truth: Array
    values: Floats
    columns: Indices

    def answers(self, guess: Floats) -> Array:
        """Guessed numbers (n, k) as natural answers."""
        if self.format.kind == "tokens":
            cells = np.full((len(guess), self.format.steps * self.format.width), -np.inf)
            cells[:, self.columns] = guess
            return np.asarray(cells.reshape(len(guess), self.format.steps, -1).argmax(axis=2))
        if self.format.kind == "classes":
            found = np.full(self.truth.shape, -np.inf)
            found[:, self.columns] = guess
            return np.asarray(np.eye(self.format.width)[found.argmax(axis=1)])
        return guess


def _encodings(wanted: LinkAnswers) -> Iterator[_Encoding]:
    """The ways to regress these answers; of the first the dependence is measured."""
    format, values = wanted.format, wanted.values
    if format.kind == "tokens":
        columns, shown = _tokens_shown(values, format.width, COLUMNS)
        yield _Encoding(format, values, shown, columns)
        return
    if format.kind == "classes":
        top = values.argmax(axis=1)
        seen, counts = np.unique(top, return_counts=True)
        columns = seen[np.argsort(-counts, kind="stable")[:COLUMNS]]
        yield _Encoding(format, values, (top[:, None] == columns).astype(np.float64), columns)
        logs = log_probabilities(wanted, np.arange(len(wanted)))[:, columns]
        yield _Encoding(format, values, logs.astype(np.float64), columns)
        return
    columns = _most_varying(values, COLUMNS)
    truth = values[:, columns]
    yield _Encoding(format, truth, truth.astype(np.float64), columns)


def _usable(
    source: LinkAnswers, target: LinkAnswers, rows: Array, rng: np.random.Generator
) -> Indices:
    """The rows both models answered, at most SAMPLES of them."""
    both = np.asarray(rows, dtype=np.int64)
    both = both[source.answered[both] & target.answered[both]]
    return rng.permutation(both)[:SAMPLES] if len(both) > SAMPLES else both


def _decides_nothing(target: LinkAnswers) -> bool:
    """Whether the answers are all the same to the metric of their kind."""
    values = target.values
    if target.format.kind == "classes":
        values = values.argmax(axis=1)[:, None]
    elif target.format.kind == "labels":
        values = values >= HELD
    return not _varies(values).any()


def _varies(values: Array) -> NDArray[np.bool_]:
    """Where a column is no constant but for rounding."""
    low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    return np.asarray(high - low > ROUNDING * np.maximum(np.abs(low), np.abs(high)))


def _inputs(source: LinkAnswers) -> Floats:
    """Standardised numbers that say what the source answered, float64 (n, at most COLUMNS)."""
    format, values = source.format, source.values
    if format.kind == "tokens":
        columns = _tokens_shown(values, format.width, COLUMNS)[1]
    else:
        seen = LinkAnswers(format, values[:, _most_varying(values, COLUMNS)])
        opened = Features.of(seen, np.arange(len(seen)))(seen.values)
        also = PROBABILITIES if format.kind in ("classes", "labels") else 0
        shares = values[:, _most_varying(values, also)]
        columns = np.concatenate([opened, shares], axis=1).astype(np.float64)
    columns = columns[:, _varies(columns)]
    return np.asarray((columns - columns.mean(axis=0)) / columns.std(axis=0))


def _with_cosines(inputs: Floats, rng: np.random.Generator) -> Floats:
    """The inputs and cosines of them, (n, m), centred, both of the same total variance.

    The cosines are features of a Gaussian kernel as wide as the median distance of two samples.
    """
    pairs = rng.integers(0, len(inputs), (2, 256))
    apart = np.linalg.norm(inputs[pairs[0]] - inputs[pairs[1]], axis=1)
    width = float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0
    slopes = rng.normal(size=(inputs.shape[1], COSINES)) / width
    waves = np.cos(inputs @ slopes + rng.uniform(0, 2 * np.pi, COSINES))
    waves -= waves.mean(axis=0)
    sides = [side / np.sqrt(_power(side)) for side in (inputs, waves)]
    return np.concatenate(sides, axis=1)


def _principal(centred: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Nearly the `count` principal components of centred rows, (n, <= count).

    By two rounds of subspace iteration: a tenth of the time of the eigenvectors.
    """
    products = centred.T @ centred
    subspace = rng.normal(size=(len(products), min(count, len(products))))
    for _ in range(2):
        subspace = np.linalg.qr(products @ subspace)[0]
    return np.asarray(centred @ subspace)


def _power(values: Floats) -> float:
    return float(np.square(values).mean(axis=0).sum()) or 1.0


def _explained(values: Floats, guess: Floats) -> float:
    """1 - squared error / that of the mean of the other samples, within [0, 1]."""
    n = len(values)
    spread = np.square((values - values.mean(axis=0)) * n / (n - 1)).sum()
    return float(np.clip(1 - np.square(values - guess).sum() / spread, 0.0, 1.0))


def _most_varying(values: Array, count: int) -> Indices:
    if values.shape[1] <= count:
        return np.arange(values.shape[1])
    return np.sort(np.argsort(-values.var(axis=0), kind="stable")[:count])


def _tokens_shown(ids: Indices, width: int, count: int) -> tuple[Indices, Floats]:
    """(columns, 0 or 1 (n, columns)): whether a token stands at a step, for those that vary most.

    A column is step * width + token.
    """
    cells = ids + np.arange(ids.shape[1]) * width
    seen, times = np.unique(cells, return_counts=True)
    varying = times * (len(ids) - times)
    columns = seen[np.argsort(-varying, kind="stable")[:count]]
    return columns, (cells[:, columns // width] == columns).astype(np.float64)
