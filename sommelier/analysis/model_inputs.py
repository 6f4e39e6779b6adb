"""Feeds for a model: which input takes the items, in which batches, and what the others get.

Recurrent states and scalars are filled with zeros or with the values a `fill` step declares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import preprocessing
from sommelier.analysis.datasets import LoadedDataset
from sommelier.analysis.probes import Probes, synthetic_item
from sommelier.errors import AnalysisError
from sommelier.records import Dim, Preprocessing, TensorSpec

Array = NDArray[Any]
Feed = dict[str, Array]

BATCH_BYTES = 64 * 2**20
STATE_NAME = re.compile(
    r"(^|[_./])(h|c|hn|cn|state\w*|hidden\w*|past\w*|cache\w*)(_?\d+|_?in|_?out)?$", re.IGNORECASE
)
_ORT_TYPES = {"float": "float32", "double": "float64", "string": "str"}


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """How a model is fed.

    primary : the input the items go to; None for synthetic probes, where every input is made up.
    batch : samples per run; 0 when the items have no batch axis at all. fixed : the file says so.
    """

    primary: TensorSpec | None
    preprocessing: Preprocessing | None
    batch: int
    fixed: bool


def tensor_spec(node: Any) -> TensorSpec:
    """The spec of an ONNX Runtime NodeArg; type 'tensor(float)' becomes 'float32'."""
    inner = str(node.type).removeprefix("tensor(").removesuffix(")")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else (dim or None) for dim in node.shape)
    return TensorSpec(node.name, _ORT_TYPES.get(inner, inner), shape)


def plan_feeds(
    inputs: tuple[TensorSpec, ...],
    declared: Preprocessing | None,
    first_item: preprocessing.Item | None,
    wanted_batch: int,
) -> FeedPlan:
    """The plan for these inputs; first_item None means synthetic probes.

    The first input that the prepared item fits is the one it goes to. Raises AnalysisError saying
    which shape was made and which is wanted.
    """
    if first_item is None:
        counted = [spec for spec in inputs if not is_auxiliary(spec)]
        if not counted:
            raise AnalysisError("the model has no input that varies from sample to sample")
        size = _batch_size(counted[0], None, wanted_batch)
        return FeedPlan(None, None, size, _is_fixed(counted[0]))
    filled = preprocessing.fills(declared)
    open_inputs = [spec for spec in inputs if spec.name not in filled and spec.shape != ()]
    if not open_inputs:
        raise AnalysisError("the model has no input that could take the dataset's items")
    errors = []
    for spec in sorted(open_inputs, key=is_auxiliary):
        try:
            return _plan_for(spec, declared, first_item, wanted_batch)
        except AnalysisError as error:
            errors.append(error)
    raise errors[0]


def feeds(
    inputs: tuple[TensorSpec, ...], plan: FeedPlan, probes: Probes, items: LoadedDataset | None
) -> Iterator[tuple[Feed, int]]:
    """(feed, samples in it), `plan.batch` samples at a time; a last short batch is filled up only
    where the model's batch axis is fixed, by repeating the last item.

    items : the open dataset of the probes; None for synthetic ones."""
    batch = max(1, plan.batch)
    if items is None:
        for start in range(0, probes.record.samples, batch):
            count = min(batch, probes.record.samples - start)
            size = batch if plan.fixed else count
            chosen = [start + min(i, count - 1) for i in range(size)]
            yield _synthetic_feed(inputs, probes.record.seed, chosen), count
        return
    if probes.indices is None:
        raise AnalysisError("probes of a dataset need its items' positions")
    for start in range(0, len(probes.indices), batch):
        chosen = probes.indices[start : start + batch].tolist()
        yield item_feed(inputs, plan, items.items(chosen)), len(chosen)


def item_feed(
    inputs: tuple[TensorSpec, ...], plan: FeedPlan, items: Sequence[preprocessing.Item]
) -> Feed:
    """The items as the model takes them, at most `plan.batch`; where its batch axis is fixed, the
    last one fills it up."""
    if plan.primary is None or plan.preprocessing is None:
        raise AnalysisError("items need a plan with an input for them")
    made = [_prepared(item, plan.primary, plan.preprocessing) for item in items]
    made += [made[-1]] * (max(1, plan.batch) - len(made) if plan.fixed else 0)
    value = np.stack(made) if plan.batch else made[0]
    filled = preprocessing.fills(plan.preprocessing)
    return _with_auxiliaries(inputs, plan.primary, value, filled)


def is_auxiliary(spec: TensorSpec) -> bool:
    """A scalar, a recurrent state or a mask: an input that does not carry the sample itself."""
    if spec.shape is None:
        return False
    if len(spec.shape) < 2 or STATE_NAME.search(spec.name):
        return True
    return "mask" in spec.name.lower() or "token_type" in spec.name.lower()


def _plan_for(
    spec: TensorSpec, declared: Preprocessing | None, item: preprocessing.Item, wanted_batch: int
) -> FeedPlan:
    fills_only = declared is not None and {name for name, _ in declared.steps} == {"fill"}
    if declared is not None and not fills_only:
        chosen = declared  # no step at all: items are taken as they are
    else:
        chosen = _inferred(item, spec, declared)
    made = _prepared(item, spec, chosen)
    shape = spec.shape
    if shape is None or preprocessing.fits(made.shape, shape[1:]):
        size = _batch_size(spec, made, wanted_batch)
        return FeedPlan(spec, chosen, size, _is_fixed(spec))
    if preprocessing.fits(made.shape, shape):
        return FeedPlan(spec, chosen, 0, fixed=True)
    raise AnalysisError(
        f"preprocessing makes items of shape {list(made.shape)}, but input {spec} is wanted",
        hint="declare preprocessing for this model, or choose a dataset that fits",
    )


def _inferred(
    item: preprocessing.Item, spec: TensorSpec, declared: Preprocessing | None
) -> Preprocessing:
    try:
        guess = preprocessing.inferred(item, spec)
    except AnalysisError as error:
        if spec.shape is None:
            raise
        try:
            guess = preprocessing.inferred(item, spec, batched=False)
        except AnalysisError:
            raise error from None
    return Preprocessing((*(declared.steps if declared else ()), *guess.steps), assumed=True)


def _prepared(item: preprocessing.Item, spec: TensorSpec, chosen: Preprocessing) -> Array:
    """The item as the input's type; only changes of type that lose nothing are made silently."""
    made = preprocessing.apply(chosen, item)
    wanted = np.dtype(spec.dtype) if spec.dtype != "str" else np.dtype(object)
    if made.dtype == wanted:
        return made
    if (spec.dtype == "str") != (made.dtype.kind in "OU"):
        raise AnalysisError(f"items of {made.dtype} do not fit the input {spec}")
    if np.can_cast(made.dtype, wanted, "same_kind") and not (
        made.dtype.kind in "iu" and wanted.kind in "iu" and not np.can_cast(made.dtype, wanted)
    ):
        return made.astype(wanted)
    raise AnalysisError(
        f"preprocessing makes {made.dtype}, but input '{spec.name}' is {spec.dtype}",
        hint=f"add the step ('cast', {{'dtype': '{spec.dtype}'}})",
    )


def _batch_size(spec: TensorSpec, made: Array | None, wanted: int) -> int:
    first: Dim = spec.shape[0] if spec.shape else None
    if isinstance(first, int):
        return max(1, first)
    item_bytes = made.nbytes if made is not None else 2**20
    return max(1, min(wanted, BATCH_BYTES // max(1, item_bytes)))


def _is_fixed(spec: TensorSpec) -> bool:
    return bool(spec.shape) and isinstance((spec.shape or (None,))[0], int)


def _with_auxiliaries(
    inputs: tuple[TensorSpec, ...], primary: TensorSpec, value: Array, filled: Mapping[str, Any]
) -> Feed:
    feed = {primary.name: value}
    batch_symbol = primary.shape[0] if primary.shape else None
    for spec in inputs:
        if spec.name != primary.name:
            feed[spec.name] = _constant(spec, batch_symbol, len(value), filled.get(spec.name))
    return feed


def _synthetic_feed(inputs: tuple[TensorSpec, ...], seed: int, samples: list[int]) -> Feed:
    feed: Feed = {}
    varying = [spec for spec in inputs if not is_auxiliary(spec)]
    symbol = varying[0].shape[0] if varying and varying[0].shape else None
    for position, spec in enumerate(inputs):
        if spec in varying:
            made = [
                synthetic_item(spec, seed=seed, sample=sample, position=position)
                for sample in samples
            ]
            feed[spec.name] = np.stack(made)
        else:
            value = 1 if "mask" in spec.name.lower() else None
            feed[spec.name] = _constant(spec, symbol, len(samples), value)
    return feed


def _constant(spec: TensorSpec, batch_symbol: Dim, batch: int, value: Any) -> Array:
    """Zeros, or the declared value, in the input's shape; dynamic axes named or placed like the
    batch axis take its length, other ones 1."""
    shape = [
        dim if isinstance(dim, int) else batch if dim == batch_symbol or axis == 0 else 1
        for axis, dim in enumerate(spec.shape or ())
    ]
    dtype = np.dtype(object) if spec.dtype == "str" else np.dtype(spec.dtype)
    if value is None:
        value = "" if spec.dtype == "str" else 0
    try:
        return np.array(np.broadcast_to(np.asarray(value, dtype=dtype), shape))
    except ValueError as error:
        raise AnalysisError(
            f"the value declared for input '{spec.name}' does not fit its shape {shape}"
        ) from error
