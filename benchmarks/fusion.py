"""How much faster does one fused model answer than its originals? GMorph, tables 3 to 5.

Suites of models trained on the spot (fusion_suites.py); for each threshold of 0, 1 and 2 % the
search of the product, one backbone for all (all shared), and random sharing, all three with the
same budget (60 epochs of 2 400 samples, 120 of 1 200) and the same least-squares maps. Speed is
that of ONNX Runtime, the fused model beside the originals one after the other, at batch 1 on one
thread, paired in one run.

Rule of counting: a fusion counts at a threshold only if its worst task loses no more than that on
the samples that certify, which neither training nor choosing saw. Up to four of a search, the
fastest first, are certified in turn until one does; where none does, the originals stay and the
speed-up is 1. What is lost is then measured once more on test samples that nothing at all was
chosen by.

What a search costs is compared at a threshold of 1 % with plain annealing as the paper does it
(Algorithm 1): 200 iterations, random maps, the released code's probability of elites, at most eight
epochs in batches of 64 a candidate, no early termination, no rules, and no other budget. saving =
annealing's time / gain first's, both from beginning to end of the search, where a fusion of gain
first counts and is as fast as annealing's or faster; 0 where not. `predicted` holds what the
searches end with against each other before anything is certified. `until` asks how soon:
annealing's time until its best fusion (all its time where it finds nothing) / gain first's until
one as good. Time is that of the processor, of one thread. 200 iterations may take hours:
`--patience 6` stops annealing after six times gain first's time. What is 6 then says that six times
the time is not enough for annealing, not what would be. Two searches run at a time, each in a
process of its own: with two cores both suffer from that alike, and the sides of a pair do. With
`--cache DIR` a run that was stopped goes on where it was, if the code is the same.

`--suite small` is for two cores, `--suite full` (VGG-13 x 3, ResNet-34 + ResNet-18, two ViT-Base)
for a GPU, on which models are trained; its latency is that of ONNX Runtime on the CPU all the same.

Figures: median_speedup_drop0, _drop1, _drop2 (over suites), all_shared_..., random_...;
search_saving, _predicted, _until, _until_epochs (median); over_threshold (fusions that count and
lose significantly more than the threshold on test samples); resumed_same (1: a search that was
killed twice wrote the model of an undisturbed one, bit by bit); and a suite's own speed-ups.

Expectations are printed with what was found, and the exit code is 1 if one is not met.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.fusion_kept import kept
from benchmarks.fusion_resume import same_after_kills
from benchmarks.fusion_runs import (
    ANNEALING,
    ITERATIONS,
    PLAIN,
    PRODUCT,
    Effort,
    Run,
    original_latencies,
    plain_annealing,
    searches,
)
from benchmarks.fusion_runs import run as one_search
from benchmarks.fusion_saving import in_full, saving
from benchmarks.fusion_suites import FULL, QUICK, SMALL, Recipe, Suite, made
from benchmarks.report import Cell, Verdict, arguments, expectations, finish, table

EPOCHS = 60  # of LESSONS samples, of every search but annealing
LESSONS = 2_400  # where fewer fine-tune there are more epochs, so that all see as many
ANNEALED = 0.01  # the threshold that annealing is run at
GAIN_FIRST = "gain first"
METHODS = {"": GAIN_FIRST, "all_shared_": "all shared", "random_": "random"}
LEAST = {"median_speedup_drop0": 1.5, "median_speedup_drop2": 2.2, "search_saving": 5.0}  # issue 5
QUICK_LEAST = {"median_speedup_drop2": 1.1}


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured of a suite. lessons : how many samples fine-tune."""

    suite: str
    lessons: int
    runs: tuple[Run, ...]
    annealing: Run

    def run(self, method: str, tolerance: float) -> Run:
        """One of them."""
        return next(r for r in self.runs if (r.method, r.tolerance) == (method, tolerance))


def measured(
    recipes: Sequence[Recipe], effort: Effort, options: Namespace, cache: Path
) -> list[Findings]:
    """All suites, their tables printed as they are done; two processes work."""
    given: tuple[Effort, int, Path] = (effort, options.seed, cache)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), in_worker) as pool:
        begun = [pool.submit(_trained, recipe, *given) for recipe in recipes]
        latencies = []
        for made_ready in begun:
            text, found = made_ready.result()
            latencies.append(found)
            print(text, flush=True)
        places = range(len(recipes))
        ours = [pool.submit(_searched, recipes[i], latencies[i], *given) for i in places]
        theirs = [
            pool.submit(
                _annealed, recipes[i], latencies[i], *given, _most(ours[i].result(), effort)
            )
            for i in places
        ]
        every = []
        for i in places:
            annealing = in_full(theirs[i].result(), _most(ours[i].result(), effort))
            every.append(Findings(recipes[i].name, *ours[i].result(), annealing))
            print(runs_table(every[-1]), flush=True)
        return every


def _most(searched: tuple[int, tuple[Run, ...]], effort: Effort) -> float | None:
    """The seconds that annealing may take beside these searches."""
    _, found = searched
    ours = next(r for r in found if (r.method, r.tolerance) == (GAIN_FIRST, ANNEALED))
    return None if effort.patience is None else effort.patience * ours.seconds


def in_worker() -> None:
    """Ctrl-C ends a worker at once: a search would end with the best so far, which would be kept as
    if it had used its budget."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _alone()


def _alone() -> None:
    torch.set_num_threads(1)  # small layers: more threads wait for each other


def _trained(
    recipe: Recipe, effort: Effort, seed: int, cache: Path
) -> tuple[str, dict[str, float]]:
    """The table of the originals, which lie in the cache now, and their latencies."""
    suite = made(recipe, seed, device=effort.training.device, cache=cache)
    latencies = original_latencies(suite, effort.runs)
    return originals_table(suite, latencies), latencies


def _searched(
    recipe: Recipe, latencies: Mapping[str, float], effort: Effort, seed: int, cache: Path
) -> tuple[int, tuple[Run, ...]]:
    """How many samples fine-tune, and what was found."""
    suite = made(recipe, seed, device=effort.training.device, cache=cache)
    found = []
    lessons = len(suite.lessons.splits.fine_tune)
    budget = replace(effort, epochs=budget_of(effort.epochs, lessons))
    for asked in searches(budget, seed=seed):
        one = kept(
            _finished(cache),
            (recipe.name, suite.data, asked),
            partial(one_search, suite, latencies, asked),
        )
        found.append(one)
        print(_progress(recipe, one), file=sys.stderr, flush=True)
    return lessons, tuple(found)


def _finished(cache: Path) -> Path | None:
    """Where finished searches are kept: nowhere, unless the user named a cache."""
    folder = cache / "finished"
    return folder if folder.is_dir() else None


def budget_of(epochs: int, lessons: int) -> int:
    """Epochs of so many samples that are as much work as `epochs` of LESSONS."""
    return max(1, round(epochs * LESSONS / lessons))


def _annealed(
    recipe: Recipe,
    latencies: Mapping[str, float],
    effort: Effort,
    seed: int,
    cache: Path,
    most_s: float | None,
) -> Run:
    suite = made(recipe, seed, device=effort.training.device, cache=cache)
    anneal = partial(plain_annealing, suite, latencies, effort, ANNEALED, seed=seed, most_s=most_s)
    found = kept(_finished(cache), (recipe.name, suite.data, effort, seed, ANNEALING), anneal)
    print(_progress(recipe, found), file=sys.stderr, flush=True)
    return found


def originals_table(suite: Suite, latencies: Mapping[str, float]) -> str:
    """The models that are fused."""
    rows = []
    for task, name in enumerate(suite.models):
        blocks = suite.blocks[name].blocks
        size = sum(block.capacity for block in blocks)
        flops = sum(block.flops for block in blocks)
        share = 100 * suite.accuracy(task)
        rows.append((name, f"{share:.1f}", latencies[name], flops / 1e6, size / 1e3, len(blocks)))
    splits = suite.lessons.splits
    title = (
        f"{suite.name}, {suite.data}: {len(splits.fine_tune)} samples fine-tune, "
        f"{len(splits.select)} choose, {len(splits.certify)} certify, {len(suite.test)} test; "
        f"originals trained in {suite.seconds:.0f} s"
    )
    return table(title, ("model", "right %", "ms", "MFLOPs", "1000 weights", "blocks"), rows)


def runs_table(found: Findings) -> str:
    """What every method found at every threshold."""
    rows: list[tuple[Cell, ...]] = []
    for run in (*found.runs, found.annealing):
        epochs = run.epochs + run.finishing
        spent = (
            f"{run.epochs} + {run.finishing}", f"{epochs * found.lessons / 1e3:.0f}",
            f"{run.seconds:.0f}",
        )  # fmt: skip
        name = f"{100 * run.tolerance:g} % {run.method}"
        if not run.found:
            rows.append((name, "-", "1", "-", "-", "-", len(run.refused), *spent))
            continue
        loss = run.worst
        tested = f"{100 * loss.drop:+.1f} ({100 * loss.low:+.1f} to {100 * loss.high:+.1f})"
        faster = f"{run.speedup:.2f} ({run.low:.2f} to {run.high:.2f})"
        rows.append(
            (name, f"{run.fused_ms:.3f} of {run.original_ms:.3f}", faster,
             f"{100 * run.flops_share:.0f}", f"{100 * run.certified:+.1f}", tested,
             len(run.refused), *spent)
        )  # fmt: skip
    header = ("drop", "ms", "speed-up", "FLOPs %", "certified drop %", "tested, worst task",
              "refused", "epochs", "1000 samples", "s")  # fmt: skip
    return table(f"{found.suite}: fusions that count", header, rows)


def _progress(recipe: Recipe, run: Run) -> str:
    asked = f"{recipe.name}, {run.method} at {100 * run.tolerance:g} %"
    return f"  {asked}: {run.speedup:.2f}, {run.epochs} epochs, {run.seconds:.0f} s"


def costs_table(found: Sequence[Findings]) -> str:
    """What plain annealing reaches, and when; and when gain first has the same."""
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        ours, theirs = one.run(GAIN_FIRST, ANNEALED), one.annealing
        point = ours.reaching(theirs.best.share) if theirs.points else None
        times = saving(ours, theirs)
        reached = "-" if point is None else f"{point.epochs}, {point.seconds:.0f} s"
        rows.append(
            (one.suite, _faster(theirs), f"{theirs.best.epochs}, {theirs.best.seconds:.0f} s",
             f"{theirs.epochs}, {theirs.seconds:.0f} s{', cut' if theirs.cut else ''}",
             f"{theirs.speedup:.2f}", reached, _faster(ours),
             f"{ours.epochs}, {ours.seconds:.0f} s", f"{ours.speedup:.2f}", *times)
        )  # fmt: skip
    header = ("suite", "annealing", "until then", "in all", "certified", "gain first as good after",
              "its best", "in all", "certified", "saving", "predicted", "until as good",
              "in epochs")  # fmt: skip
    title = f"cost at {100 * ANNEALED:g} %: predicted speed-up, epochs, seconds of the processor"
    return table(title, header, rows)


def _faster(run: Run) -> str:
    return f"{1 / run.best.share:.2f}" if run.points else "nothing"


def figures_of(found: Sequence[Findings]) -> dict[str, float]:
    """The figures, without that of the killed search."""
    figures: dict[str, float] = {}
    for prefix, method in METHODS.items():
        for tolerance in sorted({run.tolerance for run in found[0].runs}):
            name = f"{prefix or 'median_'}speedup_drop{100 * tolerance:g}"
            figures[name] = median(one.run(method, tolerance).speedup for one in found)
    pairs = [saving(one.run(GAIN_FIRST, ANNEALED), one.annealing) for one in found]
    figures["search_saving"] = median(pair.whole for pair in pairs)
    figures["search_saving_predicted"] = median(pair.predicted for pair in pairs)
    figures["search_saving_until"] = median(pair.until for pair in pairs)
    figures["search_saving_until_epochs"] = median(pair.epochs for pair in pairs)
    ours = [run for one in found for run in one.runs if run.found and run.method == GAIN_FIRST]
    figures["over_threshold"] = sum(run.worst.low > run.tolerance for run in ours)
    for one in found:
        for run in one.runs:
            if run.method == GAIN_FIRST:
                name = one.suite.lower().replace(" ", "_").replace("+", "and")
                figures[f"{name}_drop{100 * run.tolerance:g}"] = run.speedup
    return figures


def verdicts(figures: Mapping[str, float], least: Mapping[str, float]) -> list[Verdict]:
    """What was expected, and what came of it. A figure that was not measured is not expected."""
    told = [
        Verdict(f"{name} >= {wanted:g}", f"{figures[name]:.3g}", figures[name] >= wanted)
        for name, wanted in least.items()
        if name in figures
    ]
    same = figures["resumed_same"] == 1
    killed = Verdict("a killed search ends as an undisturbed one", "same" if same else "not", same)
    return [*told, killed]


def _parser() -> ArgumentParser:
    parser = arguments("Models fused into one: GMorph, tables 3 to 5")
    parser.add_argument("--suite", choices=("small", "full"), default="small")
    parser.add_argument("--only", metavar="TEXT", help="suites with TEXT in their names")
    parser.add_argument(
        "--epochs",
        type=int,
        default=EPOCHS,
        help=f"of {LESSONS} samples: the budget of every search",
    )
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="of plain annealing")
    parser.add_argument(
        "--patience", type=float, help="stop plain annealing after so many times gain first's time"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep trained originals and finished searches in DIR; a run that was stopped goes on",
    )
    return parser


def _asked() -> tuple[Namespace, Sequence[Recipe], Effort]:
    parser = _parser()
    options = parser.parse_args()
    if options.quick:
        few = (replace(training, epochs=4) for training in (PRODUCT, PLAIN))
        return options, QUICK, Effort(6, 5, *few, (ANNEALED, 0.02), 50)
    recipes: Sequence[Recipe] = SMALL
    device = "cpu"
    if options.suite == "full":
        if not torch.cuda.is_available():
            parser.error("--suite full needs a GPU, and torch finds none; --suite small does not")
        recipes, device = FULL, "cuda"
    recipes = tuple(recipe for recipe in recipes if (options.only or "") in recipe.name)
    if not recipes:
        parser.error(f"no suite has {options.only!r} in its name")
    product, plain = (replace(training, device=device) for training in (PRODUCT, PLAIN))
    effort = Effort(options.epochs, options.iterations, product, plain, patience=options.patience)
    return options, recipes, effort


def main() -> None:
    start = time.perf_counter()
    options, recipes, effort = _asked()
    _alone()
    with tempfile.TemporaryDirectory() as temporary:
        if options.cache is not None:
            (options.cache / "finished").mkdir(parents=True, exist_ok=True)
        found = measured(recipes, effort, options, options.cache or Path(temporary) / "originals")
        print(costs_table(found))
        figures = figures_of(found)
        kills = (1,) if options.quick else (1, 2)
        same = same_after_kills(Path(temporary) / "resumed", options.seed, kills=kills)
        figures["resumed_same"] = float(same)
    figures["minutes"] = (time.perf_counter() - start) / 60
    told = verdicts(figures, QUICK_LEAST if options.quick else LEAST)
    print(expectations(told))
    if not os.environ.get("SOMMELIER_ZOO"):
        print("\nSOMMELIER_ZOO is not set: synthetic recordings and pictures")
    finish(figures, options.json)
    sys.exit(not all(verdict.met for verdict in told))


if __name__ == "__main__":
    main()
