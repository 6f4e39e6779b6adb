"""An interface segment: the donor's operators in the place of the host's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.execution import open_session
from sommelier.analysis.graph import opset_imports, reads
from sommelier.analysis.segments.checking import serialised
from sommelier.analysis.segments.editing import (
    Part,
    all_names,
    backward,
    by_output,
    free_names,
    model_of,
    renamed,
)
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.analysis.segments.segment import Segment
from sommelier.analysis.tracing import trace
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]
SAME_AFTER_CONVERSION = 1e-4  # relative; opsets differ in how operators round, not in what they do


def splice(model: ModelProto, donor: NormalForm, segment: Segment) -> None:
    """Puts the donor's operators in the host's `model`, and its weights; in place.

    The host's own operators stay where something else still needs them, and are pruned otherwise.
    """
    part = _converted(donor_part(donor, segment), opset_imports(model), opset_imports(donor.model))
    fixed = {segment.donor_entry: segment.host_entry, segment.donor_exit: segment.host_exit}
    name_of = free_names(segment.name, all_names(model.graph), fixed)
    nodes = [renamed(node, name_of) for node in part.graph.node]
    for i, node in enumerate(nodes):
        node.name = f"{segment.name}/{node.name or i}"
    place = _place(model, segment.host_exit)
    rest = list(model.graph.node)
    before, after = rest[:place], rest[place + 1 :]
    del model.graph.node[:]
    model.graph.node.extend([*before, *nodes, *after])
    for weight in part.graph.initializer:
        weight.name = name_of(weight.name)
        model.graph.initializer.append(weight)
    _import(model, donor)


def donor_part(donor: NormalForm, segment: Segment) -> ModelProto:
    """The donor's region as a model from its entry to its exit.

    Shapes that the region takes from elsewhere in the donor become constants when they are the same
    at every batch. Raises AnalysisError when they are not.
    """
    entry, exit_ = segment.donor_entry, segment.donor_exit
    part = backward(donor, [exit_], [entry])
    if part.needs == (entry,):
        return model_of(donor, part, [exit_])
    shapes = _shapes_from_outside(donor, part, entry)
    stable = _stable(donor, shapes)
    part = backward(donor, [exit_], [entry, *stable])
    if set(part.needs) - {entry, *stable}:
        wanted = ", ".join(sorted(set(part.needs) - {entry, *stable}))
        raise AnalysisError(
            f"segment '{segment.name}' of the donor depends on '{wanted}' besides its entry: "
            "shapes in it follow the batch"
        )
    constants = tuple(n for n in part.needs if n in stable)
    whole = Part(part.nodes, (entry,), (*part.weights, *constants))
    return model_of(donor, whole, [exit_])


def _shapes_from_outside(donor: NormalForm, part: Part, entry: str) -> list[str]:
    """Known values that the part reads and that are not computed from its entry alone."""
    known = dict.fromkeys(
        name
        for node in part.nodes
        for name in sorted(reads(node))
        if name in donor.graph.values and name not in donor.graph.weights
    )
    return [name for name in known if set(backward(donor, [name], [entry]).needs) - {entry}]


def _stable(donor: NormalForm, names: list[str]) -> list[str]:
    """Those that have the same value when two samples are given and when one is."""
    if not names:
        return []
    lengths = {
        f"{name}[{axis}]": length
        for name in donor.graph.inputs
        for axis, length in enumerate(donor.graph.tensor(name).shape or ())
        if axis and length is not None
    }
    other, _ = trace(donor.model, batch=2, dims=lengths)
    return [
        name
        for name in names
        if name in other.values
        and np.array_equal(np.asarray(donor.graph.values[name]), np.asarray(other.values[name]))
    ]


def _converted(part: ModelProto, ours: dict[str, int], theirs: dict[str, int]) -> ModelProto:
    """The part in the host's opset; the same numbers come out of it, or AnalysisError."""
    for domain in sorted({node.domain for node in part.graph.node} - {"", "ai.onnx"}):
        if domain in ours and ours[domain] != theirs.get(domain):
            raise AnalysisError(
                f"host and donor import different versions of {domain} "
                f"({ours[domain]} and {theirs.get(domain)}), which nothing converts",
                hint="export both models alike",
            )
    if ours[""] == theirs[""]:
        return part
    problems = []
    for attempt in (_by_converter, _as_it_is):
        try:
            made = attempt(part, ours[""])
            difference = _difference(part, made)
        except Exception as error:  # the converter and the checker raise their own kinds
            problems.append(first_line(error))
            continue
        if difference <= SAME_AFTER_CONVERSION:
            return made
        problems.append(f"they compute something else there ({difference:.1e})")
    raise AnalysisError(
        f"cannot write the donor's operators of opset {theirs['']} in the host's opset {ours['']}: "
        + "; ".join(problems),
        hint="export both models with the same opset",
    )


def _by_converter(part: ModelProto, version: int) -> ModelProto:
    from onnx import version_converter

    return version_converter.convert_version(part, version)


def _as_it_is(part: ModelProto, version: int) -> ModelProto:
    """The same operators said to be of the other opset: most have not changed between the two,
    and the converter knows few ways back."""
    from onnx import ModelProto, checker

    made = ModelProto()
    made.CopyFrom(part)
    for entry in made.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = version
    checker.check_model(made)
    return made


def _difference(first: ModelProto, second: ModelProto) -> float:
    """Largest relative difference of the answers to one random input."""
    value = first.graph.input[0]
    sides = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    from onnx import helper

    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    array = np.abs(np.random.default_rng(0).standard_normal(sides)).astype(kind)
    answers = [
        np.asarray(open_session(serialised(model), 1).run(None, {value.name: array})[0], np.float64)
        for model in (first, second)
    ]
    scale = float(np.abs(answers[0]).max()) or 1.0
    return float(np.abs(answers[0] - answers[1]).max()) / scale


def _place(model: ModelProto, made: str) -> int:
    """Where the node is that makes a tensor."""
    maker = by_output(model.graph)[made]
    return next(i for i, node in enumerate(model.graph.node) if node.output == maker.output)


def _import(model: ModelProto, donor: NormalForm) -> None:
    """Imports the donor's other domains and the newer format version of the two."""
    known = opset_imports(model)
    needed = {node.domain for node in model.graph.node}
    for domain, version in sorted(opset_imports(donor.model).items()):
        if domain and domain in needed and domain not in known:
            model.opset_import.add(domain=domain, version=version)
    model.ir_version = max(model.ir_version, donor.model.ir_version)
