"""A stream that all its models have answered, and links between them learned in its beginning.

Costs are those of this machine: the median time of one frame on one thread, and the memory of
weights and activations. Links are run as what stands in for a model is: as ONNX.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.streams import FRAMES, Rows, Stream, Watcher
from sommelier.analysis.execution import open_session
from sommelier.analysis.links import LinkAnswers, Split, format_of, natural, split
from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.export import run_onnx
from sommelier.analysis.links.fitting import FittedLink, LinkOptions, fit_links
from sommelier.analysis.links.heads import Head
from sommelier.analysis.links.networks import SOURCE
from sommelier.analysis.profiling import profile
from sommelier.records import OutputKind

Array = NDArray[Any]
Costs = Mapping[str, float]
K = TypeVar("K")

BATCH = 64
RUNS, TRIES = 40, 3
METRICS = ("latency", "memory")  # ms, bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs on a frame. heads : of the models that do not, how they are answered; a model in
    neither has no answer."""

    executed: tuple[str, ...]
    heads: Mapping[str, Head]


@dataclass(frozen=True, slots=True)
class LinkedStream:
    """answers : natural, by model. links : by (source, target), those better than a constant.
    predicted : by target, then source, what they answer, float32 (n, classes). rows : how the first
    period was divided to learn from it. costs, link_costs : by metric."""

    stream: Stream
    answers: Mapping[str, LinkAnswers]
    links: Mapping[tuple[str, str], bytes]
    predicted: Mapping[str, Mapping[str, Array]]
    rows: Split
    costs: Mapping[str, Costs]
    link_costs: Mapping[tuple[str, str], Costs]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.answers)

    @property
    def later(self) -> Rows:
        """The frames after the first period, on which everything is judged."""
        return np.flatnonzero(self.stream.period > 0)

    def total(self, metric: str, names: Iterable[str] | None = None) -> float:
        """What it costs to execute these models; by default all."""
        return sum(self.costs[name][metric] for name in (self.names if names is None else names))

    def ensembles(self, judged: Rows | None = None) -> dict[str, LinkEnsemble]:
        """By target, the ensemble of its links, judged on these rows; by default on held-out ones
        of the first period."""
        known = self.rows
        rows = known if judged is None else Split(known.train, known.validation, judged)
        return {t: LinkEnsemble(self.answers[t], self.predicted[t], rows) for t in self.names}

    def agreement(self, plan: Plan, rows: Array) -> Array:
        """Whether the plan's answers are the models' own, 0 or 1, float64 (rows, models)."""
        found = np.zeros((len(rows), len(self.names)))
        for place, name in enumerate(self.names):
            if name in plan.executed:
                found[:, place] = 1.0
            elif name in plan.heads:
                given = {s: values[rows] for s, values in self.predicted[name].items()}
                answer = plan.heads[name](given, count=len(rows)).argmax(axis=1)
                found[:, place] = answer == self.answers[name].values[rows].argmax(axis=1)
        return found


def linked(stream: Stream, seed: int) -> tuple[LinkedStream, dict[str, dict[str, FittedLink]]]:
    """The stream with links between all its models, and by target what became of each link.

    They learn from the first period, from one frame of each recording or picture: a frame that
    resembles one that was learned from would judge a link too well.
    """
    with ThreadPoolExecutor(2) as cores:
        every = cores.map(partial(answered, stream=stream), stream.watchers)
        answers = dict(zip((watcher.name for watcher in stream.watchers), every, strict=True))
    learned, options = np.flatnonzero(stream.period == 0)[::FRAMES], LinkOptions(seed=seed)
    apart = split(len(learned), seed, held_out=options.held_out, validation=options.validation)
    rows = Split(learned[apart.train], learned[apart.validation], learned[apart.held_out])
    fitted = {target: _fitted(answers, target, learned, options) for target in answers}
    files = {
        (source, target): link.onnx
        for target, several in fitted.items()
        for source, link in several.items()
        if link.state == "linked" and link.onnx is not None
    }
    predicted: dict[str, dict[str, Array]] = {name: {} for name in answers}
    for (source, target), file in files.items():
        predicted[target][source] = run_onnx(file, {SOURCE: answers[source].values})[0]
    watched = {w.name: (w.file, {w.given: w.prepare(stream.frames[:1])}) for w in stream.watchers}
    joined = {pair: (f, {SOURCE: answers[pair[0]].values[:1]}) for pair, f in files.items()}
    costs, link_costs = costs_of(watched), costs_of(joined)
    return LinkedStream(stream, answers, files, predicted, rows, costs, link_costs), fitted


def _fitted(
    answers: Mapping[str, LinkAnswers], target: str, learned: Rows, options: LinkOptions
) -> dict[str, FittedLink]:
    sources = {name: own.rows(learned) for name, own in answers.items() if name != target}
    return fit_links(sources, answers[target].rows(learned), options)


def answered(watcher: Watcher, stream: Stream) -> LinkAnswers:
    """The model's answers to all frames."""
    session = open_session(watcher.file, 1)
    parts = [
        session.run(None, {watcher.given: watcher.prepare(stream.frames[start : start + BATCH])})[0]
        for start in range(0, len(stream), BATCH)
    ]
    raw = np.concatenate(parts)
    return natural(raw, format_of(OutputKind.CLASSIFICATION, raw))


def costs_of(models: Mapping[K, tuple[bytes, Mapping[str, Array]]]) -> dict[K, Costs]:
    """What one run of each costs. latency : median ms on one thread, in turns, so that what else
    the machine does hits all alike; memory : bytes of weights and the peak of activations."""
    sessions = {key: (open_session(file, 1), feed) for key, (file, feed) in models.items()}
    times: dict[K, list[float]] = {key: [] for key in models}
    for _ in range(RUNS):
        for key, (session, feed) in sessions.items():
            times[key].append(best_ms(partial(session.run, None, feed)))
    return {
        key: {"latency": float(np.median(times[key])), "memory": _bytes(file)}
        for key, (file, _) in models.items()
    }


def best_ms(run: Callable[..., object]) -> float:
    """The fastest of a few runs: the first fills the caches, and others may be interrupted."""
    times = []
    for _ in range(TRIES):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


def _bytes(file: bytes) -> float:
    known = profile(onnx.load_from_string(file))
    return float(known.weight_bytes + (known.peak_activation_bytes or 0))
