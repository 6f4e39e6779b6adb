"""Hybrid models: the host with segments of the donor in it, as an ONNX model that runs.

A common segment keeps the host's operators and takes the donor's weights; an interface segment
takes the donor's operators too. Twins are built on the graph of the host's file, in its opset, and
not on the normal form in which segments are found. Sommelier 4.2; algorithms.md B.1 step 5.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sommelier.analysis.fingerprint import graph_hash, weight_hash
from sommelier.analysis.segments.bindings import Replacement, bindings, replacements
from sommelier.analysis.segments.checking import check
from sommelier.analysis.segments.editing import by_output, copy_of, prune, store
from sommelier.analysis.segments.finding import content_digest
from sommelier.analysis.segments.forms import Forms, forms, paired
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.analysis.segments.pairing import region
from sommelier.analysis.segments.segment import Segment
from sommelier.analysis.segments.splicing import splice
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]
RECIPE = "sommelier.graft"  # metadata key: JSON of host, donor and the segments exchanged


def build_twin(
    host: ModelProto | Path | str, donor: ModelProto | Path | str, segments: Sequence[Segment]
) -> ModelProto:
    """The host with these segments of the donor in it; segments of both kinds together.

    It has passed onnx.checker and shape inference and has run in ONNX Runtime. Equal requests give
    equal bytes (SerializeToString(deterministic=True)). The host's metadata is kept and the recipe
    added under 'sommelier.graft'. Raises AnalysisError for segments of another pair or that
    overlap, and where the donor's operators cannot be expressed in the host's opset.
    """
    return twin_of(forms(host, donor), segments)


def replaced_weights(
    host: ModelProto | Path | str, donor: ModelProto | Path | str, segments: Sequence[Segment]
) -> dict[str, Array]:
    """Initializer of `separate(host, donor, segments)` -> the numbers it has in the twin.

    Only for common segments: a twin with these arrays is the host's graph with other weights.
    Raises AnalysisError as `build_twin`, and for an interface segment.
    """
    return replaced_weights_of(forms(host, donor), segments)


def separate(
    host: ModelProto | Path | str, donor: ModelProto | Path | str, segments: Sequence[Segment]
) -> ModelProto:
    """The host with every weight that `replaced_weights` names read by the segments alone.

    The same function: weights that the segments share with the rest of the model are stored twice,
    and constant expressions on the way to an operator are computed. Mostly it is the host itself.
    """
    return separated_host_of(forms(host, donor), segments)


def twin_of(found: Forms, segments: Sequence[Segment], *, run: bool = True) -> ModelProto:
    """`build_twin` of models in normal form. run : try the twin in ONNX Runtime."""
    if not segments:
        raise AnalysisError(
            "a twin needs at least one segment", hint="common_segments(host, donor)"
        )
    chosen = [_Checked.of(found, segment) for segment in segments]
    _refuse_overlap(found.plain[0], chosen)
    model = copy_of(found.plain[0])
    for item in chosen:
        if item.segment.kind == "common":
            for r in item.replacements:
                _rebind(model, found.alike[0], r, r.array())
    for item in chosen:
        if item.segment.kind == "interface":
            splice(model, found.plain[1], item.segment)
    prune(model)
    _write_recipe(model, found, segments)
    check(model, found.plain[0], [s.name for s in segments], run=run)
    return model


def replaced_weights_of(found: Forms, segments: Sequence[Segment]) -> dict[str, Array]:
    """`replaced_weights` of models in normal form."""
    return {r.name: r.array() for r in _replacements(found, segments)}


def separated_host_of(found: Forms, segments: Sequence[Segment]) -> ModelProto:
    """`separate` of models in normal form."""
    ours = found.alike[0]
    model = copy_of(ours)
    for r in _replacements(found, segments):
        _rebind(model, ours, r, ours.constants.array(r.tensor))
    prune(model)
    return model


@dataclass(frozen=True, slots=True)
class _Checked:
    """A segment that belongs to the pair. nodes : positions of the host's nodes it takes."""

    segment: Segment
    nodes: frozenset[int]
    replacements: tuple[Replacement, ...]

    @classmethod
    def of(cls, found: Forms, segment: Segment) -> _Checked:
        pair = found.alike if segment.kind == "common" else found.plain
        host, donor = pair
        ours = region(host, segment.host_entry, segment.host_exit)
        theirs = region(donor, segment.donor_entry, segment.donor_exit)
        if ours is None or theirs is None:
            raise _not_of_this_pair(segment, "host" if ours is None else "donor")
        for side, form, places in (("host", host, ours), ("donor", donor, theirs)):
            stated = segment.digest if side == "host" else segment.donor_digest
            if content_digest(form, places) != stated:
                raise _not_of_this_pair(segment, side)
        operators = [host.operators[i] for i in ours]
        nodes = frozenset(i for operator in operators for i in operator.nodes)
        if segment.kind == "interface":
            return cls(segment, nodes, ())
        pairs = paired(pair, segment)
        if pairs is None:
            raise _not_of_this_pair(segment, "donor")
        made = replacements(host, bindings(host, donor, pairs), segment.name)
        return cls(segment, nodes, made)


def nodes_taken(found: Forms, segment: Segment) -> frozenset[int]:
    """Positions in the host's graph of the nodes a segment stands for: disjoint sets can be
    exchanged together. Raises AnalysisError for a segment of another pair."""
    return _Checked.of(found, segment).nodes


def _not_of_this_pair(segment: Segment, side: str) -> AnalysisError:
    entry, exit_ = (
        (segment.host_entry, segment.host_exit)
        if side == "host"
        else (segment.donor_entry, segment.donor_exit)
    )
    return AnalysisError(
        f"segment '{segment.name}' is not of this pair: the {side} has no part like it from "
        f"'{entry}' to '{exit_}'",
        hint="use the segments that common_segments(host, donor) gives for these two models",
    )


def _refuse_overlap(host: NormalForm, chosen: Sequence[_Checked]) -> None:
    taken: dict[int, str] = {}
    for item in chosen:
        for i in sorted(item.nodes):
            if i in taken:
                node = host.graph.nodes[i]
                raise AnalysisError(
                    f"segments '{taken[i]}' and '{item.segment.name}' both take operator "
                    f"'{node.name or node.outputs[0]}'",
                    hint="exchange one of the two",
                )
        taken.update(dict.fromkeys(item.nodes, item.segment.name))


def _replacements(found: Forms, segments: Sequence[Segment]) -> list[Replacement]:
    for segment in segments:
        if segment.kind != "common":
            raise AnalysisError(
                f"segment '{segment.name}' exchanges operators: no weights of the host stand for it"
            )
    chosen = [_Checked.of(found, segment) for segment in segments]
    _refuse_overlap(found.plain[0], chosen)
    return [r for item in chosen for r in item.replacements]


def _rebind(model: ModelProto, host: NormalForm, replacement: Replacement, array: Array) -> None:
    store(model, replacement.name, array)
    if replacement.in_place:
        return
    protos = by_output(model.graph)
    for slot in replacement.uses:
        outputs = host.graph.nodes[slot.node].outputs
        node = protos[next(name for name in outputs if name)]
        node.input[slot.position] = replacement.name


def _write_recipe(model: ModelProto, found: Forms, segments: Sequence[Segment]) -> None:
    host, donor = found.plain
    fields = ("name", "kind", "host_entry", "host_exit", "donor_entry", "donor_exit", "digest",
              "donor_digest")  # fmt: skip
    recipe = {
        "host": _identity(host),
        "donor": _identity(donor),
        "segments": [{key: getattr(s, key) for key in fields} for s in segments],
    }
    kept = [p for p in model.metadata_props if p.key != RECIPE]
    entries = [(p.key, p.value) for p in kept]
    del model.metadata_props[:]
    for key, value in [*entries, (RECIPE, json.dumps(recipe, sort_keys=True))]:
        model.metadata_props.add(key=key, value=value)
    model.ir_version = max(model.ir_version, 4)  # before 4 every initializer had to be an input


def _identity(form: NormalForm) -> dict[str, str]:
    """The model's graph and weights hashes, which do not depend on how its file was written."""
    return {"graph": graph_hash(form.graph), "weights": weight_hash(form.graph, Path())}
