"""A host and a donor side by side, in the normal forms that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.analysis import signature
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.analysis.segments.normalising import load, normal_form
from sommelier.analysis.segments.pairing import pair as walk
from sommelier.analysis.segments.pairing import region
from sommelier.analysis.segments.segment import Segment
from sommelier.records import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Forms:
    """Host and donor in normal form. plain : with every operator of the files.

    alike : for comparing operators; without the quantisation of activations if the models do it
    differently or only one does, and with relative sizes if their inputs are of different sizes.
    """

    plain: tuple[NormalForm, NormalForm]
    alike: tuple[NormalForm, NormalForm]


def forms(host: ModelProto | Path | str, donor: ModelProto | Path | str) -> Forms:
    """Both models in normal form, with open axes of one as long as those of the other."""
    ours, theirs = load(host), load(donor)
    first, second = (signature.input_specs(model.graph) for model in (ours, theirs))
    dims, other_dims = _lengths(first, second), _lengths(second, first)
    plain = (normal_form(ours, dims=dims), normal_form(theirs, dims=other_dims))
    drop = plain[0].quantised != plain[1].quantised
    any_size = _input_shapes(plain[0]) != _input_shapes(plain[1])
    if not drop and not any_size:
        return Forms(plain, plain)
    alike = (
        normal_form(ours, dims=dims, drop_quantisation=drop, any_size=any_size),
        normal_form(theirs, dims=other_dims, drop_quantisation=drop, any_size=any_size),
    )
    return Forms(plain, alike)


def _input_shapes(form: NormalForm) -> list[tuple[int | None, ...] | None]:
    return [form.kind(name)[1] for name in form.inputs]


def paired(
    pair: tuple[NormalForm, NormalForm], segment: Segment
) -> tuple[tuple[int, int], ...] | None:
    """Operators of a common segment, host and donor; None if it is not of this pair."""
    host, donor = pair
    ours = region(host, segment.host_entry, segment.host_exit)
    theirs = region(donor, segment.donor_entry, segment.donor_exit)
    if ours is None or theirs is None:
        return None
    return walk(
        host, ours, (segment.host_entry, segment.host_exit),
        donor, theirs, (segment.donor_entry, segment.donor_exit),
    )  # fmt: skip


def _lengths(own: Sequence[TensorSpec], other: Sequence[TensorSpec]) -> dict[str, int]:
    """Lengths for our open axes where the other model's input, by position, states them."""
    found = {}
    for mine, yours in zip(own, other, strict=False):
        if mine.shape and yours.shape and len(mine.shape) == len(yours.shape):
            for axis, (length, given) in enumerate(zip(mine.shape, yours.shape, strict=True)):
                if axis and not isinstance(length, int) and isinstance(given, int):
                    found[f"{mine.name}[{axis}]"] = given
    return found
