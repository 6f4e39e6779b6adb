"""What a frame really takes under a plan: models and links in ONNX Runtime, one after the other.

Plans take turns on every frame, so that what else the machine does at the time hits all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.stream_links import LinkedStream, Plan, best_ms
from benchmarks.stream_methods import Outcome
from sommelier.analysis.execution import open_session
from sommelier.analysis.links import natural
from sommelier.analysis.links.ensemble_export import ensemble_onnx
from sommelier.analysis.links.heads import Head
from sommelier.analysis.links.networks import SOURCE

Array = NDArray[Any]
Answers = Mapping[str, Array]
Key = tuple[Any, ...]

WARMUP = 3  # frames


class Stopwatch:
    """Times of plans on one stream; sessions have one thread each."""

    def __init__(self, linked: LinkedStream, outcomes: Iterable[Outcome], frames: int) -> None:
        """frames : how many are timed, spread over the stream."""
        self._linked = linked
        self._watchers = {watcher.name: watcher for watcher in linked.stream.watchers}
        self._models = {name: self._model(name) for name in linked.names}
        self._links: dict[Key, Callable[[Answers], None]] = {}
        plans = {_key(plan): plan for one in outcomes for plan, _ in one.plans}
        runs = [self._run(plan) for plan in plans.values()]
        chosen = np.linspace(0, len(linked.later) - 1, frames + WARMUP).astype(np.int64)
        times = [self._times(runs, linked.stream.frames[row]) for row in linked.later[chosen]]
        medians = np.median(times[WARMUP:], axis=0)
        self._ms = dict(zip(plans, medians.tolist(), strict=True))

    def ms(self, outcome: Outcome) -> float:
        """The mean time of a frame, of a method that was given in the beginning."""
        spent = sum(frames * self._ms[_key(plan)] for plan, frames in outcome.plans)
        return float(outcome.looking_ms + spent / len(outcome.agreement))

    def _times(self, runs: Sequence[Callable[[Answers], None]], frame: Array) -> list[float]:
        """What each plan takes on one frame, which is prepared for every model beforehand."""
        prepared = {name: w.prepare(frame[None]) for name, w in self._watchers.items()}
        return [best_ms(partial(run, prepared)) for run in runs]

    def _run(self, plan: Plan) -> Callable[[Answers], None]:
        models = [(name, self._models[name]) for name in plan.executed]
        links = [self._link(target, head) for target, head in plan.heads.items() if head.sources]

        def run(prepared: Answers) -> None:
            own = {name: model(prepared[name]) for name, model in models}
            for link in links:
                link(own)

        return run

    def _model(self, name: str) -> Callable[[Array], Array]:
        """Answers of a model in natural form, from its prepared input."""
        given, form = self._watchers[name].given, self._linked.answers[name].format
        session = open_session(self._watchers[name].file, 1)
        return lambda x: natural(session.run(None, {given: x})[0], form).values

    def _link(self, target: str, head: Head) -> Callable[[Answers], None]:
        """What predicts a target from the natural answers of executed models."""
        key = target, head.to_json()
        if key not in self._links:
            parts = {source: self._linked.links[source, target] for source in head.sources}
            session = open_session(ensemble_onnx(parts, head), 1)
            names = {f"{SOURCE}_{place}": source for place, source in enumerate(parts)}
            self._links[key] = lambda own: session.run(
                None, {given: own[source] for given, source in names.items()}
            )
        return self._links[key]


def _key(plan: Plan) -> Key:
    return plan.executed, *((name, head.to_json()) for name, head in plan.heads.items())
