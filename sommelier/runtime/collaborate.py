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
from sommelier.analysis.links.drift import DriftTest
from sommelier.analysis.links.formats import PADDING, AnswerFormat, LinkAnswers, as_given, natural
from sommelier.analysis.links.heads import Head
from sommelier.analysis.links.networks import SOURCE, TARGET
from sommelier.analysis.links.profiles import Profile
from sommelier.analysis.links.reading import DECODED, run_answers, run_block
from sommelier.analysis.links.scoring import per_sample
from sommelier.analysis.model_inputs import plan_feeds
from sommelier.analysis.probes import Probes, dataset_probes
from sommelier.errors import AnalysisError, SommelierError
from sommelier.link_records import ActivationPlan, PlannedModel
from sommelier.records import ModelRecord
from sommelier.runtime.displays import plan_html
from sommelier.storage.naming import unknown_name

Array = NDArray[Any]
Floats = NDArray[np.float64]
BATCH = 64  # inputs a run
FALSE_ALARMS = 0.05  # how likely `profile` ever calls for another plan while nothing changed


@dataclass(frozen=True, slots=True)
class Member:
    """A model of a plan with what answers for it.

    path : its file, None where there is none. networks : the ONNX file of each link that predicts
    it, in the order of `model.source_ids`; they map natural answers to natural answers.
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
    surest box; None when nothing is known of it. What is predicted from a NaN is NaN, or -1 where
    answers are ids. executed : it ran. sources : names of the models it is predicted from.
    expected : share of answers, or quality in [0, 1], that was measured on held-out samples, with
    its interval low..high.
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
        self,
        plan: ActivationPlan,
        members: Sequence[Member],
        links: Mapping[tuple[str, str], Path] | None = None,
        *,
        threads: int = 1,
        batch: int = BATCH,
    ) -> None:
        """links : all that are known between the plan's models, by ids of source and target; only
        `profile` runs those that the plan does not use. batch : inputs a run."""
        self.plan = plan
        self._members = tuple(members)
        self._links = dict(links or {})
        self._threads = threads
        self._batch = batch
        self._models: dict[str, OpenModel] = {}
        self._forms: dict[str, tuple[Any, ...]] = {}  # of the items each model is ready for
        self._networks: dict[Path, Any] = {}
        self._heads = {m.model_id: Head.from_json(m.head) for m in plan.models if m.head}
        known = {m.model.name: self._promise(m) for m in self._members}
        self._promises = {name: least for name, least in known.items() if least is not None}
        promised = float(np.mean([*self._promises.values()])) if self._promises else 0.0
        self._drift = DriftTest(promised, alpha=FALSE_ALARMS)

    @property
    def executed(self) -> tuple[str, ...]:
        """Names of the models that run."""
        return tuple(model.name for model in self.plan.executed)

    @property
    def predicted(self) -> Mapping[str, tuple[str, ...]]:
        """By name of a model that does not run, the names of those it is predicted from."""
        names = {model.model_id: model.name for model in self.plan.models}
        return {m.name: tuple(names[i] for i in m.source_ids) for m in self.plan.predicted}

    def run(self, inputs: Array | Mapping[str, Array]) -> Mapping[str, CollaborativeAnswer]:
        """The answers of all models of the plan, by name.

        inputs : items (n, ...) as a dataset holds them; each model prepares them as it declares.
        A mapping gives models of other modalities their own items, by model name; the n items are
        of the same samples, one by one. Models that are predicted need none.
        Raises SommelierError for items that are missing or of different numbers, AnalysisError
        naming the model that they do not fit, that fails on them or answers nothing but NaN.
        """
        running = [member for member in self._members if member.model.executed]
        given, n = _items(inputs, running, self._members)
        own = {m.model.model_id: self._execute(m, given[m.model.name]) for m in running}
        return {m.model.name: self._answer(m, own, n) for m in self._members}

    def profile(self, inputs: Array | Mapping[str, Array]) -> Profile:
        """How well the plan does on these inputs, on which every model runs as well.

        Give it a small share of what comes in (MLink: 1 %, a few hundred inputs to choose again
        by). Profiles add up: `drift` tells whether the plan answers worse than its lower limit
        promised. However often one looks, a false alarm has a chance of at most 5 %, plus that of a
        wrong limit (1 - its confidence where it is proved). Only what is promised input by input
        counts: no labels (mAP), and no sequences of many lengths (WER).
        """
        able = [member for member in self._members if member.path is not None]
        given, n = _items(inputs, able, self._members)
        ran = {m.model.model_id: self._execute(m, given[m.model.name]) for m in able}
        answers = {id_: found.answers for id_, found in ran.items() if found.answers is not None}
        told = {m.model.name: self._agreement(m, answers, n) for m in self._members}
        watched = [told[name] for name in self._promises]
        state = self._drift.update(np.mean(watched, axis=0) if watched else [])
        predicted = {
            (source, target): self._link(path, answers[source].values)
            for (source, target), path in self._links.items()
            if source in answers and target in answers
        }
        by_model = {m.name: float(told[m.name].mean()) for m in self.plan.predicted}
        accuracy = float(np.mean([terms.mean() for terms in told.values()]))
        return Profile(accuracy, by_model, state, answers, predicted)

    def close(self) -> None:
        """Lets the sessions go; a later run opens them again."""
        self._models.clear()
        self._forms.clear()
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
        parts += [
            f"{name} from {', '.join(sources)}" if sources else f"{name} without a source"
            for name, sources in self.predicted.items()
        ]
        return f"<CollaborativePlan {'; '.join(parts)}; expected accuracy {self.plan.accuracy:.1%}>"

    def _repr_html_(self) -> str:
        return plan_html(self.plan)

    # ---- inside

    def _execute(self, member: Member, items: Array) -> _Ran:
        """What a model that runs answers."""
        try:
            return self._ran(member, items)
        except AnalysisError as error:
            raise AnalysisError(
                f"{member.model.name}: {error.message}",
                hint=error.hint or f"given are {len(items)} items of shape {list(items.shape[1:])}",
            ) from error

    def _ran(self, member: Member, items: Array) -> _Ran:
        loaded = datasets.in_memory(items)
        probes = dataset_probes(loaded, samples=len(loaded), sampling="first")
        record = member.record
        opened = self._opened(member, loaded, probes)
        if record.output_kind in DECODED:
            answers = run_answers(opened, probes, record, member.format)
            return _Ran(as_given(answers.values, answers.format), answers)
        block = run_block(opened, probes, record)
        if member.format is None:  # nothing is predicted from it
            return _Ran(block, None)
        return _Ran(block.astype(member.format.dtype), natural(block, member.format))

    def _opened(self, member: Member, loaded: datasets.LoadedDataset, probes: Probes) -> OpenModel:
        """The model, ready for these items; what it does to them is chosen by their shape and type,
        so that pixels are not scaled because others were."""
        key, record = member.model.model_id, member.record
        form = (loaded.record.item_shape, loaded.record.dtype)
        if key not in self._models:
            assert member.path is not None, "a model that is executed has a file"
            request = RunRequest(
                member.path, record.output_kind, record.preprocessing, probes, self._batch,
                self._threads,
            )  # fmt: skip
            self._models[key] = open_model(request, loaded)
        elif self._forms[key] != form:
            opened = self._models[key]
            plan = plan_feeds(opened.inputs, record.preprocessing, loaded.item(0), self._batch)
            self._models[key] = replace(opened, plan=plan)
        self._forms[key] = form
        return replace(self._models[key], items=loaded)

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
        known = {id_: ran.answers for id_, ran in own.items() if ran.answers is not None}
        found = self._natural(member, known, n)
        if found is None or member.format is None:
            return None
        values = as_given(found, member.format)
        unknown = _unknown([known[source] for source in member.model.source_ids], n)
        if unknown.any():
            if member.format.form == "ids":
                values[unknown] = PADDING
            else:  # integers have no NaN
                values = values.astype(np.result_type(values, np.float32))
                values[unknown] = np.nan
        return values

    def _natural(self, member: Member, known: Mapping[str, LinkAnswers], n: int) -> Array | None:
        """What the plan predicts for a model, in natural form."""
        model = member.model
        head = self._heads.get(model.model_id)
        if head is None:
            return None
        predicted = {
            source: self._link(path, known[source].values)
            for source, path in zip(model.source_ids, member.networks, strict=True)
        }
        return head(predicted, count=n)

    def _promise(self, member: Member) -> float | None:
        """The least mean of `_agreement`, None where the plan's figures do not say it."""
        model, head = member.model, self._heads.get(member.model.model_id)
        if model.executed or head is None:
            return float(model.executed)
        lengths = head.format.kind == "tokens" and head.format.end is not None
        if head.format.kind == "labels" or lengths or member.path is None:
            return None
        return model.low

    def _agreement(self, member: Member, answers: Mapping[str, LinkAnswers], n: int) -> Floats:
        """How well the plan's answers stand for the model's own, float64 (n,) in [0, 1]."""
        if member.model.executed:
            return np.ones(n)
        found, own = self._natural(member, answers, n), answers.get(member.model.model_id)
        if found is None or own is None:
            return np.zeros(n)
        unknown = _unknown([answers[source] for source in member.model.source_ids], n)
        scale = self._heads[member.model.model_id].scale
        good = per_sample(own.format, found, own.values, scale=scale)
        return np.where(unknown, 0.0, good)

    def _link(self, path: Path, answers: Array) -> Array:
        """What one link predicts: natural answers."""
        if path not in self._networks:
            self._networks[path] = open_session(path, self._threads)
        session = self._networks[path]
        return np.asarray(session.run([TARGET], {SOURCE: answers})[0])


def _unknown(answers: Sequence[LinkAnswers], n: int) -> NDArray[np.bool_]:
    """(n,) where one of the answers is NaN. A network may well make a number of it: ONNX Runtime's
    Relu takes NaN to 0."""
    found = np.zeros(n, dtype=np.bool_)
    for given in answers:
        if given.values.dtype.kind == "f":
            found |= np.isnan(given.values.reshape(n, -1)).any(axis=1)
    return found


def _items(
    inputs: Array | Mapping[str, Array], running: Sequence[Member], members: Sequence[Member]
) -> tuple[dict[str, Array], int]:
    """(the items of every model that runs, their number)."""
    names = [member.model.name for member in running]
    if isinstance(inputs, Mapping):
        known = [member.model.name for member in members]
        for name in inputs:
            if name not in known:
                raise unknown_name("model of the plan", name, known)
        missing = [name for name in names if name not in inputs]
        if missing:
            raise SommelierError(
                f"no inputs for {', '.join(missing)}",
                hint=f"inputs are given for {', '.join(inputs) or 'no model'}",
            )
        found = {name: as_items(inputs[name]) for name in names}
        sizes = {name: len(items) for name, items in found.items()}
    else:
        items = as_items(inputs)
        found, sizes = dict.fromkeys(names, items), {"all models": len(items)}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise SommelierError(f"inputs are needed, as many for one model as for another: {told}")
    return found, next(iter(sizes.values()), 0)


def as_items(inputs: Any) -> Array:
    """Items along the first axis. Raises SommelierError for what has none."""
    try:
        items = np.asarray(inputs)
    except ValueError as error:
        raise SommelierError(f"the inputs are no array: {error}") from error
    if items.ndim == 0:
        raise SommelierError(
            f"the inputs are {type(inputs).__name__}, not an array of items",
            hint="items are stacked along the first axis, of one item inputs[None]",
        )
    return items
