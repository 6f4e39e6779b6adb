"""Running a host with parts exchanged: once for all activations, then only what changes.

What is before a segment does not change, so per segment only it and what depends on it run again,
on the activations the host had. Where a model quantises its activations the runtime fuses operators
around such cuts and rounds otherwise; there whole twins run, and count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.answers import AnswerCollector, ModelAnswers
from sommelier.analysis.execution import open_session
from sommelier.analysis.metrics import interchangeable, same_class
from sommelier.analysis.output_kinds import infer_output_kind
from sommelier.analysis.segments.checking import serialised
from sommelier.analysis.segments.editing import Part, backward, copy_of, forward, model_of
from sommelier.analysis.segments.forms import Forms
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.analysis.segments.normalising import load, normal_form
from sommelier.analysis.segments.segment import Segment
from sommelier.analysis.segments.twins import twin_of
from sommelier.analysis.signature import input_specs, output_specs
from sommelier.errors import AnalysisError, first_line
from sommelier.records import OutputKind

Array = NDArray[Any]
Feed = dict[str, Array]
STEP = 2.0**-7  # of the difference, for the first-order change: float32 keeps half its digits


@dataclass(frozen=True, slots=True)
class Trial:
    """One segment exchanged alone. Arrays over the samples.

    changed : bool, where the answer is another. noisy : bool, where noise of the size of the
    segment's difference changes the answer. linear : bool, where the linearised rest of the model
    says so. shift : float (n, width), the change of the output. difference : float, relative L2
    difference at the exit. linear and shift are None where outputs cannot be added up.
    """

    changed: NDArray[np.bool_]
    noisy: NDArray[np.bool_]
    linear: NDArray[np.bool_] | None
    shift: Array | None
    difference: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Step:
    """Outputs of one batch as the host gives them, with the segment exchanged, with noise, and to
    first order; and the relative difference at the exit."""

    ours: list[Array]
    theirs: list[Array]
    noisy: list[Array]
    linear: list[Array]
    difference: NDArray[np.float64]


class Bench:
    """A pair of models and the inputs they are tried on."""

    def __init__(
        self, found: Forms, inputs: Mapping[str, Array], *, output_kind: OutputKind | None,
        batch: int, threads: int,
    ) -> None:  # fmt: skip
        self.found, self.threads = found, threads
        self.host = found.plain[0]
        self.inputs = {name: np.asarray(array) for name, array in inputs.items()}
        self.samples = _samples(self.inputs, self.host.graph.inputs)
        self.batch = _batch(self.host.model, batch)
        graph = self.host.model.graph
        specs = input_specs(graph), output_specs(graph)
        self.kind = output_kind or infer_output_kind(self.host.graph, *specs)
        self.names = [value.name for value in graph.output]

    @cached_property
    def answers(self) -> ModelAnswers:
        """The host's own answers."""
        return self._answers(self._outputs(serialised(self.host.model)))

    def changed(self, segments: Sequence[Segment]) -> NDArray[np.bool_]:
        """Where the twin with these segments answers otherwise; the twin is built and run."""
        if not segments:
            return np.zeros(self.samples, np.bool_)
        twin = twin_of(self.found, segments, run=False)
        return self._differs(self.answers, self._answers(self._outputs(serialised(twin))))

    def differs(self, shift: Array) -> NDArray[np.bool_]:
        """Where the answer changes if the host's output is shifted; shift : float (n, width)."""
        outputs = self._raw
        moved = outputs.reshape(len(outputs), -1) + shift
        return self._differs(self._single(outputs), self._single(moved.reshape(outputs.shape)))

    def trials(self, segments: Sequence[Segment], seed: int) -> dict[str, Trial]:
        """Every segment exchanged alone, by name, on activations the host computes once."""
        sessions = {s.name: self._sessions(s) for s in segments}
        wanted = dict.fromkeys(self.names)
        for segment in segments:
            needs = sessions[segment.name][1].needs
            wanted.update(dict.fromkeys((segment.host_entry, segment.host_exit, *needs)))
        names = [name for name in wanted if name not in self.inputs]
        observed = self._observed(names)
        rngs = {s.name: np.random.default_rng([seed, i]) for i, s in enumerate(segments)}
        found: dict[str, list[tuple[Array, ...]]] = {s.name: [] for s in segments}
        for feed, count in self._batches():
            held = {**feed, **dict(zip(names, _run(observed, names, feed), strict=True))}
            for s in segments:
                step = self._step(s, *sessions[s.name], held, rngs[s.name])
                found[s.name].append(tuple(self._verdicts(step, count)))
        return {s.name: self._joined(s, found[s.name]) for s in segments}

    def _step(
        self, segment: Segment, part: _Runner, tail: _Runner, held: Feed, rng: np.random.Generator
    ) -> _Step:
        """What comes out of one batch with the segment exchanged, and with noise instead."""
        exit_ = segment.host_exit
        base = held[exit_]
        given = part.run(held)[0]
        move = given.astype(np.float64) - base
        sizes, own = _norms(move), _norms(base)
        relative = np.divide(sizes, own, out=np.full_like(sizes, np.nan), where=own > 0)

        def after(tensor: Array) -> list[Array]:
            changed = {**held, exit_: tensor.astype(base.dtype)}
            made = dict(zip(tail.ends, tail.run(changed), strict=True))
            return [made[name] if name in made else changed[name] for name in self.names]

        ours, theirs = after(base), after(given)
        floating = np.issubdtype(base.dtype, np.floating)
        noisy = after(base + _on_sphere(rng, base.shape, sizes)) if floating else theirs
        linear = theirs
        if self._smooth:
            near = after(base + STEP * move)[0].astype(np.float64)
            linear = [(ours[0] + (near - ours[0]) / STEP).astype(ours[0].dtype)]
        return _Step(ours, theirs, noisy, linear, relative)

    def _verdicts(self, step: _Step, count: int) -> tuple[Array, ...]:
        """(changed, noisy, linear, shift, difference) of the first `count` samples of a batch."""
        ours, *others = (
            self._answers([(outputs, count)])
            for outputs in (step.ours, step.theirs, step.noisy, step.linear)
        )
        shift = np.zeros((count, 0))
        if self._smooth:
            shift = (step.theirs[0] - step.ours[0].astype(np.float64))[:count].reshape(count, -1)
        return (*(self._differs(ours, other) for other in others), shift, step.difference[:count])

    def _joined(self, segment: Segment, parts: list[tuple[Array, ...]]) -> Trial:
        changed, noisy, linear, shift, difference = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        if self.host.quantised:
            changed = self.changed([segment])
        if not self._smooth:
            return Trial(changed, noisy, None, None, difference)
        return Trial(changed, noisy, linear, shift, difference)

    @property
    def _smooth(self) -> bool:
        """Whether outputs can be added up: one of them, in floating point."""
        kind = self.host.graph.tensor(self.host.graph.outputs[0]).dtype
        return len(self.names) == 1 and kind in (1, 10, 11) and not self.host.quantised

    def _sessions(self, segment: Segment) -> tuple[_Runner, _Runner]:
        twin = normal_form(twin_of(self.found, [segment], run=False))
        exit_ = segment.host_exit
        part = backward(twin, [exit_], [segment.host_entry])
        after = forward(self.host, exit_)
        needs = tuple(dict.fromkeys((exit_, *after.needs)))
        made = {name for node in after.nodes for name in node.output}
        ends = [name for name in self.names if name in made and name != exit_]
        return (
            _Runner(twin, part, [exit_], self.threads),
            _Runner(self.host, Part(after.nodes, needs, after.weights), ends, self.threads),
        )

    def _observed(self, names: Sequence[str]) -> Any:
        """A session of the host that also gives inner tensors."""
        model = copy_of(self.host)
        known = {value.name for value in model.graph.output}
        for name in names:
            if name not in known:
                model.graph.output.add(name=name)
        return open_session(serialised(model), self.threads)

    @cached_property
    def _raw(self) -> Array:
        runs = self._outputs(serialised(self.host.model))
        return np.concatenate([outputs[0][:count] for outputs, count in runs])

    def _single(self, output: Array) -> ModelAnswers:
        return self._answers([([output], len(output))])

    def _outputs(self, model: bytes) -> list[tuple[list[Array], int]]:
        session = open_session(model, self.threads)
        return [(_run(session, self.names, feed), count) for feed, count in self._batches()]

    def _batches(self) -> Iterator[tuple[Feed, int]]:
        """(feed, samples in it); a last short batch is filled up only where the file fixes it."""
        size = self.batch
        for start in range(0, self.samples, size):
            rows = np.arange(start, min(start + size, self.samples))
            if self._fixed and len(rows) < size:
                rows = np.concatenate([rows, np.full(size - len(rows), rows[-1])])
            count = min(size, self.samples - start)
            yield {name: array[rows] for name, array in self.inputs.items()}, count

    @property
    def _fixed(self) -> bool:
        return _fixed_batch(self.host.model) is not None

    def _answers(self, runs: Sequence[tuple[list[Array], int]]) -> ModelAnswers:
        collector = AnswerCollector(self.kind, self.names)
        for outputs, count in runs:
            collector.add(list(outputs), count, single=self.batch == 1)
        return collector.result()

    def _differs(self, first: ModelAnswers, second: ModelAnswers) -> NDArray[np.bool_]:
        compare = same_class if first.kind == "labels" else interchangeable
        return np.asarray(~compare(first.answers, second.answers), np.bool_)


class _Runner:
    """A part of a model, ready to run."""

    def __init__(self, form: NormalForm, part: Part, ends: list[str], threads: int) -> None:
        self.needs, self.ends, self._session = part.needs, ends, None
        if ends:
            model = model_of(form, part, ends, any_shape=True)
            self._session = open_session(serialised(model), threads)

    def run(self, feed: Feed) -> list[Array]:
        """What the part makes; [] when it is nothing."""
        if self._session is None:
            return []
        return _run(self._session, self.ends, {name: feed[name] for name in self.needs})


def _run(session: Any, names: Sequence[str], feed: Feed) -> list[Array]:
    try:
        return [np.asarray(value) for value in session.run(list(names), feed)]
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise AnalysisError(f"the model failed on its input: {first_line(error)}") from error


def _norms(tensors: Array) -> NDArray[np.float64]:
    """L2 norm per sample."""
    flat = tensors.astype(np.float64).reshape(len(tensors), -1)
    return np.asarray(np.sqrt((flat**2).sum(axis=1)))


def _on_sphere(
    rng: np.random.Generator, shape: tuple[int, ...], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Noise whose norm per sample is `sizes`, uniform in direction (algorithms.md B.5)."""
    noise = rng.standard_normal((shape[0], int(np.prod(shape[1:]))))
    noise *= (sizes / np.maximum(np.linalg.norm(noise, axis=1), 1e-300))[:, None]
    return noise.reshape(shape)


def _samples(inputs: Mapping[str, Array], wanted: Sequence[str]) -> int:
    missing, unknown = set(wanted) - set(inputs), set(inputs) - set(wanted)
    if missing or unknown:
        raise AnalysisError(
            f"inputs are given for {', '.join(sorted(inputs)) or 'nothing'}, the host takes "
            f"{', '.join(wanted)}"
        )
    counts = {name: len(array) for name, array in inputs.items()}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise AnalysisError(f"inputs need equal numbers of samples, not {counts}")
    return next(iter(counts.values()))


def _fixed_batch(model: Any) -> int | None:
    first = input_specs(model.graph)[0].shape
    return first[0] if first and isinstance(first[0], int) else None


def _batch(model: Any, wanted: int) -> int:
    return _fixed_batch(load(model)) or max(1, wanted)
