"""How good is the model that CORR answers? The experiment of Sommelier, figure 9(a).

A repository of 200 models, each departing from a common base on a share of the inputs drawn from
U(0, 10 %) or U(0, 4 %), more often on difficult inputs; a population of 50 000 inputs. A question:
the most equivalent model to a reference among a random half of the others. `ideal` is the share of
questions answered with the model that agrees most over the whole population; `regret` is how much
less the answer agrees than that model, in percentage points. Sketches and the paper's random-5
index answer the same questions from the same probes, through the real catalog and semantic index.

Figures: ideal_10, regret_pp_10 (difference up to 10 %), ideal_4, regret_pp_4, random5_...
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import arguments, finish, table
from sommelier.records import LabelSpace, ModelRecord, OutputSketch, ProbeSet
from sommelier.storage.catalog import Catalog
from sommelier.storage.resource_index import ResourceIndex
from sommelier.storage.semantic_index import SemanticIndex
from sommelier.storage.sketches import SketchStore

MODELS = 200
POPULATION = 50_000
CLASSES = 1_000
CONFUSABLES = 4  # wrong answers an input invites
DIFFICULTY_SHAPE = 0.3  # gamma: a few inputs are very difficult, most are easy
PROBES = (1_000, 2_000, 5_000)
SPREADS = {"10": 0.10, "4": 0.04}


@dataclass(frozen=True, slots=True)
class Score:
    """ideal : share of questions. regret, near : percentage points, share within half a point."""

    ideal: float
    near: float
    regret: float


def answers_of(rng: np.random.Generator, spread: float) -> NDArray[np.uint16]:
    """(MODELS, POPULATION) class ids of models that depart from one base on U(0, spread)."""
    base = rng.integers(0, CLASSES, POPULATION).astype(np.uint16)
    difficulty = np.log(rng.gamma(DIFFICULTY_SHAPE, 1.0, POPULATION) + 1e-9)
    wrong = rng.integers(0, CLASSES, (POPULATION, CONFUSABLES)).astype(np.uint16)
    answers = np.tile(base, (MODELS, 1))
    for model, share in enumerate(rng.uniform(0, spread, MODELS)):
        count = int(share * POPULATION)
        if count:
            # Gumbel noise on log weights draws `count` inputs without replacement
            order = -(difficulty + rng.gumbel(size=POPULATION))
            chosen = np.argpartition(order, count)[:count]
            answers[model, chosen] = wrong[chosen, rng.integers(0, CONFUSABLES, count)]
    return answers


def true_agreement(answers: NDArray[np.uint16]) -> NDArray[np.float64]:
    """(MODELS, MODELS) share of the population on which two models agree."""
    agree = np.eye(MODELS)
    for one in range(MODELS):
        same = np.count_nonzero(answers[one + 1 :] == answers[one], axis=1) / POPULATION
        agree[one, one + 1 :] = agree[one + 1 :, one] = same
    return agree


def score(
    ranked: Mapping[int, NDArray[np.int64]],
    truth: NDArray[np.float64],
    questions: NDArray[np.bool_],
) -> Score:
    """The score of ranked rows per reference; questions (n, models) mark the eligible rows."""
    regrets = []
    for number, eligible in enumerate(questions):
        reference = number % len(truth)
        order = ranked[reference]
        answer = order[eligible[order]][0]
        regrets.append(truth[reference, eligible].max() - truth[reference, answer])
    regret = np.array(regrets)
    return Score(
        ideal=float((regret <= 1e-12).mean()),
        near=float((regret <= 0.005).mean()),
        regret=float(regret.mean() * 100),
    )


class Repository:
    """The models of one experiment in a real catalog, probed on each of PROBES."""

    def __init__(self, folder: Path, answers: NDArray[np.uint16], rng: np.random.Generator) -> None:
        self.catalog = Catalog.open(folder / "models.sommelier")
        sketches = SketchStore(folder / "models.sommelier.d" / "sketches", self.catalog)
        resources = ResourceIndex(self.catalog)
        self.semantics = SemanticIndex(self.catalog, sketches, resources)
        self.ids = [f"sha256:{number:064x}" for number in range(len(answers))]
        space = LabelSpace("classes", "classes", tuple(f"class {i}" for i in range(CLASSES)))
        with self.catalog.transaction():
            self.catalog.add_label_space(space)
            for number, model_id in enumerate(self.ids):
                self.catalog.add_model(ModelRecord(model_id, f"model{number}", "1", "benchmark"))
            for count in PROBES:
                probes = ProbeSet(
                    str(count),
                    None,
                    "population",
                    count,
                    0,
                    False,
                    labels=None,
                    label_space_id=None,
                )
                self.catalog.add_probe_set(probes)
                inputs = rng.choice(answers.shape[1], count, replace=False)
                sketches.add_many(
                    sketch_of(model_id, probes, row, space)
                    for model_id, row in zip(self.ids, answers[:, inputs], strict=True)
                )

    def ranked(self, probes: int, mode: str) -> dict[int, NDArray[np.int64]]:
        """Rows by rank for every reference, as the index answers."""
        return {
            row: self.semantics.candidates(model_id, probe_set_id=str(probes), mode=mode).rows
            for row, model_id in enumerate(self.ids)
        }


def sketch_of(
    model_id: str, probes: ProbeSet, answers: NDArray[np.uint16], space: LabelSpace
) -> OutputSketch:
    """A model's answers as ANALYZE would record them."""
    return OutputSketch(
        model_id=model_id,
        probe_set_id=probes.id,
        kind="labels",
        answers=answers.astype(np.uint32).tobytes(),
        width=1,
        exact=True,
        label_space_id=space.id,
        classes=len(space.labels),
    )


def questions_of(rng: np.random.Generator, per_reference: int) -> NDArray[np.bool_]:
    """(MODELS * per_reference, MODELS) a random half of the others; row i asks about i % MODELS."""
    count = MODELS * per_reference
    eligible = rng.random((count, MODELS)) < 0.5
    references = np.arange(count) % MODELS
    eligible[np.arange(count), references] = False
    eligible[~eligible.any(axis=1), 0] = True  # 2^-199, but a question needs an answer
    return eligible


def experiment(
    seed: int, spread: float, modes: list[tuple[str, int]], per_reference: int
) -> list[Score]:
    """The scores of each (mode, probes) on one repository."""
    rng = np.random.default_rng(seed)
    answers = answers_of(rng, spread)
    truth = true_agreement(answers)
    questions = questions_of(rng, per_reference)
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder), answers, rng)
        try:
            return [score(repository.ranked(n, mode), truth, questions) for mode, n in modes]
        finally:
            repository.catalog.close()


def main() -> None:
    parser = arguments("The share of ideal answers and the regret of CORR: Sommelier, figure 9(a)")
    options = parser.parse_args()
    repositories = 1 if options.quick else 3
    modes = [*(("sketch", n) for n in PROBES), ("random5", PROBES[-1])]
    figures: dict[str, float] = {}
    for name, spread in SPREADS.items():
        runs = [
            experiment(options.seed + run, spread, modes, per_reference=4)
            for run in range(repositories)
        ]
        means = [
            Score(*np.mean([[s.ideal, s.near, s.regret] for s in scores], axis=0))
            for scores in zip(*runs, strict=True)
        ]
        title = (
            f"differences U(0, {spread:.0%}); {repositories} x {MODELS} models, {POPULATION} inputs"
        )
        rows = [
            (mode, probes, 100 * s.ideal, 100 * s.near, s.regret)
            for (mode, probes), s in zip(modes, means, strict=True)
        ]
        print(table(title, ("index", "probes", "ideal %", "within .5 pp %", "regret pp"), rows))
        figures[f"regret_pp_{name}"], figures[f"ideal_{name}"] = means[-2].regret, means[-2].ideal
        figures[f"random5_regret_pp_{name}"] = means[-1].regret
        figures[f"random5_ideal_{name}"] = means[-1].ideal
    finish(figures, options.json)


if __name__ == "__main__":
    main()
