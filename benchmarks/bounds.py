"""Are the bounds true, and how close do they come? Table 1 of Sommelier on real models.

A fact is a number that is known exactly because a model answered every input of a population: how
often two models agree, how often one is right, how far apart two are. Samples of 100, 1 000 and
10 000 inputs are drawn with replacement, so that they are independent, 20 000 times (2 000 where a
bound needs the values and not only a count), and each method's 95 % bound is held against the fact.

A violation is a bound on the wrong side of the truth. Five percent of them are allowed, and chance
makes them more or fewer: a cell (fact, method, n) with V violations in D draws is within its stated
risk r unless P(Bin(D, r) >= V) <= .01 / cells. Violations above the largest number allowed by that
test are counted over all cells of all proved methods:

Figures: excess_violations (0 unless a bound is broken, or by bad luck in 1 run of 100),
gap_points_1k (truth - Clopper-Pearson bound in points, the average over facts and draws at n =
1 000). Asymptotic methods are shown beside and not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.populations import Population, population
from benchmarks.report import Cell, arguments, finish, table
from benchmarks.spectral import spectral_column
from sommelier.analysis.bounds import (
    anytime_limits,
    bernstein_limits,
    betting_limits,
    decide,
    hoeffding_limits,
    hypergeometric_limits,
    wilson_limits,
)
from sommelier.confidence import lower_bound, upper_bound

Floats = NDArray[np.float64]

ALPHA = 0.05
SIZES = (100, 1_000, 10_000)
DRAWS = 20_000  # of counts
VALUE_DRAWS = 2_000  # of graded values, which cost n times as much
BLOCK = 1_000  # samples drawn at once
TABLE_DRAWS = 20  # Sommelier, Table 1
TEST_LEVEL = 0.01  # of all cells together
CANDIDATES = 200
THRESHOLDS = (0.70, 0.80, 0.90)
# Sommelier, Table 1: bound / minimum / average at n = 100, 1k, 10k
PAPER = {
    "InceptionV3": ((54, 64, 72), (62, 68, 72), (67, 70, 72)),
    "VGG19": ((54, 66, 75), (62, 70, 75), (70, 72, 75)),
    "MobileNet": ((50, 57, 69), (58, 66, 69), (62, 66, 69)),
}
ALONE = "as if alone (no promise)"
WILSON = "wilson (not proved)"


def lower(limits: Callable[..., tuple[Floats, Floats]]) -> Callable[..., Floats]:
    """The lower end of (k, n, alpha) limits, computed once per distinct count."""

    def of_counts(k: Floats, n: int) -> Floats:
        distinct, where = np.unique(k, return_inverse=True)
        return np.asarray(limits(distinct, n, ALPHA)[0])[where]

    return of_counts


def _bernstein(k: Floats, n: int, alpha: float) -> tuple[Floats, Floats]:
    rate = k / n
    return bernstein_limits(rate, rate * (1 - rate) * n / (n - 1), n, alpha)


METHODS: dict[str, Callable[..., Floats]] = {
    "cp": lower(lambda k, n, alpha: (lower_bound(k, n, alpha), k)),
    "anytime": lower(anytime_limits),
    "hoeffding": lower(lambda k, n, alpha: hoeffding_limits(k / n, n, alpha)),
    "bernstein": lower(_bernstein),
    WILSON: lower(wilson_limits),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One cell: violations of a bound in a number of draws, and the risk it states.

    counted : its excess counts; False for methods that promise nothing and are shown beside.
    """

    method: str
    size: int
    violations: int
    draws: int
    width: float  # points, from the truth to a lower bound or between the two ends
    counted: bool = True
    risk: float = ALPHA


@dataclass(slots=True)
class Trials:
    """All cells of a run, and how many violations each may have."""

    cells: list[Trial] = field(default_factory=list)

    def allowed(self, trial: Trial) -> int:
        """The most violations that the test of the stated risk lets pass."""
        counted = sum(cell.counted for cell in self.cells)
        return int(stats.binom.isf(TEST_LEVEL / counted, trial.draws, trial.risk))

    def excess(self) -> int:
        return sum(max(0, one.violations - self.allowed(one)) for one in self.cells if one.counted)

    def rows(self) -> Iterator[tuple[Cell, ...]]:
        """Per method and size: cells, pooled risk, the worst cell beside the most allowed."""
        for method, size in dict.fromkeys((cell.method, cell.size) for cell in self.cells):
            some = [cell for cell in self.cells if (cell.method, cell.size) == (method, size)]
            worst = max(some, key=lambda cell: cell.violations / cell.draws)
            share = sum(c.violations for c in some) / sum(c.draws for c in some)
            over = sum(max(0, c.violations - self.allowed(c)) for c in some)
            yield (
                method,
                str(size),
                len(some),
                f"{100 * share:.2f}",
                f"{100 * worst.risk:g}",
                f"{worst.violations}/{worst.draws}",
                str(self.allowed(worst)),
                str(over) if worst.counted else f"({over})",
                f"{np.mean([c.width for c in some]):.2f}",
            )

    def detectable(self, draws: int) -> float:
        """The true risk of a cell of so many draws that is found out with probability .99."""
        limit = self.allowed(Trial("", 0, 0, draws, 0.0))
        risks = np.linspace(ALPHA, 0.2, 1501)
        return float(risks[np.argmax(stats.binom.sf(limit, draws, risks) >= 0.99)])


def pairs_of(people: Population) -> list[tuple[str, str]]:
    """The reference with every other model, and each model with the next one."""
    names = list(people.answers)
    return list(dict.fromkeys([*((names[0], other) for other in names[1:]), *pairwise(names)]))


def facts_of(people: Population) -> dict[str, NDArray[np.bool_]]:
    """Per fact, for which inputs of the population it is so (n,)."""
    agreed = {
        f"{one} ~ {two}": people.answers[one] == people.answers[two]
        for one, two in pairs_of(people)
    }
    right = {f"{name} right": given == people.labels for name, given in people.answers.items()}
    return {**agreed, **right}


def counts_of(
    facts: dict[str, NDArray[np.bool_]], n: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Successes of each fact in each of DRAWS samples of n inputs, (facts, DRAWS)."""
    matrix = np.stack(list(facts.values())).astype(np.float32)
    size = matrix.shape[1]
    blocks = []
    for _ in range(DRAWS // BLOCK):
        samples = rng.integers(0, size, (BLOCK, n))
        taken = np.stack([np.bincount(one, minlength=size) for one in samples], axis=1)
        blocks.append(matrix @ taken.astype(np.float32))  # whole numbers below 2^24: exact
    return np.concatenate(blocks, axis=1).astype(np.float64)


def table_1(
    facts: dict[str, NDArray[np.bool_]], counts: dict[int, Floats], spectral: dict[str, str]
) -> str:
    """Ours and the paper's: bound / minimum / average of 20 draws, in percent."""
    rows: list[tuple[Cell, ...]] = []
    for number, (name, true) in enumerate(facts.items()):
        cells = []
        for n in SIZES:
            k = counts[n][number, :TABLE_DRAWS]
            bound = METHODS["cp"](k, n).mean()
            cells.append(f"{100 * bound:.1f} / {100 * k.min() / n:.1f} / {100 * k.mean() / n:.1f}")
        rows.append((name, f"{100 * true.mean():.2f}", *cells, spectral.get(name, "-")))
    for name, published in PAPER.items():
        shown = [" / ".join(str(number) for number in row) for row in published]
        rows.append((f"paper: {name}", "", *shown, ""))
    header = ("fact", "truth %", *(f"n = {n}" for n in SIZES), "spectral")
    return table("Table 1: bound / minimum / average of 20 draws, %", header, rows)


def try_counts(
    facts: dict[str, NDArray[np.bool_]], counts: dict[int, Floats], trials: Trials
) -> float:
    """Adds a cell per fact, method and size; the mean gap of Clopper-Pearson at n = 1 000."""
    gaps = []
    for method, bound in METHODS.items():
        for n in SIZES:
            for number, true in enumerate(facts.values()):
                low = bound(counts[n][number], n)
                gap = 100 * float(true.mean() - low.mean())
                broken = int(np.count_nonzero(low > true.mean()))
                trials.cells.append(Trial(method, n, broken, DRAWS, gap, method != WILSON))
                if (method, n) == ("cp", 1_000):
                    gaps.append(gap)
    return float(np.mean(gaps))


def try_finite(
    facts: dict[str, NDArray[np.bool_]], n: int, trials: Trials, rng: np.random.Generator
) -> None:
    """Samples without replacement: the hypergeometric bound, one-sided."""
    for true in facts.values():
        right, size = int(true.sum()), len(true)
        k = rng.hypergeometric(right, size - right, min(n, size), DRAWS)
        low, _ = hypergeometric_limits(k, min(n, size), size, ALPHA)
        gap = 100 * float(true.mean() - low.mean())
        # the truth is a multiple of 1/size, as the bound is: nearer than half of one is equal
        broken = int(np.count_nonzero(low > true.mean() + 0.5 / size))
        trials.cells.append(Trial("cp, without replacement", n, broken, DRAWS, gap))


def try_losses(
    people: Population, sizes: Sequence[int], trials: Trials, rng: np.random.Generator
) -> None:
    """Graded losses: the total variation distance of two models' probabilities, two-sided."""
    for one, two in pairs_of(people)[:2]:
        loss = np.abs(people.probabilities[one] - people.probabilities[two]).sum(axis=1) / 2
        loss = np.clip(loss, 0.0, 1.0)
        _try_values(loss, "loss", sizes, trials, rng)


def try_differences(
    people: Population, sizes: Sequence[int], trials: Trials, rng: np.random.Generator
) -> None:
    """Paired accuracy differences, two-sided: betting, CP(b) - CP(c)."""
    for one, two in pairs_of(people)[:2]:
        right = [people.answers[name] == people.labels for name in (one, two)]
        facts = {"b": right[0] & ~right[1], "c": right[1] & ~right[0]}
        truth = float(facts["b"].mean() - facts["c"].mean())
        halves = (1.0 + facts["b"] - facts["c"]) / 2
        _try_values(halves, "difference", sizes, trials, rng, scale=2.0, only=("betting",))
        for n in sizes:
            b, c = counts_of(facts, n, rng)
            low = lower_bound(b, n, ALPHA / 4) - upper_bound(c, n, ALPHA / 4)
            high = upper_bound(b, n, ALPHA / 4) - lower_bound(c, n, ALPHA / 4)
            trials.cells.append(_two_sided("difference: cp", n, low, high, truth))


def _try_values(
    values: Floats,
    name: str,
    sizes: Sequence[int],
    trials: Trials,
    rng: np.random.Generator,
    *,
    scale: float = 1.0,
    only: Sequence[str] = ("betting", "bernstein", "hoeffding"),
) -> None:
    for n in sizes:
        drawn = values[rng.integers(0, len(values), (VALUE_DRAWS, n))]
        mean, variance = drawn.mean(axis=1), drawn.var(axis=1, ddof=1)
        limits = {
            "betting": betting_limits(drawn, ALPHA / 2),
            "bernstein": bernstein_limits(mean, variance, n, ALPHA / 2),
            "hoeffding": hoeffding_limits(mean, n, ALPHA / 2),
        }
        for method in only:
            low, high = limits[method]
            cell = _two_sided(f"{name}: {method}", n, scale * low, scale * high,
                              scale * float(values.mean()))  # fmt: skip
            trials.cells.append(cell)


def _two_sided(method: str, n: int, low: Floats, high: Floats, truth: float) -> Trial:
    broken = int(np.count_nonzero((low > truth) | (truth > high)))
    return Trial(method, n, broken, len(low), 100 * float(np.mean(high - low)))


def try_early_stopping(
    facts: dict[str, NDArray[np.bool_]], runs: int, trials: Trials, rng: np.random.Generator
) -> str:
    """What a decision costs: samples used for "agreement >= threshold?", at most 10 000."""
    rows: list[tuple[Cell, ...]] = []
    agreements = {name: true for name, true in facts.items() if "~" in name}
    for name, true in list(agreements.items())[:4]:
        for threshold in THRESHOLDS:
            found = [
                decide(true[rng.integers(0, len(true), SIZES[-1])], threshold) for _ in range(runs)
            ]
            right = "above" if true.mean() >= threshold else "below"
            wrong = sum(one.verdict not in (right, "undecided") for one in found)
            open_ = sum(one.verdict == "undecided" for one in found)
            used = [one.samples for one in found]
            width = 100 * float(np.mean([one.interval.width for one in found]))
            trials.cells.append(Trial("decide", SIZES[-1], wrong, runs, width))
            rows.append((name, f"{100 * true.mean():.1f}", f"{100 * threshold:g}", right,
                         f"{np.median(used):.0f}", f"{np.quantile(used, 0.9):.0f}",
                         wrong, open_))  # fmt: skip
    header = ("pair", "truth %", "threshold %", "so", "median n", "90 % n", "wrong", "undecided")
    return table(f"early stopping: {runs} runs each, at most {SIZES[-1]} samples", header, rows)


def try_winners(rate: float, trials: Trials, rng: np.random.Generator) -> str:
    """The best of 200 candidates that are all equally good, simulated at a real pair's rate."""
    rows: list[tuple[Cell, ...]] = []
    for n in (1_000, 10_000):
        half = n // 2
        first, second = (rng.binomial(half, rate, (DRAWS, CANDIDATES)) for _ in range(2))
        best = (first + second).max(axis=1)
        chosen = np.take_along_axis(second, first.argmax(axis=1)[:, None], axis=1)[:, 0]
        bounds = {
            ALONE: (best / n, lower_bound(best, n, ALPHA)),
            "bonferroni": (best / n, lower_bound(best, n, ALPHA / CANDIDATES)),
            "split": (chosen / half, lower_bound(chosen, half, ALPHA)),
        }
        for method, (shown, low) in bounds.items():
            broken = int(np.count_nonzero(low > rate))
            gap = 100 * float(rate - low.mean())
            trials.cells.append(Trial(f"winner: {method}", n, broken, DRAWS, gap, method != ALONE))
            rows.append((method, str(n), f"{100 * shown.mean():.2f}", f"{100 * low.mean():.2f}",
                         f"{100 * broken / DRAWS:.1f}"))  # fmt: skip
    header = ("bound", "n", "reported %", "bound %", "violated % of draws")
    title = f"the winner of {CANDIDATES} candidates that all agree {100 * rate:.2f} % (simulated)"
    return table(title, header, rows)


def main() -> None:
    parser = arguments("Bounds against the truth: Sommelier, Table 1, on real models")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    people = population(quick=options.quick)
    facts = facts_of(people)
    print(f"{people.name}: {len(people.answers)} models, {len(people)} inputs, {len(facts)} facts")
    trials = Trials()
    counts = {n: counts_of(facts, n, rng) for n in SIZES}
    print(table_1(facts, counts, spectral_column(people)))
    gap = try_counts(facts, counts, trials)
    try_finite(facts, 1_000, trials, rng)
    graded_sizes = SIZES[:2] if options.quick else SIZES
    try_losses(people, graded_sizes, trials, rng)
    try_differences(people, graded_sizes, trials, rng)
    print(try_early_stopping(facts, 200 if options.quick else 2_000, trials, rng))
    print(try_winners(float(next(iter(facts.values())).mean()), trials, rng))
    header = ("method", "n", "cells", "violated %", "stated %", "worst cell", "allowed", "excess",
              "gap or width, points")  # fmt: skip
    print(table("violations of 95 % bounds, all cells", header, list(trials.rows())))
    for draws in (DRAWS, VALUE_DRAWS):
        risk = 100 * trials.detectable(draws)
        print(f"A risk of {risk:.1f} % instead of {100 * ALPHA:g} % in a cell of {draws} draws "
              "would be found out with probability .99.")  # fmt: skip
    finish({"excess_violations": trials.excess(), "gap_points_1k": gap}, options.json)


if __name__ == "__main__":
    main()
