"""CREATE CASCADE: the answers its models need, as tasks of a job, and what is calibrated of them.

Answers that the catalog keeps at full precision are not made again; a killed statement goes on
where it was. See docs/cascades.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.cascade_data import KEPT, in_their_labels, raw_member
from sommelier.analysis.cascades.members import Member
from sommelier.analysis.execution import RunRequest, open_model
from sommelier.analysis.jobs import AnalysisPlan, add_sketch, open_datasets, plan_costs
from sommelier.analysis.links.formats import AnswerFormat
from sommelier.analysis.links.reading import run_block
from sommelier.analysis.probes import Probes
from sommelier.errors import AnalysisError
from sommelier.records import ModelRecord
from sommelier.storage.versions import version_of

if TYPE_CHECKING:
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.analysis.workers import Rooms
    from sommelier.storage.catalog import Catalog

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class CascadeAnswers:
    """What the models of a cascade answered to the same samples.

    members : in the order they are asked. formats : how they write it. labelled : the members with
    classes as those of `labels` (n,), for the samples that have one; None where there are none or
    they are of other classes, which `remark` tells.
    """

    members: tuple[Member, ...]
    formats: tuple[AnswerFormat, ...]
    labelled: tuple[Member, ...] | None
    labels: NDArray[np.int64] | None
    remark: str | None = None


def plan_answers(
    catalog: Catalog, models: Sequence[ModelRecord], unprofiled: Sequence[ModelRecord],
    plan: AnalysisPlan,
) -> Probes:  # fmt: skip
    """Adds the tasks whose findings a cascade of these models needs; the samples they answer.

    unprofiled : those whose FLOPs are unknown. Of several datasets meant for all models the
    first with labels is taken; one that is named, or the only one, need not be meant for them if
    they can answer it. Raises AnalysisError where there is none, with the reasons.
    """
    reasons: list[str] = []
    possible: list[str] = []
    with ExitStack() as stack:
        opened = open_datasets(catalog, plan, stack)
        strict = not plan.options.datasets and len(opened) > 1
        fitting = []
        for dataset in opened:
            misfits = {m.name: dataset.misfit(m, catalog, strict=strict) for m in models}
            wrong = [f"{name}: {reason}" for name, reason in misfits.items() if reason]
            if wrong:
                reasons.append(f"'{dataset.name}' does not fit {wrong[0]}")
                if all(dataset.misfit(m, catalog, strict=False) is None for m in models):
                    possible.append(dataset.name)
            else:
                fitting.append(dataset)
        fitting.sort(key=lambda dataset: dataset.probes.labels is None)
        for dataset in fitting[:1]:
            for model in models:
                add_sketch(plan, model, dataset.probes, dataset.label_map(model, catalog))
            plan_costs(catalog, unprofiled, plan, ("resources",))
            return dataset.probes
    told = "; ".join(reasons) or "no dataset is registered"
    hint = "a cascade is calibrated on data: REGISTER DATASET d FROM 'file.npz'"
    if possible:
        hint = f"to take one that is not meant for them, USING dataset = '{possible[0]}'"
    names = ", ".join(model.name for model in models)
    raise AnalysisError(f"no dataset that all of {names} can answer: {told}", hint=hint)


def collect(
    rooms: Rooms,
    models: Sequence[ModelRecord],
    flops: Sequence[float | None],
    probes: Probes,
    sandbox: Sandbox,
    known: Mapping[str, Array] = MappingProxyType({}),
) -> CascadeAnswers:
    """The answers of models that have answered before, read; made again where they were too large
    to be kept. known : raw answers (n, d) of models, by id, that the catalog does not have.
    Raises AnalysisError for a model that fails or answers no class."""
    found = [
        raw_member(
            model,
            known[model.id] if model.id in known else _raw(rooms, model, probes, sandbox),
            cost,
        )
        for model, cost in zip(models, flops, strict=True)
    ]
    members = tuple(one for one, _ in found)
    formats = tuple(format for _, format in found)
    try:
        labelled, labels = in_their_labels(rooms.catalog, models, found, probes.record)
    except AnalysisError as error:
        return CascadeAnswers(members, formats, None, None, f"no labels: {error.message}")
    return CascadeAnswers(members, formats, labelled, labels)


def _raw(rooms: Rooms, model: ModelRecord, probes: Probes, sandbox: Sandbox) -> Array:
    kept = rooms.sketches.outputs(version_of(model), probes.record.id)
    if kept is not None and KEPT in kept and len(kept[KEPT]) == probes.record.samples:
        return kept[KEPT]
    assert model.artifact is not None, "connection.cascading takes models with a file only"
    path = rooms.artifacts.path(model.artifact)
    request = RunRequest(
        path, model.output_kind, model.preprocessing, probes, threads=sandbox.threads
    )
    return sandbox.call(read_block, request, model)


def read_block(request: RunRequest, record: ModelRecord) -> Array:
    """The raw answers (n, d) to the request's probes; what a sandbox runs."""
    assert request.probes.dataset is not None, "cascades are calibrated on datasets"
    with datasets.reopen(request.probes.dataset, verify=False) as items:
        return run_block(open_model(request, items), request.probes, record)
