"""ANALYZE ... FOR LINKS and CREATE LINK: which links are worth fitting, and what is kept of them.

A task is one target with the sources that have no link into it yet: they learn together. Every
model answers the same samples once; answers that the catalog keeps at full precision are not made
again. See docs/links.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.alignment import aligned, pairs
from sommelier.analysis.jobs import AnalysisPlan, open_datasets, task_of
from sommelier.analysis.link_work import LinkWork, WorkedLink, as_file, fit_target
from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.splits import least_samples
from sommelier.analysis.probes import Probes
from sommelier.errors import AnalysisError
from sommelier.link_records import PREDICTED, TARGET, ModelLink
from sommelier.records import AnalysisTask, ModelRecord, ProbeSet
from sommelier.storage.versions import link_id, version_of

if TYPE_CHECKING:
    from sommelier.analysis.answer_book import AnswerBook
    from sommelier.analysis.links.fitting import LinkOptions
    from sommelier.analysis.links.scoring import Score
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.analysis.workers import Rooms
    from sommelier.storage.catalog import Catalog

LINKS = "links"


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A link as the catalog keeps it. onnx, predicted : None where there is nothing to run.

    Its name is the user's, or empty until it is kept, when it becomes 'source_to_target'.
    """

    link: ModelLink
    onnx: bytes | None
    predicted: NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class LinkFinding:
    """The links of one target. target : its own natural answers to the samples."""

    links: tuple[FoundLink, ...]
    target: NDArray[Any]
    remark: str | None = None


# ---- planning


def plan_links(catalog: Catalog, models: Sequence[ModelRecord], plan: AnalysisPlan) -> None:
    """Adds a task for every target of a group of models, on the dataset that most of them take.

    Pairs that have a link of the same models, data and options are left out.
    """
    from sommelier.analysis.links.fitting import LinkOptions

    with ExitStack() as stack:
        opened = open_datasets(catalog, plan, stack)
        misfits = [{m.id: d.misfit(m, catalog, strict=False) for m in models} for d in opened]
        fitting = [[m for m in models if misfit[m.id] is None] for misfit in misfits]
        best = max(range(len(opened)), key=lambda i: len(fitting[i]), default=None)
        if best is None or len(fitting[best]) < 2:
            _leave_out(models, misfits, [d.name for d in opened], plan)
            return
        probes = opened[best].probes
    _check_size(probes)
    plan.probes[probes.record.id] = probes
    for model in models:
        if (reason := misfits[best][model.id]) is not None:
            plan.skip(model, f"{probes.record.name}: {reason}", aspect=LINKS)
    options = plan.options.links or LinkOptions(seed=plan.options.seed)
    data, known = _Data(probes, probes), 0
    for target in fitting[best]:
        others = [model for model in fitting[best] if model.id != target.id]
        sources = _missing(catalog, others, target, data, options)
        known += len(others) - len(sources)
        if sources:
            plan.tasks.append(_task(sources, target, data, options))
    if known:
        plan.remarks.append(f"links known already and not fitted again: {known}")


def plan_link(
    catalog: Catalog,
    sources: Sequence[ModelRecord],
    target: ModelRecord,
    options: LinkOptions,
    plan: AnalysisPlan,
    *,
    name: str | None = None,
    target_dataset: str | None = None,
) -> None:
    """Adds the one task of CREATE LINK. target_dataset : what the target answers, aligned sample
    by sample with what the sources answer.

    Raises AnalysisError when a model does not take its dataset, with the reason.
    """
    data = _aligned_data(catalog, sources, target, target_dataset, plan)
    for probes in (data.probes, data.target_probes):
        _check_size(probes)
        plan.probes[probes.record.id] = probes
    plan.tasks.append(_task(sources, target, data, options, name=name, ensemble=len(sources) > 1))


@dataclass(frozen=True, slots=True)
class _Data:
    """What the sources and what the target answer, sample by sample the same thing."""

    probes: Probes
    target_probes: Probes


def _aligned_data(
    catalog: Catalog,
    sources: Sequence[ModelRecord],
    target: ModelRecord,
    target_dataset: str | None,
    plan: AnalysisPlan,
) -> _Data:
    with ExitStack() as stack:
        opened = open_datasets(catalog, plan, stack)
        everyone = [*sources, *([target] if target_dataset is None else [])]
        reasons = []
        for dataset in opened:
            misfits = {m.name: dataset.misfit(m, catalog, strict=False) for m in everyone}
            wrong = [f"{name}: {reason}" for name, reason in misfits.items() if reason]
            if wrong:
                reasons.append(f"'{dataset.name}' does not fit {wrong[0]}")
                continue
            if target_dataset is None:
                return _Data(dataset.probes, dataset.probes)
            other = stack.enter_context(datasets.reopen(catalog.dataset(target_dataset)))
            options = plan.options
            pair = aligned(
                dataset.items, other, samples=options.samples, sampling=options.sampling,
                seed=options.seed,
            )  # fmt: skip
            if (note := pairs(dataset.items, other).note) is not None:
                plan.remarks.append(note)
            return _Data(*pair)
    told = "; ".join(reasons) or "no dataset is registered"
    raise AnalysisError(
        f"no dataset that all of {', '.join(m.name for m in everyone)} can answer: {told}",
        hint="REGISTER DATASET d FROM 'file.npz'; models of different inputs take"
        " USING dataset = 'a', target_dataset = 'b'",
    )


def _leave_out(
    models: Sequence[ModelRecord],
    misfits: Sequence[Mapping[str, str | None]],
    names: Sequence[str],
    plan: AnalysisPlan,
) -> None:
    """Says of every model why it has no links: a link needs data that two models answer."""
    for model in models:
        reasons = [
            f"{name}: {misfit[model.id] or 'no other model answers it'}"
            for name, misfit in zip(names, misfits, strict=True)
        ]
        told = "; ".join(reasons) or "links are learned from data, and no dataset is registered"
        plan.skip(model, told, aspect=LINKS)


def _check_size(probes: Probes) -> None:
    least, samples = least_samples(), probes.record.samples
    if samples < least:
        more = samples < (samples if probes.dataset is None else probes.dataset.samples)
        raise AnalysisError(
            f"{samples} samples of '{probes.record.name}' are too few for links",
            hint=f"USING samples = {least} or more"
            if more
            else f"register a dataset with {least} items or more",
        )


def _missing(
    catalog: Catalog,
    sources: Sequence[ModelRecord],
    target: ModelRecord,
    data: _Data,
    options: LinkOptions,
) -> list[ModelRecord]:
    """The sources without a link that is what would be fitted now."""
    known = {link.id for link in catalog.links(target_id=target.id) if link.stale is None}
    text = options_text(options)
    return [s for s in sources if _identified([s], target, data, text).id not in known]


def _task(
    sources: Sequence[ModelRecord],
    target: ModelRecord,
    data: _Data,
    options: LinkOptions,
    *,
    name: str | None = None,
    ensemble: bool = False,
) -> AnalysisTask:
    """Never "done before": what is there is known from the links, and a dropped one is wanted."""
    decides: dict[str, Any] = {
        "sources": [source.id for source in sources],
        "probe_set_id": data.probes.record.id,
        "target_probe_set_id": data.target_probes.record.id,
        "options": options_text(options),
        "ensemble": ensemble,
        "name": name,
        "asked_at": datetime.now(UTC).isoformat(),
    }
    return task_of(LINKS, target, decides)


def options_text(options: LinkOptions) -> str:
    """What of the options decides how a link comes out, as JSON."""
    kept = {k: v for k, v in asdict(options).items() if k not in ("device", "threads")}
    return json.dumps(kept, sort_keys=True)


def _identified(
    sources: Sequence[ModelRecord],
    target: ModelRecord,
    data: _Data,
    options: str,
    state: str = "failed",
) -> ModelLink:
    """A link with its id and what decides it; what came out is filled in later."""
    one, other = data.probes.record, data.target_probes.record
    link = ModelLink(
        id="",
        name="",
        source_ids=tuple(source.id for source in sources),
        target_id=target.id,
        source_versions=tuple(version_of(source) for source in sources),
        target_version=version_of(target),
        state=state,
        probe_set_id=other.id,
        source_probe_set_id=one.id,
        dataset=one.name,
        target_dataset=None if one.id == other.id else other.name,
        seed=int(json.loads(options)["seed"]),
        options=options,
    )
    return replace(link, id=link_id(link))


# ---- one task


def links_task(
    task: AnalysisTask, plan: AnalysisPlan, rooms: Rooms, book: AnswerBook, sandbox: Sandbox
) -> LinkFinding:
    """Fits the links of one target; a source that cannot be read is left out with a remark."""
    from sommelier.analysis.links.fitting import LinkOptions

    given: Mapping[str, Any] = task.parameters
    catalog = rooms.catalog
    target = catalog.model(task.model_id)
    data = _Data(
        plan.probes[str(given["probe_set_id"])], plan.probes[str(given["target_probe_set_id"])]
    )
    wanted = book.of(target, data.target_probes, sandbox)
    answers: dict[str, LinkAnswers] = {}
    unread: list[str] = []
    for source in catalog.models(list(given["sources"])):
        try:
            answers[source.id] = book.of(source, data.probes, sandbox)
        except AnalysisError as error:
            unread.append(error.message)
    if not answers:
        raise AnalysisError("; ".join(unread) or "there is no source to link from")
    options = replace(
        LinkOptions(**json.loads(str(given["options"]))),
        threads=sandbox.threads, device=plan.options.device,
    )  # fmt: skip
    ensemble = bool(given["ensemble"]) and len(answers) > 1
    work = LinkWork(target.id, answers, wanted, options, ensemble)
    told = _Teller(catalog, target, data, str(given["options"]), wanted)
    *found, last = (told.found(worked, answers) for worked in sandbox.call(fit_target, work))
    asked = replace(last, link=replace(last.link, name=given.get("name") or ""))
    return LinkFinding((*found, asked), wanted.values, "; ".join(unread) or None)


class _Teller:
    """What was fitted into one target, in the words of the catalog."""

    def __init__(
        self, catalog: Catalog, target: ModelRecord, data: _Data, options: str, wanted: LinkAnswers
    ) -> None:
        self._catalog = catalog
        self._target = target
        self._data = data
        self._options = options
        self._wanted = wanted

    def found(self, worked: WorkedLink, answers: Mapping[str, LinkAnswers]) -> FoundLink:
        """The link without a name."""
        sources = self._catalog.models(list(worked.source_ids))
        fitted = worked.fitted
        link = _identified(sources, self._target, self._data, self._options, fitted.state)
        formats = [answers[id_].format.to_json() for id_ in worked.source_ids]
        costs = worked.costs
        link = replace(
            link,
            architecture=fitted.architecture,
            method=worked.method,
            reason=fitted.reason if fitted.state != "linked" else None,
            screen=None if fitted.screen is None else fitted.screen.predicted,
            constant=fitted.constant.performance,
            skill=fitted.skill,
            samples=fitted.training, validation=fitted.validation, held_out=fitted.held_out,
            params=costs.get("params"), flops=costs.get("flops"), memory=costs.get("memory"),
            size=costs.get("size"), latency_ms=costs.get("latency"),
            source_format=formats[0] if len(formats) == 1 else json.dumps(formats),
            target_format=self._wanted.format.to_json(),
            created_at=datetime.now(UTC),
        )  # fmt: skip
        return FoundLink(_scored(link, fitted.score), fitted.onnx, fitted.predicted)


def _scored(link: ModelLink, score: Score | None) -> ModelLink:
    if score is None:
        return link
    return replace(
        link, metric=score.metric, performance=score.performance, low=score.low, high=score.high,
        proved=score.proved, value=score.value, value_low=score.value_low,
        value_high=score.value_high, unit=score.unit,
    )  # fmt: skip


# ---- keeping


def keep_links(rooms: Rooms, finding: LinkFinding, probes: Sequence[ProbeSet]) -> None:
    """Files first, then rows; the caller's transaction makes the rows one step.

    Names are given here, one after the other: two versions of a model have one name, and another
    task may have kept a link in the meantime. The parts of an ensemble that was asked for take no
    link's place: those that an ANALYZE fitted to the same samples belong together.
    """
    for probe_set in probes:
        rooms.catalog.add_probe_set(probe_set)
    asked = bool(finding.links[-1].link.name)
    for found in finding.links:
        link = found.link
        if not link.name:
            if asked and _is_linked(rooms.catalog, link):
                continue
            name = rooms.catalog.new_link_name(link.source_ids, link.target_id, link.dataset)
            link = replace(link, name=name)
        if found.onnx is not None:
            with as_file(found.onnx) as path:
                link = replace(link, artifact=rooms.artifacts.put(path))
        assert link.probe_set_id is not None, "_identified names the probes"
        arrays = {TARGET: finding.target}  # also without a link: its best constant answer is known
        if found.predicted is not None:
            arrays[PREDICTED] = found.predicted
        rooms.sketches.add_outputs(link.id, link.probe_set_id, arrays)
        rooms.catalog.add_links([link])


def _is_linked(catalog: Catalog, link: ModelLink) -> bool:
    """Whether there is a valid link of the same models."""
    alike = catalog.links(target_id=link.target_id, source_id=link.source_ids[0])
    return any(k.source_ids == link.source_ids and k.stale is None for k in alike)
