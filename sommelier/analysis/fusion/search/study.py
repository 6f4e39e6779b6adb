"""What every way of searching works with: the models, their costs, and how a candidate is tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sommelier.analysis.computing import Cancelled
from sommelier.analysis.fusion.abs_graph import AbsGraph, NodeId, Pair
from sommelier.analysis.fusion.blocks import Blocks
from sommelier.analysis.fusion.distillation import FineTuning, answer, fine_tune
from sommelier.analysis.fusion.lessons import Lessons
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search.costs import CostModel
from sommelier.analysis.fusion.search.options import SearchOptions
from sommelier.analysis.fusion.search.state import Elite, State, Weights

BASES = 6  # modules kept in memory
RESERVE = 0.25  # of a budget of epochs or seconds, for the training of finalists
TIGHT_RESERVE = 0.5  # the same where the tolerance is within chance, so that training decides
CHANCE, MOST_CHANCE = 2.0, 0.005  # samples that a drop of none may be off by, and their share
CLOSE = 0.02  # a drop above the tolerance that more epochs may still mend
TURNS = 3  # candidates that a small budget of epochs is divided among, at least
FEWEST = 4  # epochs that are worth a candidate once there is an elite, or beside others


@dataclass(frozen=True, slots=True)
class Allowance:
    """Epochs that were trained, and those up to which an attempt may train; None without limit."""

    spent: int
    ceiling: int | None

    def without(self, epochs: int) -> Allowance:
        """What is left after so many more."""
        return replace(self, spent=self.spent + epochs)


@dataclass(frozen=True)
class Study:
    """A search's models, lessons and options, with what is computed once."""

    models: Mapping[str, Blocks]
    lessons: Lessons
    options: SearchOptions
    costs: CostModel
    module: FusedModule
    bases: dict[int | None, tuple[FusedModule, Mapping[NodeId, Tensor]]] = field(
        default_factory=dict, repr=False
    )  # lately mutated ones with their features, by the step of the elite

    @property
    def tolerance(self) -> float:
        """While searching: half of what is asked for, as what is chosen by a score flatters it; but
        two samples more or less are chance, which training on and a certificate decide."""
        chance = min(CHANCE / len(self.lessons.splits.select), MOST_CHANCE)
        return max(self.options.tolerance / 2, chance)

    @property
    def tight(self) -> bool:
        """Whether the tolerance while searching is one of chance."""
        return self.tolerance > self.options.tolerance / 2

    @property
    def nearly(self) -> float:
        """What a candidate may have lost that becomes a finalist where elites are few: what more
        training may still mend."""
        return self.options.tolerance + CLOSE

    @cached_property
    def inputs(self) -> list[Tensor]:
        """Those that maps are fitted on."""
        rows = self.lessons.splits.fine_tune[: self.options.samples]
        return [torch.from_numpy(given) for given in self.lessons.inputs_of(rows)]

    def mutated(self, base: Elite | None, graph: AbsGraph, seed: int) -> FusedModule:
        """A candidate as it is before training, with the weights of its base, or of the original
        models for None."""
        place = None if base is None else base.step
        found = self.bases.get(place)
        if found is None:
            module = self.module if base is None else self.restored(base)
            found = self.bases[place] = module, module.exits(self.inputs)
            while len(self.bases) > BASES:
                del self.bases[next(iter(self.bases))]
        module, exits = found
        how = self.options.initialise
        return module.mutated(graph, self.inputs, initialise=how, seed=seed, exits=exits)

    def restored(self, elite: Elite) -> FusedModule:
        """The module of an elite."""
        weights = {n: torch.from_numpy(np.array(value)) for n, value in elite.weights.items()}
        return FusedModule.restored(elite.graph, self.models, weights)

    def drop(self, module: FusedModule, most: int | None = None) -> float:
        """Of the worst task on the `select` samples, or the first `most` of them; NaN where one is
        no number."""
        rows = self.lessons.splits.select[:most]
        device = self.options.training.device
        outputs = answer(module, self.lessons.inputs_of(rows), device=device)
        return float(np.max([judged.drop for judged in self.lessons.judge(outputs, rows)]))

    def train(
        self, module: FusedModule, epochs: int, seed: int, cancelled: Cancelled
    ) -> tuple[float, int, str]:
        """(worst drop of the state kept, epochs trained, why it stopped); in place."""
        asked: FineTuning = replace(
            self.options.training, epochs=epochs, seed=seed, tolerance=self.tolerance
        )
        curve = fine_tune(module, self.lessons, asked, cancelled=cancelled)
        return curve.best.drop, curve.trained, curve.stopped

    @cached_property
    def searching(self) -> float:
        """How much of the budget there is for the search; what is left trains finalists."""
        options = self.options
        if options.epochs is None and options.budget_s is None:
            return 1.0
        return 1 - (TIGHT_RESERVE if self.tight else RESERVE)

    def room(self, state: State) -> int:
        """How many candidates may be trained side by side, so that each has epochs enough."""
        options, rooms = self.options, [self.options.workers]
        if options.steps is not None:
            rooms.append(math.ceil(options.steps * self.searching) - state.step)
        ceiling = self.allowance(state).ceiling
        if ceiling is not None:
            rooms.append((ceiling - state.epochs) // max(1, min(FEWEST, options.training.epochs)))
        return max(1, min(rooms))

    def allowance(self, state: State, attempts: int = 1) -> Allowance:
        """Of each of so many attempts, among which what is left is divided equally."""
        if self.options.epochs is None:
            return Allowance(state.epochs, None)
        whole = round(self.options.epochs * self.searching)
        return Allowance(state.epochs, state.epochs + (whole - state.epochs) // attempts)

    def left(self, allowance: Allowance) -> int:
        """Epochs that may still be trained for one candidate."""
        most = self.options.training.epochs
        if self.options.epochs is None or allowance.ceiling is None:
            return most
        whole = round(self.options.epochs * self.searching)
        return max(1, min(most, -(-whole // TURNS), allowance.ceiling - allowance.spent))

    def within(self, graph: AbsGraph) -> bool:
        """Whether it is predicted to be within the limits, as far as that is known."""
        limits, costs = self.options.limits, self.costs
        flops, memory = costs.relative(graph)
        latency = costs.share(graph) if costs.block_ms else None
        return limits.allow(latency=latency, flops=flops, memory=memory) is not False

    @property
    def limited(self) -> bool:
        """Whether limits were asked for."""
        limits = self.options.limits
        return any(x is not None for x in (limits.latency, limits.flops, limits.memory))

    def progress(self, state: State) -> float:
        """How much of the budget is used, 0 to 1."""
        options = self.options
        budgets = (
            (state.step, options.steps),
            (state.epochs, options.epochs),
            (state.elapsed_ms / 1e3, options.budget_s),
        )
        return min(1.0, max(used / most for used, most in budgets if most is not None))


def draws(study: Study, state: State) -> np.random.Generator:
    """The random numbers of the next step: the same whether the search was killed or not."""
    return np.random.default_rng([study.options.seed, state.step])


def seed_of(study: Study, state: State) -> int:
    """Of fine-tuning and random maps in the next step."""
    return study.options.seed * 100_003 + state.step


def arrays(module: FusedModule) -> Weights:
    """Copies of everything a module has learned or keeps fixed."""
    state = module.state_dict()
    return {name: value.detach().cpu().numpy().copy() for name, value in state.items()}


def texts(graph: AbsGraph, pairs: Sequence[Pair]) -> str:
    """Pairs as people read them: 'parity 2 with digit 3'."""
    names = graph.tasks

    def name(node: tuple[int, int]) -> str:
        return f"{names[node[0]]} {node[1]}"

    return ", ".join(f"{name(p.guest)} with {name(p.host)}" for p in pairs)
