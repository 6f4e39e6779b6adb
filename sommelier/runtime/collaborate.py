"""An activation plan at work: some models run, links predict what the others would answer.

ONNX Runtime runs both; torch is not needed. Source: MLink, Algorithm 1, lines 6 to 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.execution import OpenModel, RunRequest, open_model, open_session
from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers, as_given, natural
from sommelier.analysis.links.heads import Head
from sommelier.analysis.links.reading import DECODED, run_answers, run_block
from sommelier.analysis.probes import dataset_probes
from sommelier.errors import SommelierError
from sommelier.link_records import ActivationPlan, PlannedModel
from sommelier.records import ModelRecord

Array = NDArray[Any]
BATCH = 64  # inputs a run
SOURCE, TARGET, SCORES = "source", "target", "scores"  # the ends of a link's ONNX graph


@dataclass(frozen=True, slots=True)
class Member:
    """A model of a plan with what answers for it.

    path : its file, of a model that is executed. networks : the ONNX file of each link that
    predicts it, in the order of `model.source_ids`; they map natural answers to natural answers.
    format : how its answers are written; None when no link of it is known.
    """

    model: PlannedModel
    record: ModelRecord
    path: Path | None = None
    networks: tuple[Path, ...] = ()
    format: AnswerFormat | None = None


@dataclass(frozen=True, slots=True)
class CollaborativeAnswer:
    """What one model of a plan answers, or what is predicted that it would.

    values : (n, ...) as the model itself writes its answer (logits stay logits), of a detector the
    surest box; None when nothing is known of it. executed : it ran. sources : names of the models
    it is predicted from. expected : share of answers, or quality in [0, 1], that was measured on
    held-out samples, with its interval low..high.
    """

    values: Array | None
    executed: bool
    sources: tuple[str, ...]
    expected: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class _Ran:
    """A model's answers in its own form and in natural form."""

    values: Array
    answers: LinkAnswers | None


class CollaborativePlan:
    """Runs a plan. Use it as a context manager, or call close(). Not for several threads at once.

    Sessions are opened with the first inputs and kept.
    """

    def __init__(
        self, plan: ActivationPlan, members: Sequence[Member], *, threads: int = 1
    ) -> None:
        self.plan = plan
        self._members = tuple(members)
        self._threads = threads
        self._models: dict[str, OpenModel] = {}
        self._networks: dict[Path, Any] = {}

    @property
    def executed(self) -> tuple[str, ...]:
        """Names of the models that run."""
        return tuple(model.name for model in self.plan.executed)

    @property
    def predicted(self) -> Mapping[str, tuple[str, ...]]:
        """By name of a model that does not run, the names of those it is predicted from."""
        names = {model.model_id: model.name for model in self.plan.models}
        return {m.name: tuple(names[i] for i in m.source_ids) for m in self.plan.predicted}

    def run(
        self, inputs: Array | Mapping[str, Array], *, batch: int = BATCH
    ) -> Mapping[str, CollaborativeAnswer]:
        """The answers of all models of the plan, by name.

        inputs : items (n, ...) as a dataset holds them; each model prepares them as it declares.
        A mapping gives models of other modalities their own items, by model name; the n items are
        of the same samples, one by one. Models that are predicted need none.
        Raises SommelierError for items that are missing or of different numbers, AnalysisError
        when a model fails on them.
        """
        given = self._given(inputs)
        own = {
            member.model.model_id: self._execute(member, given[member.model.name], batch)
            for member in self._members
            if member.model.executed
        }
        n = len(next(iter(given.values()), inputs))
        return {m.model.name: self._answer(m, own, n) for m in self._members}

    def close(self) -> None:
        """Lets the sessions go; a later run opens them again."""
        self._models.clear()
        self._networks.clear()

    def __enter__(self) -> CollaborativePlan:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        parts = [f"executes {', '.join(self.executed) or 'nothing'}"]
        parts += [f"{name} from {', '.join(sources)}" for name, sources in self.predicted.items()]
        return f"<CollaborativePlan {'; '.join(parts)}; expected accuracy {self.plan.accuracy:.1%}>"

    # ---- inside

    def _given(self, inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
        """The items of every model that runs."""
        wanted = [m.model.name for m in self._members if m.model.executed]
        if isinstance(inputs, Mapping):
            missing = [name for name in wanted if name not in inputs]
            if missing:
                raise SommelierError(
                    f"no inputs for {', '.join(missing)}",
                    hint=f"this plan runs {', '.join(wanted)}",
                )
            found = {name: np.asarray(inputs[name]) for name in wanted}
        else:
            items = np.asarray(inputs)
            found = dict.fromkeys(wanted, items)
        sizes = {name: len(items) for name, items in found.items()}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise SommelierError(f"the models got different numbers of inputs: {told}")
        return found

    def _execute(self, member: Member, items: Array, batch: int) -> _Ran:
        """What a model that runs answers."""
        loaded = datasets.in_memory(items)
        probes = dataset_probes(loaded, samples=len(loaded), sampling="first")
        key, record = member.model.model_id, member.record
        if key not in self._models:
            assert member.path is not None, "a model that is executed has a file"
            request = RunRequest(
                member.path, record.output_kind, record.preprocessing, probes, batch, self._threads
            )
            self._models[key] = open_model(request, loaded)
        opened = replace(self._models[key], items=loaded)
        if record.output_kind in DECODED:
            answers = run_answers(opened, probes, record, member.format)
            return _Ran(as_given(answers.values, answers.format), answers)
        block = run_block(opened, probes, record)
        if member.format is None:  # nothing is predicted from it
            return _Ran(block, None)
        return _Ran(block.astype(member.format.dtype), natural(block, member.format))

    def _answer(self, member: Member, own: Mapping[str, _Ran], n: int) -> CollaborativeAnswer:
        model = member.model
        if model.executed:
            values: Array | None = own[model.model_id].values
        else:
            values = self._predict(member, own, n)
        names = {planned.model_id: planned.name for planned in self.plan.models}
        return CollaborativeAnswer(
            values,
            model.executed,
            tuple(names[source] for source in model.source_ids),
            model.performance,
            model.low,
            model.high,
        )

    def _predict(self, member: Member, own: Mapping[str, _Ran], n: int) -> Array | None:
        """The answers (n, ...) predicted from those of the models that ran; None: none is known."""
        model = member.model
        if model.head is None or member.format is None:
            return None
        predicted = {}
        for source, path in zip(model.source_ids, member.networks, strict=True):
            answers = own[source].answers
            assert answers is not None, "the source of a link has a format"
            predicted[source] = self._link(path, answers.values)
        head = Head.from_json(model.head)
        return as_given(head(predicted, count=n), member.format)

    def _link(self, path: Path, answers: Array) -> Array:
        """What one link predicts: natural answers, step scores of tokens."""
        if path not in self._networks:
            self._networks[path] = open_session(path, self._threads)
        session = self._networks[path]
        names = [output.name for output in session.get_outputs()]
        wanted = SCORES if SCORES in names else TARGET
        return np.asarray(session.run([wanted], {SOURCE: answers})[0])
