"""Weights of models of one architecture averaged, without training: a cheap candidate.

Hidden units have no order, so those of one model are first brought into the order of another, which
changes none of its answers; then the trunks are averaged and every task keeps its own head. What a
merged model loses is not known before it is certified: fine-tunings of one net lose little, nets
trained apart much. Source: Ainsworth et al. 2023; Wortsman et al. 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.fusion.architectures import Counterparts, counterparts
from sommelier.analysis.fusion.hidden_units import permuted_weights, untied
from sommelier.analysis.fusion.same_answers import check_answers
from sommelier.analysis.fusion.sharing import share_identical
from sommelier.analysis.fusion.unit_matching import by_activations, by_weights, matches
from sommelier.analysis.segments.editing import copy_of, prune, store
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.analysis.segments.normalising import load, normal_form
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]
Heads = Literal["own", "averaged"]

ROUNDING = 1e-4  # of the largest answer: sums in another order


@dataclass(frozen=True, slots=True)
class Aligned:
    """model : the same function with its units in the order of another's. moved : units that stood
    elsewhere, of `units` that may be moved."""

    model: ModelProto
    moved: int
    units: int


@dataclass(frozen=True, slots=True)
class Merged:
    """model : with own heads it answers '<task>/<output>' for every task, with averaged heads what
    the first model answers. moved : units of all models but the first that had to be moved."""

    model: ModelProto
    moved: int
    units: int


def align(
    model: ModelProto | Path | str,
    reference: ModelProto | Path | str,
    *,
    inputs: Sequence[Array] | None = None,
    names: tuple[str, str] = ("model", "reference"),
) -> Aligned:
    """The model with its hidden units in the order of the reference's, up to where heads begin.

    inputs : samples (n, ...) per input, in order, to match units by their activations; None matches
    their weights. Raises AnalysisError with the reason where the two are not one architecture.
    """
    ours, theirs = (normal_form(untied(load(each))) for each in (reference, model))
    found = counterparts(ours, theirs, names[::-1], heads=False)
    moved = _moved(ours, theirs, found, inputs)
    aligned = _with(theirs, moved.weights)
    outputs = {name: name for name in theirs.graph.outputs}
    check_answers(aligned, theirs.model, outputs, "with its units in another order", ROUNDING)
    return Aligned(aligned, moved.count, moved.units)


def merge(
    models: Mapping[str, ModelProto | Path | str],
    *,
    heads: Heads = "own",
    inputs: Sequence[Array] | None = None,
) -> Merged:
    """The models, by task, with one trunk: the average of theirs in the order of the first.

    heads : 'own' of each task, or 'averaged' too, for models of one task. inputs : as for `align`.
    Raises AnalysisError with the reason where they are not one architecture.
    """
    if len(models) < 2:
        raise AnalysisError(f"{len(models)} models: at least two are merged")
    tasks, whole = list(models), heads == "averaged"
    first, *others = (normal_form(untied(load(model))) for model in models.values())
    sides = []
    for task, form in zip(tasks[1:], others, strict=True):
        found = counterparts(first, form, (tasks[0], task), heads=whole)
        sides.append((form, found, _moved(first, form, found, inputs)))
    average = _average(first, sides)
    if not average:
        raise AnalysisError(
            f"{_listed(tasks)} have no trunk to average: the first layer with weights is the head",
            hint="models that are a head alone share nothing but their inputs",
        )
    count, units = (sum(getattr(m, what) for _, _, m in sides) for what in ("count", "units"))
    if whole:
        return Merged(_with(first, average), count, units)
    parts = {tasks[0]: _with(first, average)}
    for task, (form, found, moved) in zip(tasks[1:], sides, strict=True):
        trunk = {found.weights[name]: array for name, array in average.items()}
        parts[task] = _with(form, {**moved.weights, **trunk})
    return Merged(share_identical(parts).model, count, units)


def _listed(tasks: Sequence[str]) -> str:
    return ", ".join(f"'{task}'" for task in tasks)


@dataclass(frozen=True, slots=True)
class _Moved:
    """Their weights in our order, those that had to be permuted; units moved, and units in all."""

    weights: Mapping[str, Array]
    count: int
    units: int


def _moved(
    ours: NormalForm, theirs: NormalForm, found: Counterparts, inputs: Sequence[Array] | None
) -> _Moved:
    groups = matches(ours, theirs, found)
    if inputs is None:
        orders = by_weights(ours, theirs, groups)
    else:
        orders = by_activations(ours, theirs, groups, inputs)
    count = sum(int((order != np.arange(len(order))).sum()) for order in orders.values())
    units = sum(len(order) for order in orders.values())
    return _Moved(permuted_weights(theirs, orders), count, units)


def _average(
    first: NormalForm, others: Sequence[tuple[NormalForm, Counterparts, _Moved]]
) -> dict[str, Array]:
    """Learned constant of the first model's part that all have -> the mean of all."""
    means = {}
    for name in others[0][1].weights:
        own = first.constants.array(name)
        total = own.astype(np.float64)
        for form, found, moved in others:
            theirs = found.weights[name]
            given = moved.weights.get(theirs)
            total = total + (form.constants.array(theirs) if given is None else given)
        means[name] = (total / (1 + len(others))).astype(own.dtype)
    return means


def _with(form: NormalForm, arrays: Mapping[str, Array]) -> ModelProto:
    """The model with other numbers in some constants."""
    model = copy_of(form)
    for name, array in arrays.items():
        store(model, name, array)
    prune(model)
    return model
